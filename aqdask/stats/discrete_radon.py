"""Sums of an image over straight lines: the approximate discrete Radon transform.

Goetz & Druckmueller (1996, Pattern Recognition 29, 711), Brady (1998, SIAM J. Comput. 27, 107). Sums over
strips of two columns give those over four, and so on: ``N**2 log2 N`` additions in place of ``N**3``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from aqdask.stats.compiled import exact

QUADRANTS = 4
STEPS = 16  # of one sigma, to which cells are rounded for the transform
SHORTEST = 1 / 3  # of the shorter side of the frame
SAMPLE = 10_000  # values from which a spread is taken


def line_sums(image: np.ndarray) -> np.ndarray:
    """Sum an image over all lines that cross it from one side to the opposite one.

    Parameters
    ----------
    image : ndarray (H, W)
        Converted to int16, twice as fast as float32: no value above 32767 / N.

    Returns
    -------
    ndarray (4, N, 2 N), int16
        N is the power of two that holds H and W. Entry ``[q, s, k]`` is the sum over N pixels from column 0
        in row ``k - N + 1`` to column ``N - 1`` in row ``k - N + 1 + s``: of the image for q = 0, of the
        image upside down for 1, and of the transpose likewise for 2 and 3. `line_ends` gives the ends.
    """
    side = 2 ** max(math.ceil(math.log2(max(image.shape))), 1)
    height, width = image.shape
    # Strip, slope, row: rows from -(N - 1) on, since lines that rise begin above the image.
    strips = np.zeros((QUADRANTS, side, 1, 2 * side), np.int16)
    rows = strips[:, :, 0, side - 1 :]
    rows[0, :width, :height] = image.T
    rows[1, :width, :height] = image[::-1].T
    rows[2, :height, :width] = image
    rows[3, :height, :width] = image[:, ::-1]
    sums = np.empty((QUADRANTS, side, 2 * side), np.int16)
    for found, joined in zip(sums, strips, strict=True):  # each stays in the cache
        while len(joined) > 1:
            joined = _joined(joined)
        found[:] = joined[0]
    return sums


@exact
def _joined(sums: np.ndarray) -> np.ndarray:
    """Join neighbouring strips: lines of slope s and of s + 1/2 continue in the next strip s, s + 1 lower."""
    strips, slopes, length = sums.shape
    joined = np.empty((strips // 2, 2 * slopes, length), np.int16)
    for strip in range(strips // 2):
        for slope in range(2 * slopes):
            line, upper = joined[strip, slope], sums[2 * strip, slope // 2]
            lower = sums[2 * strip + 1, slope // 2, (slope + 1) // 2 :]
            for row in range(lower.size):
                line[row] = upper[row] + lower[row]
            for row in range(lower.size, length):
                line[row] = upper[row]
    return joined


def line_ends(quadrant: int, slope: int, offset: int, shape: tuple[int, int]) -> np.ndarray:
    """Ends of a line of `line_sums` as ``[[y, x], [y, x]]`` in pixels, float64; beyond the image for most."""
    height, width = shape
    side = 2 ** max(math.ceil(math.log2(max(shape))), 1)
    first = offset - side + 1
    across = np.array([first, first + slope], dtype=np.float64)
    if quadrant % 2:
        across = (height if quadrant == 1 else width) - 1 - across
    along = np.array([0.0, side - 1.0])
    return np.stack([across, along] if quadrant < 2 else [along, across], axis=1)


@lru_cache(maxsize=4)
def line_weights(shape: tuple[int, int], valid: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the sums over lines to unit noise, 0 for short lines, and a sample of the others.

    Of an image in steps of 1 / `STEPS` sigma; ``valid`` are the bytes of a bool array.
    """
    counts = line_sums(np.frombuffer(valid, bool).reshape(shape))
    long = counts >= SHORTEST * min(shape)
    weights = np.where(long, 1 / (STEPS * np.sqrt(np.maximum(counts, 1))), 0).astype(np.float32)
    sample = np.flatnonzero(long)
    return weights, sample[:: 1 + len(sample) // SAMPLE]
