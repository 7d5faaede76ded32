"""Colour mosaic of a sensor, by its pixels: levels that repeat with the period of the filter array."""

from __future__ import annotations

import numpy as np

from aqdask.stats.robust import mad_sigma

PERIOD = 6  # px; of X-Trans, and a multiple of the 2 px of Bayer patterns
MOST_CELLS = 128  # along each axis, spread over the image
FEWEST_CELLS = 16  # in all
CONTRAST = 0.1  # of the noise of a pixel; columns that are read out through two channels differ by less
STANDARD_ERRORS = 5.0


def shows_mosaic(image: np.ndarray, invalid: np.ndarray | None = None) -> bool:
    """Return True if the levels of the 36 positions within cells of 6 x 6 px differ.

    The level of a position is the mean of the middle half of its differences from the means of the cells,
    less a plane, so that stars, a slope of the sky and the rounding to whole counts do not matter. Frames
    without light (bias, dark) show no mosaic, nor do planes that were split or demosaiced. At most 590,000
    pixels are read.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts, of any real type.
    invalid : ndarray of bool (y, x), optional
        True for pixels without data; cells with such pixels are left out.

    Returns
    -------
    bool
        False for a frame with fewer than 16 cells.
    """
    cells = _cells(image).astype(np.float64)
    if invalid is not None:
        cells = cells[~_cells(invalid).any(axis=1)]
    cells = cells[np.isfinite(cells).all(axis=1)]
    if len(cells) < FEWEST_CELLS:
        return False
    differences = np.sort(cells - cells.mean(axis=1, keepdims=True), axis=0)
    quarter = len(cells) // 4
    levels = differences[quarter : len(cells) - quarter].mean(axis=0)
    noise = mad_sigma(differences - levels)
    y, x = np.divmod(np.arange(PERIOD**2), PERIOD)
    plane = np.stack([np.ones(PERIOD**2), y, x], axis=1)
    levels = levels - plane @ np.linalg.lstsq(plane, levels, rcond=None)[0]
    return bool(np.ptp(levels) > (CONTRAST + STANDARD_ERRORS / np.sqrt(len(cells))) * noise)


def _cells(image: np.ndarray) -> np.ndarray:
    """Return the pixels of cells spread over the image, ``(cell, 36)``."""
    if min(image.shape) < PERIOD:
        return np.empty((0, PERIOD**2))
    axes = []
    for length in image.shape:
        count = length // PERIOD
        starts = PERIOD * np.unique(np.linspace(0, count - 1, min(count, MOST_CELLS)).astype(int))
        axes.append((starts[:, None] + np.arange(PERIOD)).ravel())
    cells = image[np.ix_(*axes)].reshape(len(axes[0]) // PERIOD, PERIOD, -1, PERIOD)
    return cells.transpose(0, 2, 1, 3).reshape(-1, PERIOD**2)
