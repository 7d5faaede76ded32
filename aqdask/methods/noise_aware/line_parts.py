"""Significance and ends of a line from its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aqdask.stats.compiled import exact
from aqdask.stats.discrete_radon import SHORTEST

CUT = 3.5  # sigma at which each part counts, so that a star, its spike or its bleeding column makes no line
MIN_PARTS = 3
STAR_REACH = 160  # px from a bright star on a line that are left out
WIDE = 0.25  # of a line: with more in bright areas it is bright and wide itself


@dataclass(frozen=True)
class Interval:
    """Interval of the parts of a line with the largest sum.

    Parameters
    ----------
    first, stop : int
        First part, and one past the last.
    significance : float
        Sum of the parts, each cut at `CUT`, in units of its noise.
    uncut : float
        Likewise, of the parts as they are.
    """

    first: int
    stop: int
    significance: float
    uncut: float

    def of(self, parts: np.ndarray) -> float:
        """Sum of other parts ``(m,)`` over this interval, each cut at `CUT`, over its noise."""
        inside = parts[self.first : self.stop]
        known = inside[np.isfinite(inside)]
        return float(np.clip(known, -CUT, CUT).sum() / math.sqrt(len(known)))


def best_interval(parts: np.ndarray, shortest: int) -> Interval | None:
    """Find the interval of a line with the largest sum of its parts, each cut at `CUT`, over its noise.

    Parameters
    ----------
    parts : ndarray (m,)
        Sums over the parts of a line in units of their noise; NaN without data.
    shortest : int
        Smallest number of parts with data.

    Returns
    -------
    Interval or None
        None where too few parts have data.
    """
    (known,) = np.isfinite(parts).nonzero()
    if len(known) < shortest:
        return None
    total = np.concatenate([[0.0], np.cumsum(np.clip(parts[known], -CUT, CUT), dtype=np.float64)])
    first, stop, sigma = _largest(total, shortest)
    uncut = parts[known[first:stop]].sum() / math.sqrt(stop - first)
    return Interval(int(known[first]), int(known[stop - 1]) + 1, sigma, float(uncut))


@exact
def _largest(total: np.ndarray, shortest: int) -> tuple[int, int, float]:
    """Interval with the largest sum over its noise, from cumulative sums: first, stop, value."""
    found, most = (0, 0), -np.inf
    for first in range(total.size):
        for stop in range(first + shortest, total.size):
            sigma = (total[stop] - total[first]) / np.sqrt(stop - first)
            if sigma > most:
                found, most = (first, stop), sigma
    return found[0], found[1], most


def near(flags: np.ndarray, reach: int) -> np.ndarray:
    """Find the values at most ``reach`` from one that is True, bool ``(m,)``."""
    total = np.concatenate([[0], np.cumsum(flags)])
    place = np.arange(len(flags))
    return total[np.minimum(place + reach + 1, len(flags))] > total[np.maximum(place - reach, 0)]


def away_from_stars(bright: np.ndarray, reach: int) -> np.ndarray:
    """Find the cells of a line away from bright stars on it, bool ``(m,)``: spikes and bleeding are near.

    All where more than `WIDE` of the line is bright itself. ``bright`` are its cells in bright areas.
    """
    return ~near(bright, reach) if bright.mean() <= WIDE else np.ones(len(bright), bool)


def shortest_line(length: int) -> int:
    """Smallest number of parts of a line in a frame whose shorter side has ``length`` parts."""
    return max(MIN_PARTS, math.floor(SHORTEST * length))


def extent(profile: np.ndarray, first: int, stop: int) -> tuple[int, int]:
    """Find the beginning and the end of a line: largest excess over half of its mean.

    Parameters
    ----------
    profile : ndarray (m,)
        Signal along the line; 0 without data.
    first, stop : int
        Interval that is certainly part of it, in the middle.

    Returns
    -------
    tuple of int
        First value, and one past the last.
    """
    middle = (first + stop) // 2
    excess = profile - profile[first:stop].mean() / 2
    backwards = np.cumsum(excess[:middle][::-1])
    forwards = np.cumsum(excess[middle:])
    return middle - 1 - int(backwards.argmax()) if middle else 0, middle + 1 + int(forwards.argmax())
