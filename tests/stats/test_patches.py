"""Cutting and stitching: every pixel covered once, nothing read beyond the frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqdask.errors import UsageError
from aqdask.specs import PatchGrid
from aqdask.stats.patches import cut, cut_range, cut_valid, stitch, valid_range

sides = st.integers(1, 45)
grids = st.builds(PatchGrid, height=sides, width=sides, size=st.integers(1, 17))


def numbered(grid):
    """A frame whose pixels all differ."""
    return np.arange(1, grid.height * grid.width + 1, dtype=np.int32).reshape(grid.height, grid.width)


@given(grids)
def test_every_pixel_is_in_some_patch_and_padding_is_invalid(grid):
    patches, valid = cut(numbered(grid), grid), cut_valid(None, grid)
    assert patches.shape == (*grid.shape, grid.size, grid.size)
    assert set(patches[valid]) == set(range(1, grid.height * grid.width + 1))
    assert not patches[~valid].any()


@given(grids)
def test_owned_pixels_of_the_patches_put_together_are_the_frame(grid):
    frame, patches = numbered(grid), cut(numbered(grid), grid)
    owner = stitch(np.arange(patches.shape[0] * patches.shape[1]).reshape(grid.shape), grid)
    y, x = np.indices(frame.shape)
    row, column = np.divmod(owner, grid.shape[1])
    rebuilt = patches[row, column, y - grid.starts(0)[row], x - grid.starts(1)[column]]
    np.testing.assert_array_equal(rebuilt, frame)


@given(grids, st.data())
def test_a_range_of_patches_is_that_part_of_all(grid, data):
    total = grid.shape[0] * grid.shape[1]
    first = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(first, total))
    invalid = numbered(grid) % 3 == 0
    every = cut(numbered(grid), grid).reshape(total, grid.size, grid.size)
    np.testing.assert_array_equal(cut_range(numbered(grid), grid, first, stop), every[first:stop])
    for mask in (None, invalid):
        some = valid_range(mask, grid, first, stop)
        if some is not None:
            whole = cut_valid(mask, grid).reshape(total, grid.size, grid.size)
            np.testing.assert_array_equal(some, whole[first:stop])


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [
        (4096, 4096, (64, 64)),  # a whole multiple
        (1023, 1536, (16, 24)),  # the last row overlaps its neighbour
        (40, 200, (1, 4)),  # lower than a patch: cut short in one direction
    ],
)
def test_shapes_and_stitched_size(height, width, shape):
    grid = PatchGrid(height, width)
    assert grid.shape == shape
    assert stitch(np.zeros((3, *shape), np.float32), grid).shape == (3, height, width)


def test_the_overlap_belongs_to_the_earlier_patch():
    grid = PatchGrid(5, 4, 4)
    np.testing.assert_array_equal(stitch(np.array([[1], [2]]), grid)[:, 0], [1, 1, 1, 1, 2])


def test_all_valid_is_told_without_an_array():
    assert valid_range(None, PatchGrid(100, 100), 0, 4) is None


def test_the_callers_mask_decides():
    invalid = np.zeros((64, 64), dtype=bool)
    invalid[3, 5] = True
    assert np.argwhere(~cut_valid(invalid, PatchGrid(64, 64))[0, 0]).tolist() == [[3, 5]]


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(UsageError, match=r"shape \(10, 11\).*Expected: .*\(10, 10\).*What to do"):
        cut(np.zeros((10, 11)), PatchGrid(10, 10))
