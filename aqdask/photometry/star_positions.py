"""Positions of the stars of a reference frame in other frames of the field."""

from __future__ import annotations

import numpy as np
import sep

from aqdask.photometry.star_matching import MIN_STARS, apply_affine, fit_affine

MAX_CENTROIDS = 500  # brightest stars whose centres are measured
FOUND = 1 / 3  # of the bright stars have to be at their places
FWHM_PER_SIGMA = 2.3548


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
