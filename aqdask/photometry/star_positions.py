"""Positions of the stars of a reference frame in other frames of the field."""

from __future__ import annotations

import numpy as np
import sep
from scipy.spatial import KDTree
from scipy.special import bdtrc

from aqdask.photometry.star_matching import COINCIDENT, MIN_STARS, apply_affine, fit_affine

MAX_CENTROIDS = 500  # brightest stars whose centres are measured
FOUND = 1 / 3  # of the bright stars have to be at their places
FWHM_PER_SIGMA = 2.3548
SHIFT_REACH = 50.0  # px, largest common shift that is looked for
SHIFT_STARS = 2000  # the brightest, among which it is looked for
BY_CHANCE = 1e-3  # probability of a common shift


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


def common_shift(
    positions: np.ndarray, stars: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, int] | None:
    """Find the shift from positions to stars on which more of them agree than by chance.

    Parameters
    ----------
    positions, stars : ndarray (n, 2) and (m, 2)
        x, y in pixels; the brightest stars first.
    shape : tuple of int
        ``(y, x)`` of the frame.

    Returns
    -------
    tuple of ndarray (2,) and int, or None
        Median shift x, y, of at most 50 px, and the number of positions that have a star there within 3 px.
        None where random stars of this density agree as well with a probability above 0.001.
    """
    some = stars[:SHIFT_STARS]
    near = KDTree(some).query_ball_point(positions, SHIFT_REACH) if len(some) else []
    steps = [some[found] - position for found, position in zip(near, positions, strict=False) if found]
    if not steps:
        return None
    all_steps = np.concatenate(steps)
    votes = KDTree(all_steps).query_ball_point(all_steps, COINCIDENT, return_length=True)
    away = np.hypot(*(all_steps - all_steps[np.argmax(votes)]).T)
    shift = np.median(all_steps[away <= COINCIDENT], axis=0)
    agree = int(np.sum(KDTree(some).query(positions + shift)[0] <= COINCIDENT))
    chance = min(1.0, len(some) * np.pi * COINCIDENT**2 / (shape[0] * shape[1]))
    tries = (SHIFT_REACH / COINCIDENT) ** 2
    return (shift, agree) if tries * bdtrc(agree - 1, len(positions), chance) < BY_CHANCE else None
