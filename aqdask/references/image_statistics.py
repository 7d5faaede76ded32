"""What a frame looks like as a whole: sky, noise, stars and their size, measured with sep."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep

DETECTION = 5.0  # sigma of the sky
MESH = 32  # px; the mesh on which the structure of the sky is measured
MINIMUM_AREA = 5  # pixels above it, after sep's 3 x 3 filter
# That filter leaves 0.25 of the peak of a lone pixel, 0.4 of a star with a FWHM of 1.5 px and 0.55 of one
# with 2 px. Hot pixels and cosmic rays are half of all detections in a raw frame of a warm camera.
LEAST_FILTERED_PEAK = 0.35
SHAPE_SIGNAL = 20.0  # sigma at the peak: fainter stars say little about focus and much about noise
SHAPE_STARS = 2000  # the brightest of these are enough for a median
MINIMUM_STARS = 3  # fewer give no FWHM
# Half-light diameter / FWHM of a Moffat profile of beta 3.5 (a Gaussian has 1.00, beta 2.5 has 1.48): the
# half-light diameter is steadier than second moments, which a threshold cuts off when focus is poor.
HALF_LIGHT_PER_FWHM = 1.21
TOP_OF_RANGE = 0.95  # of the brightest valid pixel: counts as saturated where the brightest are flat
LARGEST_PIXSTACK = 30_000_000


@dataclass(frozen=True)
class ImageStatistics:
    """One frame as a whole; NaN where it cannot be measured.

    Parameters
    ----------
    background, rms : float
        Level and noise of the sky in the frame's own counts.
    sources : int
        Detections at 5 sigma that are wider than a hot pixel; 0 where nothing can be detected.
    fwhm : float
        Median over isolated, unsaturated stars in pixels: half-light diameter / 1.21 (Moffat, beta 3.5).
    ellipticity : float
        Median of 1 - b/a of the same stars.
    structure : float
        How uneven the sky is, in units of ``rms``: standard deviation of the background mesh (32 px) about
        a surface ``1, x**2, y**2``. That surface takes centred vignetting away and leaves gradients,
        clouds and ghosts, which the other medians do not see.
    """

    background: float = math.nan
    rms: float = math.nan
    sources: int = 0
    fwhm: float = math.nan
    ellipticity: float = math.nan
    structure: float = math.nan


def measure(image: np.ndarray, invalid: np.ndarray | None = None) -> ImageStatistics:
    """Measure one frame ``(y, x)`` of any real type and byte order.

    ``invalid`` is bool ``(y, x)``, True = no data; pixels that are not finite are added to it. An empty,
    constant or wholly invalid frame gives NaN, not an exception.
    """
    pixels = np.array(image, dtype=np.float32, order="C")
    bad = ~np.isfinite(pixels)
    if invalid is not None:
        bad |= invalid
    if bad.mean() > 0.9:
        return ImageStatistics()
    pixels[bad] = 0
    background = sep.Background(pixels, mask=bad)
    level, rms = float(background.globalback), float(background.globalrms)
    if not (math.isfinite(rms) and rms > 0):
        return ImageStatistics(background=level, rms=rms)
    structure = _structure(pixels, bad) / rms
    limit = _saturation(pixels) - level
    background.subfrom(pixels)
    found = _extract(pixels, bad, rms)
    if found is None:
        return ImageStatistics(level, rms, structure=structure)
    stars = found[found["cpeak"] > LEAST_FILTERED_PEAK * found["peak"]]
    fwhm, ellipticity = _shapes(pixels, bad, stars, SHAPE_SIGNAL * rms, limit)
    return ImageStatistics(level, rms, len(stars), fwhm, ellipticity, structure)


def _structure(pixels: np.ndarray, bad: np.ndarray) -> float:
    """Standard deviation of the background mesh about its even quadratic surface, in counts.

    Without sep's median filter over 3 x 3 meshes, which would take small structure away.
    """
    background = sep.Background(pixels, mask=bad, bw=MESH, bh=MESH, fw=1, fh=1).back()
    mesh = background[MESH // 2 :: MESH, MESH // 2 :: MESH].astype(float)
    if min(mesh.shape, default=0) < 3:
        return 0.0  # too small to have any
    y, x = (np.linspace(-1, 1, length) ** 2 for length in mesh.shape)
    terms = np.stack([np.ones(mesh.size), np.repeat(y, x.size), np.tile(x, y.size)], axis=1)
    fit = np.linalg.lstsq(terms, mesh.ravel(), rcond=None)[0]
    return float(np.std(mesh.ravel() - terms @ fit))


def _saturation(pixels: np.ndarray) -> float:
    """Counts from which a peak is not trusted: just below the top where several pixels share it, else none.

    A clipped star has many pixels at one value; the brightest pixel of an unclipped frame stands alone.
    """
    top = float(pixels.max())
    return TOP_OF_RANGE * top if np.count_nonzero(pixels == top) > 3 else math.inf


def _extract(pixels: np.ndarray, bad: np.ndarray, rms: float) -> np.ndarray | None:
    """Detections as sep gives them; None for a frame so crowded or structured that even sep gives up."""
    before = sep.get_extract_pixstack()
    try:
        while True:
            try:
                return sep.extract(pixels, DETECTION, err=rms, mask=bad, minarea=MINIMUM_AREA)
            except Exception as error:  # sep raises plain Exception for its buffer limits
                larger = 10 * sep.get_extract_pixstack()
                if "pixel buffer" not in str(error) or larger > LARGEST_PIXSTACK:
                    return None
                sep.set_extract_pixstack(larger)
    finally:
        sep.set_extract_pixstack(before)


def _shapes(
    pixels: np.ndarray, bad: np.ndarray, stars: np.ndarray, faintest: float, limit: float
) -> tuple[float, float]:
    """Median FWHM and ellipticity; ``pixels`` without sky, ``faintest`` and ``limit`` bound the peaks."""
    height, width = pixels.shape
    radius = 6 * stars["a"]
    whole = (stars["x"] > radius) & (stars["y"] > radius)
    whole &= (stars["x"] < width - 1 - radius) & (stars["y"] < height - 1 - radius)
    # flag 0: not blended, not cut off, no invalid pixel inside.
    chosen = (stars["flag"] == 0) & whole & (stars["peak"] > faintest) & (stars["peak"] < limit)
    chosen = np.flatnonzero(chosen & (stars["b"] > 0))
    chosen = chosen[np.argsort(stars["flux"][chosen])[::-1][:SHAPE_STARS]]
    if chosen.size < MINIMUM_STARS:
        return math.nan, math.nan
    stars, radius = stars[chosen], radius[chosen]
    half, flags = sep.flux_radius(pixels, stars["x"], stars["y"], radius, 0.5, mask=bad)
    fwhm = 2 * half / HALF_LIGHT_PER_FWHM
    real = (flags == 0) & (fwhm > 0.7)  # px; narrower than any optics can make it
    if np.count_nonzero(real) < MINIMUM_STARS:
        return math.nan, math.nan
    return float(np.median(fwhm[real])), float(np.median(1 - (stars["b"] / stars["a"])[real]))
