"""Training of ``method="paper"``: mean squared error on crops of good frames, then the calibration.

From the paper (Jia et al. 2024, arXiv 2405.03408): an autoencoder fitted with the mean squared error. Ours:
AdamW whose rate falls along half a cosine, random crops, dihedral flips, a held-out loss, and the split
conformal calibration.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource
from aqdask.methods.bundle import OPTIONS, POOLED, Bundle, Calibration, calibration_key
from aqdask.methods.paper.network import PLAIN, seeded_autoencoder, widths_of
from aqdask.methods.paper.normalise import minmax
from aqdask.methods.paper.scorer import PatchErrors, calibration_of
from aqdask.methods.tensors import as_float
from aqdask.methods.training.loop import fit
from aqdask.methods.training.loss_functions import Inputs, ReconstructionLoss
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.methods.training.provenance import provenance
from aqdask.methods.training.recipe import AutoencoderTraining
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import split_frames
from aqdask.specs import PatchGrid
from aqdask.stats.robust import SIGMA_PER_MAD
from aqdask.text import plural

HELD_OUT_CROPS = 512
PATIENCE = 5  # points of the loss curve without a decrease, after which an adversarial training stops
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
    target, widths = torch.device(device), widths_of(spec.network)
    loss = ReconstructionLoss(spec.loss, Inputs(1.0, _in_sigma, spec.seed, target))
    split = split_frames(len(frames.ids), spec)
    options = spec.network.stored() if _is_other(spec) else None
    network = seeded_autoencoder(spec.seed, widths, options=options, dropout=spec.dropout)
    given = frames, split, MinMax(), spec, loss, target, HELD_OUT_CROPS
    recipe = PaperTraining(network, network, *given)
    curve = fit(recipe, report, patience=PATIENCE if "adversarial" in spec.loss else None)
    errors = PatchErrors(network, device)
    calibrations, notes = _calibrate(frames, split.calibration, spec, report, errors)
    return Bundle(
        name=spec.name,
        method=spec.method,
        patch=spec.patch,
        normalisation="minmax",
        architecture={"network": "ConvAutoencoder", "widths": list(widths)}
        | ({OPTIONS: options} if options else {}),
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


class PaperTraining(AutoencoderTraining):
    """Training of the autoencoder on crops in [0, 1]."""

    def to_light(self, values: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Convert crops to units of their noise."""
        return in_noise_units(values, values)

    def from_light(self, light: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Scale crops to [0, 1] again."""
        return minmax(light)


def in_noise_units(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Convert patches ``(..., P, P)``: above the median of ``like``, in units of the noise of its pixels.

    The noise from differences of neighbours, by their median absolute value; 1e-6 at least.
    """
    level = like.flatten(-2).median(dim=-1).values[..., None, None]
    steps = (like[..., 1:] - like[..., :-1]).abs().flatten(-2).median(dim=-1).values[..., None, None]
    return (values - level) / (steps * SIGMA_PER_MAD / math.sqrt(2)).clamp(min=1e-6)


def _in_sigma(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Convert patches to the input of the shipped encoder: in units of the noise, stars compressed."""
    return 10 * torch.asinh(in_noise_units(values, like) / 10)


def _is_other(spec: TrainSpec) -> bool:
    """Return True for a network that the widths of its layers do not describe."""
    return (spec.architecture, spec.norm) != (PLAIN.architecture, PLAIN.norm)


def _check(spec: TrainSpec) -> None:
    """Refuse what this method cannot do, before any frame is read."""
    if "flux" in spec.augmentations:
        raise UsageError(
            "the augmentation flux with the method 'paper'",
            expected="one that is left after each patch is scaled to [0, 1]",
            consequence="It would change nothing",
            remedy="leave flux out",
        )
    if spec.two_sided:
        raise UsageError(
            "two_sided (--two-sided) with the method 'paper'",
            expected="a method that measures the size of stars",
            consequence="It would change nothing",
            remedy="leave it out, or take the method 'aqdask'",
        )
    multiple = 2**spec.depth
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
            f"Calibrated on {plural(patches, 'patch', 'patches')}: the smallest alpha that can mask anything "
            f"is 1/{patches + 1} = {smallest:.2g}."
        )
    if frames < FEW_FRAMES:
        notes.append(
            f"Calibrated on {plural(frames, 'frame')}: the patches of one frame are correlated, so the share "
            "of good patches masked may differ from alpha by a factor of two or more; more frames bring it "
            "closer."
        )
    return tuple(notes)
