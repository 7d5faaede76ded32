"""Dark areas of a camera: places without sky in all reference frames, such as overscan without a card."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from aqdask.methods.bundle import POOLED, Bundle, calibration_key, nearest_key
from aqdask.specs import PatchGrid
from aqdask.stats.patches import stitch

CELL = 8  # px; a narrower area is not found
DARK_SIGMA = 5.0  # sigma of a sky pixel below the sky, in every frame
DARK_VARIANCE = 0.25  # of that of the sky, on average: most of the photon noise is absent
LARGEST = 0.5  # of the frame: no sky is left to compare with
_NEIGHBOURS = np.ones((3, 3), bool)


def cell_levels(image: np.ndarray, invalid: np.ndarray | None, unit: float = 1.0) -> np.ndarray:
    """Measure level and noise of cells of `CELL` px relative to those of the median cell.

    Pixels are divided by ``unit`` first, so that float32 holds their squares.

    Returns
    -------
    ndarray (2, n_y, n_x), float32
        Mean above the median one in sigma of its noise, and variance of the diagonal high-pass
        (`noise_model.difference`) over the median one. NaN where a pixel is invalid. The last cells overlap
        their neighbours.
    """
    pixels = image.astype(np.float32)
    if unit != 1:
        pixels /= np.float32(unit)
    if invalid is not None:
        pixels[invalid] = np.nan
    height, width = image.shape
    grid = PatchGrid(height, width, CELL)
    rows, columns = ((grid.starts(axis)[:, None] + np.arange(CELL)).ravel() for axis in (0, 1))
    if min(image.shape) < CELL:
        return np.full((2, *grid.shape), np.nan, np.float32)
    cells = pixels[rows][:, columns].reshape(grid.shape[0], CELL, grid.shape[1], CELL)
    across = np.diff(np.diff(cells, axis=1), axis=3) / 2
    level, variance = cells.mean(axis=(1, 3)), np.square(across, out=across).mean(axis=(1, 3))
    known = np.isfinite(level)
    typical = np.median(variance[known]) if known.any() else 0
    if not typical > 0:
        return np.full((2, *grid.shape), np.nan, np.float32)
    return np.stack([(level - np.median(level[known])) / np.sqrt(typical), variance / typical])


def dark_cells(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Find the dark cells of frames and their neighbours, which may be dark in part.

    Dark is what lies far below the sky in every frame and has hardly any photon noise: not a vignetted
    corner, nor dust. Where read noise dominates, no place can be told from the sky by its noise, and none
    is found.

    Parameters
    ----------
    frames : sequence of ndarray (2, n_y, n_x)
        `cell_levels` of each.

    Returns
    -------
    ndarray (n, 2), int32
        Row and column of the cells.
    """
    levels, variances = np.stack(frames).swapaxes(0, 1)
    known = np.isfinite(levels)
    average = np.where(known, variances, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    highest = np.where(known, levels, -np.inf).max(axis=0)
    dark = known.any(axis=0) & (average < DARK_VARIANCE) & (highest < -DARK_SIGMA)
    if not 0 < dark.mean() < LARGEST:
        return np.empty((0, 2), np.int32)
    beside = ndimage.binary_dilation(dark, _NEIGHBOURS)
    beyond = ndimage.binary_dilation(beside, _NEIGHBOURS) & (highest < -DARK_SIGMA / 2)  # of a slanted edge
    return np.argwhere(beside | beyond).astype(np.int32)


def dark_map(cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
    """Convert rows and columns ``(n, 2)`` of cells to pixels of a frame, bool ``(y, x)``; None for none."""
    if not len(cells):
        return None
    grid = PatchGrid(*shape, CELL)
    found = np.zeros(grid.shape, bool)
    found[cells[:, 0], cells[:, 1]] = True
    return stitch(found, grid)


def no_sky(bundle: Bundle, camera: str, filter: str) -> np.ndarray | None:
    """Return the dark pixels of the calibration that frames of a camera and filter are scored with.

    Returns
    -------
    ndarray (y, x) of bool, or None
        None without dark areas, and for a camera without a calibration.
    """
    key = nearest_key(bundle.calibrations, calibration_key(camera, filter))
    stored = bundle.calibrations.get(key)
    if stored is None or key == POOLED:
        return None
    return dark_map(stored.arrays.get("dark", np.empty((0, 2), int)), tuple(stored.facts["shape"]))


def dark_note(dark: np.ndarray) -> str:
    """Write a note on dark pixels, bool ``(y, x)``, with the ranges of the largest area."""
    labels, _ = ndimage.label(dark)
    largest = int(np.bincount(labels[dark]).argmax())
    y, x = ndimage.find_objects(labels)[largest - 1]
    return (
        f"{dark.mean():.0%} of the pixels show no sky in any reference frame (overscan without a card, or "
        f"beyond the optics?) and are no data for this camera: above all rows {y.start} to {y.stop - 1}, "
        f"columns {x.start} to {x.stop - 1}."
    )
