"""Detections and difference-image candidates that are no sources, with and without a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aqdask.photometry.apertures import extract, pairs_within, subtract_sky, touched
from aqdask.photometry.difference import difference_image
from aqdask.simulate.camera import flat_field
from aqdask.simulate.scene import SceneSpec
from aqdask.simulate.sources import render_stars

THRESHOLD = 5.0  # sigma
MATCH = 2.0  # px between a detection and the source that it is
NOWHERE = np.empty((0, 2))


@dataclass(frozen=True)
class Detections:
    """What was found in a frame, or between two, and what a mask leaves of it.

    Parameters
    ----------
    known : int
        True sources in the frame, bright enough to be found or not.
    real, real_kept : int
        True sources with a detection, and with one that the mask leaves.
    spurious, spurious_kept : int
        Detections without a true source, and those of them that the mask leaves.
    """

    known: int = 0
    real: int = 0
    spurious: int = 0
    real_kept: int = 0
    spurious_kept: int = 0

    @property
    def real_lost(self) -> int:
        """True sources that were found and that the mask takes."""
        return self.real - self.real_kept

    @property
    def spurious_removed(self) -> int:
        """Spurious detections that the mask takes."""
        return self.spurious - self.spurious_kept

    def plus(self, other: Detections) -> Detections:
        """The counts of both, as over several frames."""
        return Detections(
            self.known + other.known, self.real + other.real, self.spurious + other.spurious,
            self.real_kept + other.real_kept, self.spurious_kept + other.spurious_kept,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Found:
    """What was found, before any mask.

    Parameters
    ----------
    places : ndarray (n, 2)
        x, y of what was found, pixels.
    known : ndarray (m, 2)
        x, y of the true sources in the frame, pixels.
    match : float
        Largest distance between the two, pixels.
    """

    places: np.ndarray
    known: np.ndarray
    match: float = MATCH

    def behind(self, *masks: np.ndarray | None, radius: float = 0.0) -> Detections:
        """Counts, with what is left where none of the masks (bool ``(y, x)``, True = bad) has a pixel
        within ``radius`` of the centre."""
        keep = np.ones(len(self.places), dtype=bool)
        for mask in masks:
            keep &= ~touched(mask, self.places, radius)
        return _count(self.places, self.known, keep, self.match)


def detections(
    image: np.ndarray,
    sources: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    invalid: np.ndarray | None = None,
    radius: float = 0.0,
    match: float = MATCH,
    threshold: float = THRESHOLD,
) -> Detections:
    """Detections at 5 sigma of the local sky (sep, matched filter, 5 px), compared with what is there.

    The mask acts on what was found: the sky and the deblending are those of the whole frame. Given as
    ``invalid`` as well, it is kept out of both; see `aperture_photometry.photometric_scatter`.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts of any real type.
    sources : ndarray (n, 2 or more)
        x, y in pixels of all true sources; further columns are ignored. Galaxies that are not among them
        count as spurious, as do pieces into which sep breaks a saturated star: a good frame of the same
        scene gives the number to compare with.
    mask : ndarray (y, x) of bool, optional
        True = bad: a detection is dropped where a masked pixel lies within ``radius`` of its centre.
    invalid : ndarray (y, x) of bool, optional
        Pixels that are not data, in which nothing is looked for.
    radius : float
        Pixels; 0: the pixel of the centre alone.
    match : float
        Largest distance to a true source, pixels.
    threshold : float
        Sigma.

    Returns
    -------
    Detections
        Nothing found where the frame has no measurable sky.
    """
    found = find_detections(image, sources, invalid=invalid, match=match, threshold=threshold)
    return found.behind(mask, radius=radius)


def find_detections(
    image: np.ndarray,
    sources: np.ndarray,
    *,
    invalid: np.ndarray | None = None,
    match: float = MATCH,
    threshold: float = THRESHOLD,
) -> Found:
    """What `detections` counts, found once for any number of masks."""
    known = _positions(sources, np.shape(image))
    frame = subtract_sky(image, invalid)
    if frame is None:
        return Found(NOWHERE, known, match)
    return Found(extract(frame.pixels, threshold, frame.rms, frame.invalid), known, match)


def difference_candidates(
    first: np.ndarray,
    second: np.ndarray,
    stars: np.ndarray,
    transients: np.ndarray,
    mask_first: np.ndarray | None = None,
    mask_second: np.ndarray | None = None,
    *,
    gain: float,
    saturation: float = math.inf,
    invalid: np.ndarray | None = None,
    radius: float = 0.0,
    match: float = MATCH,
    threshold: float = THRESHOLD,
) -> Detections:
    """Candidates at 5 sigma between two registered epochs, brighter or fainter, and which are true.

    The method of subtraction is that of `aqdask.photometry.difference.difference_image`. What reaches
    ``saturation`` in either epoch is not looked at, as in every survey.

    Parameters
    ----------
    first, second : ndarray (y, x)
        Counts (ADU) on the same pixels of the sky.
    stars : ndarray (n, 3)
        x, y in pixels and flux of constant stars, to which the PSF is matched.
    transients : ndarray (m, 2 or more)
        x, y of what did change; see `add_sources`.
    mask_first, mask_second : ndarray (y, x) of bool, optional
        True = bad: a candidate is dropped where either mask has a pixel within ``radius`` of its centre.
    gain, saturation, invalid
        As for `difference_image`.
    radius, match, threshold
        As for `detections`.
    """
    found = find_candidates(
        first, second, stars, transients, gain=gain, saturation=saturation, invalid=invalid, match=match,
        threshold=threshold,
    )  # fmt: skip
    return found.behind(mask_first, mask_second, radius=radius)


def find_candidates(
    first: np.ndarray,
    second: np.ndarray,
    stars: np.ndarray,
    transients: np.ndarray,
    *,
    gain: float,
    saturation: float = math.inf,
    invalid: np.ndarray | None = None,
    match: float = MATCH,
    threshold: float = THRESHOLD,
) -> Found:
    """What `difference_candidates` counts, found once for any number of masks."""
    known = _positions(transients, np.shape(first))
    result = difference_image(first, second, stars, gain=gain, saturation=saturation, invalid=invalid)
    if result is None:
        return Found(NOWHERE, known, match)
    bad = result.invalid | (np.asarray(first) >= saturation) | (np.asarray(second) >= saturation)
    signs = (result.significance, -result.significance)
    places = np.concatenate([extract(image, threshold, invalid=bad, smooth=False) for image in signs])
    return Found(places, known, match)


def add_sources(image: np.ndarray, sources: np.ndarray, spec: SceneSpec, seed: int) -> np.ndarray:
    """A simulated frame with more stars in it: its type, ``(y, x)``.

    Parameters
    ----------
    image : ndarray (y, x)
        ADU, of scene ``spec``.
    sources : ndarray (n, 3)
        x, y in pixels and flux in electrons before vignetting.
    spec : SceneSpec
        Gives PSF, flat, gain and saturation.
    seed : int
        Of their photon noise.
    """
    electrons = render_stars(spec, np.asarray(sources, dtype=np.float64).reshape(-1, 3)) * flat_field(spec)
    photons = np.random.default_rng(seed).poisson(np.maximum(electrons, 0))
    counts = image + np.rint(photons / spec.gain)
    return np.minimum(counts, spec.saturation).astype(image.dtype)


def _positions(sources: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x, y of the sources that lie in the frame, float64 ``(n, 2)``."""
    listed = np.asarray(sources, dtype=np.float64)
    known = listed[:, :2] if listed.size else np.zeros((0, 2))
    inside = (known >= -0.5).all(axis=1) & (known[:, 0] < shape[1] - 0.5) & (known[:, 1] < shape[0] - 0.5)
    return known[inside]


def _count(found: np.ndarray, known: np.ndarray, keep: np.ndarray, match: float) -> Detections:
    """Counts of what was found at x, y ``(n, 2)``; ``keep`` is bool ``(n,)``, True = the mask leaves it."""
    one, two, distance = pairs_within(found, known, match)
    order = np.argsort(distance, kind="stable")
    detected, first = np.unique(one[order], return_index=True)
    source = two[order][first]
    spurious = np.ones(len(found), dtype=bool)
    spurious[detected] = False
    return Detections(
        known=len(known), real=len(np.unique(source)), spurious=int(spurious.sum()),
        real_kept=len(np.unique(source[keep[detected]])), spurious_kept=int((spurious & keep).sum()),
    )  # fmt: skip
