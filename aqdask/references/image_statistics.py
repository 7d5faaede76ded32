"""Statistics of whole frames, measured with sep: sky background, noise, number and shape of stars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep

from aqdask.references.detector_lines import NO_LINES, FrameLines, measure_lines

DETECTION = 5.0  # sigma of the sky
MESH = 32  # px; side of the background meshes for the structure of the sky
MINIMUM_AREA = 5  # pixels above it, after sep's 3 x 3 filter
# That filter leaves 0.25 of the peak of a lone pixel, 0.4 of a star with a FWHM of 1.5 px and 0.55 of one
# with 2 px. Hot pixels and cosmic rays are half of all detections in a raw frame of a warm camera.
MIN_FILTERED_PEAK = 0.35
SHAPE_SIGNAL = 20.0  # sigma at the peak: the shapes of fainter stars show noise rather than focus
# Tracks of cosmic rays are long, and across hardly wider than a pixel (0.66 to 0.77 px in simulated darks);
# stars of FWHM 2.2 px have a semi-minor axis of 1 px also where they are trailed.
TRACK_WIDTH = 0.9  # px; semi-minor axis at most
TRACK_ELLIPTICITY = 0.35  # at least
SHAPE_STARS = 2000  # brightest stars, enough for a median
MINIMUM_STARS = 3  # fewer give no FWHM
# Half-light diameter / FWHM of a Moffat profile of beta 3.5 (1.00 for a Gaussian, 1.48 for beta 2.5). The
# half-light diameter is more robust than second moments, which the threshold truncates out of focus.
HALF_LIGHT_PER_FWHM = 1.21
SATURATED_FRACTION = 0.95  # of the brightest valid value, if several pixels share that value
MAX_PIXSTACK = 30_000_000


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of one frame; NaN where unmeasurable.

    Parameters
    ----------
    background, rms : float
        Level and noise of the sky, in the unit of the pixels.
    sources : int
        Number of detections at 5 sigma that are wider than a hot pixel.
    fwhm : float
        Median of isolated, unsaturated stars, pixels: half-light diameter / 1.21 (Moffat, beta 3.5). NaN
        where most of these detections are tracks of cosmic rays.
    ellipticity : float
        Median of 1 - b/a of the same stars.
    structure : float
        Unevenness of the sky in units of ``rms``: standard deviation of the background meshes (32 px) about
        a fitted surface ``a + b x**2 + c y**2``. The fit removes centred vignetting and leaves gradients,
        clouds and ghosts, to which the medians above are blind.
    lines : FrameLines
        Columns, rows and the strongest streak; none where they are not asked for.
    """

    background: float = math.nan
    rms: float = math.nan
    sources: int = 0
    fwhm: float = math.nan
    ellipticity: float = math.nan
    structure: float = math.nan
    lines: FrameLines = NO_LINES


def measure(image: np.ndarray, invalid: np.ndarray | None = None, *, lines: bool = False) -> ImageStatistics:
    """Measure the statistics of one frame.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts, of any real type and byte order.
    invalid : ndarray (y, x) of bool, optional
        True for pixels without data; pixels that are not finite are added.
    lines : bool
        Measure lines too.

    Returns
    -------
    ImageStatistics
        NaN for an empty, constant or mostly invalid frame.
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
    known = measure_lines(pixels, bad, rms) if lines else NO_LINES
    found = _extract(pixels, bad, rms)
    if found is None:
        return ImageStatistics(level, rms, structure=structure, lines=known)
    stars = found[found["cpeak"] > MIN_FILTERED_PEAK * found["peak"]]
    fwhm, ellipticity = _shapes(pixels, bad, stars, SHAPE_SIGNAL * rms, limit)
    return ImageStatistics(level, rms, len(stars), fwhm, ellipticity, structure, known)


def _structure(pixels: np.ndarray, bad: np.ndarray) -> float:
    """Return the standard deviation of the background meshes about an even quadratic surface, in counts.

    Computed without sep's median filter over 3 x 3 meshes, which would remove small structure.
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
    """Return the counts above which a peak may be saturated; infinite for an unsaturated frame.

    Saturated stars share the largest value in many pixels; an unsaturated frame has it in one.
    """
    top = float(pixels.max())
    return SATURATED_FRACTION * top if np.count_nonzero(pixels == top) > 3 else math.inf


def _extract(pixels: np.ndarray, bad: np.ndarray, rms: float) -> np.ndarray | None:
    """Return the detections of sep; None for a frame too crowded or structured for sep."""
    before = sep.get_extract_pixstack()
    try:
        while True:
            try:
                return sep.extract(pixels, DETECTION, err=rms, mask=bad, minarea=MINIMUM_AREA)
            except Exception as error:  # sep raises plain Exception for its buffer limits
                larger = 10 * sep.get_extract_pixstack()
                if "pixel buffer" not in str(error) or larger > MAX_PIXSTACK:
                    return None
                sep.set_extract_pixstack(larger)
    finally:
        sep.set_extract_pixstack(before)


def _shapes(
    pixels: np.ndarray, bad: np.ndarray, stars: np.ndarray, faintest: float, limit: float
) -> tuple[float, float]:
    """Return median FWHM and ellipticity of stars with peaks between ``faintest`` and ``limit``.

    NaN for fewer than `MINIMUM_STARS`, or where most detections are tracks.
    """
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
    tracks = (stars["b"] < TRACK_WIDTH) & (1 - stars["b"] / stars["a"] > TRACK_ELLIPTICITY)
    if tracks.mean() > 0.5:  # a dark
        return math.nan, math.nan
    half, flags = sep.flux_radius(pixels, stars["x"], stars["y"], radius, 0.5, mask=bad)
    fwhm = 2 * half / HALF_LIGHT_PER_FWHM
    real = (flags == 0) & (fwhm > 0.7)  # px; narrower than any optics can make it
    if np.count_nonzero(real) < MINIMUM_STARS:
        return math.nan, math.nan
    return float(np.median(fwhm[real])), float(np.median(1 - (stars["b"] / stars["a"])[real]))
