"""From p-values to masks: thresholds, and the DQ bits of pixels."""

from __future__ import annotations

import numpy as np

from aqdask import flags
from aqdask.errors import UsageError
from aqdask.specs import PatchGrid
from aqdask.stats.patches import stitch


def check_alpha(alpha: float) -> float:
    """``alpha`` itself; `UsageError` unless it lies strictly between 0 and 1."""
    if not (isinstance(alpha, int | float) and 0 < alpha < 1):
        raise UsageError(
            f"alpha = {alpha!r}",
            expected="a false-mask rate strictly between 0 and 1, for example 0.01",
            consequence="There is no mask for it",
            remedy="give the fraction of good patches that you accept to lose",
        )
    return alpha


def bad_patches(pvalue: np.ndarray, alpha: float) -> np.ndarray:
    """Which patches are masked, bool, same shape: p-value at or below ``alpha``, or no p-value (NaN)."""
    return ~(pvalue > alpha)


def bad_pixels(pvalue: np.ndarray, alpha: float, grid: PatchGrid) -> np.ndarray:
    """`bad_patches` over the pixels that each patch owns: bool ``(..., H, W)`` of ``(..., n_y, n_x)``."""
    return stitch(bad_patches(pvalue, alpha), grid)


def dq_image(pvalue: np.ndarray, invalid: np.ndarray | None, alpha: float, grid: PatchGrid) -> np.ndarray:
    """DQ bits (`aqdask.flags.DQ`) of one frame, uint8 ``(H, W)``, 0 = good.

    Parameters
    ----------
    pvalue : ndarray (n_y, n_x)
        NaN = no data.
    invalid : ndarray (H, W) of bool, or None
        Pixels that are not data themselves.
    alpha : float
        False-mask rate, in (0, 1).
    grid : PatchGrid
    """
    low, missing, pixel = (flags.code(flags.DQ, name) for name in ("low_quality", "no_data", "invalid"))
    bits = np.where(bad_patches(pvalue, alpha), np.where(np.isnan(pvalue), missing, low), 0).astype(np.uint8)
    dq = stitch(bits, grid)
    if invalid is not None:
        dq |= np.where(invalid, pixel, 0).astype(np.uint8)
    return dq
