"""Alignment of a frame with the template that is subtracted from it, by their WCS or by their stars."""

from __future__ import annotations

import numpy as np

from aqdask.photometry.alignment import Alignment, align_stars, nodes_of
from aqdask.photometry.resampling import Transform
from aqdask.photometry.star_matching import MIN_STARS

MISFIT = 0.1  # px, of positions that are transformed there and back at most
BRIGHTEST = 500  # stars that are compared
COMMON = 0.2  # of the brightest stars must have a partner; by chance few of them have one


def align_with_template(
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
        x, y in pixels and flux, the brightest first; see `sky_subtraction.brightest_sources`.
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
    if by_wcs is None or back is None or not _agree(shape, by_wcs, back):
        by_wcs = None
    some, others = stars[:BRIGHTEST], template_stars[: 2 * BRIGHTEST]
    found, pairs, _ = align_stars(some[:, :2], others[:, :2], least, by_wcs, name="its template")
    return found, some[pairs[:, 0]]


def _agree(shape: tuple[int, int], transform: Transform, back: Transform) -> bool:
    nodes = nodes_of(shape)
    try:
        return bool(np.abs(back(transform(nodes)) - nodes).max() <= MISFIT)
    except Exception:  # a reference frame without transformation, or positions that wcslib refuses
        return False
