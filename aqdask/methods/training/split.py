"""Division of reference frames into training, validation and calibration sets, disjoint by frame.

The patches of one frame are correlated, so that frames that took part in a fit cannot calibrate it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqdask.errors import UsageError
from aqdask.methods.training.settings import TrainSpec


@dataclass(frozen=True)
class Split:
    """Positions of training, validation and calibration frames; disjoint, ascending."""

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
            expected="at least 3, one for each of three sets that share no frame; 24 are enough",
            consequence="Frames that the model was fitted to cannot calibrate it",
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
