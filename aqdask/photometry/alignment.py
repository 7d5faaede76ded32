"""Alignment of a frame with a reference: position, flux scale, and resampling to the reference's pixels.

Positions are 0-based pixels ``(x, y)`` with integers at pixel centres; arrays are ``(y, x)``.
`reproject_interp` gives the same counts, transforms every pixel, and takes four times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sep
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from aqdask.errors import FrameError
from aqdask.photometry.sky_subtraction import SkySubtracted, extract_sources
from aqdask.photometry.star_matching import apply_affine, coincident, match_stars
from aqdask.references.image_statistics import HALF_LIGHT_PER_FWHM

RADII = 4.0 * 2.0 ** (np.arange(7) / 2)  # px, apertures of the flux scale
APERTURE = (
    2.5  # FWHM of the broader frame, radius: 3 % of the light of a Moffat profile (beta 3.5) is outside
)
MAX_STARS = 400  # the brightest
MIN_STARS = 5  # in common with the reference
MIN_FRACTION = 0.2  # of the stars of the frame that has fewer
MAX_OFFSET = 1.0  # px, median distance; beyond it a WCS is wrong
SATURATED = 0.9  # of the largest value, where several pixels share it
KNOTS = 32  # px between positions that are transformed exactly; others are interpolated by a cubic spline
BAND = 256  # rows that are resampled at a time
Positions = tuple[np.ndarray, np.ndarray]
Transform = Callable[[np.ndarray, np.ndarray], Positions]
"""Positions ``x, y`` in the reference to those in the frame."""


@dataclass(frozen=True, eq=False)
class Stars:
    """Brightest unsaturated stars of a frame, brightest first.

    Parameters
    ----------
    xy : ndarray (n, 2)
        float64, pixels.
    flux : ndarray (n, len(RADII))
        float64, counts in apertures of these radii.
    fwhm : float
        Median FWHM in pixels from half-light radii; NaN without stars.
    """

    xy: np.ndarray
    flux: np.ndarray
    fwhm: float


@dataclass(frozen=True, eq=False)
class Alignment:
    """Position and flux scale of a frame relative to a reference.

    Parameters
    ----------
    scale : float
        Counts of the reference for a count of the frame.
    stars : int
        Stars in common.
    offset : float
        Median distance of these stars after the alignment, pixels.
    method : str
        'wcs' or 'stars'.
    affine : ndarray (2, 3) or None
        With 'stars': from the pixels of the reference to those of the frame.
    """

    scale: float
    stars: int
    offset: float
    method: str
    affine: np.ndarray | None = None

    def transform(self, x: np.ndarray, y: np.ndarray) -> Positions:
        """Apply ``affine`` to positions in the reference."""
        assert self.affine is not None
        (a, b, c), (d, e, f) = self.affine
        return a * x + b * y + c, d * x + e * y + f


def find_stars(image: np.ndarray, light: SkySubtracted) -> Stars:
    """Find the brightest stars of a frame that are neither saturated nor touched by an invalid pixel.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts.
    light : SkySubtracted
        The same after sky subtraction.

    Raises
    ------
    FrameError
        If sep cannot extract sources.
    """
    try:
        xy = extract_sources(light.pixels, 5.0, light.rms, light.invalid)
    except RuntimeError as error:
        raise FrameError(str(error)) from error
    top = image.max()
    full = image >= (SATURATED * top if np.count_nonzero(image == top) > 3 else np.inf)
    x, y = np.ascontiguousarray(xy.T)
    first, flag = sep.sum_circle(light.pixels, x, y, RADII[0], mask=full | light.invalid, subpix=0)[::2]
    chosen = np.flatnonzero((flag == 0) & (first > 0))
    chosen = chosen[np.argsort(first[chosen])[::-1][:MAX_STARS]]
    x, y = x[chosen], y[chosen]
    flux = np.array([sep.sum_circle(light.pixels, x, y, r, mask=light.invalid, subpix=0)[0] for r in RADII])
    half, _ = sep.flux_radius(light.pixels, x, y, np.full(len(x), RADII[3]), 0.5, mask=light.invalid)
    fwhm = float(np.median(2 * half / HALF_LIGHT_PER_FWHM)) if len(half) else float("nan")
    return Stars(xy[chosen], flux.T.reshape(-1, len(RADII)), fwhm)


def align(stars: Stars, reference: Stars, expected: np.ndarray | None = None) -> Alignment:
    """Align a frame with a reference by their stars.

    Parameters
    ----------
    stars, reference : Stars
        Stars of the frame and of the reference.
    expected : ndarray (n, 2), optional
        Positions of ``stars`` in the reference by the WCS of both. Where the stars are not found there, or
        without it, triangles of stars are matched (astroalign), and an affine transformation is fitted.

    Raises
    ------
    FrameError
        If fewer than `MIN_STARS` stars are common to both.
    """
    least = max(MIN_STARS, MIN_FRACTION * min(len(stars.xy), len(reference.xy)))
    if expected is not None:
        pairs, offset = _pairs(expected, reference.xy)
        if len(pairs) >= least and offset <= MAX_OFFSET:
            return Alignment(_scale(stars, reference, pairs), len(pairs), offset, "wcs")
    try:
        affine = match_stars(reference.xy, stars.xy, least)
    except FrameError as error:
        raise FrameError(f"it could not be aligned with the reference: {error}") from error
    pairs, offset = _pairs(stars.xy, apply_affine(affine, reference.xy))
    if offset > MAX_OFFSET:
        raise FrameError(f"the {len(pairs)} stars in common with the reference are {offset:.1f} px off")
    return Alignment(_scale(stars, reference, pairs), len(pairs), offset, "stars", affine)


def _pairs(xy: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the numbers of common stars, int ``(n, 2)``, and their median distance."""
    pairs = coincident(xy, reference)
    away = np.hypot(*(xy[pairs[:, 0]] - reference[pairs[:, 1]]).T)
    return pairs, float(np.median(away)) if len(pairs) else np.inf


