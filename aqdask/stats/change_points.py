"""Change points of a series: steps of its level, and trends, with a penalty for correlated noise.

Optimal segmentation by the least squares about segment means plus a penalty for each change (PELT, Killick,
Fearnhead & Eckley 2012, J. Am. Stat. Assoc. 107, 1590; `ruptures`), with outliers clipped before (as the
bounded loss of Fearnhead & Rigaill 2019, J. Am. Stat. Assoc. 114, 169) and the long-run variance in place of
the variance, since neighbours in time are correlated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import median_filter

from aqdask.stats.robust import mad_sigma

LEAST_UNITS = 5  # between two changes: fewer make none, as a few bad nights
MOST_UNITS = 3000  # of a longer series neighbours are joined; the segmentation takes their number squared
PENALTY = 2.0, 6.0  # of a change: the first times ln(n), plus the second; see `benchmarks/science/drift.py`
CLIPPED = 2.0  # sigma from the running median: a run of outliers that is shorter than a level makes none
WINDOW = 4 * LEAST_UNITS + 1  # units of the running median
BATCHES = 12  # at least, from which a long-run variance is estimated
HIGHEST_PHI = 0.9  # of an autoregressive process: beyond it few values tell nothing of their level
STEP, TREND = "step", "trend"


@dataclass(frozen=True)
class ChangePoint:
    """Change of the level of a series.

    Parameters
    ----------
    index : int
        Position of the first value after a step, or of the first change of a trend.
    start, stop : int
        First position of the values before, and one past the last of those after.
    before, after : float
        Median of the values before and after; of a trend those of its first and last level.
    sigma : float
        Difference in standard deviations of single values within the levels.
    kind : str
        'step', or 'trend' where a straight line describes the values better.
    """

    index: int
    start: int
    stop: int
    before: float
    after: float
    sigma: float
    kind: str


def change_points(values: np.ndarray, floor: float = 0.0) -> list[ChangePoint]:
    """Find the changes of the level of a series.

    Parameters
    ----------
    values : ndarray (n,)
        Finite, in the order of time. Of more than `MOST_UNITS` the medians of neighbours are used.
    floor : float
        Smallest standard deviation of the noise, in the unit of the values: of rounding, or of counts.

    Returns
    -------
    list of ChangePoint
        In order; empty for fewer than twice `LEAST_UNITS` values.
    """
    width = -(-len(values) // MOST_UNITS)
    series = joined(np.asarray(values, np.float64), width, np.median)
    if len(series) < 2 * LEAST_UNITS:
        return []
    clipped, scatter = _clipped(series, floor)
    scale = np.sqrt(max(_long_run_variance(clipped), floor**2))
    if not scale > 0:  # constant but for a step
        scale = np.finfo(float).eps * max(float(np.abs(series).max()), 1.0)
    found = []
    for start, first, last, stop, kind in _shaped(clipped / scale, _segmented(clipped / scale)):
        before, after = (float(np.median(part)) for part in (series[start:first], series[last:stop]))
        sigma = abs(after - before) / float(scatter or scale)
        first, start, stop = (min(position * width, len(values)) for position in (first, start, stop))
        found.append(ChangePoint(first, start, stop, before, after, sigma, kind))
    return found


def joined(values: np.ndarray, width: int, function: object) -> np.ndarray:
    """Apply a function such as ``np.median`` to ``width`` neighbours each; the last ones may be fewer."""
    if width <= 1:
        return values
    whole = len(values) // width * width
    parts = function(values[:whole].reshape(-1, width), axis=1)  # type: ignore[operator]
    rest = [function(values[whole:])] if whole < len(values) else []  # type: ignore[operator]
    return np.concatenate([parts, rest])


def _clipped(series: np.ndarray, floor: float) -> tuple[np.ndarray, float]:
    """Clip values far from the running median; return them, and the scatter of single values about it."""
    middle = median_filter(series, size=WINDOW, mode="nearest")
    scatter = max(float(mad_sigma(series - middle, 0.0)), floor)
    return middle + np.clip(series - middle, -CLIPPED * scatter, CLIPPED * scatter), scatter


def _long_run_variance(series: np.ndarray) -> float:
    """Estimate n times the variance of the mean of n values, from differences.

    The largest of two estimates: of the means of batches of 1, 2, 4, ... values, whose variances add up more
    slowly where neighbours are correlated, and of an autoregressive process of the first order, which
    few values suffice for. Steps are in few differences, and a trend is a constant in all of them.
    """
    differences = np.diff(series)
    differences = differences - np.median(differences)
    local = float(mad_sigma(differences, 0.0)) ** 2 / 2
    limited = np.clip(differences, -CLIPPED * np.sqrt(2 * local), CLIPPED * np.sqrt(2 * local))
    total = float(limited @ limited)
    following = float(limited[1:] @ limited[:-1]) / total if total > 0 else -0.5  # (phi - 1) / 2
    phi = float(np.clip(1 + 2 * following, 0, HIGHEST_PHI))
    found, width = local * (1 + phi) / (1 - phi) ** 2, 2
    while len(series) // width >= BATCHES:
        means = series[: len(series) // width * width].reshape(-1, width).mean(axis=1)
        found = max(found, width * float(mad_sigma(np.diff(means))) ** 2 / 2)
        width *= 2
    return found


def _segmented(series: np.ndarray) -> list[int]:
    """Cut a series of unit long-run variance; return the bounds of its segments, from 0 to n."""
    from ruptures import KernelCPD  # with its imports a fifth of a second, which others need not wait

    found = KernelCPD(kernel="linear", min_size=LEAST_UNITS).fit(series[:, None])
    return [0, *map(int, found.predict(pen=PENALTY[0] * np.log(len(series)) + PENALTY[1]))]


def _shaped(series: np.ndarray, bounds: list[int]) -> Iterator[tuple[int, int, int, int, str]]:
    """Yield start, first and last cut, stop and kind of each change.

    Cuts in one direction are a trend as long as a straight line describes the values better than their
    levels, by the Bayesian information criterion (Schwarz 1978, Ann. Stat. 6, 461).
    """
    signs = np.sign(np.diff([series[a:b].mean() for a, b in pairwise(bounds)]))
    first = 1
    while first < len(bounds) - 1:
        last = first
        while last + 1 < len(bounds) - 1 and signs[last] == signs[first - 1]:
            last += 1
        while last > first and not _is_line(series, bounds[first - 1 : last + 2]):
            last -= 1
        kind = TREND if _is_line(series, bounds[first - 1 : last + 2]) else STEP
        yield bounds[first - 1], bounds[first], bounds[last], bounds[last + 1], kind
        first = last + 1


def _is_line(series: np.ndarray, bounds: Sequence[int]) -> bool:
    """Return True if a line is better than levels between bounds; each parameter costs ln(n)."""
    values = series[bounds[0] : bounds[-1]]
    at = np.arange(len(values))
    line = np.square(values - np.polyval(np.polyfit(at, values, 1), at)).sum()
    levels = sum(np.square(series[a:b] - series[a:b].mean()).sum() for a, b in pairwise(bounds))
    more = 2 * (len(bounds) - 2) + 1 - 2  # parameters of the levels less those of the line
    return bool(line <= levels + more * np.log(len(values)))


def lasting(flags: np.ndarray) -> np.ndarray:
    """Return flags, bool ``(n,)``, that are the rule over `LEAST_UNITS` neighbours before and after twice.

    Flagged values that come and go are exceptions; flags that stay belong to a change.
    """
    return flags & (median_filter(flags.astype(np.uint8), size=WINDOW, mode="nearest") > 0)
