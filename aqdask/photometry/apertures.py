"""Masked pixels in circular apertures."""

from __future__ import annotations

import numpy as np
import sep


def aperture_masked(mask: np.ndarray | None, positions: np.ndarray, radius: float) -> np.ndarray:
    """Flag apertures that contain a masked pixel.

    Parameters
    ----------
    mask : ndarray (y, x) of bool, or None
        True = bad; None masks nothing.
    positions : ndarray (n, 2)
        Centres x, y in pixels. Pixels beyond the frame are not masked.
    radius : float
        Pixels; 0 tests the pixel of the centre alone.

    Returns
    -------
    ndarray (n,)
        bool, True where any part of a masked pixel lies in the aperture.
    """
    if mask is None or not len(positions):
        return np.zeros(len(positions), dtype=bool)
    x, y = np.asarray(positions, dtype=float).T
    if radius > 0:
        bad = np.ascontiguousarray(mask, dtype=np.float32)
        return sep.sum_circle(bad, x, y, radius, subpix=0)[0] > 0
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    height, width = mask.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return inside & mask[row.clip(0, height - 1), column.clip(0, width - 1)].astype(bool)
