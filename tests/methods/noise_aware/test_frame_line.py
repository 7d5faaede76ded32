"""Patches that a line crosses, against the pixels of its band."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.methods.noise_aware.frame_line import FrameLine, crossed
from aqdask.specs import PatchGrid

COORDINATE = st.floats(-20, 150)


def distance_to_pixels(line: FrameLine, height: int, width: int) -> np.ndarray:
    """Distance of a line to each pixel, a square, by dense steps along the line: too large by at most .05."""
    y, x = np.mgrid[:height, :width]
    nearest = np.full((height, width), np.inf)
    length = np.hypot(line.end[0] - line.start[0], line.end[1] - line.start[1])
    for share in np.linspace(0, 1, int(length / 0.1) + 2):
        at = [a + share * (b - a) for a, b in zip(line.start, line.end, strict=True)]
        apart = [np.maximum(np.abs(value - place) - 0.5, 0) for value, place in zip(at, (y, x), strict=True)]
        nearest = np.minimum(nearest, np.hypot(*apart))
    return nearest


@given(
    st.tuples(COORDINATE, COORDINATE),
    st.tuples(COORDINATE, COORDINATE),
    st.floats(0, 30),
    st.integers(65, 130),
)
@settings(max_examples=60, deadline=None)
def test_patches_of_which_the_band_touches_a_pixel(start, end, width, height):
    grid = PatchGrid(height, 120)
    line = FrameLine("streak", start, end, width, 9.0)
    found = crossed(line, grid.starts(0), grid.starts(1), 64)
    away = distance_to_pixels(line, height, 120)
    for (row, column), there in np.ndenumerate(found):
        top, left = grid.starts(0)[row], grid.starts(1)[column]
        nearest = away[top : top + 64, left : left + 64].min()
        if abs(nearest - width / 2) > 0.1:
            assert there == (nearest < width / 2), (row, column)


def test_a_corner_that_a_line_only_just_cuts_is_crossed():
    place = np.arange(0, 256, 64)
    found = [
        crossed(FrameLine("streak", (60.0, 66.0), (66.0, 60.0), width, 9.0), place, place, 64)
        for width in (1.0, 2.0)
    ]
    assert found[0].nonzero()[0].tolist() == [0, 0, 1]  # the corner of the fourth is .7 px away
    assert found[1].nonzero()[0].tolist() == [0, 0, 1, 1]


def test_a_point_and_a_line_beyond_the_frame():
    place = np.arange(0, 256, 64)
    assert crossed(FrameLine("streak", (10.0, 70.0), (10.0, 70.0), 1.0, 9.0), place, place, 64).sum() == 1
    assert not crossed(FrameLine("column", (0.0, 300.0), (255.0, 300.0), 1.0, 9.0), place, place, 64).any()


@pytest.mark.parametrize(("x", "patch"), [(63.0, 0), (64.0, 1), (127.0, 1), (128.0, 2)])
def test_a_column_of_pixels_is_in_one_column_of_patches(x, patch):
    place = np.arange(0, 256, 64)
    found = crossed(FrameLine("column", (0.0, x), (255.0, x), 1.0, 9.0), place, place, 64)
    assert found.any(axis=0).nonzero()[0].tolist() == [patch]
