"""Scoring, training and calibration by the method that a bundle or the settings name.

The rows are those of `aqdask.methods.registry.METHODS`; a method's modules are imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from aqdask.errors import ModelError, UsageError
from aqdask.methods.base import FrameSource, Scorer
from aqdask.methods.bundle import Bundle
from aqdask.methods.registry import METHODS, Method
from aqdask.methods.training.progress import Report
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import Variable

if TYPE_CHECKING:
    import torch


def find(bundle: Bundle) -> Method:
    """Return the method of a bundle.

    Raises
    ------
    ModelError
        For a method that is not in the table.
    """
    if bundle.method not in METHODS:
        raise ModelError(
            f"the model {bundle.name} was made by the method {bundle.method!r}",
            expected=f"one of {', '.join(sorted(METHODS))}",
            consequence="This release of aqdask cannot score with it",
            remedy="install the release of aqdask that wrote it",
        )
    return METHODS[bundle.method]


def load_scorer(bundle: Bundle, device: str = "cpu", precision: str = "fp32") -> Scorer:
    """Return the scorer of a bundle's method, with its weights on ``device`` in a precision of its method.

    Raises
    ------
    ModelError
        For a method that this release does not know, or weights that do not fit.
    """
    scorer = _load(find(bundle).scorer)
    return scorer(bundle, device) if precision == "fp32" else scorer(bundle, device, precision)


def variables(bundle: Bundle) -> tuple[Variable, ...]:
    """Return the variables that a bundle's scorer gives, without loading its network."""
    return _load(find(bundle).variables)


def no_sky(bundle: Bundle, camera: str, filter: str) -> np.ndarray | None:
    """Return the pixels in which no reference frame of a camera shows sky, bool ``(y, x)``; None for none."""
    method = METHODS.get(bundle.method)  # maps of a method that is not installed can be exported, too
    return _load(method.no_sky)(bundle, camera, filter) if method and method.no_sky else None


def reference_spans(bundle: Bundle, camera: str, filter: str) -> dict[str, tuple[float, float, float]]:
    """Return smallest value, median and largest value of frame-level variables over the reference frames.

    By name, in the unit of the variable; empty without a calibration for this camera and filter.
    """
    method = METHODS.get(bundle.method)
    if not method or not method.reference_spans:
        return {}
    return _load(method.reference_spans)(bundle, camera, filter)


def distant_reason(bundle: Bundle, camera: str, filter: str, values: Mapping[str, float]) -> str:
    """Return the reason why a frame is flagged whose camera and filter have no calibration of their own.

    The statistic of the whole frame that is farthest from the references of the calibration that scored it,
    from its frame-level variables by name; empty where none is far enough for the flag.
    """
    method = METHODS.get(bundle.method)
    if not method or not method.distant_reason:
        return ""
    return _load(method.distant_reason)(bundle, camera, filter, values)


def patch_variance(
    bundle: Bundle, camera: str, filter: str, sky: np.ndarray, level: np.ndarray | float
) -> tuple[np.ndarray, bool] | None:
    """Return the variance of a sky pixel by the noise model of a camera.

    Parameters
    ----------
    bundle : Bundle
        The model.
    camera, filter : str
        Choose the calibration.
    sky : ndarray
        Counts, pedestal included.
    level : ndarray or float
        Median sky of the frame in counts, which chooses the stratum; broadcast against ``sky``.

    Returns
    -------
    tuple of ndarray and bool, or None
        Counts squared, NaN where ``sky`` is; and True where the model holds for any sky of this camera (False
        where only its product with the square of ``noise_ratio`` is the noise of a patch). None for a method
        without a noise model.
    """
    method = METHODS.get(bundle.method)
    if not method or not method.patch_variance:
        return None
    return _load(method.patch_variance)(bundle, camera, filter, sky, level)


def train(
    frames: FrameSource,
    spec: TrainSpec,
    *,
    progress: Report | None = None,
    device: str | torch.device | None = None,
) -> Bundle:
    """Train on reference frames and calibrate on held-out ones.

    The same frames, settings, versions, processor and number of threads give the same bytes. The caller's
    random generators and torch settings are restored.

    Parameters
    ----------
    frames : FrameSource
        Reference frames; read one at a time, some of them many times.
    spec : TrainSpec
        Settings; ``method`` chooses the row of the table.
    progress : callable, optional
        Called with a `TrainProgress` every few steps; an exception that it raises ends the training.
    device : str or torch.device, optional
        The CPU unless given.

    Raises
    ------
    UsageError
        For fewer than three frames, settings out of the method's range, a span of time, or frames without
        valid patches.
    ModelError
        If the loss is no longer finite.
    """
    if spec.span:
        raise UsageError(
            f"a training for the span of time {spec.span}",
            expected="no span: a trained model is calibrated for all times",
            consequence="Nothing was trained",
            remedy="train, then calibrate for a span (`aqdask calibrate --from TIME`)",
        )
    function = _load(METHODS[spec.method].train)
    return function(frames, spec, progress or _ignore, device or "cpu")


def calibrate(
    bundle: Bundle,
    frames: FrameSource,
    spec: TrainSpec,
    *,
    progress: Report | None = None,
    device: str | torch.device | None = None,
) -> Bundle:
    """Return a copy of a bundle that is calibrated for the cameras and filters of these frames too.

    Raises
    ------
    UsageError
        For a method without calibration, too few frames, inconsistent frames, or a noise ratio far from 1.
    ModelError
        If the weights do not fit the architecture that the bundle states.
    """
    method = find(bundle)
    if not method.calibrate:
        able = ", ".join(repr(name) for name, row in METHODS.items() if row.calibrate)
        raise UsageError(
            f"the model {bundle.name} is of the method {bundle.method!r}",
            expected=f"one of {able}: this method has nothing to calibrate without training",
            consequence="Nothing was calibrated",
            remedy="train a model on these frames instead",
        )
    return _load(method.calibrate)(bundle, frames, spec, progress or _ignore, device or "cpu")


def _load(place: str) -> Any:
    """Import ``module:name``."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _ignore(progress: object) -> None:
    """Discard a progress report."""
