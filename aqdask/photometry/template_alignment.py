"""Alignment of two frames of one field, by their WCS or by their stars."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import sep
from astropy.wcs import WCS
from astropy.wcs.utils import pixel_to_pixel
from numpy.polynomial.polynomial import polyval2d, polyvander2d
from scipy import ndimage

from aqdask.errors import FrameError
from aqdask.photometry.sky_subtraction import SkySubtracted, extract_sources
from aqdask.photometry.star_matching import MIN_STARS, apply_affine, coincident, match_stars

NODES = 17  # along each axis, where positions are transformed by the WCS of both frames
DEGREE = 3  # of the polynomial between the nodes
MISFIT = 0.1  # px, of the polynomial at the nodes at most
SAME_PIXELS = 0.01  # px: frames that are aligned as they are
STAR_THRESHOLD = 10.0  # sigma
STAR_RADIUS = 3.0  # px, of the aperture that ranks stars
BRIGHTEST = 500  # stars that are compared
COMMON = 0.2  # of the brightest stars must have a partner; by chance few of them have one
ROWS = 256  # that are resampled at a time


class Transform(Protocol):
    """Transform of positions."""

    def __call__(self, coords: np.ndarray, /) -> np.ndarray:
        """Transform positions x, y: ``(n, 2)`` to ``(n, 2)``."""


@dataclass(frozen=True)
class Alignment:
    """Transform from the pixels of a frame to those of its template.

    Parameters
    ----------
    transform : callable
        Transforms x, y in pixels, ``(n, 2)``.
    method : str
        'wcs' or 'stars'.
    """

    transform: Transform
    method: str

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return positions in the template, float64 ``(n, 2)``."""
        return np.asarray(self.transform(np.asarray(positions, np.float64).reshape(-1, 2)))

    def is_identity(self, shape: tuple[int, int]) -> bool:
        """Return True if all pixels of a frame lie on those of the template, within 0.01 px."""
        nodes = _nodes(shape)
        return bool(np.abs(self(nodes) - nodes).max() < SAME_PIXELS)

    def resample(self, image: np.ndarray, shape: tuple[int, int], *, order: int = 3) -> np.ndarray:
        """Resample an image of the template onto the pixels of the frame.

        Parameters
        ----------
        image : ndarray (y, x)
            Finite numbers.
        shape : tuple of int
            Of the frame, y and x.
        order : int
            Of the spline: 3, or 0 for the nearest pixel.

        Returns
        -------
        ndarray (y, x)
            float32, NaN beyond the template.
        """
        source = np.asarray(image, np.float32)
        source = ndimage.spline_filter(source, order, output=np.float32) if order > 1 else source
        found = np.empty(shape, np.float32)
        for start in range(0, shape[0], ROWS):
            y, x = np.mgrid[start : min(start + ROWS, shape[0]), : shape[1]]
            places = self(np.column_stack([x.ravel(), y.ravel()]))[:, ::-1].T
            values = ndimage.map_coordinates(source, places, order=order, cval=np.nan, prefilter=False)
            found[start : start + ROWS] = values.reshape(x.shape)
        return found


def align(
    shape: tuple[int, int],
    stars: np.ndarray,
    template_stars: np.ndarray,
    wcs: WCS | None = None,
    template_wcs: WCS | None = None,
) -> tuple[Alignment, np.ndarray]:
    """Align a frame with its template: by their WCS, or by their stars where these do not agree with it.

    Parameters
    ----------
    shape : tuple of int
        Of the frame, y and x.
    stars, template_stars : ndarray (n, 3)
        x, y in pixels and flux, the brightest first; see `brightest_stars`.
    wcs, template_wcs : WCS, optional
        Celestial ones of both.

    Returns
    -------
    tuple of Alignment and ndarray (m, 3)
        With the stars of the frame that the template shows at the same place.

    Raises
    ------
    FrameError
        For frames without common stars.
    """
    least = max(MIN_STARS, COMMON * min(len(stars), len(template_stars), BRIGHTEST))
    found = _by_wcs(shape, wcs, template_wcs) if wcs is not None and template_wcs is not None else None
    if found and len(common := common_stars(stars, template_stars, found)) >= least:
        return found, common
    try:
        affine = match_stars(stars[:BRIGHTEST, :2], template_stars[: 2 * BRIGHTEST, :2], least)
    except FrameError as error:
        raise FrameError(f"it could not be aligned with its template: {error}") from error
    found = Alignment(partial(apply_affine, affine), "stars")
    return found, common_stars(stars, template_stars, found)


def _by_wcs(shape: tuple[int, int], wcs: WCS, template_wcs: WCS) -> Alignment | None:
    """Fit a polynomial to the positions of nodes in the template; None where it does not fit."""
    nodes = _nodes(shape)
    try:
        places = np.column_stack(pixel_to_pixel(wcs, template_wcs, *nodes.T))
    except Exception:  # a reference frame without transformation, or positions that wcslib refuses
        return None
    if not np.isfinite(places).all():
        return None
    transform = Polynomial.fit(nodes, places)
    return Alignment(transform, "wcs") if np.abs(transform(nodes) - places).max() <= MISFIT else None


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Polynomial of two coordinates, of degree 3 in each.

    Parameters
    ----------
    size : float
        Unit of the coordinates, pixels.
    coefficients : ndarray (16, 2)
        Of x and y, in the order of `numpy.polynomial.polynomial.polyvander2d`.
    """

    size: float
    coefficients: np.ndarray

    @classmethod
    def fit(cls, positions: np.ndarray, values: np.ndarray) -> Polynomial:
        """Fit values ``(n, 2)`` at positions ``(n, 2)`` by least squares."""
        size = float(np.abs(positions).max()) or 1.0
        x, y = (positions / size).T
        terms = polyvander2d(x, y, [DEGREE, DEGREE])
        return cls(size, np.linalg.lstsq(terms, values, rcond=None)[0])

    def __call__(self, coords: np.ndarray, /) -> np.ndarray:
        """Return its values, ``(n, 2)``."""
        square = self.coefficients.reshape(DEGREE + 1, DEGREE + 1, 2)
        x, y = (coords / self.size).T
        return polyval2d(x, y, square).T


def _nodes(shape: tuple[int, int]) -> np.ndarray:
    """x, y of nodes over a frame, ``(n, 2)``."""
    y, x = np.meshgrid(*(np.linspace(0, length - 1, NODES) for length in shape), indexing="ij")
    return np.column_stack([x.ravel(), y.ravel()])


def brightest_stars(frame: SkySubtracted) -> np.ndarray:
    """Return x, y and flux of the sources of a frame, the brightest first: float64 ``(n, 3)``.

    Raises
    ------
    RuntimeError
        For a frame so crowded or structured that sep gives up.
    """
    places = extract_sources(frame.pixels, STAR_THRESHOLD, frame.rms, frame.invalid)
    flux = sep.sum_circle(frame.pixels, *np.ascontiguousarray(places.T), STAR_RADIUS, subpix=1)[0]
    return np.column_stack([places, flux])[np.argsort(-flux, kind="stable")]


def common_stars(stars: np.ndarray, template_stars: np.ndarray, alignment: Alignment) -> np.ndarray:
    """Return the brightest stars of a frame that its template shows at the same place: ``(m, 3)``."""
    some = stars[:BRIGHTEST]
    return some[coincident(alignment(some[:, :2]), template_stars[: 2 * BRIGHTEST, :2])[:, 0]]
