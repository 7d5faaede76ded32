"""Sums over neighbouring patches, and the precision-weighted PSF size and ellipticity of any region."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aqdask.stats.compiled import exact

PRIOR = 0.5  # precision of the prior on size, e1 and e2, in units of 1 / SHAPE_UNITS**2
SHAPES = ("size", "e1", "e2")
Features = Mapping[str, np.ndarray]
"""What was measured in the patches of a frame, ``(n_y, n_x)`` by name."""


def box_sum(values: np.ndarray, side: int, dtype: type = np.float64) -> np.ndarray:
    """Sum over ``side`` x ``side`` neighbours along the last two axes, zero beyond the edges; float64.

    With an even ``side`` over one more before than behind.
    """
    n_y, n_x = values.shape[-2:]
    total: np.ndarray = np.ascontiguousarray(values, dtype=dtype)
    for length, step in ((n_y * n_x, n_x), (n_x, 1)):
        total = _sums_along(total.reshape(-1, length), side, step)
    return total.reshape(values.shape)


@exact
def _sums_along(rows: np.ndarray, side: int, step: int) -> np.ndarray:
    """Sum over ``side`` values that are ``step`` apart, about each value of each row."""
    total = np.zeros_like(rows)
    for row in range(len(rows)):
        for number in range(side):
            shift = (number - side // 2) * step
            values, sums = rows[row, max(shift, 0) :], total[row, max(-shift, 0) :]
            for place in range(min(values.size, sums.size)):
                sums[place] += values[place]
    return total


def shape_sums(features: Features) -> np.ndarray:
    """The head's precisions and precisions times value of each patch: ``(2, 3, n_y, n_x)``."""
    parts = [[features[f"{name}_{part}"] for name in SHAPES] for part in ("weight", "sum")]
    return np.nan_to_num(np.array(parts, dtype=np.float64))


def pooled_estimate(sums: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Size (ln), e1 and e2 of the stars about ``zero``, ``(3, ...)``, in `networks.SHAPE_UNITS`.

    From `shape_sums` ``(2, 3, ...)`` of any region; one that tells nothing is like ``zero``.
    """
    weight, product = sums
    return (product - weight * zero.reshape(3, *[1] * (weight.ndim - 1))) / (weight + PRIOR)
