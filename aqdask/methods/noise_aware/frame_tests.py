"""Tests of a whole frame against the references: focus, guiding, noise, slope and curvature of the sky.

A rank among n reference frames cannot give a p-value below 1 / (n + 1). A predictive distribution can, from
three frames on, at the price of a prior on how much good frames of one camera and filter differ.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import ndtr, ndtri

from aqdask.methods.noise_aware.feature_groups import FrameFeatures, sky_sigma
from aqdask.methods.noise_aware.networks import SHAPE_UNITS
from aqdask.stats.predictive import Predictive, Trend


@dataclass(frozen=True)
class FrameTest:
    """One row of the table of tests.

    Parameters
    ----------
    name : str
    reason : str
        Reason (`aqdask.flags.REASONS`) of the patches that it masks.
    statistics : tuple of str
        Names of `frame_values` that are compared together, as one vector.
    prior_spread : float
        Standard deviation between good frames of a camera and filter, before any is known, in their unit.
    share : float
        Its share of the false masks of all tests; they add up to 1.
    weight : float
        Weight of its p-value in the score of the frame. A fault of the sky is a few standard deviations of
        what is natural, and would be lost among the others; those of focus, guiding or noise are many, and a
        factor in their p-values costs little.
    one_sided : bool
        Only large values are bad.
    needs : str
        Name of a feature group without which the statistic means nothing; empty for none.
    slack : float
        Further spread per unit of ln variance between the frame's sky and the references'.
    slope_spread : float
        Standard deviation of its change per unit of ln variance, which the references then tell; 0 for none.
    most_dof : float
        Degrees of freedom at most: some nights have more structure in the sky than others, so that its tails
        are longer than normal, however many references there are.
    """

    name: str
    reason: str
    statistics: tuple[str, ...]
    prior_spread: float
    share: float
    weight: float
    one_sided: bool = False
    needs: str = ""
    slack: float = 0.0
    slope_spread: float = 0.0
    most_dof: float = math.inf


# Spreads are those between frames of simulated cameras and of real series: benchmarks/results/nights.md.
# The error of the gain is up to a fifth of it: under another sky the noise is expected so badly.
FRAME_TESTS: tuple[FrameTest, ...] = (
    FrameTest("size_frame", "size", ("size",), 0.06, 0.35, 0.07, one_sided=True),
    FrameTest("ellipticity_frame", "ellipticity", ("e1", "e2"), 0.01, 0.25, 0.07),
    FrameTest(
        "noise_frame", "noise", ("noise",), 0.008, 0.15, 0.06, needs="noise", slack=0.1, slope_spread=0.3
    ),
    FrameTest("slope_frame", "sky", ("slope_y", "slope_x"), 0.015, 0.15, 0.55, most_dof=15),
    FrameTest("bowl_frame", "sky", ("bowl",), 0.015, 0.1, 0.2, most_dof=15),
)
TESTS = {test.name: test for test in FRAME_TESTS}
SKY = "ln_variance"
SKY_WEIGHT = 0.05  # of the level of the sky, in the score of the frame
LEAST = 1e-300  # p-value, 37 sigma
STATISTICS = (*(name for test in FRAME_TESTS for name in test.statistics), SKY)


def frame_values(frame: FrameFeatures) -> dict[str, float]:
    """Compute the statistics of a frame over its typical patches, by name; NaN where there is nothing.

    ln PSF size, e1 and e2 relative to the references' zero point; ln of measured over expected variance;
    change of the sky across the frame and from its middle to a corner, relative to the sky template, as
    fractions of the sky; ln of the variance expected at the frame's sky.
    """
    shape = frame.shape * np.asarray(SHAPE_UNITS)
    noise = frame.noise_ratio[frame.typical]
    noise = noise[np.isfinite(noise)]
    sigma = sky_sigma(frame.features, frame.camera.noise)[frame.typical]
    variance = np.median(sigma) ** 2 if sigma.size else np.nan
    level = np.median(noise) if noise.size else np.nan
    found = (*shape, level, *frame.sky_shape, np.log(variance))
    return dict(zip(STATISTICS, map(float, found), strict=True))


@dataclass(frozen=True, eq=False)
class FrameDistributions:
    """Distributions of the statistics of whole frames, one for each enabled row of `FRAME_TESTS`.

    Parameters
    ----------
    values : mapping of str to sequence of float
        Each statistic of the n reference frames; of enabled tests only.
    two_sided : bool
        Stars sharper than the references' are bad, too.
    """

    values: Mapping[str, Sequence[float] | np.ndarray]
    two_sided: bool = False

    @classmethod
    def fit(
        cls, frames: Sequence[Mapping[str, float]], disabled: Container[str] = (), *, two_sided: bool = False
    ) -> FrameDistributions:
        """Take the values of reference frames (`frame_values`) for the tests that need no disabled group."""
        wanted = [name for test in FRAME_TESTS if test.needs not in disabled for name in test.statistics]
        return cls({name: [frame[name] for frame in frames] for name in (*wanted, SKY)}, two_sided)

    @cached_property
    def trends(self) -> dict[str, Trend]:
        """Trend of a statistic with the sky (`FrameTest.slope_spread`) by test."""
        found = {}
        for test in FRAME_TESTS:
            if test.slope_spread and test.statistics[0] in self.values:
                x, y = (np.array(self.values[name], float) for name in (SKY, test.statistics[0]))
                known = np.isfinite(x) & np.isfinite(y)
                if known.any():
                    found[test.name] = Trend.fit(x[known], y[known], test.prior_spread, test.slope_spread)
        return found

    @cached_property
    def predictive(self) -> dict[str, Predictive]:
        """Predictive distribution of each test by name, of those for which a reference has all values."""
        found = {}
        for test in FRAME_TESTS:
            if all(name in self.values for name in test.statistics):
                rows = np.array([self.values[name] for name in test.statistics], float).T
                if test.name in self.trends:
                    rows = rows - self.trends[test.name].at(np.array(self.values[SKY]))[:, None]
                rows = rows[np.isfinite(rows).all(axis=1)]
                if len(rows):
                    fitted = Predictive.fit(rows, test.prior_spread)
                    found[test.name] = replace(fitted, dof=min(fitted.dof, test.most_dof))
        return found

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of the false masks of each test by name; they add up to 1."""
        total = sum(TESTS[name].share for name in self.predictive)
        return {name: TESTS[name].share / total for name in self.predictive}

    def distances(self, values: Mapping[str, float]) -> dict[str, float]:
        """Compute the distance of a frame from the references by test, in predictive standard deviations."""
        skies = np.array(self.values[SKY], float)
        known = skies[np.isfinite(skies)]
        beyond = max(values[SKY] - known.max(), known.min() - values[SKY], 0.0) if known.size else 0.0
        found = {}
        for name, predictive in self.predictive.items():
            value = np.array([values[key] for key in TESTS[name].statistics])
            slack = TESTS[name].slack * beyond
            if name in self.trends:
                trend = self.trends[name]
                value = value - trend.at(values[SKY])
                slack = float(np.hypot(slack, trend.error * (values[SKY] - trend.centre)))
            found[name] = predictive.distance(value, slack)
        return found

    def pvalues(self, distances: Mapping[str, float]) -> dict[str, float]:
        """Compute the p-value of each test from its distance; NaN where that is."""
        return {
            name: predictive.pvalue(distances[name], one_sided=self._one_sided(name))
            for name, predictive in self.predictive.items()
        }

    def limits(self, pvalue: float) -> dict[str, float]:
        """Return the distance from the references, in the unit of each test, with this p-value of all."""
        return {
            name: predictive.limit(1 - (1 - pvalue) ** self.shares[name], one_sided=self._one_sided(name))
            for name, predictive in self.predictive.items()
        }

    def _one_sided(self, name: str) -> bool:
        return TESTS[name].one_sided and not self.two_sided


def equivalent_sigma(pvalues: Mapping[str, float], sky: float) -> float:
    """Combine the p-values of tests to a number of standard deviations.

    The two-sided normal quantile of ``min_i 1 - (1 - p_i)**(1 / w_i)``: a weighted correction for several
    tests (Genovese, Roeder & Wasserman 2006, Biometrika 93, 509), with `FrameTest.weight`.

    Parameters
    ----------
    pvalues : mapping of str to float
        By test (`FrameDistributions.pvalues`); NaN is left out.
    sky : float
        Distance of the level of the sky from that of the references in standard deviations.
    """
    known = {name: pvalue for name, pvalue in pvalues.items() if math.isfinite(pvalue)}
    weights = [*(TESTS[name].weight for name in known), SKY_WEIGHT]
    corrected = [
        -math.expm1(math.log1p(-min(pvalue, 1 - 1e-12)) * sum(weights) / weight)
        for pvalue, weight in zip([*known.values(), 2 * float(ndtr(-sky))], weights, strict=True)
    ]
    return -float(ndtri(max(min(corrected), LEAST) / 2))
