"""Sums of an image over straight lines: the approximate discrete Radon transform.

Goetz & Druckmueller (1996, Pattern Recognition 29, 711), Brady (1998, SIAM J. Comput. 27, 107). Sums over
strips of two columns give those over four, and so on: ``N**2 log2 N`` additions in place of ``N**3``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

QUADRANTS = 4


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
    # Quadrant, strip, slope, row: rows from -(N - 1) on, since lines that rise begin above the image.
    sums = np.zeros((QUADRANTS, side, 1, 2 * side), np.int16)
    rows = sums[:, :, 0, side - 1 :]
    rows[0, :width, :height] = image.T
    rows[1, :width, :height] = image[::-1].T
    rows[2, :height, :width] = image
    rows[3, :height, :width] = image[:, ::-1]
    while sums.shape[1] > 1:
        sums = _joined(sums)
    return sums[:, 0]


def _joined(sums: np.ndarray) -> np.ndarray:
    """Join neighbouring strips: lines of slope s and of s + 1/2 continue in the next strip s, s + 1 lower."""
    quadrants, strips, slopes, length = sums.shape
    flat = np.zeros((quadrants, strips * slopes * length + slopes + 1), np.int16)
    flat[:, : strips * slopes * length] = sums.reshape(quadrants, -1)
    joined = np.empty((quadrants, strips // 2, 2 * slopes, length), np.int16)
    size = flat.itemsize
    for more in (0, 1):
        # A row shifted by its slope: one longer stride. What it takes from the row behind it is zero.
        lower = as_strided(
            flat[:, slopes * length + more :],
            (quadrants, strips // 2, slopes, length),
            (flat.strides[0], 2 * slopes * length * size, (length + 1) * size, size),
        )
        np.add(sums[:, 0::2], lower, out=joined[:, :, more::2])
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
