"""The sky of a whole frame from the sky of its patches: a template of the camera, or one level."""

from __future__ import annotations

import numpy as np

_ROUNDS = 20
_REACH = 2.0  # robust sigma beyond which a patch pulls the fit less (Huber weights)
_LEAST = 1e-9


def robust_line(template: np.ndarray, level: np.ndarray, ridge: float) -> tuple[float, float]:
    """``(alpha, beta)`` of ``level = alpha + beta template`` by Huber regression; NaN is left out.

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
    weight = np.ones_like(y)
    alpha, beta = float(np.median(y)), 0.0
    for _ in range(_ROUNDS):
        total = weight.sum()
        mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
        covariance = (weight * (x - mean_x) * (y - mean_y)).sum() / total
        before = beta
        beta = covariance / ((weight * (x - mean_x) ** 2).sum() / total + ridge + _LEAST)
        alpha = mean_y - beta * mean_x
        away = np.abs(y - alpha - beta * x)
        spread = 1.4826 * np.median(away) + _LEAST
        weight = np.minimum(1, _REACH * spread / np.maximum(away, _LEAST))
        if abs(beta - before) < 1e-6:
            break
    return float(alpha), float(beta)


def make_template(levels: np.ndarray, ridge: float) -> np.ndarray:
    """The common shape of the sky of reference frames, counts, ``(y, x)``.

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
    """Median over frames without a warning where all are NaN."""
    known = np.isfinite(levels)
    ordered = np.sort(np.where(known, levels, np.inf), axis=0)
    count = known.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, len(levels) - 1)
    pick = [np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high)]
    return np.where(count > 0, (pick[0] + pick[1]) / 2, np.nan)


def plane(values: np.ndarray) -> np.ndarray:
    """Robust first-order surface through a map ``(y, x)``, evaluated everywhere; zero with no value."""
    usable = np.isfinite(values)
    if usable.sum() < 6:
        return np.zeros(values.shape)
    y, x = np.meshgrid(
        *(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in values.shape), indexing="ij"
    )
    terms = np.stack([np.ones(values.size), y.ravel(), x.ravel()], axis=1)
    inside, found = usable.ravel(), np.where(usable, values, 0).ravel().astype(float)
    weight = inside.astype(float)
    for _ in range(8):
        normal = terms.T @ (terms * weight[:, None])
        fit = terms @ np.linalg.lstsq(normal, terms.T @ (weight * found), rcond=None)[0]
        away = np.abs(found - fit)
        spread = 1.4826 * np.median(away[inside]) + _LEAST
        weight = inside * np.minimum(1, _REACH * spread / np.maximum(away, _LEAST))
    return fit.reshape(values.shape)
