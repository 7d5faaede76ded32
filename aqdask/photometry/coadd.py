"""Coadds of aligned frames, and the depth that they reach."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import sep
from scipy import ndimage

from aqdask.photometry.apertures import aperture_masked
from aqdask.photometry.sky_subtraction import SkySubtracted, extract_sources, subtract_sky
from aqdask.stats.robust import mad_sigma

AMPLITUDE = 0.3  # of the median: stars of frames with another seeing are not clipped
MIN_CLIPPED = 3  # frames; of two neither is the outlier
APERTURES, MIN_APERTURES = 5000, 50
DETECTION = 3.0  # sigma of the smoothed image: no aperture on empty sky touches a source above it
ANNULUS = 3.0, 5.0  # FWHM, radii of the local sky
BRIGHT = 50.0  # sigma of a star that shows which fraction of its light an aperture holds
FWHM_PER_SIGMA = 2.3548
LIMIT = 5.0  # sigma of the depth


class Coadd(NamedTuple):
    """Combined pixels, ``(y, x)`` each.

    Parameters
    ----------
    mean : ndarray
        float32, counts of the reference; NaN where no frame has data.
    weight : ndarray
        float32, inverse variance of ``mean``; 0 without data.
    frames, clipped : ndarray
        int32, frames that were used, and those that were clipped.
    """

    mean: np.ndarray
    weight: np.ndarray
    frames: np.ndarray
    clipped: np.ndarray


def combine(values: np.ndarray, weights: np.ndarray, clip: float = 4.0, *, weighted: bool = True) -> Coadd:
    """Combine aligned frames by a clipped mean.

    A value is clipped if it is further from the median than ``clip`` times its standard deviation plus
    `AMPLITUDE` times the median (Gruen, Seitz & Bernstein 2014, PASP 126, 158).

    Parameters
    ----------
    values, weights : ndarray (frame, y, x)
        float32, counts and their inverse variance, 0 where a frame has no data.
    clip : float
        Standard deviations; 0 for no clipping.
    weighted : bool
        Weight by inverse variance; False for equal weights.
    """
    good = weights > 0
    clipped = np.zeros(values.shape[1:], np.int32)
    if clip > 0:
        count = good.sum(axis=0)
        ordered = np.sort(np.where(good, values, np.nan), axis=0)  # NaN last
        low, high = (
            np.take_along_axis(ordered, np.maximum(place, 0)[None], axis=0)[0]
            for place in ((count - 1) // 2, count // 2 - (count == 0))
        )
        median = (low + high) / 2
        sigma = np.divide(1, np.sqrt(weights), out=np.zeros_like(weights), where=good)
        far = np.abs(values - median) > clip * sigma + AMPLITUDE * np.abs(median)
        far &= good & (count >= MIN_CLIPPED)
        clipped, good = far.sum(axis=0, dtype=np.int32), good & ~far
    used = np.where(good, weights if weighted else np.float32(1), np.float32(0))
    total = used.sum(axis=0)
    some = total > 0
    mean = np.divide((used * values).sum(axis=0), total, out=np.full_like(total, np.nan), where=some)
    noise = np.divide(used**2, weights, out=np.zeros_like(used), where=good).sum(axis=0)
    weight = np.divide(total**2, noise, out=np.zeros_like(total), where=some)
    return Coadd(mean, weight, good.sum(axis=0, dtype=np.int32), clipped)


class Depth(NamedTuple):
    """Depth of an image.

    Parameters
    ----------
    limit : float
        Magnitude of a point source at 5 sigma, ``-2.5 log10`` of counts, from the robust scatter of the
        counts in apertures on empty sky and the fraction of a star's light in such an aperture.
    limit_rms : float
        The same from their standard deviation, to which rare residuals of trails and clouds contribute.
    noise : float
        Robust standard deviation of pixels on empty sky, counts.
    apertures : int
        Number of apertures.
    """

    limit: float
    limit_rms: float
    noise: float
    apertures: int


def occupied_sky(image: np.ndarray, fwhm: float) -> np.ndarray:
    """Mark pixels within 2 ``fwhm`` of a source above `DETECTION` sigma or of a pixel without data.

    Parameters
    ----------
    image : ndarray (y, x)
        float32, counts above the sky; NaN without data.
    fwhm : float
        Pixels, also of the Gaussian with which the image is smoothed for the detection.

    Returns
    -------
    ndarray (y, x)
        bool.
    """
    light = subtract_sky(image)
    if light is None:
        return np.ones(image.shape, bool)
    smooth = ndimage.gaussian_filter(light.pixels, fwhm / FWHM_PER_SIGMA)
    sources = smooth > DETECTION * mad_sigma(smooth[~light.invalid])
    side = 4 * math.ceil(fwhm) + 1
    return ndimage.binary_dilation(sources | light.invalid, np.ones((side, side), bool))


def depth(image: np.ndarray, occupied: np.ndarray, fwhm: float, seed: int = 0) -> Depth:
    """Measure the depth of an image without sky in apertures of radius ``fwhm`` on empty sky.

    The mean of an annulus of 3 to 5 ``fwhm`` is subtracted from each. Their scatter includes the correlated
    noise of resampled pixels and what is left of defects.

    Parameters
    ----------
    image : ndarray (y, x)
        float32, counts above the sky; NaN without data.
    occupied : ndarray (y, x)
        bool, pixels that no aperture may touch (`occupied_sky`, of the best of several images).
    fwhm : float
        Pixels.
    seed : int
        Seed of the positions.

    Returns
    -------
    Depth
        NaN for fewer than `MIN_APERTURES` free places, or without bright stars.
    """
    light = subtract_sky(image)
    if light is None or not math.isfinite(fwhm):
        return Depth(math.nan, math.nan, math.nan, 0)
    height, width = image.shape
    places = np.random.default_rng(seed).uniform((fwhm, fwhm), (width - fwhm, height - fwhm), (APERTURES, 2))
    free = places[~aperture_masked(occupied | light.invalid, places, fwhm)]
    if len(free) < MIN_APERTURES:
        return Depth(math.nan, math.nan, math.nan, len(free))
    pixels = np.where(light.invalid, np.float32(0), image).astype(np.float32)
    x, y = np.ascontiguousarray(free.T)
    annulus = ANNULUS[0] * fwhm, ANNULUS[1] * fwhm
    counts = sep.sum_circle(pixels, x, y, fwhm, mask=occupied | light.invalid, bkgann=annulus, subpix=5)[0]
    share = _share(light, fwhm)
    limit, limit_rms = (
        -2.5 * math.log10(LIMIT * one / share) if one > 0 and share > 0 else math.nan
        for one in (float(mad_sigma(counts)), float(np.std(counts)))
    )
    return Depth(limit, limit_rms, float(mad_sigma(pixels[~occupied & ~light.invalid])), len(free))


def _share(light: SkySubtracted, fwhm: float) -> float:
    """Return the fraction of the light of bright stars within ``fwhm`` of that within 3 ``fwhm``."""
    x, y = np.ascontiguousarray(extract_sources(light.pixels, 10.0, light.rms, light.invalid).T)
    (small, error, flag), (large, _, _) = (
        sep.sum_circle(light.pixels, x, y, radius, err=light.rms, mask=light.invalid, subpix=5)
        for radius in (fwhm, 3 * fwhm)
    )
    bright = (flag == 0) & (small > BRIGHT * error) & (large > 0)
    return float(np.median(small[bright] / large[bright])) if bright.any() else math.nan
