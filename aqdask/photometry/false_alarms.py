"""Spurious detections and difference-image candidates, counted with and without a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from aqdask.photometry.apertures import aperture_masked
from aqdask.photometry.difference import difference_image
from aqdask.photometry.sky_subtraction import extract_sources, subtract_sky

THRESHOLD = 5.0  # sigma
MATCH = 2.0  # px, largest distance between a detection and its source
NO_POSITIONS = np.empty((0, 2))


@dataclass(frozen=True)
class DetectionCounts:
    """Numbers of real and spurious detections, before and after a mask.

    Parameters
    ----------
    known : int
        True sources in the frame, detectable or not.
    real, real_kept : int
        True sources with a detection, and with a detection that the mask keeps.
    spurious, spurious_kept : int
        Detections without a true source, and those of them that the mask keeps.
    """

    known: int = 0
    real: int = 0
    spurious: int = 0
    real_kept: int = 0
    spurious_kept: int = 0

    @property
    def real_lost(self) -> int:
        """Detected true sources that the mask removes."""
        return self.real - self.real_kept

    @property
    def spurious_removed(self) -> int:
        """Spurious detections that the mask removes."""
        return self.spurious - self.spurious_kept

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        """Sum over frames."""
        return DetectionCounts(
            self.known + other.known, self.real + other.real, self.spurious + other.spurious,
            self.real_kept + other.real_kept, self.spurious_kept + other.spurious_kept,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DetectionList:
    """Detections of one frame and the true sources in the frame, for counts with any number of masks.

    Parameters
    ----------
    detected : ndarray (n, 2)
        x, y of the detections, pixels.
    known : ndarray (m, 2)
        x, y of the true sources in the frame, pixels.
    match : float
        Largest distance between a detection and its source, pixels.
    """

    detected: np.ndarray
    known: np.ndarray
    match: float = MATCH

    def counts(self, *masks: np.ndarray | None, radius: float = 0.0) -> DetectionCounts:
        """Count detections; each one is real if the nearest true source is within ``match``.

        Parameters
        ----------
        *masks : ndarray (y, x) of bool, or None
            True = bad. A detection is removed if any mask has a pixel within ``radius`` of its centre.
        radius : float
            Pixels; 0 tests the pixel of the centre alone.
        """
        kept = np.ones(len(self.detected), dtype=bool)
        for mask in masks:
            kept &= ~aperture_masked(mask, self.detected, radius)
        distance, source = KDTree(self.known).query(self.detected)
        real = distance <= self.match
        return DetectionCounts(
            known=len(self.known), real=len(np.unique(source[real])), spurious=int((~real).sum()),
            real_kept=len(np.unique(source[real & kept])), spurious_kept=int((~real & kept).sum()),
        )  # fmt: skip


def count_detections(
    image: np.ndarray,
    sources: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    invalid: np.ndarray | None = None,
    radius: float = 0.0,
    match: float = MATCH,
    threshold: float = THRESHOLD,
) -> DetectionCounts:
    """Detect sources at 5 sigma of the local sky and count the real and the spurious ones.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts of any real type.
    sources : ndarray (n, 2 or more)
        x, y in pixels of all true sources; further columns are ignored. Unlisted galaxies count as spurious,
        and so do pieces into which sep breaks a saturated star: compare with a good frame of the same scene.
    mask : ndarray (y, x) of bool, optional
        True = bad: a detection is removed if a masked pixel lies within ``radius`` of its centre.
    invalid : ndarray (y, x) of bool, optional
        Pixels without data, where nothing is detected.
    radius : float
        Pixels; 0 tests the pixel of the centre alone.
    match : float
        Largest distance to a true source, pixels.
    threshold : float
        Sigma.

    Returns
    -------
    DetectionCounts
        Without any detection for a frame without measurable sky.

    Notes
    -----
    The mask acts on the detections; sky and deblending are those of the whole frame. With the mask also in
    ``invalid`` it acts on both; see `aqdask.photometry.aperture_photometry.photometric_scatter`.
    """
    found = find_detections(image, sources, invalid=invalid, match=match, threshold=threshold)
    return found.counts(mask, radius=radius)


def find_detections(
    image: np.ndarray,
    sources: np.ndarray,
    *,
    invalid: np.ndarray | None = None,
    match: float = MATCH,
    threshold: float = THRESHOLD,
) -> DetectionList:
    """Detect sources once for counts with any number of masks; parameters as for `count_detections`."""
    known = _positions(sources, np.shape(image))
    frame = subtract_sky(image, invalid)
    if frame is None:
        return DetectionList(NO_POSITIONS, known, match)
    return DetectionList(extract_sources(frame.pixels, threshold, frame.rms, frame.invalid), known, match)


def count_candidates(
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
) -> DetectionCounts:
    """Count real and spurious candidates at 5 sigma, brighter or fainter, between two registered epochs.

    The difference image is that of `aqdask.photometry.difference.difference_image`. Pixels that reach
    ``saturation`` in either epoch give no candidates, as in surveys.

    Parameters
    ----------
    first, second : ndarray (y, x)
        Counts (ADU) on the same pixels of the sky.
    stars : ndarray (n, 3)
        x, y in pixels and flux of constant stars, for the match of the PSF.
    transients : ndarray (m, 2 or more)
        x, y of the true changes, pixels; see `aqdask.simulate.frame.add_stars`.
    mask_first, mask_second : ndarray (y, x) of bool, optional
        True = bad: a candidate is removed if either mask has a pixel within ``radius`` of its centre.
    gain, saturation, invalid
        As for `difference_image`.
    radius, match, threshold
        As for `count_detections`.
    """
    found = find_candidates(
        first, second, stars, transients, gain=gain, saturation=saturation, invalid=invalid, match=match,
        threshold=threshold,
    )  # fmt: skip
    return found.counts(mask_first, mask_second, radius=radius)


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
) -> DetectionList:
    """Find candidates once for counts with any number of masks; parameters as for `count_candidates`."""
    known = _positions(transients, np.shape(first))
    result = difference_image(first, second, stars, gain=gain, saturation=saturation, invalid=invalid)
    if result is None:
        return DetectionList(NO_POSITIONS, known, match)
    bad = result.invalid | (np.asarray(first) >= saturation) | (np.asarray(second) >= saturation)
    return DetectionList(result.candidates(bad, threshold)[:, :2], known, match)


def _positions(sources: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x, y of the sources in the frame, float64 ``(n, 2)``."""
    listed = np.asarray(sources, dtype=np.float64)
    known = listed[:, :2] if listed.size else NO_POSITIONS
    inside = (known >= -0.5).all(axis=1) & (known[:, 0] < shape[1] - 0.5) & (known[:, 1] < shape[0] - 0.5)
    return known[inside]
