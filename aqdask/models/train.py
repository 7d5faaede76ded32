"""Reference frames in, a trained and calibrated bundle out.

The fit is the paper's (`fit`); the calibration is ours: split conformal on frames that took no part in the
fit, disjoint *by frame*, because the patches of one frame are alike.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from importlib.metadata import version
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
from aqdask.specs import PatchGrid

GROUP_PATCHES, GROUP_FRAMES = 200, 2  # least data for which a camera and filter has its own calibration
FEW_PATCHES, FEW_FRAMES = 999, 10  # below these the calibration is noted as thin


@dataclass(frozen=True)
class Split:
    """Positions of the frames that fit, watch and calibrate; disjoint, ascending."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]


def split_frames(count: int, spec: TrainSpec) -> Split:
    """Divide ``count`` frames by the seed; every part has at least one, eight give 5, 1 and 2.

    Raises
    ------
    UsageError
        For fewer than three frames.
    """
    if count < 3:
        raise UsageError(
            f"the number of reference frames is {count}",
            expected="at least 3 (to fit, to watch the loss, to calibrate); 40 are a good number",
            consequence="Frames that fit the model cannot also say what is normal for it",
            remedy="give more good frames",
        )
    calibration = min(max(1, round(spec.calibration * count)), count - 2)
    validation = min(max(1, round(spec.validation * count)), count - calibration - 1)
    order = [int(index) for index in np.random.default_rng([3, spec.seed]).permutation(count)]
    return Split(
        train=tuple(sorted(order[calibration + validation :])),
        validation=tuple(sorted(order[calibration : calibration + validation])),
        calibration=tuple(sorted(order[: min(calibration, spec.calibration_limit)])),
    )


def train(
    frames: FrameSource,
    spec: TrainSpec,
    *,
    progress: Report | None = None,
    checkpoint: Path | None = None,
    device: str | torch.device | None = None,
) -> Bundle:
    """Train on reference frames, calibrate on held-out ones, and give back the bundle.

    The same frames, settings, versions, processor and number of threads give the same bytes. The caller's
    random generators and torch settings are afterwards as they were.

    Parameters
    ----------
    frames : FrameSource
        Reference frames; read one at a time, some of them many times.
    spec : TrainSpec
        Settings.
    progress : callable, optional
        Called with a `TrainProgress` every few steps; what it raises ends the training.
    checkpoint : Path, optional
        Where the state is kept, to be continued from by a call with the same settings and frames, to the
        same bytes. Deleted when done; left where it is by anything that ends the training early.
    device : str or torch.device, optional
        The CPU unless given.

    Raises
    ------
    UsageError
        For fewer than three frames, an unknown method, a patch that the network cannot halve, or frames
        without valid patches.
    ModelError
        If the loss is no longer finite.
    """
    _check(spec)
    split = split_frames(len(frames.ids), spec)
    report, target = progress or _silent, torch.device(device or "cpu")
    network, curve = fit(frames, split.train, split.validation, spec, report, checkpoint, target)
    errors = PatchErrors(network, target)
    calibrations, notes = _calibrate(frames, split.calibration, spec, report, errors)
    bundle = Bundle(
        name=spec.name,
        method=spec.method,
        patch=spec.patch,
        normalisation="minmax",
        architecture={"network": "ConvAutoencoder", "widths": list(WIDTHS)},
        weights={name: value.cpu().contiguous().numpy() for name, value in network.state_dict().items()},
        calibrations=calibrations,
        provenance=_provenance(frames, split, spec, curve),
        notes=notes,
    )
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return bundle


def _silent(progress: TrainProgress) -> None:
    """Tell nobody."""


def _check(spec: TrainSpec) -> None:
    """Refuse what this method cannot do, before any frame is read."""
    if spec.method != "paper":
        raise UsageError(
            f"the method is {spec.method!r}",
            expected="'paper'",
            consequence="Nothing was trained",
            remedy="leave the method out",
        )
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


def _provenance(
    frames: FrameSource, split: Split, spec: TrainSpec, curve: dict[str, list[float]]
) -> dict[str, object]:
    """Where the model comes from, plain JSON; no clock and no host, so that equal input gives equal bytes."""
    without_effect = ("checkpoint_seconds", "archive", "created")
    given = {name: value for name in ("archive", "created") if (value := getattr(spec, name))}
    return given | {
        "frames": {part: [frames.ids[index] for index in members] for part, members in asdict(split).items()},
        "settings": {name: value for name, value in asdict(spec).items() if name not in without_effect},
        "versions": {"aqdask": version("aqdask"), "numpy": np.__version__, "torch": str(torch.__version__)},
        "loss_curve": curve,
    }
