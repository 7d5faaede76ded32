"""Alignment of a frame with the template that is subtracted from it, by their WCS or by their stars."""

from __future__ import annotations

from functools import partial

import numpy as np
import sep

from aqdask.errors import FrameError
from aqdask.photometry.alignment import Alignment, nodes_of
from aqdask.photometry.resampling import Transform
from aqdask.photometry.sky_subtraction import SkySubtracted, extract_sources
from aqdask.photometry.star_matching import MIN_STARS, apply_affine, coincident, match_stars

MISFIT = 0.1  # px, of positions that are transformed there and back at most
STAR_THRESHOLD = 10.0  # sigma
STAR_RADIUS = 3.0  # px, of the aperture that ranks stars
BRIGHTEST = 500  # stars that are compared
COMMON = 0.2  # of the brightest stars must have a partner; by chance few of them have one


def align(
    shape: tuple[int, int],
    stars: np.ndarray,
    template_stars: np.ndarray,
    by_wcs: Transform | None = None,
    back: Transform | None = None,
) -> tuple[Alignment, np.ndarray]:
    """Align a frame with its template: by their WCS, or by their stars where these do not agree with it.

    Parameters
    ----------
    shape : tuple of int
        Of the frame, y and x.
    stars, template_stars : ndarray (n, 3)
        x, y in pixels and flux, the brightest first; see `brightest_stars`.
    by_wcs, back : callable, optional
        Positions in the frame to those in the template by the WCS of both, and back.

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
    if by_wcs is not None and back is not None and _agree(shape, by_wcs, back):
        found = Alignment(by_wcs, "wcs")
        if len(common := common_stars(stars, template_stars, found)) >= least:
            return found, common
    try:
        affine = match_stars(stars[:BRIGHTEST, :2], template_stars[: 2 * BRIGHTEST, :2], least)
    except FrameError as error:
        raise FrameError(f"it could not be aligned with its template: {error}") from error
    found = Alignment(partial(apply_affine, affine), "stars")
    return found, common_stars(stars, template_stars, found)


def _agree(shape: tuple[int, int], transform: Transform, back: Transform) -> bool:
    nodes = nodes_of(shape)
    try:
        return bool(np.abs(back(transform(nodes)) - nodes).max() <= MISFIT)
    except Exception:  # a reference frame without transformation, or positions that wcslib refuses
        return False


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
    return some[coincident(alignment.transform(some[:, :2]), template_stars[: 2 * BRIGHTEST, :2])[:, 0]]
