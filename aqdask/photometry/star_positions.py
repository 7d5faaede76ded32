"""Positions of the stars of a reference frame in other frames of the field.

Transformations are affine, float64 ``(2, 3)``: ``x', y' = A (x, y, 1)``, in 0-based pixels.
"""

from __future__ import annotations

import numpy as np
import sep
from scipy.spatial import KDTree

CONTROL_POINTS = 40  # brightest stars whose triangles are compared
COINCIDENT = 3.0  # px, largest distance of stars that count as the same
MIN_STARS = 3
MIN_AFFINE = 10  # stars; with fewer only a shift is fitted
ROUNDS = 5  # of a fit; after each the stars beyond 3 median distances are left out
MAX_CENTROIDS = 500  # brightest stars whose centres are measured
FOUND = 1 / 3  # of the bright stars have to be at their places
FWHM_PER_SIGMA = 2.3548


def apply_affine(affine: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Transform positions x, y, float64 ``(n, 2)``."""
    return positions @ affine[:, :2].T + affine[:, 2]


def fit_affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit the transformation from ``source`` to ``target``, each ``(n, 2)`` with n above 0, robustly.

    Stars farther off than three times the median are left out of the next of `ROUNDS` least-squares fits.
    """
    start = np.median(target - source, axis=0)
    affine = np.column_stack([np.eye(2), start])
    if len(source) < MIN_AFFINE:
        return affine
    centre = source.mean(axis=0)
    design = np.column_stack([source - centre, np.ones(len(source))])
    for _ in range(ROUNDS):
        off = np.hypot(*(target - apply_affine(affine, source)).T)
        near = off <= 3 * np.median(off)
        solution = np.linalg.lstsq(design[near], target[near], rcond=None)[0].T
        affine = np.column_stack([solution[:, :2], solution[:, 2] - solution[:, :2] @ centre])
    return affine


def match_stars(reference: np.ndarray, found: np.ndarray) -> np.ndarray | None:
    """Find the transformation from a reference frame to another frame of the field by their stars alone.

    Triangles of the 40 brightest stars are compared (astroalign, Beroiz, Cabral & Sanchez 2020, Astron.
    Comput. 32, 100384), for any shift, rotation and change of scale. An affine transformation is then fitted
    to all stars that coincide within 3 px, on which astroalign's random draws have no influence.

    Parameters
    ----------
    reference, found : ndarray (n, 2)
        x, y of the stars of either frame, brightest first.

    Returns
    -------
    ndarray (2, 3) or None
        None for frames without common stars.

    Raises
    ------
    ImportError
        Without astroalign.
    """
    import astroalign

    if min(len(reference), len(found)) < MIN_STARS:
        return None
    try:
        similarity, _ = astroalign.find_transform(reference, found, max_control_points=CONTROL_POINTS)
    except (astroalign.MaxIterError, ValueError):  # no transformation; triangles without a counterpart
        return None
    affine, tree = np.asarray(similarity.params[:2]), KDTree(found)
    for _ in range(2):
        distance, nearest = tree.query(apply_affine(affine, reference))
        near = distance <= COINCIDENT
        if near.sum() < MIN_STARS:
            return None
        affine = fit_affine(reference[near], found[nearest[near]])
    return affine


def centroids(pixels: np.ndarray, positions: np.ndarray, fwhm: float, reach: float) -> np.ndarray:
    """Measure windowed centres (sep, as SExtractor's XWIN, YWIN) of stars near positions.

    Parameters
    ----------
    pixels : ndarray (y, x)
        float32, without sky.
    positions : ndarray (n, 2)
        x, y near the stars.
    fwhm, reach : float
        Size of the stars, and the largest distance of a centre from its position, pixels.

    Returns
    -------
    ndarray (n, 2)
        NaN for stars beyond the frame, and without a centre in reach.
    """
    x, y = np.ascontiguousarray(positions.T)
    height, width = pixels.shape
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    centres = np.full(positions.shape, np.nan)
    if inside.any():
        found_x, found_y, flag = sep.winpos(pixels, x[inside], y[inside], fwhm / FWHM_PER_SIGMA)
        moved = np.column_stack([found_x, found_y])
        away = np.hypot(*(moved - positions[inside]).T)
        near = (flag == 0) & (away > 0) & (away <= reach)  # without a star sep gives the position back
        centres[inside] = np.where(near[:, None], moved, np.nan)
    return centres


def recentre(
    pixels: np.ndarray, positions: np.ndarray, good: np.ndarray, fwhm: float, reach: float
) -> np.ndarray | None:
    """Correct predicted positions of all stars by the centres of the good ones, through one transformation.

    No star's own noise, or defect, moves its aperture.

    Parameters
    ----------
    pixels, positions, fwhm, reach
        As for `centroids`; brightest stars first.
    good : ndarray (n,) of bool
        Bright stars outside of masked areas.

    Returns
    -------
    ndarray (n, 2) or None
        ``positions`` where fewer than three good stars lie in the frame. None where the centres of fewer than
        a third of them agree with the transformation within half the FWHM: the stars are elsewhere.
    """
    inside = ((positions >= 0) & (positions <= (pixels.shape[1] - 1, pixels.shape[0] - 1))).all(axis=1)
    chosen = np.flatnonzero(good & inside)[:MAX_CENTROIDS]
    if len(chosen) < MIN_STARS:
        return positions
    centres = centroids(pixels, positions[chosen], fwhm, reach)
    known = np.isfinite(centres[:, 0])
    if known.sum() < MIN_STARS:
        return None
    affine = fit_affine(positions[chosen][known], centres[known])
    off = np.hypot(*(apply_affine(affine, positions[chosen][known]) - centres[known]).T)
    if (off <= fwhm / 2).sum() < max(MIN_STARS, FOUND * len(chosen)):
        return None
    return apply_affine(affine, positions)
