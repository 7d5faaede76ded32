"""How a model is trained: the settings that, with frames and versions, fix every byte of a bundle."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from aqdask.errors import UsageError
from aqdask.specs import PATCH

# What each method does unless it is told otherwise; its keys are the methods that can be trained.
DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {"steps": 1000, "learning_rate": 1e-3, "validation": 0.1, "calibration": 0.25},
    "aqdask": {"steps": 1500, "learning_rate": 2e-3, "validation": 0.25, "calibration": 0.35},
}
_BY_METHOD: Any = None  # stands for the method's own default until `TrainSpec` is made

LONGEST_NAME = 100
PATCHES = range(8, 4097)  # px; sides of a patch
_RANGES = {
    "name": "at most 100 letters, digits, '.', '_' and '-', beginning with a letter or digit, no '..'",
    "patch": f"a whole number of px, {PATCHES[0]} to {PATCHES[-1]}",
    "seed": "a whole number, not negative",
    "validation": "a fraction between 0 and 1",
    "calibration": "a fraction between 0 and 1",
    "alpha": "a rate between 0 and 1",
    "start": "'wide-field' or 'scratch'",
}


def is_name(name: object) -> bool:
    """True for a valid model name: it becomes part of the names of a quality group and of files."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or ".." in name:
        return False
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def is_patch(side: object) -> bool:
    """True for a valid side of a patch in px."""
    return isinstance(side, int) and not isinstance(side, bool) and side in PATCHES


@dataclass(frozen=True)
class TrainSpec:
    """How a model is trained and calibrated; with frames and versions it fixes every byte of the bundle.

    Parameters
    ----------
    method : str
        Which algorithm, one of `DEFAULTS`; 'aqdask' is ours, 'paper' the published one.
    name : str
        Name of the model: letters, digits, '.', '_' and '-' (it becomes part of a group's name).
    patch : int
        Side of a patch in pixels.
    steps, batch : int
        Optimiser steps (None: as many as the method takes), and patches in each.
    seed : int
        Not negative. Draws the split, the crops, the flips and the first weights.
    learning_rate : float
        At the first step; falls to zero along half a cosine. None: the method's own.
    validation, calibration : float
        Fractions of the *frames* held out to watch the loss (and, with 'aqdask', for the tails of the groups)
        and to calibrate; at least one frame each. None: the method's own.
    calibration_limit : int
        At most so many frames are scored to calibrate, however many were set aside.
    start : str
        Where 'aqdask' starts: 'wide-field', the shipped model, whose head is kept and whose autoencoder is
        trained further; or 'scratch', which needs about three times the steps, for both networks.
    alpha : float
        False-mask rate of the first pass, and the smallest that the calibration must allow; 'aqdask' only.
    two_sided : bool
        Whether stars sharper than the references' are bad too; 'aqdask' only.
    centred : bool
        Whether frames that show the references' own field at their pointing are judged place by place
        (`aqdask.kernels.centring`); others are judged as without it. 'aqdask' only.
    checkpoint_seconds : float
        How often the state is saved where a checkpoint is asked for; no effect on the result.
    archive, created : str
        Recorded as given; empty is left out, so that equal input gives an equal bundle.

    Raises
    ------
    UsageError
        For a value out of its range, or an unknown method.
    """

    method: str = "aqdask"
    name: str = "model"
    patch: int = PATCH
    steps: int = _BY_METHOD
    batch: int = 64
    seed: int = 0
    learning_rate: float = _BY_METHOD
    validation: float = _BY_METHOD
    calibration: float = _BY_METHOD
    calibration_limit: int = 100
    start: str = "wide-field"
    alpha: float = 0.01
    two_sided: bool = False
    centred: bool = False
    checkpoint_seconds: float = 30.0
    archive: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        if self.method not in DEFAULTS:
            raise UsageError(
                f"the method is {self.method!r}",
                expected=f"one of {', '.join(map(repr, sorted(DEFAULTS)))}",
                consequence="Nothing was trained",
                remedy="leave the method out",
            )
        for name, value in DEFAULTS[self.method].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        sound = {
            "name": is_name(self.name),
            "patch": is_patch(self.patch),
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "seed": self.seed >= 0,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "validation": 0 < self.validation < 1,
            "calibration": 0 < self.calibration < 1,
            "start": self.start in ("wide-field", "scratch"),
            "alpha": 0 < self.alpha < 1,
            "calibration_limit": self.calibration_limit >= 1,
            "checkpoint_seconds": self.checkpoint_seconds >= 0,
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise UsageError(
                    f"the training setting {name} is {getattr(self, name)!r}",
                    expected=_RANGES.get(name, "a positive number"),
                    consequence="Nothing was trained",
                    remedy=f"leave {name} out for its default, {self._default(name)!r}",
                )

    def _default(self, name: str) -> Any:
        return DEFAULTS[self.method].get(name, getattr(type(self), name))
