"""Noise variance of the sky by the noise model of a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from aqdask.methods.bundle import POOLED, Bundle, calibration_key, nearest_key
from aqdask.methods.noise_aware.noise_model import NoiseModel

INEXACT = ("none", "subtracted")  # sources of a noise model whose variance is that of one sky only


def patch_variance(
    bundle: Bundle, camera: str, filter: str, sky: np.ndarray, level: np.ndarray | float
) -> tuple[np.ndarray, bool]:
    """Return the variance of sky pixels; see `aqdask.methods.dispatch.patch_variance`."""
    key = nearest_key(bundle.calibrations, calibration_key(camera, filter))
    facts = bundle.calibrations[key].facts
    exact = key != POOLED and facts["noise"]["source"] not in INEXACT
    variance = _variance(facts, sky)
    while "brighter" in facts and key != POOLED:  # the counts of another camera say nothing about its sky
        limit, facts = facts["brighter"]["limit"], facts["brighter"]["facts"]
        variance = np.where(np.asarray(level) > limit, _variance(facts, sky), variance)
    return variance, exact


def _variance(facts: Mapping[str, Any], sky: np.ndarray) -> np.ndarray:
    noise = NoiseModel(**facts["noise"])
    counts = torch.from_numpy(np.asarray(sky, np.float64) / noise.unit)
    return noise.variance(counts).numpy() * noise.unit**2
