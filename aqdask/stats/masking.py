"""Masks from p-values: bad patches, bad pixels and DQ bits at a false-mask rate alpha."""

from __future__ import annotations

import numpy as np

from aqdask import flags
from aqdask.errors import UsageError
from aqdask.specs import PatchGrid
from aqdask.stats.patches import stitch


def check_alpha(alpha: float) -> float:
    """Return ``alpha``; `UsageError` unless it lies strictly between 0 and 1."""
    if not (isinstance(alpha, int | float) and 0 < alpha < 1):
        raise UsageError(
            f"alpha = {alpha!r}",
            expected="a false-mask rate strictly between 0 and 1, for example 0.01",
            consequence="No mask was made",
            remedy="give the acceptable fraction of good patches in the mask",
        )
    return alpha


def bad_patches(pvalue: np.ndarray, alpha: float) -> np.ndarray:
    """Return masked patches, bool of the same shape: p-value at or below ``alpha``, or NaN (no data)."""
    return ~(pvalue > alpha)


def bad_pixels(pvalue: np.ndarray, alpha: float, grid: PatchGrid) -> np.ndarray:
    """Spread `bad_patches` over their pixels: bool ``(..., H, W)`` from p-values ``(..., n_y, n_x)``."""
    return stitch(bad_patches(pvalue, alpha), grid)


def dq_image(pvalue: np.ndarray, invalid: np.ndarray | None, alpha: float, grid: PatchGrid) -> np.ndarray:
    """Compute the DQ bits (`aqdask.flags.DQ`) of one frame.

    Parameters
    ----------
    pvalue : ndarray (n_y, n_x)
        p-values of the patches; NaN for no data.
    invalid : ndarray (H, W) of bool, or None
        Pixels without data.
    alpha : float
        False-mask rate, in (0, 1).
    grid : PatchGrid
        Patches of the frame.

    Returns
    -------
    ndarray (H, W) of uint8
        Sum of bits; 0 for good pixels.
    """
    low, missing, pixel = (flags.code(flags.DQ, name) for name in ("low_quality", "no_data", "invalid"))
    bits = np.where(bad_patches(pvalue, alpha), np.where(np.isnan(pvalue), missing, low), 0).astype(np.uint8)
    dq = stitch(bits, grid)
    if invalid is not None:
        dq |= np.where(invalid, pixel, 0).astype(np.uint8)
    return dq
