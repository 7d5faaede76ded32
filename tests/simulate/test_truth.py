"""Recall and false-mask rates on masks and truths small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aqdask.simulate.truth import MaskAndTruth, Rate, evaluate, patch_fraction
from aqdask.specs import PatchGrid

GRID = PatchGrid(100, 130, 32)  # 4 x 5 patches; the last row and column overlap


def test_fraction_against_slices() -> None:
    pixels = np.random.default_rng(1).random((100, 130)) < 0.3
    expected = [
        [pixels[y0:y1, x0:x1].mean() for x0, x1 in zip(GRID.starts(1), GRID.stops(1), strict=True)]
        for y0, y1 in zip(GRID.starts(0), GRID.stops(0), strict=True)
    ]
    np.testing.assert_allclose(patch_fraction(pixels, GRID), expected)


def test_fraction_of_a_frame_smaller_than_a_patch() -> None:
    grid = PatchGrid(20, 10, 64)
    pixels = np.zeros((20, 10), bool)
    pixels[:5] = True
    np.testing.assert_allclose(patch_fraction(pixels, grid), [[0.25]])


def test_rates_are_counted_apart() -> None:
    truth = np.zeros((100, 130), bool)
    truth[:32, :64] = True  # patches (0, 0) and (0, 1)
    truth[40, 100] = True  # one pixel of (1, 3) and of (1, 4): neither affected nor untouched
    mask = np.zeros(GRID.shape, bool)
    mask[0, 0] = True  # found
    mask[1, 3] = True  # counts nowhere
    mask[2, 2] = True  # false
    alarm = np.zeros(GRID.shape, bool)
    alarm[3, :2] = True
    result = evaluate([MaskAndTruth(mask, {"ghost": truth}), MaskAndTruth(alarm, {})], GRID)
    assert result.recall == {"ghost": Rate(2, 1)}
    assert result.untouched == Rate(20 - 2 - 2, 1)
    assert result.good_frames == Rate(20, 2)
    assert result.recall["ghost"].rate == 0.5


def test_narrow_kinds_need_fewer_pixels() -> None:
    column = np.zeros((100, 130), bool)
    column[:32, 10] = True
    mask = np.ones(GRID.shape, bool)
    as_column = evaluate([MaskAndTruth(mask, {"hot_column": column})], GRID)
    as_ghost = evaluate([MaskAndTruth(mask, {"ghost": column})], GRID)
    assert as_column.recall["hot_column"] == Rate(1, 1)
    assert as_ghost.recall["ghost"] == Rate(0, 0)  # 1/32 of the patch is below 5 %
    assert math.isnan(as_ghost.recall["ghost"].rate)


def test_kinds_add_up_over_frames() -> None:
    everywhere = np.ones((100, 130), bool)
    mask = np.zeros(GRID.shape, bool)
    mask[0] = True
    result = evaluate((MaskAndTruth(mask, {"defocus": everywhere}) for _ in range(3)), GRID)
    assert result.recall["defocus"] == Rate(60, 15)
    assert result.untouched.patches == result.good_frames.patches == 0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask of shape \(2, 2\)"):
        evaluate([MaskAndTruth(np.zeros((2, 2), bool), {})], GRID)
    with pytest.raises(ValueError, match=r"truth of shape \(5, 5\)"):
        evaluate([MaskAndTruth(np.zeros(GRID.shape, bool), {"ghost": np.zeros((5, 5), bool)})], GRID)
