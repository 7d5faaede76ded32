"""Matching of the stars of two frames of one field.

Positions are 0-based pixels ``(x, y)``. Transformations are affine, float64 ``(2, 3)``:
``x', y' = A (x, y, 1)``.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from aqdask.errors import FrameError

CONTROL_POINTS = 40  # brightest stars whose triangles are compared
COINCIDENT = 3.0  # px, largest distance of stars that count as the same
MIN_STARS = 3
MIN_AFFINE = 10  # stars; with fewer, less than an affine transformation is fitted
ROUNDS = 5  # of a fit


def apply_affine(affine: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Transform positions x, y, float64 ``(n, 2)``."""
    return positions @ affine[:, :2].T + affine[:, 2]


def fit_affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit the transformation from ``source`` to ``target``, each ``(n, 2)`` with n above 0, robustly.

    Stars farther off than three times the median are left out of the next of `ROUNDS` least-squares fits.
    For fewer than ten stars it is a shift.
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


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit a shift, rotation and scale from ``source`` to ``target``, each ``(n, 2)``, by least squares."""
    start, end = (positions @ (1, 1j) for positions in (source, target))
    turn, shift = np.linalg.lstsq(np.column_stack([start, np.ones(len(start))]), end, rcond=None)[0]
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def coincident(positions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pair positions, ``(n, 2)``, with the nearest of others, ``(m, 2)``, where each is nearest to the other.

    Returns
    -------
    ndarray (k, 2)
        int, numbers of both, in the order of ``positions``; `COINCIDENT` apart at most. NaN has no partner.
    """
    if not len(positions) or not len(others):
        return np.empty((0, 2), int)
    finite = np.where(np.isfinite(positions), positions, -1e9)
    distance, there = KDTree(others).query(finite)
    back = KDTree(finite).query(others)[1]
    own = np.flatnonzero((distance <= COINCIDENT) & (back[there] == np.arange(len(positions))))
    return np.column_stack([own, there[own]])


def match_stars(source: np.ndarray, target: np.ndarray, least: float = MIN_STARS) -> np.ndarray:
    """Find the transformation from one frame of a field to another by their stars alone.

    Triangles of the 40 brightest stars are compared (astroalign, Beroiz, Cabral & Sanchez 2020, Astron.
    Comput. 32, 100384), for any shift, rotation and change of scale. An affine transformation, a similarity
    for fewer than ten stars, is then fitted to all stars that coincide within 3 px, on which astroalign's
    random draws have no influence.

    Parameters
    ----------
    source, target : ndarray (n, 2)
        x, y of the stars of either frame, brightest first.
    least : float
        Number of stars that have to coincide.

    Returns
    -------
    ndarray (2, 3)
        From ``source`` to ``target``.

    Raises
    ------
    FrameError
        For frames with too few common stars, and without astroalign.
    """
    try:
        import astroalign  # scikit-image takes a second, and most frames have a WCS
    except ImportError as error:
        raise FrameError(
            "without a WCS that agrees with its stars it is aligned by astroalign, which is not installed: "
            "pip install 'aqdask[align]'"
        ) from error
    counts = f"{len(source)} and {len(target)} of the two frames"
    if min(len(source), len(target)) < least:
        raise FrameError(f"too few stars to match: {counts}, at least {least:.0f} needed")
    different = FrameError(f"no common pattern of stars among {counts}: another field, or too few stars")
    try:
        with np.errstate(all="ignore"):  # of stars at the same place
            found, _ = astroalign.find_transform(source, target, max_control_points=CONTROL_POINTS)
    except (astroalign.MaxIterError, ValueError, TypeError, IndexError) as error:  # by the stars it is given
        raise different from error
    affine = np.asarray(found.params[:2])
    for _ in range(ROUNDS):
        pairs = coincident(apply_affine(affine, source), target)
        if len(pairs) < least:
            raise different
        fit = fit_affine if len(pairs) >= MIN_AFFINE else fit_similarity
        affine = fit(source[pairs[:, 0]], target[pairs[:, 1]])
    return affine
