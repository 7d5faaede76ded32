"""How a model is trained: the settings that, with frames and versions, fix every byte of a bundle."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from aqdask.errors import UsageError
from aqdask.specs import PATCH

_RANGES = {
    "name": "letters, digits, '.', '_' and '-', beginning with a letter or digit",
    "seed": "a whole number, not negative",
    "validation": "a fraction between 0 and 1",
    "calibration": "a fraction between 0 and 1",
}


@dataclass(frozen=True)
class TrainSpec:
    """How a model is trained and calibrated; with frames and versions it fixes every byte of the bundle.

    Parameters
    ----------
    method : str
        Which algorithm; 'paper' is the published one.
    name : str
        Name of the model: letters, digits, '.', '_' and '-' (it becomes part of a group's name).
    patch : int
        Side of a patch in pixels.
    steps, batch : int
        Optimiser steps, and patches in each.
    seed : int
        Not negative. Draws the split, the crops, the flips and the first weights.
    learning_rate : float
        At the first step; falls to zero along half a cosine.
    validation, calibration : float
        Fractions of the *frames* held out to watch the loss and to calibrate; at least one frame each.
    calibration_limit : int
        At most so many frames are scored to calibrate, however many were set aside.
    checkpoint_seconds : float
        How often the state is saved where a checkpoint is asked for; no effect on the result.
    archive, created : str
        Recorded as given; empty is left out, so that equal input gives an equal bundle.

    Raises
    ------
    UsageError
        For a value out of its range.
    """

    method: str = "paper"
    name: str = "model"
    patch: int = PATCH
    steps: int = 1000
    batch: int = 64
    seed: int = 0
    learning_rate: float = 1e-3
    validation: float = 0.1
    calibration: float = 0.25
    calibration_limit: int = 100
    checkpoint_seconds: float = 30.0
    archive: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        sound = {
            "name": re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None,
            "patch": self.patch >= 1,
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "seed": self.seed >= 0,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "validation": 0 < self.validation < 1,
            "calibration": 0 < self.calibration < 1,
            "calibration_limit": self.calibration_limit >= 1,
            "checkpoint_seconds": self.checkpoint_seconds >= 0,
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise UsageError(
                    f"the training setting {name} is {getattr(self, name)!r}",
                    expected=_RANGES.get(name, "a positive number"),
                    consequence="Nothing was trained",
                    remedy=f"leave {name} out for its default, {getattr(type(self), name)!r}",
                )
