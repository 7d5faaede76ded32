"""Zero points of frames and mean magnitudes of stars, from each other, in passes over the frames.

The model is that of inhomogeneous ensemble photometry (Honeycutt 1992, PASP 104, 435): the instrumental
magnitude of star j in frame i is ``M_j - ZP_i``. It is solved by turns, so that a pass holds one frame and a
few numbers for each star.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from aqdask.photometry.quality_weights import weighted_median

CASES = ("no_mask", "masked", "weighted")
"""Solutions that are compared: the mask not used; without the measurements that it touches; and with these
weighted by the p-values of their patches, too. All use inverse variances and the same robust fit."""
HUBER = 1.5  # standard deviations beyond which a star counts less (Huber 1964)
ROUNDS = 10  # of the robust fit of a zero point
START_SCATTER = 0.02  # mag, of a star that has been measured less than three times
MIN_MEASUREMENTS = 3


class ZeroPoint(NamedTuple):
    """Zero point of a frame: magnitude = instrumental magnitude + value.

    ``error`` is the standard error from the deviations of the ``stars`` stars; NaN for fewer than two.
    """

    value: float = math.nan
    error: float = math.nan
    stars: int = 0


def fit_zero_point(
    difference: np.ndarray, variance: np.ndarray, weight: np.ndarray
) -> tuple[ZeroPoint, np.ndarray]:
    """Fit the zero point of a frame robustly, with Huber's weights.

    Parameters
    ----------
    difference : ndarray (n,)
        Mean less instrumental magnitudes; NaN where unknown.
    variance : ndarray (n,)
        Squared standard deviations of the differences, mag**2.
    weight : ndarray (n,)
        Weights beside the inverse variances; 0 leaves a star out.

    Returns
    -------
    ZeroPoint
    ndarray (n,)
        Deviation of each star from the zero point that the other stars give, so that no star's scatter is
        made small by its own part in it; NaN where unknown.
    """
    usable = (weight > 0) & np.isfinite(difference)
    if not usable.any():
        return ZeroPoint(), np.full(len(difference), np.nan)
    base = np.where(usable, weight / variance, 0.0)
    known, sigma = np.where(usable, difference, 0.0), np.sqrt(variance)
    value = weighted_median(difference, base)
    for _ in range(ROUNDS):
        robust = base * _huber((known - value) / sigma)
        value = float((robust * known).sum() / robust.sum())
    total, stars = robust.sum(), int(usable.sum())
    error = math.nan
    if stars > 1:
        error = float(np.sqrt((robust**2 * (known - value) ** 2).sum() * stars / (stars - 1)) / total)
    others = total - robust
    alone = others > 1e-9 * total
    factor = np.divide(total, others, out=np.full(len(robust), np.nan), where=alone)
    return ZeroPoint(value, error, stars), (value - difference) * factor


class Ensemble:
    """Mean magnitudes of stars in one filter, for each of `CASES`.

    Parameters
    ----------
    start : ndarray (stars,)
        Magnitudes of the stars in the reference frame; NaN where unknown.
    comparison : ndarray (stars,) of bool
        Stars that zero points are made from.
    """

    def __init__(self, start: np.ndarray, comparison: np.ndarray) -> None:
        self.start, self.comparison = start, comparison
        self.mean = np.tile(start, (len(CASES), 1))
        self.excess = np.full(self.mean.shape, START_SCATTER**2)
        self.frames = 0
        self._clear()

    def _clear(self) -> None:
        self.frames = 0
        self.number, self.sums, self.squares, self.errors, self.weights, self.weighted = (
            np.zeros(self.mean.shape) for _ in range(6)
        )

    def add(
        self, star: np.ndarray, mag: np.ndarray, error: np.ndarray, kept: np.ndarray, quality: np.ndarray
    ) -> list[ZeroPoint]:
        """Fit the zero points of one frame, one for each of `CASES`, and add its stars to the sums.

        Parameters
        ----------
        star : ndarray (n,)
            Numbers of the stars, each once.
        mag, error : ndarray (n,)
            Instrumental magnitudes, NaN where there is none, and their standard deviations.
        kept : ndarray (n,) of bool
            Measurements that the mask does not touch.
        quality : ndarray (n,)
            Weights in [0, 1].
        """
        self.frames += 1
        found = []
        for case, weight in enumerate((np.ones(len(star)), kept.astype(float), kept * quality)):
            mean = self.mean[case, star]
            variance = error**2 + self.excess[case, star]
            point, residual = fit_zero_point(mean - mag, variance, weight * self.comparison[star])
            found.append(point)
            new = np.isnan(mean)  # a star without a magnitude in the reference frame
            residual = np.where(new, mag + point.value, residual)
            counted = (weight > 0) & np.isfinite(residual)
            at, away = star[counted], residual[counted]
            inverse = (weight / variance)[counted]
            inverse *= np.where(new[counted], 1, _huber(away / np.sqrt(variance[counted])))
            for total, value in (
                (self.number, 1), (self.sums, away), (self.squares, away**2), (self.weights, inverse),
                (self.errors, error[counted] ** 2), (self.weighted, inverse * away),
            ):  # fmt: skip
                total[case, at] += value
        return found

    @property
    def scatter(self) -> np.ndarray:
        """Standard deviation of each star's magnitudes, float64 ``(case, star)``; NaN for fewer than two."""
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = self.squares - self.sums**2 / self.number
            return np.sqrt(np.maximum(spread, 0) / (self.number - 1)) * np.where(self.number > 1, 1, np.nan)

    @property
    def means(self) -> np.ndarray:
        """Mean magnitudes over the frames of this pass, float64 ``(case, star)``; NaN without one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nan_to_num(self.mean) + self.sums / self.number

    def improve(self) -> float:
        """End a pass: set mean magnitudes and excess scatter, and return the largest change in magnitudes."""
        before = self.mean
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nan_to_num(before) + self.weighted / self.weights
            excess = self.scatter**2 - self.errors / self.number
        mean = np.where(self.weights > 0, mean, before)
        anchors = self.comparison & np.isfinite(self.start)
        for case in range(len(CASES)):  # the reference frame's scale: means and zero points shift together
            away = (mean[case] - self.start)[anchors]
            if np.isfinite(away).any():
                mean[case] -= np.nanmedian(away)
        enough = self.number >= MIN_MEASUREMENTS
        self.excess = np.where(enough, np.maximum(excess, 0), START_SCATTER**2)
        change = np.abs(mean - before)[enough & self.comparison]
        self.mean = mean
        self._clear()
        return float(np.nanmax(change)) if np.isfinite(change).any() else 0.0


def _huber(deviation: np.ndarray) -> np.ndarray:
    """Weights of deviations in standard deviations: 1, beyond `HUBER` falling as its inverse."""
    return HUBER / np.maximum(np.abs(deviation), HUBER)
