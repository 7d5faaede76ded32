"""Frame-level variables of the reference frames of a calibration: their span, and a frame far from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aqdask.methods.bundle import Bundle, calibration_key, nearest_key
from aqdask.methods.noise_aware.frame_score import (
    FLAG_SIGMA,
    FrameStatistics,
    ReferenceStatistics,
    brightness,
)
from aqdask.methods.noise_aware.noise_model import NoiseModel

Span = tuple[float, float, float]
"""Smallest value, median and largest value."""


def reference_spans(bundle: Bundle, camera: str, filter: str) -> dict[str, Span]:
    """Return the span of each frame-level variable over the references of a camera and filter.

    Over all strata of the sky; the median is that of the darkest. Empty without a calibration of its own.
    """
    key = calibration_key(camera, filter)
    if key not in bundle.calibrations:
        return {}
    strata: list[Mapping[str, Any]] = [bundle.calibrations[key].facts]
    while "brighter" in strata[-1]:
        strata.append(strata[-1]["brighter"]["facts"])
    spans = [_spans(facts) for facts in strata]
    return {name: _joined([span[name] for span in spans if name in span]) for name in spans[0]}


def distant_reason(bundle: Bundle, camera: str, filter: str, values: Mapping[str, float]) -> str:
    """Return the reason why a frame is flagged without frame tests; see `aqdask.methods.dispatch`."""
    key = nearest_key(bundle.calibrations, calibration_key(camera, filter))
    facts = bundle.calibrations[key].facts
    while key and "brighter" in facts and values["frame_sky"] > facts["brighter"]["limit"]:
        facts = facts["brighter"]["facts"]
    noise = NoiseModel(**facts["noise"])
    sky = values["frame_sky"] / noise.unit
    with np.errstate(divide="ignore"):  # a constant frame has no noise
        size, sigma = np.log([values["frame_size_ratio"], values["frame_noise_ratio"]]).tolist()
    frame = FrameStatistics(
        size, values["frame_ellipticity"], sky, brightness(sky, noise), 2 * sigma, stars=math.nan
    )
    references = ReferenceStatistics({name: tuple(found) for name, found in facts["frame_tier"].items()})
    sigmas = references.sigmas(frame, two_sided=facts["two_sided"])
    worst = max(sigmas, key=lambda name: sigmas[name], default="")
    return worst if worst and sigmas[worst] > FLAG_SIGMA else ""


def _joined(spans: list[Span]) -> Span:
    return min(span[0] for span in spans), spans[0][1], max(span[2] for span in spans)


def _spans(facts: Mapping[str, Any]) -> dict[str, Span]:
    """Return the spans of one stratum in the units of the variables."""
    noise = NoiseModel(**facts["noise"])
    units = {
        "size": ("frame_size_ratio", math.exp),
        "ellipticity": ("frame_ellipticity", float),
        "noise": ("frame_noise_ratio", lambda value: math.exp(value / 2)),
        "stars": ("frame_stars", math.exp),
        "sky": ("frame_sky", lambda value: _sky(math.exp(value), noise) * noise.unit),
    }
    found = {}
    for name, (median, _, low, high) in facts.get("frame_tier", {}).items():
        variable, convert = units[name]
        found[variable] = (convert(low), convert(median), convert(high))
    return found


def _sky(variance: float, noise: NoiseModel) -> float:
    """Return the counts with a variance by the noise model, see `frame_score.FrameStatistics`."""
    if noise.b <= 0:
        return variance  # the sky itself was stored
    rest = noise.a + 0.375 * noise.b**2 - variance
    return -2 * rest / (noise.b + math.sqrt(max(noise.b**2 - 4 * noise.c * rest, 0.0)))
