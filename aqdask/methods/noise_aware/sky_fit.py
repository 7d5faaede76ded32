"""Sky of a whole frame: template of the references, robust fit to it, slope and curvature."""

from __future__ import annotations

import math

import numpy as np

_ROUNDS = 20
_REACH = 4.685  # sigma at which a patch has no weight (Tukey's biweight, 95 % efficient)
_SMOOTH_REACH = 9.0  # of the fit of a smooth shape: what natural structure leaves is no outlier
_INNER, _INNER_SIGMA = (
    0.3,
    0.385,
)  # fraction of the patches that tell the spread: within .385 sigma of a normal
_LEAST = 1e-9
SMOOTH_PATCHES = 12  # fewer show no shape of a frame


def robust_line(template: np.ndarray, level: np.ndarray, ridge: float) -> tuple[float, float]:
    """Fit ``level = alpha + beta template`` to most patches and return ``(alpha, beta)``; NaN is left out.

    Tukey's biweight (Beaton & Tukey 1974, Technometrics 16, 147) about the mode,
    with the spread of the innermost patches: up to half of the frame may
    lie under a cloud without a shift of the rest.

    Parameters
    ----------
    template, level : ndarray, same shape
        Counts.
    ridge : float
        Variance in counts squared that the template must exceed to say anything: below it beta goes to 0.
    """
    usable = np.isfinite(template) & np.isfinite(level)
    if not usable.any():
        return float("nan"), 0.0
    x, y = template[usable].astype(float), level[usable].astype(float)
    # The start is a sky as bright as the template's, at the mode: a cloud would drag a line through all.
    alpha, beta = mode(y - x), 1.0
    for _ in range(_ROUNDS):
        away = np.abs(y - alpha - beta * x)
        spread = _quantile(away, _INNER) / _INNER_SIGMA + _LEAST
        weight = np.maximum(1 - (away / (_REACH * spread)) ** 2, 0) ** 2
        total = weight.sum()
        mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
        covariance = (weight * (x - mean_x) * (y - mean_y)).sum() / total
        before = alpha, beta
        beta = covariance / ((weight * (x - mean_x) ** 2).sum() / total + ridge + _LEAST)
        alpha = mean_y - beta * mean_x
        if abs(beta - before[1]) < 1e-6 and abs(alpha - before[0]) < 1e-6 * spread:
            break
    return float(alpha), float(beta)


def _quantile(values: np.ndarray, share: float) -> float:
    """`np.quantile` of finite values ``(n,)``, twice as fast."""
    place = share * (len(values) - 1)
    around = [math.floor(place), math.ceil(place)]
    low, high = np.partition(values, around)[around]
    return float(low + (high - low) * (place - around[0]))


def smooth_amplitude(values: np.ndarray, usable: np.ndarray) -> float:
    """Compute the rms of slope and curvature of the sky over the usable patches; 0 where they are too few.

    Parameters are those of `smooth_terms`.
    """
    terms, found = smooth_terms(values, usable)
    return float((terms @ found).std()) if len(terms) else 0.0


def slope_and_bowl(values: np.ndarray, usable: np.ndarray) -> tuple[float, float, float]:
    """Compute the change of the sky across the frame along y and x, and from the middle to a corner.

    NaN where patches are too few. Parameters are those of `smooth_terms`, whose unit they have.
    """
    terms, found = smooth_terms(values, usable, _SMOOTH_REACH)
    if not len(terms):
        return float("nan"), float("nan"), float("nan")
    return 2 * float(found[1]), 2 * float(found[2]), 2 * float(found[3])


def smooth_terms(
    values: np.ndarray, usable: np.ndarray, reach: float = _REACH
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a plane and a term in the distance from the middle squared to most of the patches.

    With Tukey's biweight; coordinates are -1 to 1 along either axis.

    Parameters
    ----------
    values : ndarray (n_y, n_x)
        Sky above what the frame should have, in any unit.
    usable : ndarray (n_y, n_x), bool
        Where `values` are finite and count.
    reach : float
        Sigma at which a patch has no weight.

    Returns
    -------
    terms : ndarray (n, 4)
        1, y, x, ``y**2 + x**2`` of the usable patches; no row where they are too few.
    coefficients : ndarray (4,)
    """
    count = int(usable.sum())
    if count < SMOOTH_PATCHES:
        return np.empty((0, 4)), np.zeros(4)
    y, x = (
        axis[usable] for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij")
    )
    terms = np.column_stack([np.ones(count), y, x, y**2 + x**2])
    found, weight = values[usable].astype(float), np.ones(count)
    for _ in range(_ROUNDS):
        weighted = terms.T * weight**2
        fit = np.linalg.lstsq(weighted @ terms, weighted @ found, rcond=None)[0]
        away = np.abs(found - terms @ fit)
        spread = float(np.median(away)) / 0.6745 + _LEAST
        before, weight = weight, np.maximum(1 - (away / (reach * spread)) ** 2, 0)
        if np.abs(weight - before).max() < 1e-3:
            break
    return terms, fit


def mode(values: np.ndarray) -> float:
    """Compute the half-sample mode (Robertson & Cryer 1974) of values ``(n,)``."""
    ordered = np.sort(values)
    while ordered.size > 3:
        half = (ordered.size + 1) // 2
        first = int(np.argmin(ordered[half - 1 :] - ordered[: ordered.size - half + 1]))
        ordered = ordered[first : first + half]
    return float(ordered.mean())


def make_template(levels: np.ndarray, ridge: float) -> np.ndarray:
    """Compute the common shape of the sky of reference frames, counts, ``(y, x)``.

    Each frame is brought to the first estimate (the median over frames) by a robust line, and the template
    is the median of the frames so aligned. NaN where no frame has a value.

    Parameters
    ----------
    levels : ndarray (frame, y, x)
        Sky in counts; NaN = no data.
    ridge : float
        See `robust_line`.
    """
    template = _median(levels)
    for _ in range(2):
        aligned = []
        for level in levels:
            alpha, beta = robust_line(template, level, ridge)
            shape = beta if beta > 0.1 else 1.0
            aligned.append((level - (alpha if beta > 0.1 else np.nanmedian(level - template))) / shape)
        template = _median(np.stack(aligned))
    return template


def _median(levels: np.ndarray) -> np.ndarray:
    """Compute the median over frames, without a warning where all are NaN."""
    known = np.isfinite(levels)
    ordered = np.sort(np.where(known, levels, np.inf), axis=0)
    count = known.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, len(levels) - 1)
    pick = [np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high)]
    return np.where(count > 0, (pick[0] + pick[1]) / 2, np.nan)
