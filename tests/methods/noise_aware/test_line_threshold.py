"""Thresholds from the strongest line of a few good frames."""

import json

import numpy as np
import pytest

from aqdask.methods.noise_aware.line_threshold import LineThreshold


def maxima(seed, count, typical=4.2):
    """The strongest line of good frames: largest of many normal values."""
    return typical / 4.2 * np.random.default_rng(seed).standard_normal((count, 60_000)).max(axis=1)


@pytest.mark.parametrize("count", [3, 10, 24])
def test_good_frames_exceed_a_threshold_as_often_as_it_says_or_less(count):
    fresh = maxima(1, 300)
    share = [(LineThreshold.fit(maxima(seed, count)).pvalue(fresh) <= 0.01).mean() for seed in range(20, 40)]
    assert np.mean(share) < 0.01


def test_fewer_references_ask_for_a_stronger_line():
    sets = [maxima(seed, 24) for seed in range(40, 60)]
    pvalues = [
        np.median([LineThreshold.fit(values[:count]).pvalue(5.8) for values in sets]) for count in (3, 8, 24)
    ]
    assert pvalues[0] > pvalues[1] > pvalues[2]


def test_references_with_strong_lines_raise_the_threshold():
    assert LineThreshold.fit(maxima(4, 12)).pvalue(7.5) < 0.001
    assert LineThreshold.fit(maxima(4, 12, typical=7.0)).pvalue(7.5) > 0.05


def test_pvalues_fall_with_significance_and_are_1_without_a_line():
    pvalues = LineThreshold.fit([4.0, 4.2, 4.4]).pvalue(np.array([[0.0, 3.0], [4.2, 9.0]]))
    assert pvalues.shape == (2, 2)
    assert pvalues[0, 0] == 1
    assert (np.diff(pvalues.ravel()) < 0).all()


def test_stored_as_json():
    threshold = LineThreshold.fit([4.0, 4.5, 5.0, 4.1])
    assert LineThreshold.from_stored(json.loads(json.dumps(threshold.stored()))) == threshold
