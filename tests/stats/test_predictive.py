"""Predictive distribution: closed forms, honest p-values, and the limit as the inverse of the p-value."""

import numpy as np
import pytest
from scipy import stats

from aqdask.stats.predictive import PRIOR_WEIGHT, Predictive, Trend


def test_one_component_is_students_t_with_a_shrunk_spread():
    values = np.array([[1.0], [3.0], [5.0]])
    found = Predictive.fit(values, 0.5)
    variance = (2 * 4 + PRIOR_WEIGHT * 0.25) / (2 + PRIOR_WEIGHT)
    assert found.dof == 2 + PRIOR_WEIGHT
    assert found.scale == pytest.approx(np.sqrt(variance * 4 / 3))
    distance = found.distance(np.array([7.0]))
    assert distance == pytest.approx(4 / found.scale)
    assert found.pvalue(distance, one_sided=True) == pytest.approx(stats.t.sf(distance, found.dof))
    assert found.pvalue(distance) == pytest.approx(2 * stats.t.sf(distance, found.dof))


def test_a_single_value_has_the_spread_of_the_prior():
    found = Predictive.fit(np.array([[2.0, 0.0]]), 0.1)
    assert found.scale == pytest.approx(0.1 * np.sqrt(2))
    assert found.dof == PRIOR_WEIGHT


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("count", [3, 5, 20])
def test_pvalues_are_uniform_where_the_prior_is_right(components, count):
    """Spreads drawn from the prior itself: its scaled inverse chi-squared distribution."""
    rng = np.random.default_rng([41, components, count])
    pvalues = []
    for _ in range(4000):
        spread = 0.3 * np.sqrt(PRIOR_WEIGHT / rng.chisquare(PRIOR_WEIGHT))
        values = rng.normal(5.0, spread, (count + 1, components))
        found = Predictive.fit(values[:-1], 0.3)
        pvalues.append(found.pvalue(found.distance(values[-1])))
    assert stats.kstest(pvalues, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("components", "one_sided"), [(1, True), (1, False), (2, False)])
def test_the_limit_has_its_pvalue(components, one_sided):
    found = Predictive.fit(np.random.default_rng(3).normal(size=(6, components)), 1.0)
    limit = found.limit(0.003, one_sided=one_sided)
    value = found.mean + np.eye(components)[0] * limit
    assert found.pvalue(found.distance(value), one_sided=one_sided) == pytest.approx(0.003, rel=1e-6)


def test_slack_widens_and_what_is_unknown_has_no_pvalue():
    found = Predictive.fit(np.array([[0.0], [0.1]]), 0.1)
    assert 0 < found.distance(np.array([1.0]), slack=1.0) < found.distance(np.array([1.0]))
    assert np.isnan(found.pvalue(found.distance(np.array([np.nan]))))


def test_a_trend_is_that_of_ridge_regression_and_shrinks_with_few_points():
    rng = np.random.default_rng(5)
    x = rng.normal(3, 0.2, 400)
    y = 0.7 - 0.5 * x + rng.normal(0, 0.01, 400)
    found = Trend.fit(x, y, 0.01, 0.3)
    assert found.slope == pytest.approx(-0.5, abs=0.01)
    assert found.error == pytest.approx(0.01 / (0.2 * 20), rel=0.1)
    assert found.at(found.centre) == 0
    few = Trend.fit(x[:3] * 0 + [3.0, 3.01, 3.02], np.array([0.0, -0.005, -0.01]), 0.01, 0.3)
    assert -0.1 < few.slope < 0
    assert few.error > 0.2
    assert Trend.fit(np.array([3.0]), np.array([1.0]), 0.01, 0.3).error == pytest.approx(0.3)