def _scale(stars: Stars, reference: Stars, pairs: np.ndarray) -> float:
    """Return the median flux ratio, reference over frame, in apertures that hold the light of both."""
    widest = np.nanmax([stars.fwhm, reference.fwhm])
    radius = min(int(np.searchsorted(RADII, APERTURE * widest)), len(RADII) - 1)
    own, other = stars.flux[pairs[:, 0], radius], reference.flux[pairs[:, 1], radius]
    positive = (own > 0) & (other > 0)
    if np.count_nonzero(positive) < MIN_STARS:
        raise FrameError("fewer than five stars with a measurable flux in common with the reference")
    return float(np.median(other[positive] / own[positive]))


def resample(
    pixels: np.ndarray,
    weight: np.ndarray,
    bad: np.ndarray,
    shape: tuple[int, int],
    transform: Transform,
    scale: float,
) -> np.ndarray:
    """Resample a frame to the pixels of the reference: cubic splines for counts, linear for weights.

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
        Positions in the reference to those in the frame; NaN where there are none.
    scale : float
        Counts of the reference for a count of the frame.

    Returns
    -------
    ndarray (2, y, x)
        float32: counts of the reference and their inverse variance, both 0 where the frame has no data.
    """
    spline = ndimage.spline_filter(np.where(bad, np.float32(0), pixels), order=3, output=np.float32)
    good = ~ndimage.binary_dilation(bad, np.ones((3, 3), bool), border_value=True)
    rows, columns = (np.arange(-KNOTS, side + 2 * KNOTS, KNOTS, dtype=float) for side in shape)
    knots = transform(*(one.ravel() for one in np.meshgrid(columns, rows)))
    splines = [RectBivariateSpline(rows, columns, one.reshape(len(rows), -1)) for one in _finite(knots)]
    result = np.zeros((2, *shape), np.float32)
    for top in range(0, shape[0], BAND):
        band = slice(top, min(top + BAND, shape[0]))
        x, y = (one(np.arange(band.start, band.stop), np.arange(shape[1])) for one in splines)
        inside = ndimage.map_coordinates(good.astype(np.float32), (y, x), order=1) > 0.999
        known = ndimage.map_coordinates(weight, (y, x), order=1) / np.float32(scale) ** 2
        result[1, band] = np.where(inside, known, 0)
        values = ndimage.map_coordinates(spline, (y, x), order=3, prefilter=False) * np.float32(scale)
        result[0, band] = np.where(result[1, band] > 0, values, 0)
    return result


def _finite(knots: Positions) -> Positions:
    """Move positions without a counterpart far outside of the frame."""
    x, y = (np.where(np.isfinite(one), one, -1e6) for one in knots)
    return x, y
