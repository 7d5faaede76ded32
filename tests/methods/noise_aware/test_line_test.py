"""Test of the lines across a frame: p-values of patches, lines of the detector, storage."""

import json

import numpy as np
import pytest

from aqdask.methods.noise_aware import line_test
from aqdask.methods.noise_aware.frame_line import FrameLine
from aqdask.methods.noise_aware.line_test import MIN_COVERAGE, LineTest
from aqdask.methods.noise_aware.line_threshold import LineThreshold

THRESHOLD = LineThreshold.fit([4.0, 4.2, 4.4, 4.1])
COLUMN = FrameLine("column", (0.0, 70.0), (255.0, 70.0), 1.0, 6.0)
ROW = FrameLine("row", (130.0, 0.0), (130.0, 255.0), 1.0, 9.0)
SHORT = FrameLine("row", (130.0, 0.0), (130.0, 63.0), 1.0, 5.0)


def features(count=4):
    """Positions of patches of a square frame, one of which has no data."""
    sky = np.full((count, count), 100.0, np.float32)
    sky[0, 1] = np.nan
    top, left = (64 * axis.astype(np.float32) for axis in np.mgrid[:count, :count])
    return {"sky": sky, "top": top, "left": left}


def test_each_patch_has_the_p_value_of_the_least_likely_line_across_it(monkeypatch):
    monkeypatch.setattr(line_test, "find_lines", lambda *given: (ROW, SHORT, COLUMN))
    found = LineTest(THRESHOLD).neg_log10_p(features())
    assert np.isnan(found[0, 1])
    expected = np.zeros((4, 4))
    expected[:, 1] = -np.log10(THRESHOLD.pvalue(6.0) * 3 / 15)
    expected[2] = -np.log10(THRESHOLD.pvalue(9.0) * 4 / 15)
    np.testing.assert_allclose(found[np.isfinite(found)], np.delete(expected.ravel(), 1), rtol=1e-6)


@pytest.mark.parametrize("count", [5, 20])
def test_a_good_patch_is_crossed_as_often_as_the_p_value_says(count):
    """Lines of good frames cross the same fraction of the patches each."""
    rng = np.random.default_rng(count)
    coverage, draws = 0.1, 4000
    wrong = []
    for _ in range(40):
        values = rng.standard_normal((count + draws // 40, 60_000 // 40)).max(axis=1)
        test = LineTest(LineThreshold.fit(values[:count]))
        lines = [FrameLine("row", (0.0, 0.0), (0.0, 9.0), 1.0, value) for value in values[count:]]
        wrong += [coverage * (test.pvalue(line, coverage) <= 0.01) for line in lines]
    assert np.mean(wrong) < 0.015


def test_a_short_line_counts_as_one_that_crosses_a_twentieth():
    test = LineTest(THRESHOLD)
    assert (
        test.pvalue(SHORT, 0.001) == test.pvalue(SHORT, MIN_COVERAGE) == THRESHOLD.pvalue(5.0) * MIN_COVERAGE
    )


def test_the_lines_of_a_detector_are_stored_and_belong_to_it():
    test = LineTest(THRESHOLD, (COLUMN,))
    assert LineTest.from_stored(json.loads(json.dumps(test.stored()))) == test
    assert test.of_another_camera() == LineTest(THRESHOLD)
