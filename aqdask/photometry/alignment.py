"""Alignment of a frame with a reference: position and flux scale.

Positions are 0-based pixels ``(x, y)`` with integers at pixel centres; arrays are ``(y, x)``.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import sep

from aqdask.errors import FrameError
from aqdask.photometry.resampling import Transform
from aqdask.photometry.sky_subtraction import SkySubtracted, extract_sources
from aqdask.photometry.star_matching import apply_affine, coincident, match_stars
from aqdask.references.image_statistics import measure
from aqdask.text import plural

RADII = 4.0 * 2.0 ** (np.arange(7) / 2)  # px, apertures of the flux scale
APERTURE = (
    2.5  # FWHM of the broader frame, radius: 3 % of the light of a Moffat profile (beta 3.5) is outside
)
MAX_STARS = 400  # the brightest
MIN_STARS = 5  # in common with the reference
MIN_FRACTION = 0.2  # of the stars of the frame that has fewer
MAX_OFFSET = 1.0  # px, median distance; beyond it a WCS is wrong
SATURATED = 0.9  # of the largest value, where several pixels share it
NODES = 17  # along each axis, where transforms are checked
SAME_PIXELS = 0.01  # px: frames that are aligned as they are


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
        Median FWHM in pixels (`aqdask.references.image_statistics.measure`); NaN without stars.
    """

    xy: np.ndarray
    flux: np.ndarray
    fwhm: float


@dataclass(frozen=True)
class Alignment:
    """Transform from the pixels of one frame to those of another.

    Parameters
    ----------
    transform : callable
        Transforms x, y in pixels, ``(n, 2)``.
    method : str
        'wcs' or 'stars'.
    """

    transform: Transform
    method: str

    def is_identity(self, shape: tuple[int, int]) -> bool:
        """Return True if all pixels of a frame lie on those of the other, within 0.01 px."""
        nodes = nodes_of(shape)
        return bool(np.abs(self.transform(nodes) - nodes).max() < SAME_PIXELS)


@dataclass(frozen=True)
class ScaledAlignment(Alignment):
    """Alignment of a reference with a frame, and the flux scale between both.

    Parameters
    ----------
    scale : float
        Counts of the reference for a count of the frame.
    stars : int
        Stars in common.
    offset : float
        Median distance of these stars after the alignment, pixels.
    """

    scale: float
    stars: int
    offset: float


def nodes_of(shape: tuple[int, int]) -> np.ndarray:
    """Return x, y of `NODES` by `NODES` positions over a frame, float64 ``(n, 2)``."""
    y, x = np.meshgrid(*(np.linspace(0, length - 1, NODES) for length in shape), indexing="ij")
    return np.column_stack([x.ravel(), y.ravel()])


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
    first, flag = _above_local_sky(light.pixels, x, y, RADII[0], full | light.invalid)
    chosen = np.flatnonzero((flag == 0) & (first > 0))
    chosen = chosen[np.argsort(first[chosen])[::-1][:MAX_STARS]]
    x, y = x[chosen], y[chosen]
    flux = np.array([_above_local_sky(light.pixels, x, y, r, light.invalid)[0] for r in RADII])
    return Stars(xy[chosen], flux.T.reshape(-1, len(RADII)), measure(image, light.invalid).fwhm)


def _above_local_sky(
    pixels: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float, invalid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return counts in apertures above the mean of an annulus around each, and flags of sep.

    What a coarse mesh leaves of the sky would count as light of the stars.
    """
    annulus = (1.5 * radius, 2 * radius)
    return sep.sum_circle(pixels, x, y, radius, mask=invalid, bkgann=annulus, subpix=0)[::2]


def align(stars: Stars, reference: Stars, by_wcs: Transform | None = None) -> ScaledAlignment:
    """Align a reference with a frame by their stars.

    Parameters
    ----------
    stars, reference : Stars
        Stars of the frame and of the reference.
    by_wcs : callable, optional
        Positions in the reference to those in the frame by the WCS of both. Where the stars are not found
        there, or without it, they are matched, see `aqdask.photometry.star_matching.match_stars`.

    Raises
    ------
    FrameError
        If fewer than `MIN_STARS` stars are common to both.
    """
    least = max(MIN_STARS, MIN_FRACTION * min(len(stars.xy), len(reference.xy)))
    found, pairs, offset = align_stars(
        reference.xy, stars.xy, least, by_wcs, name="the reference", limit=MAX_OFFSET
    )
    scale = _scale(stars, reference, pairs[:, ::-1])
    return ScaledAlignment(found.transform, found.method, scale, len(pairs), offset)


def align_stars(
    source: np.ndarray,
    target: np.ndarray,
    least: float,
    by_wcs: Transform | None = None,
    *,
    name: str,
    limit: float = np.inf,
) -> tuple[Alignment, np.ndarray, float]:
    """Align positions of stars by a WCS where the stars agree with it, else by matching them.

    Parameters
    ----------
    source, target : ndarray (n, 2)
        x, y of the stars of either frame, the brightest first.
    least : float
        Number of stars that have to coincide.
    by_wcs : callable, optional
        Positions in the source to those in the target.
    name : str
        Name of the other frame in messages.
    limit : float
        Largest median distance of stars in common, pixels.

    Returns
    -------
    tuple of Alignment, ndarray (k, 2), float
        From source to target; numbers of the stars in common, in the order of ``source``; and their median
        distance.

    Raises
    ------
    FrameError
        For frames with too few common stars.
    """
    if by_wcs is not None:
        places = np.full(source.shape, np.nan)
        with contextlib.suppress(Exception):  # a WCS that does not converge is none
            places = by_wcs(source)
        pairs, offset = _pairs(places, target)
        if len(pairs) >= least and offset <= limit:
            return Alignment(by_wcs, "wcs"), pairs, offset
    try:
        affine = match_stars(source, target, least)
    except FrameError as error:
        raise FrameError(f"it could not be aligned with {name}: {error}") from error
    found = Alignment(partial(apply_affine, affine), "stars")
    pairs, offset = _pairs(found.transform(source), target)
    if offset > limit:
        raise FrameError(f"{plural(len(pairs), 'star')} in common with {name}, {offset:.1f} px off")
    return found, pairs, offset


def _pairs(places: np.ndarray, stars: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the numbers of places and stars in common, int ``(n, 2)``, and their median distance."""
    pairs = coincident(places, stars)
    away = np.hypot(*(stars[pairs[:, 1]] - places[pairs[:, 0]]).T)
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
