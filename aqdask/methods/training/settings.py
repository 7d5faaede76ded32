"""Settings of a training, which with frames and versions fix every byte of a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aqdask.errors import UsageError
from aqdask.methods.bundle import PATCHES, is_name, is_patch
from aqdask.methods.calibration_spans import OF_FRAMES, TimeSpan
from aqdask.methods.registry import METHODS
from aqdask.methods.training.losses import LOSSES, check_packages, parse_loss
from aqdask.methods.training.options import (
    ARCHITECTURES,
    AUGMENTATIONS,
    DEPTHS,
    NORMS,
    WIDTHS,
    NetworkOptions,
    augmentations,
)
from aqdask.methods.training.schedules import SCHEDULES
from aqdask.specs import PATCH

# Settings of a method that does not state them.
GENERAL: dict[str, Any] = {
    "steps": 1000, "learning_rate": 1e-3, "validation": 0.1, "calibration": 0.25,
    "depth": 1, "width": 16, "norm": "batch", "augment": "flips+rotations", "warm_up": 0,
}  # fmt: skip
OPTIONS = ("architecture", "depth", "width", "norm", "dropout", "augment", "schedule", "warm_up")
"""Fields that a bundle records only where they differ from the default."""

_BY_METHOD: Any = None  # stands for the method's own default until `TrainSpec` is made

_RANGES = {
    "name": "at most 100 letters, digits, '.', '_' and '-', beginning with a letter or digit, no '..'",
    "patch": f"a whole number of px, {PATCHES[0]} to {PATCHES[-1]}",
    "seed": "a whole number, not negative",
    "validation": "a fraction between 0 and 1",
    "calibration": "a fraction between 0 and 1",
    "alpha": "a rate between 0 and 1",
    "loss": f"{', '.join(LOSSES)}, or a weighted sum such as ssim:0.2+mse:0.8; adversarial not alone",
    "architecture": f"one of {', '.join(ARCHITECTURES)}",
    "depth": f"a whole number, {DEPTHS[0]} to {DEPTHS[-1]}",
    "width": f"a multiple of {WIDTHS.step}, {WIDTHS[0]} to {WIDTHS[-1]}",
    "norm": f"one of {', '.join(NORMS)}",
    "dropout": "a fraction from 0, below 1",
    "augment": f"none, or some of {', '.join(AUGMENTATIONS)}, joined by '+'",
    "schedule": f"one of {', '.join(SCHEDULES)}",
    "warm_up": "a whole number of steps, not negative",
}


@dataclass(frozen=True)
class TrainSpec:
    """Settings of a training and calibration; with frames and versions they fix every byte of the bundle.

    Parameters
    ----------
    method : str
        Name in `aqdask.methods.registry.METHODS`.
    name : str
        Name of the model: letters, digits, '.', '_' and '-' (it becomes part of a group's name).
    patch : int
        Side of a patch in pixels.
    steps, batch : int
        Optimiser steps (None: as many as the method takes), and patches in each.
    seed : int
        Not negative. Draws the split, the crops, the flips and the first weights.
    learning_rate : float
        The largest; ``schedule`` lowers it. None: the method's own.
    validation, calibration : float
        Fractions of the *frames* held out to watch the loss (and, with 'aqdask', for the tails of the groups)
        and to calibrate; at least one frame each. None: the method's own.
    calibration_limit : int
        At most so many frames are scored to calibrate, however many were set aside.
    loss : str
        Reconstruction loss, one of `losses.LOSSES`, or a weighted sum written ``ssim:0.2+mse:0.8``.
    architecture, norm : str
        Of the autoencoder, names in `options.ARCHITECTURES` and `options.NORMS`. None: the method's own norm.
    depth, width : int
        Halvings of the patch by convolutions, and channels at the first. None: the method's own.
    dropout : float
        Fraction of the channels of each layer that are dropped in training.
    augment : str
        Names in `options.AUGMENTATIONS` joined by '+', or 'none'. None: the method's own.
    schedule : str
        Name in `schedules.SCHEDULES`.
    warm_up : int
        Steps in which the learning rate rises from zero. None: the method's own.
    alpha : float
        False-mask rate of the first pass, and the smallest that the calibration must allow; 'aqdask' only.
    two_sided : bool
        Stars sharper than the references' are bad too; 'aqdask' only.
    archive, created : str
        Recorded as given; empty is left out, so that equal input gives an equal bundle.
    labels : mapping
        Frames and boxes that a person's labels left out of the references; recorded like ``archive``.
    span : str
        Span of time of the frames that the calibration serves, as `TimeSpan.parse` reads it, or 'frames':
        from the first to the last reference frame. Empty: all frames. Of `calibrate` only.

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
    loss: str = "mse"
    architecture: str = "plain"
    depth: int = _BY_METHOD
    width: int = _BY_METHOD
    norm: str = _BY_METHOD
    dropout: float = 0.0
    augment: str = _BY_METHOD
    schedule: str = "cosine"
    warm_up: int = _BY_METHOD
    alpha: float = 0.01
    two_sided: bool = False
    archive: str = ""
    created: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict, hash=False)
    span: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"the method is {self.method!r}",
                expected=f"one of {', '.join(map(repr, sorted(METHODS)))}",
                consequence="Nothing was trained",
                remedy="leave the method out",
            )
        for name, value in (GENERAL | dict(METHODS[self.method].defaults)).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.span not in ("", OF_FRAMES):
            object.__setattr__(self, "span", str(TimeSpan.parse(self.span)))
        sound = {
            "name": is_name(self.name),
            "patch": is_patch(self.patch),
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "seed": self.seed >= 0,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "validation": 0 < self.validation < 1,
            "calibration": 0 < self.calibration < 1,
            "loss": parse_loss(self.loss) is not None,
            "architecture": self.architecture in ARCHITECTURES,
            "depth": self.depth in DEPTHS,
            "width": self.width in WIDTHS,
            "norm": self.norm in NORMS,
            "dropout": 0 <= self.dropout < 1,
            "augment": augmentations(self.augment) is not None,
            "schedule": self.schedule in SCHEDULES,
            "warm_up": self.warm_up >= 0,
            "alpha": 0 < self.alpha < 1,
            "calibration_limit": self.calibration_limit >= 1,
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise UsageError(
                    f"the training setting {name} is {getattr(self, name)!r}",
                    expected=_RANGES.get(name, "a positive number"),
                    consequence="Nothing was trained",
                    remedy=f"leave {name} out for its default, {self.default(name)!r}",
                )
        check_packages(self.loss)

    @property
    def network(self) -> NetworkOptions:
        """Options of the autoencoder."""
        return NetworkOptions(self.architecture, self.depth, self.width, self.norm)

    @property
    def augmentations(self) -> tuple[str, ...]:
        """Names in ``augment``."""
        return augmentations(self.augment) or ()

    def default(self, name: str) -> Any:
        """Return the default of a field for this method."""
        return (GENERAL | dict(METHODS[self.method].defaults)).get(name, getattr(type(self), name))
