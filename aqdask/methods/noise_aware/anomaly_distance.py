"""Anomaly distance of a feature group: its largest normal score among reference patches, and the p-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from aqdask.stats.compiled import exact
from aqdask.stats.conformal import ScoreTable, conformal_pvalue

MAX_COMPARED = 20_000  # patches of all frames that are compared with each other
OUTLYING_QUANTILE = 0.99  # quantile of the other frames' distances above which a patch is outlying
OUTLYING_FRACTION = 0.2  # outlying fraction of a frame above which other frames are not compared with it
TABLE_LIMIT = 2000  # distances kept a group
TAIL = 0.02  # upper fraction of the references whose mean excess makes the exponential tail
# Knots of the references' distribution: dense in the middle, out to 2 % on either side.
_Z = np.linspace(-2.0537, 2.0537, 33)
PROBABILITIES = np.array([NormalDist().cdf(z) for z in _Z])


@dataclass(frozen=True, eq=False)
class NormalScores:
    """Transformation of features to normal scores by their distribution on reference patches.

    Between the knots by the empirical distribution; beyond the outermost, where the tail is taken as
    exponential, ``z**2 = z0**2 + 2 (x - x0) / excess``. A heavy tail (bright stars) does not widen the normal
    range, and a narrow one keeps its power.

    Parameters
    ----------
    knots : ndarray (K, k)
        Quantiles of the references at `PROBABILITIES`, ascending.
    excess : ndarray (2, k)
        Mean excess below the lowest and above the highest knot.
    """

    knots: np.ndarray
    excess: np.ndarray

    @classmethod
    def fit(cls, statistics: np.ndarray, min_effect_size: float | np.ndarray = 0.0) -> NormalScores:
        """Fit to reference patches ``(n, k)``, all finite; ``min_effect_size`` is the smallest excess."""
        values = statistics.astype(np.float64)
        knots = np.quantile(values, PROBABILITIES, axis=0)
        width = np.maximum(knots[-1] - knots[0], 1e-9)
        excess = np.stack([_excess(knots[0] - values, width), _excess(values - knots[-1], width)])
        return cls(knots, np.maximum(excess, min_effect_size))

    def of(self, statistics: np.ndarray) -> np.ndarray:
        """Compute the normal scores of features ``(..., k)``, float64, same shape; NaN where not finite."""
        values = np.moveaxis(statistics, -1, 0).astype(np.float64, order="C")
        knots, excess = (
            self.knots.T.astype(np.float64, order="C"),
            self.excess.T.astype(np.float64, order="C"),
        )
        z = _normal_scores(values.reshape(len(values), -1), knots, excess)
        return np.moveaxis(z.reshape(values.shape), 0, -1)


@exact
def _normal_scores(values: np.ndarray, knots: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """`NormalScores.of` for values ``(k, n)``, knots ``(k, K)`` and excess ``(k, 2)``."""
    z = np.empty_like(values)
    below = np.empty(values.shape[1], np.uint32)
    for k in range(len(values)):
        below[:] = 0
        for knot in knots[k, 1:-1]:
            for n in range(below.size):
                below[n] += np.uint32(values[k, n] >= knot)
        slopes = np.diff(_Z) / np.diff(knots[k])
        low, high = knots[k, 0], knots[k, -1]
        for n in range(below.size):
            x, first = values[k, n], below[n]
            if low <= x < high:
                z[k, n] = slopes[first] * (x - knots[k, first]) + _Z[first]
            elif x - x == 0:
                away = (low - x) / excess[k, 0] if x < low else (x - high) / excess[k, 1]
                outer = np.sqrt(_Z[0] ** 2 + 2 * min(away, 1e9))
                z[k, n] = -outer if x < low else outer
            else:
                z[k, n] = np.nan
    return z


def _excess(beyond: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Average the positive values of each column; at least a hundredth of ``width``."""
    above = beyond > 0
    mean = np.where(above, beyond, 0).sum(axis=0) / np.maximum(above.sum(axis=0), 1)
    return np.maximum(mean, 0.01 * width)


@dataclass(frozen=True, eq=False)
class AnomalyDistance:
    """Distance of the features of a group from those of reference patches: the largest normal score.

    Defects are sparse: a trail changes one feature of its group and leaves the rest, which a Mahalanobis
    distance averages away.

    Parameters
    ----------
    scores : NormalScores
    one_sided : int
        +1: only large values are bad, -1: only small ones, 0: both.
    """

    scores: NormalScores
    one_sided: int = 0

    @classmethod
    def fit(
        cls, statistics: np.ndarray, one_sided: int = 0, min_effect_size: float | np.ndarray = 0.0
    ) -> AnomalyDistance:
        """Fit to reference patches ``(n, k)``, all finite."""
        return cls(NormalScores.fit(statistics, min_effect_size), one_sided)

    def of(self, statistics: np.ndarray) -> np.ndarray:
        """Compute the distance of features ``(..., k)``, float64 ``(...)``; NaN where one is not finite."""
        z = self.scores.of(statistics)
        return (self.one_sided * z if self.one_sided else np.abs(z)).max(axis=-1)


