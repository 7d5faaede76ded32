"""Metrics with uncertainties over *frames*, since the patches of one frame are correlated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error over frames (NaN for one frame)."""

    value: float
    error: float = math.nan

    def text(self, digits: int = 3) -> str:
        """``0.912 +- 0.011``, or a dash."""
        if math.isnan(self.value):
            return "-"
        error = "" if math.isnan(self.error) else f" ±{self.error:.{digits}f}"
        return f"{self.value:.{digits}f}{error}"


def ranked(scores: np.ndarray) -> np.ndarray:
    """Scores to rank: a patch without one counts as worst, as it is masked; ``(n,)``, float64."""
    flat = np.asarray(scores, dtype=np.float64).ravel()
    return np.where(np.isnan(flat), np.inf, flat)


def wins(bad: Sequence[np.ndarray], good: Sequence[np.ndarray]) -> np.ndarray:
    """Pairs in which the bad patch scores higher, ties by half: ``(bad frames, good frames)``.

    Mann & Whitney (1947); divided by the number of pairs it is the area under the ROC curve.
    """
    ordered = [np.sort(ranked(scores)) for scores in good]
    found = np.empty((len(bad), len(good)))
    for row, scores in enumerate(bad):
        values = ranked(scores)
        for column, reference in enumerate(ordered):
            sides = (np.searchsorted(reference, values, side) for side in ("left", "right"))
            found[row, column] = sum(side.sum() for side in sides) / 2
    return found


def auroc(bad: Sequence[np.ndarray], good: Sequence[np.ndarray]) -> Estimate:
    """Area under the ROC curve of affected patches against those of clean frames.

    ``bad`` holds the scores of the affected patches of each frame, ``good`` those of all patches of each
    clean frame. The error is the jackknife's over frames of either kind, in quadrature.
    """
    bad = [scores for scores in bad if np.size(scores)]
    if not bad:
        return Estimate(math.nan)
    pairs, rows, columns = wins(bad, good), np.array([b.size for b in bad]), np.array([g.size for g in good])

    def area(use: np.ndarray, against: np.ndarray) -> float:
        return float(pairs[np.ix_(use, against)].sum() / (rows[use].sum() * columns[against].sum()))

    every, clean = np.arange(len(bad)), np.arange(len(good))
    variance = jackknife(lambda kept: area(kept, clean), len(bad)) ** 2
    variance += jackknife(lambda kept: area(every, kept), len(good)) ** 2
    return Estimate(area(every, clean), math.sqrt(variance))


def jackknife(statistic: Callable[[np.ndarray], float], count: int) -> float:
    """Standard error of ``statistic(positions kept)`` by leaving out one frame at a time; NaN below 2."""
    if count < 2:
        return math.nan
    left = [statistic(np.delete(np.arange(count), out)) for out in range(count)]
    return math.sqrt((count - 1) * float(np.var(left)))


def rate(masks: Sequence[np.ndarray]) -> Estimate:
    """Fraction of True over all patches; ``masks`` holds the bools of each frame."""
    masks = [mask for mask in masks if np.size(mask)]
    if not masks:
        return Estimate(math.nan)
    hits, sizes = np.array([m.sum() for m in masks]), np.array([m.size for m in masks])

    def fraction(kept: np.ndarray) -> float:
        return float(hits[kept].sum() / sizes[kept].sum())

    return Estimate(fraction(np.arange(len(masks))), jackknife(fraction, len(masks)))


def mean(found: Sequence[Estimate]) -> Estimate:
    """Mean of several, their errors taken as independent (clean frames are shared: a lower bound)."""
    known = [one for one in found if not math.isnan(one.value)]
    if not known:
        return Estimate(math.nan)
    error = math.sqrt(sum(np.nan_to_num(one.error) ** 2 for one in known)) / len(known)
    return Estimate(float(np.mean([one.value for one in known])), error)


def paired_change(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Mean change against paired values in per cent, and its standard error (NaN for one pair)."""
    change = 100 * (np.asarray(values) / np.asarray(reference) - 1)
    error = change.std(ddof=1) / math.sqrt(change.size) if change.size > 1 else math.nan
    return Estimate(float(change.mean()), float(error))


def spearman(values: Sequence[np.ndarray], truth: Sequence[float]) -> Estimate:
    """Rank correlation of measured values with one true number a frame.

    ``values`` holds an array a frame (one number or many patches); values that are not finite are left out.
    """

    def correlation(kept: np.ndarray) -> float:
        parts = [np.ravel(values[k])[np.isfinite(np.ravel(values[k]))] for k in kept]
        x = np.concatenate(parts)
        y = np.repeat(np.asarray(truth)[kept], [part.size for part in parts])
        if x.size < 3:
            return math.nan
        return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])

    return Estimate(correlation(np.arange(len(values))), jackknife(correlation, len(values)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, ties at their mean."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
