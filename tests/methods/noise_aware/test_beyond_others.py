"""Which part of a frame lies beyond all other frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.methods.noise_aware.anomaly_distance import (
    MAX_COMPARED,
    OUTLYING_QUANTILE,
    AnomalyDistance,
    fraction_beyond_others,
)


def statistics(frames=12, patches=256, seed=0):
    return list(np.random.default_rng(seed).normal(size=(frames, patches, 3)))


@pytest.mark.parametrize("frames", [3, 5, 12, 30])
def test_frames_of_one_kind_have_hardly_a_patch_beyond_the_others(frames):
    assert fraction_beyond_others(statistics(frames)).max() < 0.02


@pytest.mark.parametrize("frames", [3, 12])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_part_of_one_frame_is_found_wherever_that_stands(frames, bad):
    values = statistics(frames)
    values[bad][:85, 1] += 12
    found = fraction_beyond_others(values)
    assert found[bad] == pytest.approx(85 / 256, abs=0.01)
    assert np.delete(found, bad).max() < 0.02


def test_only_the_bad_side_counts():
    values = statistics()
    values[3][:85, 1] -= 12
    assert fraction_beyond_others(values, one_sided=1).max() < 0.02
    assert fraction_beyond_others(values)[3] > 0.3


def test_what_is_below_the_least_excess_makes_no_difference():
    values = [frame * 1e-3 for frame in statistics()]
    values[3][:85, 1] += 0.01
    assert fraction_beyond_others(values)[3] > 0.3
    assert fraction_beyond_others(values, min_effect_size=0.1)[3] < 0.02


def test_many_patches_are_thinned_evenly():
    values = statistics(4, 3 * MAX_COMPARED // 4)
    values[1][: len(values[1]) // 3, 0] += 12
    assert fraction_beyond_others(values)[1] == pytest.approx(1 / 3, abs=0.01)


def test_frames_without_patches_say_nothing():
    values = statistics(4)
    values[2] = values[2][:0]
    assert fraction_beyond_others(values)[2] == 0
    assert fraction_beyond_others(values[:1]).tolist() == [0]
    assert fraction_beyond_others([values[2]] * 2).tolist() == [0, 0]


@settings(max_examples=30, deadline=None)
@given(
    frames=st.integers(3, 17),
    bad=st.integers(0, 4),
    shift=st.floats(12, 1e4),
    sign=st.sampled_from([-1, 1]),
    seed=st.integers(0, 2**16),
)
def test_a_quarter_of_the_frames_may_have_the_same_defect(frames, bad, shift, sign, seed):
    values = statistics(frames, seed=seed)
    spoilt = np.random.default_rng(seed).permutation(frames)[: min(bad, frames // 4)]
    for k in spoilt:
        values[k][:85, 1] += sign * shift
    found = fraction_beyond_others(values)
    assert found[spoilt] == pytest.approx(85 / 256, abs=0.03)
    assert np.delete(found, spoilt).max() < 0.05


def test_frames_of_two_defects_are_found_together():
    values = statistics()
    values[1][:85, 0] += 12
    values[7][100:160, 2] -= 12
    values[8][100:160, 2] -= 12
    found = fraction_beyond_others(values)
    assert set(np.flatnonzero(found > 0.2)) == {1, 7, 8}


@pytest.mark.parametrize("frames", [3, 4, 6, 12, 17])
@pytest.mark.parametrize("seed", range(3))
def test_good_frames_are_compared_with_all_others(frames, seed):
    """Whichever were left out at first."""
    values = statistics(frames, seed=seed)
    values[0] += 0.5
    expected = []
    for k, own in enumerate(values):
        others = np.concatenate(values[:k] + values[k + 1 :])
        distance = AnomalyDistance.fit(others)
        limit = (1 + 3 / frames) * np.quantile(distance.of(others), OUTLYING_QUANTILE)
        expected.append((distance.of(own) > limit).mean())
    assert fraction_beyond_others(values).tolist() == expected
