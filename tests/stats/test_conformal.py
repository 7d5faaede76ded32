"""Conformal p-values: the definition, validity under thinning, edge values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqdask.errors import UsageError
from aqdask.stats.conformal import ScoreTable, conformal_pvalue

# Few distinct values, so that ties are common.
scores = st.lists(st.integers(0, 30), min_size=1, max_size=60).map(
    lambda values: np.array(values, np.float32) / 4
)


def definition(score, reference):
    """p = (1 + #{reference >= score}) / (n + 1)."""
    return (1 + np.sum(reference >= score)) / (len(reference) + 1)


@given(scores, scores)
def test_pvalue_is_the_definition(reference, inputs):
    got = conformal_pvalue(inputs, ScoreTable.from_scores(reference))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [definition(score, reference) for score in inputs], rtol=1e-6)


@given(scores, scores, st.integers(4, 12))
def test_thinning_never_lowers_a_pvalue_and_keeps_the_tail(reference, inputs, limit):
    table = ScoreTable.from_scores(reference, limit)
    got = conformal_pvalue(inputs, table)
    exact = np.array([definition(score, reference) for score in inputs], np.float32)
    assert len(table.values) <= limit
    assert (got >= exact).all()
    tail = inputs > np.unique(reference)[-(limit // 2) :][0]
    np.testing.assert_array_equal(got[tail], exact[tail])


def test_a_large_reference_is_thinned_with_little_loss():
    reference = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    table = ScoreTable.from_scores(reference, 2_000)
    inputs = np.linspace(-5, 5, 501).astype(np.float32)
    exact = (1 + (reference[None] >= inputs[:, None]).sum(axis=1)) / 200_001
    assert len(table.values) == 2_000
    np.testing.assert_allclose(conformal_pvalue(inputs, table), exact, atol=2e-3)


def test_false_rate_on_exchangeable_data_is_alpha():
    generator = np.random.default_rng(3)
    table = ScoreTable.from_scores(generator.exponential(size=20_000))
    pvalue = conformal_pvalue(generator.exponential(size=20_000), table)
    assert np.mean(pvalue <= 0.01) == pytest.approx(0.01, abs=0.003)


def test_edges():
    table = ScoreTable.from_scores(np.array([1.0, 2.0, np.nan, 3.0]))
    got = conformal_pvalue(np.array([[np.nan, -np.inf], [np.inf, 3.0]]), table)
    np.testing.assert_array_equal(got, np.array([[np.nan, 1.0], [0.25, 0.5]], np.float32))
    assert table.total == 3
    assert table.smallest == 0.25


def test_no_score_at_all_is_refused():
    with pytest.raises(UsageError, match=r"no reference patch has a score\. Expected: .* What to do"):
        ScoreTable.from_scores(np.full(4, np.nan))
