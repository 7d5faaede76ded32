"""How ``method="paper"`` is trained: the paper's fit (`fit`), and our calibration, split conformal."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.models.autoencoder import WIDTHS
from aqdask.models.bundle import POOLED, Bundle, Calibration, calibration_key
from aqdask.models.crops import FrameSource
from aqdask.models.fit import Report, TrainProgress, fit
from aqdask.models.paper import PatchErrors, calibration_of
from aqdask.models.settings import TrainSpec
from aqdask.models.train import provenance, split_frames
from aqdask.specs import PatchGrid

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
    network, curve = fit(frames, split.train, split.validation, spec, report, checkpoint, device)
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
