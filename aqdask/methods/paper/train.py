"""Training of ``method="paper"``: mean squared error on crops of good frames, then the calibration.

From the paper (Jia et al. 2024, arXiv 2405.03408): an autoencoder fitted with the mean squared error. Ours:
AdamW whose rate falls along half a cosine, random crops, dihedral flips, a held-out loss, and the split
conformal calibration.
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource
from aqdask.methods.bundle import POOLED, Bundle, Calibration, calibration_key
from aqdask.methods.paper.network import WIDTHS, seeded_autoencoder
from aqdask.methods.paper.normalise import minmax
from aqdask.methods.paper.scorer import PatchErrors, calibration_of
from aqdask.methods.tensors import as_float
from aqdask.methods.training.crops import Reservoir, held_out_crops
from aqdask.methods.training.loop import fit
from aqdask.methods.training.losses import reconstruction_loss
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.methods.training.provenance import provenance
from aqdask.methods.training.schedules import cosine
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import Split, split_frames
from aqdask.specs import PatchGrid

HELD_OUT_CROPS = 512
GROUP_PATCHES, GROUP_FRAMES = 200, 2  # least data for which a camera and filter has its own calibration
FEW_PATCHES, FEW_FRAMES = 999, 10  # below these the calibration is noted as thin


def train_paper(frames: FrameSource, spec: TrainSpec, report: Report, device: str | torch.device) -> Bundle:
    """Fit the autoencoder and calibrate its errors; parameters and errors as `aqdask.methods.dispatch.train`.

    Raises
    ------
    UsageError
        Also for a patch that the network cannot halve.
    """
    _check(spec)
    split = split_frames(len(frames.ids), spec)
    recipe = PaperTraining(frames, split, spec, torch.device(device))
    curve = fit(recipe, report)
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
        provenance=provenance(frames, split, spec, curve.facts()),
        notes=notes,
    )


class MinMax:
    """Crops scaled to [0, 1] one by one (`crops.Normaliser`)."""

    facts = 0

    def __call__(self, pixels: np.ndarray, valid: np.ndarray, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        scaled = minmax(as_float(pixels, "cpu"), torch.from_numpy(valid)).numpy()
        return scaled, np.empty((len(pixels), 0), dtype=np.float32)


class PaperTraining:
    """Training of a fresh autoencoder to reconstruct crops (`training.loop.Recipe`).

    Parameters
    ----------
    frames : FrameSource
        Reference frames.
    split : Split
        The held-out loss is that of its ``validation`` frames.
    spec : TrainSpec
        Settings.
    device : torch.device
        Where the network is trained.
    """

    def __init__(self, frames: FrameSource, split: Split, spec: TrainSpec, device: torch.device) -> None:
        self.spec, self.device, self.steps, self.distance = (
            spec,
            device,
            spec.steps,
            reconstruction_loss(spec.loss),
        )
        network = seeded_autoencoder(spec.seed).to(device)
        self.network = torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        self.reservoir = Reservoir(frames, split.train, spec, MinMax())
        watched = held_out_crops(frames, split.validation, spec, HELD_OUT_CROPS, MinMax())
        self.watched = torch.from_numpy(watched.values)

    def batch(self, step: int) -> torch.Tensor:
        """Return the crops of a step, ``(batch, P, P)``."""
        return torch.from_numpy(self.reservoir.batch(step).values)

    def loss(self, step: int, batch: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction loss, 0-d."""
        inputs = batch.to(self.device)[:, None].contiguous(memory_format=torch.channels_last)
        return self.distance(self.network(inputs), inputs)

    def held_out(self) -> float:
        """Return the reconstruction loss of the held-out crops."""
        parts = self.watched.split(self.spec.batch)
        return sum(self.loss(0, part).item() * len(part) for part in parts) / len(self.watched)

    def rate(self, step: int) -> float:
        """Return the learning rate: half a cosine to zero."""
        return self.spec.learning_rate * cosine(step, self.steps)


def _check(spec: TrainSpec) -> None:
    """Refuse a patch that the network cannot halve, before any frame is read."""
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
    """Calibrate by `calibration_key`, pooled and per camera and filter, with notes for the user.

    A camera and filter with little data has none of its own, unless it is the only one.
    """
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    begun = time.monotonic()
    for done, index in enumerate(members, start=1):
        image, invalid = frames.read(index)
        grid = PatchGrid(image.shape[0], image.shape[1], spec.patch)
        scores = errors.of_frame(image, invalid, grid).ravel()
        card = frames.metadata[index]
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
    """Write notes on a calibration with few patches or frames."""
    notes = []
    patches, smallest = pooled.facts["patches"], pooled.facts["smallest_pvalue"]
    if patches < FEW_PATCHES:
        notes.append(
            f"Calibrated on {patches} patches: the smallest alpha that can mask anything is "
            f"1/{patches + 1} = {smallest:.2g}."
        )
    if frames < FEW_FRAMES:
        notes.append(
            f"Calibrated on {frames} frames: the patches of one frame are correlated, so the share of good "
            "patches masked may differ from alpha by a factor of two or more; 20 frames bring it close."
        )
    return tuple(notes)
