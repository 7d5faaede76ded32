"""Normal scores, distances and tails: what references are like, and that worse never looks better."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from aqdask.methods.noise_aware.anomaly_distance import AnomalyDistance, NormalScores, Tail

KINDS = {
    "normal": lambda rng, n: rng.normal(3, 0.1, n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "lognormal": lambda rng, n: rng.lognormal(0, 1, n),
    "heavy": lambda rng, n: rng.standard_t(2, n),
    "stars": lambda rng, n: rng.normal(size=n) + 50 * (rng.random(n) < 0.01) * rng.pareto(1.5, n),
}


@pytest.mark.parametrize("kind", KINDS)
def test_normal_scores_of_fresh_patches_are_standard_normal(kind):
    rng = np.random.default_rng(1)
    scores = NormalScores.fit(KINDS[kind](rng, 20_000)[:, None])
    z = scores.of(KINDS[kind](rng, 20_000)[:, None])[:, 0]
    assert kstest(z, "norm").statistic < 0.02
    assert (np.abs(z) > 4).mean() < (1e-3 if kind == "normal" else 5e-3)


def test_a_narrow_distribution_keeps_its_power_beside_a_heavy_one():
    rng = np.random.default_rng(2)
    both = np.stack([KINDS["normal"](rng, 5000), KINDS["stars"](rng, 5000)], axis=1)
    z = NormalScores.fit(both).of(np.array([[3.8, 4.0]]))[0]
    assert z[0] > 4.5  # eight sigma of a narrow one
    assert z[1] < 4


values = st.floats(-1e6, 1e6)


@given(st.lists(values, min_size=2, max_size=60), st.lists(values, min_size=2, max_size=20))
def test_normal_scores_rise_with_the_statistic_whatever_the_references(reference, inputs):
    z = NormalScores.fit(np.array(reference)[:, None]).of(np.sort(inputs)[:, None])[:, 0]
    assert np.isfinite(z).all()
    assert (np.diff(z) >= -1e-9).all()


def test_what_is_not_finite_has_no_score():
    scores = NormalScores.fit(np.random.default_rng(3).normal(size=(100, 2)))
    found = scores.of(np.array([[np.nan, 0.0], [np.inf, 0.0], [0.0, -np.inf]]))
    np.testing.assert_array_equal(np.isfinite(found), [[False, True], [False, True], [True, False]])


def test_a_statistic_that_is_always_the_same_is_no_trouble():
    distance = AnomalyDistance.fit(np.zeros((200, 3)))
    usual, other = distance.of(np.array([[0.0] * 3, [1.0, 0, 0]]))
    assert np.isfinite(usual)
    assert usual < other < math.inf


# --- distance ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(4)
    return rng.normal(size=(4000, 3)) @ np.array([[1, 0.8, 0], [0, 0.6, 0], [0, 0, 1]])


@pytest.mark.parametrize("k", range(3))
@given(st.floats(3, 30), st.floats(0.01, 30))
def test_further_out_is_further(reference, k, start, more):
    points = np.zeros((4, 3))
    points[:, k] = [start, start + more, -start, -start - more]
    near, far, below, far_below = AnomalyDistance.fit(reference).of(points)
    assert near < far
    assert below < far_below


@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_distances_do_not_mind_the_good_side(reference, sign):
    distance = AnomalyDistance.fit(reference, one_sided=sign)
    good = distance.of(-sign * np.array([[8.0, 8.0, 8.0], [3.0, 3.0, 3.0]]))
    bad = distance.of(sign * np.array([[8.0, 0, 0], [0, 0, 8.0]]))
    usual = distance.of(reference)
    assert (good <= np.median(usual)).all()
    assert (bad > usual.max() * 0.99).all()
    assert AnomalyDistance.fit(reference).of(-sign * np.array([[8.0, 0, 0]])) > np.quantile(usual, 0.999)


def test_a_distance_is_unknown_where_one_statistic_is(reference):
    found = AnomalyDistance.fit(reference).of(np.array([[[0, 0, np.nan]], [[0, 0, 0]]], float))
    assert found.shape == (2, 1)
    assert np.isnan(found).ravel().tolist() == [True, False]


# --- tail ----------------------------------------------------------------------------------------------

distances = st.lists(st.integers(0, 40).map(lambda n: n / 4), min_size=1, max_size=80).map(np.array)


@given(distances, distances)
def test_within_the_references_surprise_is_conformal(reference, inputs):
    tail, inside = Tail.fit(reference), inputs[inputs <= reference.max()]
    expected = [-math.log10((1 + (reference >= d).sum()) / (reference.size + 1)) for d in inside]
    np.testing.assert_allclose(tail.neg_log10_p(inside), expected, atol=1e-6)


@given(distances, st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_surprise_never_falls_with_distance_and_is_at_least_conformal(reference, inputs):
    tail, ordered = Tail.fit(reference), np.sort(inputs).astype(np.float32)
    found = tail.neg_log10_p(ordered)
    assert (np.diff(found) >= -1e-6).all()
    conformal = [-math.log10((1 + (reference >= d).sum()) / (reference.size + 1)) for d in ordered]
    assert (found >= np.array(conformal) - 1e-6).all()


def test_beyond_the_references_the_worst_are_ordered_and_the_exponential_is_right():
    reference = np.random.default_rng(5).exponential(2.0, 20_000)
    tail = Tail.fit(np.append(reference, np.nan))
    far = np.array([30.0, 60.0, 120.0])
    found = tail.neg_log10_p(far)
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found, far / 2 / math.log(10), rtol=0.15)  # p = exp(-d / 2)
    assert np.isnan(tail.neg_log10_p(np.array([np.nan]))[0])
