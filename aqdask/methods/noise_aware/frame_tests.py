"""Tests of a whole frame against the references: focus, guiding, noise, slope and curvature of the sky.

A rank among n reference frames cannot give a p-value below 1 / (n + 1). A predictive distribution can, from
three frames on, at the price of a prior on how much good frames of one camera and filter differ.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aqdask.methods.noise_aware.feature_groups import FrameFeatures, frame_sky, whole_shape
from aqdask.methods.noise_aware.networks import SHAPE_UNITS
from aqdask.stats.predictive import Predictive


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
    one_sided : bool
        Only large values are bad.
    needs : str
        Name of a feature group without which the statistic means nothing; empty for none.
    """

    name: str
    reason: str
    statistics: tuple[str, ...]
    prior_spread: float
    one_sided: bool = False
    needs: str = ""


# Spreads are those between frames of simulated cameras and of real series: benchmarks/results/frame_tests.md.
FRAME_TESTS: tuple[FrameTest, ...] = (
    FrameTest("size_frame", "size", ("size",), 0.06, one_sided=True),
    FrameTest("ellipticity_frame", "ellipticity", ("e1", "e2"), 0.02),
    FrameTest("noise_frame", "noise", ("noise",), 0.02, needs="noise"),
    FrameTest("slope_frame", "sky", ("slope_y", "slope_x"), 0.02),
    FrameTest("bowl_frame", "sky", ("bowl",), 0.015),
)
STATISTICS = tuple(name for test in FRAME_TESTS for name in test.statistics)


def frame_values(frame: FrameFeatures) -> dict[str, float]:
    """Compute the statistics of a frame over its unflagged patches, by name; NaN where there is nothing.

    ln PSF size, e1 and e2 relative to the references' zero point; ln of measured over expected variance;
    change of the sky across the frame and from its middle to a corner, relative to the sky template, as
    fractions of the sky.
    """
    shape = whole_shape(frame) * np.asarray(SHAPE_UNITS)
    noise = frame.noise_ratio[frame.unflagged]
    noise = noise[np.isfinite(noise)]
    found = (*shape, np.median(noise) if noise.size else np.nan, *frame_sky(frame))
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

    values: Mapping[str, Sequence[float]]
    two_sided: bool = False

    @classmethod
    def fit(
        cls, frames: Sequence[Mapping[str, float]], disabled: Container[str] = (), *, two_sided: bool = False
    ) -> FrameDistributions:
        """Take the values of reference frames (`frame_values`) for the tests that need no disabled group."""
        wanted = [name for test in FRAME_TESTS if test.needs not in disabled for name in test.statistics]
        return cls({name: [frame[name] for frame in frames] for name in wanted}, two_sided)

    @cached_property
    def predictive(self) -> dict[str, Predictive]:
        """Predictive distribution of each test by name, of those for which a reference has all values."""
        found = {}
        for test in FRAME_TESTS:
            if all(name in self.values for name in test.statistics):
                rows = np.array([self.values[name] for name in test.statistics], float).T
                rows = rows[np.isfinite(rows).all(axis=1)]
                if len(rows):
                    found[test.name] = Predictive.fit(rows, test.prior_spread)
        return found

    def pvalues(self, values: Mapping[str, float]) -> dict[str, float]:
        """Compute the p-value of each test of a frame with these values; NaN where one is not known."""
        tests = {test.name: test for test in FRAME_TESTS}
        return {
            name: predictive.pvalue(
                np.array([values[key] for key in tests[name].statistics]),
                one_sided=tests[name].one_sided and not self.two_sided,
            )
            for name, predictive in self.predictive.items()
        }
