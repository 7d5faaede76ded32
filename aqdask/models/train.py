"""Reference frames in, a trained and calibrated bundle out, by any method.

What methods share is here: frames are divided so that those that calibrate took no part in the fit, *by
frame*, because the patches of one frame are alike; and a bundle says where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.models.bundle import Bundle
from aqdask.models.crops import FrameSource
from aqdask.models.fit import Report, TrainProgress
from aqdask.models.settings import TrainSpec

Method = Callable[[FrameSource, TrainSpec, Report, "Path | None", torch.device], Bundle]
"""Frames, settings, listener, checkpoint and device in; the bundle out. Continues from the checkpoint."""


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
            expected="at least 3, one for each of three sets that share no frame; 40 are a good number",
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
        For fewer than three frames, settings that the method cannot do, or frames without valid patches.
    ModelError
        If the loss is no longer finite.
    """
    report, target = progress or _silent, torch.device(device or "cpu")
    bundle = _method(spec.method)(frames, spec, report, checkpoint, target)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return bundle


def _method(name: str) -> Method:
    """How a method of `aqdask.models.settings.DEFAULTS` trains."""
    # They need `split_frames` and `provenance` from here.
    from aqdask.models.learn import train_aqdask
    from aqdask.models.paper_train import train_paper

    methods: dict[str, Method] = {"aqdask": train_aqdask, "paper": train_paper}
    return methods[name]


def _silent(progress: TrainProgress) -> None:
    """Tell nobody."""


def provenance(
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
