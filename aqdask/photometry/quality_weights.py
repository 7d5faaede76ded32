"""Weights of measurements from the p-values of their patches."""

from __future__ import annotations

import math

import numpy as np


def quality_weights(pvalue: np.ndarray) -> np.ndarray:
    """Weigh patches by their p-values: ``-e p ln p`` below ``1 / e``, else 1.

    This is the smallest Bayes factor for a good patch that any alternative gives (Sellke, Bayarri & Berger
    2001, Am. Stat. 55, 62); it has no free parameter. A patch of p = 0.05 counts 0.41, of 0.01 counts 0.13.

    Parameters
    ----------
    pvalue : ndarray
        In [0, 1]; NaN for patches without a score.

    Returns
    -------
    ndarray
        float64 in [0, 1], same shape; 0 for p = 0 and NaN.
    """
    p = np.clip(np.nan_to_num(np.asarray(pvalue, dtype=np.float64)), np.finfo(float).tiny, 1)
    return np.where(np.asarray(pvalue) > 0, np.where(p < 1 / math.e, -math.e * p * np.log(p), 1.0), 0.0)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Median of values that count by their weights; NaN where no finite value has a weight above 0."""
    usable = np.isfinite(values) & (weights > 0)
    if not usable.any():
        return math.nan
    order = np.argsort(values[usable], kind="stable")
    cumulative = np.cumsum(weights[usable][order])
    middle = np.interp(cumulative[-1] / 2, cumulative - weights[usable][order] / 2, values[usable][order])
    return float(middle)
