"""Sums over neighbouring patches, and the precision-weighted PSF size and ellipticity of any region."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

PRIOR = 0.5  # precision of the prior on size, e1 and e2, in units of 1 / SHAPE_UNITS**2
SHAPES = ("size", "e1", "e2")
Features = Mapping[str, np.ndarray]
"""What was measured in the patches of a frame, ``(n_y, n_x)`` by name."""


def box_sum(values: np.ndarray, side: int) -> np.ndarray:
    """Sum over ``side`` x ``side`` neighbours along the first two axes, zero beyond the edges; float64."""
    total = values.astype(np.float64)
    for axis in (0, 1):
        total = ndimage.correlate1d(total, np.ones(side), axis=axis, mode="constant")
    return total


def shape_sums(features: Features) -> np.ndarray:
    """The head's precisions and precisions times value of each patch: ``(n_y, n_x, 2, 3)``."""
    parts = [[np.nan_to_num(features[f"{name}_{part}"]) for name in SHAPES] for part in ("weight", "sum")]
    return np.moveaxis(np.array(parts, dtype=np.float64), (0, 1), (-2, -1))


def star_shape(
    features: Features, zero: np.ndarray, unflagged: np.ndarray | None = None, side: int = 1
) -> np.ndarray:
    """Size (ln), e1 and e2 of the stars about ``zero``: ``(n_y, n_x, 3)``, in `networks.SHAPE_UNITS`.

    Of each patch, or pooled over its unflagged neighbours; a region that tells nothing is like ``zero``.
    """
    sums = shape_sums(features)
    if unflagged is not None:
        sums[~unflagged] = 0
        sums = box_sum(sums, side)
    return pooled_estimate(sums, zero)


def pooled_estimate(sums: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Estimates ``(..., 3)`` from `shape_sums` ``(..., 2, 3)`` of any region, less ``zero``."""
    weight, product = sums[..., 0, :], sums[..., 1, :]
    return (product - weight * zero) / (weight + PRIOR)
