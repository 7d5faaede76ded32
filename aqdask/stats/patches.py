"""Patches of a frame as arrays, and values of patches spread over the pixels of the frame.

The geometry is that of `aqdask.specs.PatchGrid`. Patches are numbered in C order,
``index = patch_y * n_x + patch_x``; any range of them can be cut without a copy of the frame.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from aqdask.errors import UsageError
from aqdask.specs import PatchGrid


def gather(image: np.ndarray, tops: np.ndarray, lefts: np.ndarray, size: int) -> np.ndarray:
    """Copy squares of an image.

    Parameters
    ----------
    image : ndarray (H, W)
        Any type; only the squares are read.
    tops, lefts : ndarray (n,)
        First row and column of each square, inside the image.
    size : int
        Side of a square in pixels.

    Returns
    -------
    ndarray (n, size, size)
        Type of the image; zero (False) beyond the image.
    """
    ends = [int(starts.max(initial=0)) + size for starts in (tops, lefts)]
    beyond = [(0, max(end - length, 0)) for end, length in zip(ends, image.shape, strict=True)]
    if np.any(beyond):  # a frame smaller than a square
        image = np.pad(image, beyond)
    return sliding_window_view(image, (size, size))[tops, lefts]


def cut_range(image: np.ndarray, grid: PatchGrid, first: int, stop: int) -> np.ndarray:
    """Copy patches ``first`` to ``stop - 1`` of a frame: ``(stop - first, P, P)``, type of the image.

    Pixels beyond a frame that is smaller than a patch are zero (see `valid_range`).

    Raises
    ------
    UsageError
        If the image does not have the shape of the grid.
    """
    if image.shape != (grid.height, grid.width):
        raise UsageError(
            f"an array of shape {image.shape}",
            expected=f"the frame's shape {(grid.height, grid.width)}",
            consequence="Patches would not match the grid",
            remedy="give a 2-D array, with a mask of the same shape",
        )
    rows, columns = np.divmod(np.arange(first, stop), grid.shape[1])
    return gather(image, grid.starts(0)[rows], grid.starts(1)[columns], grid.size)


def valid_range(invalid: np.ndarray | None, grid: PatchGrid, first: int, stop: int) -> np.ndarray | None:
    """Return valid pixels of patches ``first`` to ``stop - 1``: bool ``(n, P, P)``; None where all are valid.

    Parameters
    ----------
    invalid : ndarray (H, W) of bool, or None
        True for pixels without data; None if every pixel of the frame is valid.
    """
    inside = _inside(grid, first, stop)
    if invalid is None:
        return inside
    valid = ~cut_range(np.asarray(invalid, dtype=bool), grid, first, stop)
    return valid if inside is None else valid & inside


def _inside(grid: PatchGrid, first: int, stop: int) -> np.ndarray | None:
    """Return the pixels of a range of patches inside the frame: bool ``(n, P, P)``; None where all are."""
    if min(grid.height, grid.width) >= grid.size:
        return None
    rows, columns = np.divmod(np.arange(first, stop), grid.shape[1])
    heights = (grid.stops(0) - grid.starts(0))[rows]
    widths = (grid.stops(1) - grid.starts(1))[columns]
    pixel = np.arange(grid.size)
    return (pixel < heights[:, None])[:, :, None] & (pixel < widths[:, None])[:, None, :]


def padded(patches: np.ndarray, count: int) -> np.ndarray:
    """Pad patches ``(n, P, P)`` with zeros (False) to exactly ``count``, contiguous."""
    if len(patches) == count:
        return np.ascontiguousarray(patches)
    full = np.zeros((count, *patches.shape[1:]), dtype=patches.dtype)
    full[: len(patches)] = patches
    return full


def cut(image: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Copy all patches of a frame: ``(n_y, n_x, P, P)``, type of the image; see `cut_range`."""
    n_y, n_x = grid.shape
    return cut_range(image, grid, 0, n_y * n_x).reshape(n_y, n_x, grid.size, grid.size)


def cut_valid(invalid: np.ndarray | None, grid: PatchGrid) -> np.ndarray:
    """Return valid pixels of all patches: bool ``(n_y, n_x, P, P)``; False beyond the frame."""
    n_y, n_x = grid.shape
    valid = valid_range(invalid, grid, 0, n_y * n_x)
    if valid is None:
        return np.ones((n_y, n_x, grid.size, grid.size), dtype=bool)
    return valid.reshape(n_y, n_x, grid.size, grid.size)


def stitch(maps: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Spread per-patch values over the pixels that each patch owns (`PatchGrid.owner_bounds`).

    Parameters
    ----------
    maps : ndarray (..., n_y, n_x)
        One value a patch, of any type.
    grid : PatchGrid
        Patches of the frame.

    Returns
    -------
    ndarray (..., H, W)
        Same type; each pixel has the value of the patch that owns it.
    """
    rows = np.repeat(maps, np.diff(grid.owner_bounds(0)), axis=-2)
    return np.repeat(rows, np.diff(grid.owner_bounds(1)), axis=-1)


def patches_of(box: tuple[int, int, int, int], grid: PatchGrid) -> np.ndarray:
    """Return the patches that a box covers by half, or that hold half of it: bool ``(n_y, n_x)``.

    ``box`` has the first and one past the last pixel, ``x0, y0, x1, y1``.
    """
    x0, y0, x1, y1 = box
    overlap, sides = [], []
    for axis, (first, last) in enumerate(((y0, y1), (x0, x1))):
        starts, stops = grid.starts(axis), grid.stops(axis)
        overlap.append(np.clip(np.minimum(stops, last) - np.maximum(starts, first), 0, None))
        sides.append(stops - starts)
    area, patch = np.outer(*overlap), np.outer(*sides)
    return (2 * area >= np.minimum(patch, (x1 - x0) * (y1 - y0))) & (area > 0)


def join(patches: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Join patches ``(n_y n_x, P, P)`` in C order to a frame ``(H, W)``; each pixel is that of its owner."""
    frame = np.empty((grid.height, grid.width), patches.dtype)
    (y_bounds, y_starts), (x_bounds, x_starts) = ((grid.owner_bounds(n), grid.starts(n)) for n in (0, 1))
    n_y, n_x = grid.shape
    last = x_bounds[-2]  # column from which the last patch of a row owns pixels
    for row in range(n_y):
        top, stop = y_bounds[row : row + 2]
        strip = patches[row * n_x : (row + 1) * n_x, top - y_starts[row] : stop - y_starts[row]]
        beside = frame[top:stop, :last].reshape(stop - top, n_x - 1, patches.shape[2])  # a view
        beside[...] = strip[:-1].transpose(1, 0, 2)
        frame[top:stop, last:] = strip[-1, :, last - x_starts[-1] : grid.width - x_starts[-1]]
    return frame