@dataclass(frozen=True, eq=False)
class Tail:
    """Distribution of anomaly distances: conformal within the references, an exponential tail beyond.

    The tail is that of peaks over a threshold with shape 0 (Pickands 1975, Ann. Stat. 3, 119).

    Parameters
    ----------
    table : ScoreTable
        Distances of reference patches.
    start, excess : float
        Their ``1 - TAIL`` quantile, and the mean excess over it of those above.
    """

    table: ScoreTable
    start: float
    excess: float

    @classmethod
    def fit(cls, distances: np.ndarray) -> Tail:
        """Fit to distances ``(n,)`` of patches that the distance was not fitted to; NaN is left out."""
        known = distances[np.isfinite(distances)]
        table = ScoreTable.from_scores(known, TABLE_LIMIT)
        start = float(np.quantile(known, 1 - TAIL))
        above = known[known > start]
        excess = float((above - start).mean()) if above.size else 1.0
        return cls(table, start, max(excess, 1e-6))

    def neg_log10_p(self, distances: np.ndarray) -> np.ndarray:
        """Compute ``-log10 p`` of distances, float64, same shape; NaN where the distance is.

        p is ``(1 + #{reference >= this}) / (n + 1)``; beyond the largest reference it is
        ``TAIL exp(-(d - start) / excess)`` where that is smaller: an extrapolation, which ranks the worst
        patches and has no coverage guarantee.
        """
        conformal = -np.log10(conformal_pvalue(distances, self.table).astype(np.float64))
        beyond = distances > self.table.values[-1]
        tail = ((distances - self.start) / self.excess - np.log(TAIL)) / np.log(10)
        return np.where(beyond, np.maximum(conformal, tail), conformal)


def fraction_beyond_others(
    statistics: Sequence[np.ndarray], one_sided: int = 0, min_effect_size: float = 0.0
) -> np.ndarray:
    """Compute the fraction of outlying patches of each frame among all others, float64 ``(frame,)``.

    A patch is outlying beyond ``1 + 3 / n`` times the distance that one in a hundred patches of the n - 1
    other frames exceeds: few frames do not span the normal range. 0 where there is nothing to compare.

    Frames with the same defect hide each other. Therefore the most outlying quarter of the frames is at first
    compared with the rest, and not the rest with it; frames that agree with the rest are taken back, until
    all that are set apart have more than `OUTLYING_FRACTION` outlying patches. Of good frames none is set
    apart. A defect that more than a quarter of the frames share is not found.

    Parameters
    ----------
    statistics : sequence of ndarray (n, k)
        Of each frame, all finite.
    one_sided, min_effect_size
        As `AnomalyDistance.fit`.
    """
    chosen = [values[:: max(1, len(values) * len(statistics) // MAX_COMPARED)] for values in statistics]
    apart = _most_outlying(chosen, one_sided, min_effect_size)
    while True:  # `apart` only shrinks
        found = _beyond(chosen, apart, one_sided, min_effect_size)
        still = apart & (found > OUTLYING_FRACTION)
        if (still == apart).all():
            return found
        apart = still


def _beyond(
    chosen: Sequence[np.ndarray], apart: np.ndarray, one_sided: int, min_effect_size: float
) -> np.ndarray:
    """Compute the fraction of outlying patches of each frame among those that are not ``apart``."""
    found = np.zeros(len(chosen))
    for k, own in enumerate(chosen):
        kept = [values for j, values in enumerate(chosen) if j != k and not apart[j]]
        others = np.concatenate([*kept, own[:0]])
        if len(own) and len(others):
            distance = AnomalyDistance.fit(others, one_sided, min_effect_size)
            limit = (1 + 3 / (len(kept) + 1)) * float(np.quantile(distance.of(others), OUTLYING_QUANTILE))
            found[k] = float((distance.of(own) > limit).mean())
    return found


def _most_outlying(chosen: Sequence[np.ndarray], one_sided: int, min_effect_size: float) -> np.ndarray:
    """Find the quarter of the frames, rounded down, with the most outlying patches, bool ``(frame,)``.

    Compared with the median over frames of the distributions of each, which a minority does not move. A frame
    is as far as the distance that a fraction `OUTLYING_FRACTION` of its patches exceeds.
    """
    outlying = np.zeros(len(chosen), bool)
    alone = [NormalScores.fit(values, min_effect_size) for values in chosen if len(values)]
    if count := len(chosen) // 4 if alone else 0:
        knots = np.median([scores.knots for scores in alone], axis=0)
        excess = np.median([scores.excess for scores in alone], axis=0)
        typical = AnomalyDistance(NormalScores(knots, excess), one_sided)
        far = [
            np.quantile(typical.of(values), 1 - OUTLYING_FRACTION) if len(values) else 0.0
            for values in chosen
        ]
        outlying[np.argsort(far)[-count:]] = True
    return outlying
