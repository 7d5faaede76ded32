"""Change points: steps and trends are found where they are, noise and outliers make none."""

import numpy as np
import pytest

from aqdask.stats.change_points import LEAST_UNITS, MOST_UNITS, STEP, TREND, change_points, lasting


def noise(seed, count, phi=0.0):
    found = np.random.default_rng([41, seed]).standard_normal(count)
    for at in range(1, count if phi else 0):
        found[at] = phi * found[at - 1] + np.sqrt(1 - phi**2) * found[at]
    return found


@pytest.mark.parametrize(("phi", "most"), [(0.0, 1), (0.5, 3)])
def test_stationary_noise_hardly_ever_changes(phi, most):
    """100 series of 100 values each: at most 0.1 and 0.3 false changes in 1000 values."""
    assert sum(len(change_points(noise(seed, 100, phi))) for seed in range(100)) <= most


@pytest.mark.parametrize(("size", "least"), [(2, 18), (3, 19)])
def test_steps_are_found_where_they_are(size, least):
    found = 0
    for seed in range(20):
        values = 100 + 5 * (noise(seed, 100) + size * (np.arange(100) >= 40))
        (point,) = change_points(values)
        found += abs(point.index - 40) <= 3
        if abs(point.index - 40) <= 3:
            assert (point.start, point.stop, point.kind) == (0, 100, STEP)
            assert point.before == pytest.approx(100, abs=3)
            assert point.after == pytest.approx(100 + 5 * size, abs=3)
            assert point.sigma == pytest.approx(size, rel=0.4)
    assert found >= least


def test_a_trend_is_one_change_with_both_ends():
    (point,) = change_points(noise(1, 200) + 6 * np.linspace(0, 1, 200))
    assert point.kind == TREND
    assert point.after - point.before > 3
    assert change_points(-noise(1, 200) - 6 * np.linspace(0, 1, 200))[0].after < -2


def test_steps_up_and_down_are_two():
    values = noise(2, 150) + 4 * ((np.arange(150) >= 50) & (np.arange(150) < 100))
    assert [(point.index, point.kind) for point in change_points(values)] == [(50, STEP), (100, STEP)]


@pytest.mark.parametrize("run", [1, LEAST_UNITS - 1])
def test_outliers_that_come_and_go_make_no_change(run):
    values = noise(3, 300)
    for at in range(20, 280, 60):
        values[at : at + run] += 20
    assert change_points(values) == []


def test_constant_values_and_few_values_have_no_change():
    assert change_points(np.ones(50)) == []
    assert change_points(np.zeros(0)) == []
    assert change_points(np.r_[np.zeros(LEAST_UNITS), np.ones(LEAST_UNITS - 1)]) == []
    (point,) = change_points(np.r_[np.zeros(30), np.ones(30)])  # without any noise
    assert (point.index, point.before, point.after) == (30, 0, 1)
    assert change_points(np.r_[np.zeros(30), np.full(30, 0.01)], floor=0.1) == []


def test_neighbours_of_a_long_series_are_joined():
    count = 3 * MOST_UNITS + 1
    values = noise(4, count) + 2.0 * (np.arange(count) >= 6000)
    (point,) = change_points(values)
    assert abs(point.index - 6000) <= 8
    assert (point.start, point.stop) == (0, count)


def test_flags_count_where_they_are_the_rule():
    flags = np.zeros(100, bool)
    flags[[3, 20, 21, 22, 50]] = True
    flags[70:] = True
    np.testing.assert_array_equal(np.flatnonzero(lasting(flags)), np.arange(70, 100))
