"""How ``method="paper"`` is trained: the mean squared error on crops of good frames, then the calibration.

From the paper (Jia et al. 2024, arXiv 2405.03408): an autoencoder fitted with the mean squared error. Ours:
AdamW whose rate falls along half a cosine, random crops, dihedral flips, a watch on held-out frames, and the
calibration, split conformal.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.models.autoencoder import WIDTHS, seeded_autoencoder
from aqdask.models.bundle import POOLED, Bundle, Calibration, calibration_key
from aqdask.models.checkpoint import settings_digest
from aqdask.models.crops import FrameSource, held_out_crops, steps_per_pass, training_crops
from aqdask.models.fit import Report, TrainProgress, fit
from aqdask.models.paper import PatchErrors, calibration_of
from aqdask.models.settings import TrainSpec
from aqdask.models.train import provenance, split_frames
from aqdask.specs import PatchGrid

HELD_OUT_CROPS = 512
GROUP_PATCHES, GROUP_FRAMES = 200, 2  # least data for which a camera and filter has its own calibration
FEW_PATCHES, FEW_FRAMES = 999, 10  # below these the calibration is noted as thin


def train_paper(
    frames: FrameSource, spec: TrainSpec, report: Report, checkpoint: Path | None, device: torch.device
) -> Bundle:
    """Fit the autoencoder and calibrate its errors; parameters and errors as `aqdask.models.train.train`.

    Raises `UsageError` also for a patch that the network cannot halve.
    """
    _check(spec)
    split = split_frames(len(frames.ids), spec)
    recipe = PaperRecipe(frames, split.train, split.validation, spec, device)
    curve = fit(recipe, report, checkpoint, spec.checkpoint_seconds)
    network = recipe.network
    errors = PatchErrors(network, device)
    calibrations, notes = _calibrate(frames, split.calibration, spec, report, errors)
    return Bundle(
        name=spec.name,
        method=spec.method,
        patch=spec.patch,
        normalisation="minmax",
        architecture={"network": "ConvAutoencoder", "widths": list(WIDTHS)},
        weights={name: value.cpu().contiguous().numpy() for name, value in network.state_dict().items()},
        calibrations=calibrations,
        provenance=provenance(frames, split, spec, curve),
        notes=notes,
    )


class PaperRecipe:
    """A fresh autoencoder that learns to give back crops of the frames ``members`` (see `fit.Recipe`).

    Parameters
    ----------
    frames : FrameSource
        Reference frames.
    members, watched : sequence of int
        Positions of the frames to learn from, and of those on which the loss is watched.
    spec : TrainSpec
        Settings.
    device : torch.device
        Where the network is trained.
    """

    def __init__(
        self,
        frames: FrameSource,
        members: Sequence[int],
        watched: Sequence[int],
        spec: TrainSpec,
        device: torch.device,
    ) -> None:
        self.frames, self.members, self.spec = frames, members, spec
        self.device, self.steps = device, spec.steps
        self.digest = settings_digest(spec, frames.ids, device)
        network = seeded_autoencoder(spec.seed).to(device)
        self.network = torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        self.watched = torch.from_numpy(held_out_crops(frames, watched, spec, HELD_OUT_CROPS).values)
        self.crops, self.loaded = np.empty(0, dtype=np.float32), -1

    def batch(self, step: int) -> torch.Tensor:
        """The crops of a step, ``(batch, P, P)``; the reservoir is filled when a pass begins."""
        number, place = divmod(step, steps_per_pass(self.spec))
        if number != self.loaded:
            self.crops = np.empty(0, dtype=np.float32)  # else two reservoirs would be in memory at once
            self.crops = training_crops(self.frames, self.members, self.spec, number).values
            self.loaded = number
        size = self.spec.batch
        return torch.from_numpy(self.crops[place * size : (place + 1) * size])

    def loss(self, step: int, batch: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the reconstruction, 0-d."""
        inputs = batch.to(self.device)[:, None].contiguous(memory_format=torch.channels_last)
        return torch.nn.functional.mse_loss(self.network(inputs), inputs)

    def held_out(self, step: int) -> float:
        """Mean squared error on `HELD_OUT_CROPS` crops of the watched frames, the same throughout."""
        parts = self.watched.split(self.spec.batch)
        return sum(self.loss(step, part).item() * len(part) for part in parts) / len(self.watched)

    def rate(self, step: int) -> float:
        """Half a cosine, from the learning rate to zero."""
        return self.spec.learning_rate * 0.5 * (1 + math.cos(math.pi * (step / self.steps)))

    def after(self, step: int, curve: Mapping[str, Sequence[float]]) -> int:
        """Never stops early: so was the paper's."""
        return step


def _check(spec: TrainSpec) -> None:
    """Refuse what this method cannot do, before any frame is read."""
    multiple = 2 ** len(WIDTHS)
    if spec.patch % multiple:
        raise UsageError(
            f"the patch is {spec.patch} px",
            expected=f"a multiple of {multiple} px",
            consequence="The network halves a patch that often and would give back another size",
            remedy="take 64",
        )


def _calibrate(
    frames: FrameSource, members: tuple[int, ...], spec: TrainSpec, report: Report, errors: PatchErrors
) -> tuple[dict[str, Calibration], tuple[str, ...]]:
    """Calibrations by `calibration_key`, pooled and per camera and filter, and what to note about them.

    A camera and filter with little data has none of its own, unless it is the only one.
    """
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    begun = time.monotonic()
    for done, index in enumerate(members, start=1):
        image, invalid = frames.read(index)
        grid = PatchGrid(image.shape[0], image.shape[1], spec.patch)
        scores = errors.of_frame(image, invalid, grid).ravel()
        card = frames.cards[index]
        for key in {POOLED, calibration_key(card.camera, card.filter)}:
            groups[key].append(scores[~np.isnan(scores)])
        seconds = time.monotonic() - begun
        eta = seconds / done * (len(members) - done)
        report(TrainProgress("calibrate", done, len(members), seconds=seconds, eta_seconds=eta))
    calibrations = {
        key: calibration_of(np.concatenate(scores))
        for key, scores in sorted(groups.items())
        if len(groups) == 2  # the pooled one and the one that it consists of
        or key == POOLED
        or (len(scores) >= GROUP_FRAMES and sum(map(len, scores)) >= GROUP_PATCHES)
    }
    notes = _notes(calibrations[POOLED], len(members))
    for note in notes:
        report(TrainProgress("note", note=note))
    return calibrations, notes


def _notes(pooled: Calibration, frames: int) -> tuple[str, ...]:
    """What a user of the p-values has to know."""
    notes = []
    patches, smallest = pooled.facts["patches"], pooled.facts["smallest_pvalue"]
    if patches < FEW_PATCHES:
        notes.append(
            f"Calibrated on {patches} patches: the smallest alpha that can mask anything is "
            f"1/{patches + 1} = {smallest:.2g}."
        )
    if frames < FEW_FRAMES:
        notes.append(
            f"Calibrated on {frames} frames: the patches of one frame are alike, so the share of good "
            "patches masked may differ from alpha by a factor of two or more; 20 frames bring it close."
        )
    return tuple(notes)
