"""Table of scoring methods: one row a method.

A row names its classes and functions as ``module:name``, so that torch is loaded only where something is
scored or trained. Another package adds a method with `register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """One scoring method.

    Parameters
    ----------
    name : str
        As bundles and ``--method`` name it.
    summary : str
        One clause for ``--help``.
    scorer : str
        ``module:Class``, called with a `Bundle`, a device and, unless it is 'fp32', a precision; gives an
        `aqdask.methods.base.Scorer`.
    variables : str
        ``module:NAME`` of the tuple of `aqdask.specs.Variable` that the scorer gives.
    train : str
        ``module:function(frames, spec, report, device) -> Bundle``; empty where the method is not trained.
    calibrate : str
        ``module:function(bundle, frames, spec, report, device) -> Bundle``; empty where there is nothing to
        calibrate without training.
    no_sky : str
        ``module:function(bundle, camera, filter)``, the pixels of a camera without sky, bool ``(y, x)`` or
        None; empty where the method knows of none.
    reference_spans : str
        ``module:function(bundle, camera, filter)``, smallest value, median and largest value of frame-level
        variables over the reference frames, by name; empty where the method knows of none.
    distant_reason : str
        ``module:function(bundle, camera, filter, values)``, the reason why a frame without a calibration
        of its own is flagged, from its frame-level values; empty where the method knows none.
    patch_variance : str
        ``module:function(bundle, camera, filter, sky, level)``, the noise of sky pixels by the method's noise
        model (`aqdask.methods.dispatch.patch_variance`); empty where the method has none.
    features : str
        ``module:function()`` that gives activations of the shipped encoder, for the loss 'perceptual'.
    precisions : tuple of str
        In which its network can run: 'fp32', 'bf16'.
    defaults : mapping
        Fields of `TrainSpec` that the method sets where the user does not.
    """

    name: str
    summary: str
    scorer: str
    variables: str
    train: str = ""
    calibrate: str = ""
    no_sky: str = ""
    reference_spans: str = ""
    distant_reason: str = ""
    patch_variance: str = ""
    features: str = ""
    precisions: tuple[str, ...] = ("fp32",)
    defaults: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {}


def register(method: Method) -> None:
    """Add a method, or replace the one of the same name."""
    METHODS[method.name] = method


register(
    Method(
        "aqdask",
        "in units of each camera's noise, with the PSF of every patch",
        scorer="aqdask.methods.noise_aware.scorer:NoiseAwareScorer",
        variables="aqdask.methods.noise_aware.variables:VARIABLES",
        train="aqdask.methods.noise_aware.train:train_noise_aware",
        calibrate="aqdask.methods.noise_aware.calibrate:calibrate_bundle",
        no_sky="aqdask.methods.noise_aware.dark_areas:no_sky",
        reference_spans="aqdask.methods.noise_aware.reference_spans:reference_spans",
        distant_reason="aqdask.methods.noise_aware.reference_spans:distant_reason",
        patch_variance="aqdask.methods.noise_aware.patch_noise:patch_variance",
        features="aqdask.methods.noise_aware.networks:shipped_features",
        precisions=("fp32", "bf16"),
        defaults={"steps": 1500, "learning_rate": 2e-3, "validation": 0.25, "calibration": 0.35}
        | {"depth": 1, "width": 16, "norm": "batch", "augment": "flips+rotations+background", "warm_up": 50},
    )
)
register(
    Method(
        "paper",
        "the published algorithm (Jia et al. 2024)",
        scorer="aqdask.methods.paper.scorer:PaperScorer",
        variables="aqdask.methods.paper.variables:VARIABLES",
        train="aqdask.methods.paper.train:train_paper",
        defaults={"steps": 1000, "learning_rate": 1e-3, "validation": 0.1, "calibration": 0.25}
        | {"depth": 4, "width": 16, "norm": "none", "augment": "flips+rotations", "warm_up": 0},
    )
)
