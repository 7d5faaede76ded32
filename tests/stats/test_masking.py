"""Masks from p-values: thresholds, no data, DQ bits."""

import numpy as np
import pytest

from aqdask.errors import UsageError
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_patches, bad_pixels, check_alpha, dq_image

PVALUE = np.array([[0.005, 0.01, 0.02], [np.nan, 1.0, 0.5]], np.float32)
GRID = PatchGrid(5, 9, 3)  # the last row of patches overlaps


def test_at_or_below_alpha_and_without_data_is_masked():
    np.testing.assert_array_equal(bad_patches(PVALUE, 0.01), [[True, True, False], [True, False, False]])


def test_pixels_are_those_that_a_patch_owns():
    masked = bad_pixels(PVALUE, 0.01, GRID)
    assert masked.shape == (5, 9)
    np.testing.assert_array_equal(masked[:3], np.tile(np.arange(9) < 6, (3, 1)))
    np.testing.assert_array_equal(masked[3:], np.tile(np.arange(9) < 3, (2, 1)))


@pytest.mark.parametrize("given", [True, False])
def test_dq_bits(given):
    invalid = np.zeros((5, 9), bool)
    invalid[[0, 4, 4], [0, 0, 8]] = given
    dq = dq_image(PVALUE, invalid if given else None, 0.01, GRID)
    assert dq.dtype == np.uint8
    pixel = 4 * given
    assert (dq[0, 0], dq[4, 0], dq[4, 8]) == (1 | pixel, 2 | pixel, pixel)
    assert (dq[1, 1], dq[3, 1], dq[3, 5]) == (1, 2, 0)
    np.testing.assert_array_equal((dq & 3) != 0, bad_pixels(PVALUE, 0.01, GRID))


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2.0, float("nan"), "0.01", None])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(UsageError, match=r"alpha = .*Expected: a false-mask rate.*What to do"):
        check_alpha(alpha)
    assert check_alpha(0.01) == 0.01
