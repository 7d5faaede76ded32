"""Resampling of images to the pixels of another frame, by splines.

Positions are 0-based pixels ``(x, y)`` with integers at pixel centres; arrays are ``(y, x)``.
`reproject_interp` gives the same counts, transforms every pixel, and takes four times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

KNOTS = 32  # px between positions that are transformed exactly; others are interpolated by a cubic spline
BAND = 256  # rows that are resampled at a time
FAR = -1e6  # px, instead of positions without a counterpart
Transform = Callable[[np.ndarray], np.ndarray]
"""Positions ``(n, 2)`` in one frame to those in another; NaN where there are none."""


def _bands(shape: tuple[int, int], transform: Transform) -> Iterator[tuple[slice, tuple]]:
    """Yield bands of rows, and where their pixels lie in the other frame, ``y, x``."""
    rows, columns = (np.arange(-KNOTS, side + 2 * KNOTS, KNOTS, dtype=float) for side in shape)
    knots = transform(np.column_stack([one.ravel() for one in np.meshgrid(columns, rows)]))
    knots = np.where(np.isfinite(knots), knots, FAR)
    splines = [RectBivariateSpline(rows, columns, one.reshape(len(rows), -1)) for one in knots.T[::-1]]
    for top in range(0, shape[0], BAND):
        band = slice(top, min(top + BAND, shape[0]))
        yield band, tuple(one(np.arange(band.start, band.stop), np.arange(shape[1])) for one in splines)


def resample(
    image: np.ndarray, shape: tuple[int, int], transform: Transform, *, order: int = 3
) -> np.ndarray:
    """Resample an image to the pixels of another frame.

    Positions are transformed exactly every `KNOTS` px only.

    Parameters
    ----------
    image : ndarray (y, x)
        Finite numbers.
    shape : tuple of int
        ``(y, x)`` of the other frame.
    transform : callable
        Positions in the other frame to those in the image.
    order : int
        Of the spline: 3, or 0 for the nearest pixel.

    Returns
    -------
    ndarray (y, x)
        float32, NaN beyond the image.
    """
    source = np.asarray(image, np.float32)
    source = ndimage.spline_filter(source, order, output=np.float32) if order > 1 else source
    result = np.empty(shape, np.float32)
    for band, places in _bands(shape, transform):
        result[band] = ndimage.map_coordinates(source, places, order=order, cval=np.nan, prefilter=False)
    return result


def resample_weighted(
    pixels: np.ndarray,
    weight: np.ndarray,
    bad: np.ndarray,
    shape: tuple[int, int],
    transform: Transform,
    scale: float,
) -> np.ndarray:
    """Resample a frame to the pixels of a reference: cubic splines for counts, linear for weights.

    Positions are transformed exactly every `KNOTS` px only. Surface brightness is kept, then scaled.

    Parameters
    ----------
    pixels, weight : ndarray (y, x)
        float32, counts above the sky, and their inverse variance.
    bad : ndarray (y, x)
        bool, pixels that are left out, together with their neighbours in the kernel.
    shape : tuple of int
        ``(y, x)`` of the reference.
    transform : callable
        Positions in the reference to those in the frame.
    scale : float
        Counts of the reference for a count of the frame.

    Returns
    -------
    ndarray (2, y, x)
        float32: counts of the reference and their inverse variance, both 0 where the frame has no data.
    """
    spline = ndimage.spline_filter(np.where(bad, np.float32(0), pixels), order=3, output=np.float32)
    good = ~ndimage.binary_dilation(bad, np.ones((3, 3), bool), border_value=True)
    result = np.zeros((2, *shape), np.float32)
    for band, places in _bands(shape, transform):
        inside = ndimage.map_coordinates(good.astype(np.float32), places, order=1) > 0.999
        known = ndimage.map_coordinates(weight, places, order=1) / np.float32(scale) ** 2
        result[1, band] = np.where(inside, known, 0)
        values = ndimage.map_coordinates(spline, places, order=3, prefilter=False) * np.float32(scale)
        result[0, band] = np.where(result[1, band] > 0, values, 0)
    return result
