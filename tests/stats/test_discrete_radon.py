"""Sums over lines against the definition of the lines, pixel by pixel."""

import numpy as np
import pytest

from aqdask.stats.discrete_radon import line_ends, line_sums


def rows_of(slope: int, side: int) -> list[int]:
    """Rows that a line with this slope passes above its first one, column by column (Brady 1998)."""
    if side == 1:
        return [0]
    half = rows_of(slope // 2, side // 2)
    return half + [row + (slope + 1) // 2 for row in half]


@pytest.mark.parametrize("shape", [(16, 16), (13, 9), (5, 16), (1, 1)])
def test_sums_are_those_of_the_pixels_of_each_line(shape):
    image = np.random.default_rng(0).integers(-30, 30, shape)
    sums = line_sums(image)
    side = sums.shape[1]
    assert sums.dtype == np.int16
    for quadrant, turned in enumerate((image, image[::-1], image.T, image.T[::-1])):
        height, width = turned.shape
        for slope in range(side):
            rows = rows_of(slope, side)
            assert rows[-1] == slope
            for offset in range(2 * side):
                places = [(offset - side + 1 + rows[x], x) for x in range(width)]
                total = sum(turned[y, x] for y, x in places if 0 <= y < height)
                assert sums[quadrant, slope, offset] == total, (quadrant, slope, offset)


@pytest.mark.parametrize(
    "ends", [((3, 0), (40, 63)), ((60, 0), (5, 63)), ((0, 10), (63, 50)), ((0, 50), (63, 2))]
)
def test_the_largest_sum_is_that_of_the_line_that_was_drawn(ends):
    image = np.zeros((64, 64))
    (y0, x0), (y1, x1) = ends
    share = np.linspace(0, 1, 500)
    image[np.rint(y0 + share * (y1 - y0)).astype(int), np.rint(x0 + share * (x1 - x0)).astype(int)] = 1
    sums = line_sums(image)
    found = line_ends(*map(int, np.unravel_index(sums.argmax(), sums.shape)), image.shape)
    apart = min(np.abs(one - np.array(ends)).max() for one in (found, found[::-1]))
    assert apart <= 2
