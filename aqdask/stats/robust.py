"""Robust scale: the standard deviation of a normal distribution from the median absolute deviation (MAD)."""

from __future__ import annotations

import numpy as np

# 1 / Phi^-1(3/4) = 1.482602..., to the four digits with which stored calibrations were made
SIGMA_PER_MAD = 1.4826


def mad_sigma(
    values: np.ndarray, centre: np.ndarray | float | None = None, axis: int | None = None
) -> np.ndarray:
    """Estimate a standard deviation as 1.4826 times the median absolute deviation.

    Consistent for a normal distribution; up to half of the values may be outliers (Rousseeuw & Croux 1993,
    J. Am. Stat. Assoc. 88, 1273).

    Parameters
    ----------
    values : ndarray
        At least one along ``axis``; NaN gives NaN.
    centre : float or ndarray, optional
        Centre of the deviations, broadcast against ``values``; the median along ``axis`` if left out.
    axis : int, optional
        Axis of the medians; all values by default.

    Returns
    -------
    float64 or ndarray of float64
        Without ``axis``; 0 where more than half of the values equal the centre.
    """
    values = np.asarray(values)
    if centre is None:
        centre = np.median(values, axis=axis, keepdims=True)
    return SIGMA_PER_MAD * np.asarray(np.median(np.abs(values - centre), axis=axis), dtype=np.float64)[()]
