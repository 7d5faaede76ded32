"""The MAD as a standard deviation: compared with astropy, along axes, with outliers."""

import numpy as np
import pytest
from astropy.stats import mad_std
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aqdask.stats.robust import SIGMA_PER_MAD, mad_sigma

finite = arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-9, 9))


@given(finite, st.sampled_from([None, 0, 1, -1]))
def test_like_astropy(values, axis):
    got = mad_sigma(values, axis=axis)
    np.testing.assert_allclose(got, mad_std(values, axis=axis), rtol=3e-6, atol=1e-12)
    assert np.shape(got) == np.shape(np.median(values, axis=axis))


def test_a_given_centre_is_used():
    values = np.array([1.0, 2.0, 4.0])
    assert mad_sigma(values, 0.0) == SIGMA_PER_MAD * 2
    np.testing.assert_array_equal(
        mad_sigma(values[None].repeat(2, 0), np.array([[0.0], [2.0]]), axis=1),
        SIGMA_PER_MAD * np.array([2, 1]),
    )


def test_outliers_and_single_precision():
    values = np.random.default_rng(1).normal(100, 3, 10_001).astype(np.float32)
    values[:2000] = 1e6
    got = mad_sigma(values)
    assert 3 < got < 5  # where the standard deviation is 400,000
    assert got.dtype == np.float64


@pytest.mark.parametrize(("values", "expected"), [([5.0], 0.0), ([1, 1, 1, 9], 0.0), ([1, np.nan], np.nan)])
def test_edges(values, expected):
    np.testing.assert_equal(mad_sigma(np.array(values)), expected)
