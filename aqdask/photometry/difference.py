"""Difference image of two epochs of one field, with matched PSF and scale, in units of its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from aqdask.photometry.sky_subtraction import SkySubtracted, extract_sources, subtract_sky
from aqdask.references.image_statistics import measure
from aqdask.stats.robust import mad_sigma

KERNEL = 4  # px either side: a kernel of 9 x 9
STAMP = 8  # px either side of a star
MAX_STARS = 150  # the brightest; more add time and no precision
MIN_STARS = 3  # with fewer the epochs are subtracted without a kernel
REJECTION = 5.0  # robust sigma of a star's misfit above the median: variable, or hit by a defect
FALLBACK_FWHM = 2.5  # px, where no star can be measured
FWHM_PER_SIGMA = 2.3548


@dataclass(frozen=True, eq=False)
class Difference:
    """Second epoch minus first.

    Parameters
    ----------
    significance : ndarray (y, x)
        float32, difference in units of its own noise, smoothed to the PSF; robust standard deviation 1.
    invalid : ndarray (y, x)
        bool, True = no data in one of the epochs within reach of the kernel.
    scale : float
        Sum of the kernel: counts of the broader epoch per count of the sharper one.
    convolved : str
        'first' or 'second', the sharper epoch.
    counts, noise : ndarray (y, x)
        float32, the difference before smoothing and its standard deviation, in counts of the second epoch.
    fwhm : float
        Of the stars of the broader epoch, pixels.
    stars : int
        Stars of the fit; with fewer than `MIN_STARS` the epochs are subtracted as they are.
    """

    significance: np.ndarray
    invalid: np.ndarray
    scale: float
    convolved: str
    counts: np.ndarray
    noise: np.ndarray
    fwhm: float
    stars: int

    def candidates(self, bad: np.ndarray, threshold: float) -> np.ndarray:
        """Extract what has changed: x, y, peak significance (above 0) and sign, float64 ``(n, 4)``.

        Parameters
        ----------
        bad : ndarray (y, x) of bool
            Pixels that give no candidates.
        threshold : float
            Sigma, of at least 5 px.
        """
        found = []
        for sign in (1, -1):
            image = sign * self.significance
            places = extract_sources(image, threshold, invalid=bad, smooth=False)
            x, y = np.rint(places).astype(np.int64).T
            around = [(y + dy).clip(0, len(image) - 1) for dy in (-1, 0, 1)]
            beside = [(x + dx).clip(0, image.shape[1] - 1) for dx in (-1, 0, 1)]
            peak = np.max([image[row, column] for row in around for column in beside], axis=0, initial=0)
            found.append(np.column_stack([places, peak, np.full(len(places), sign)]))
        return np.concatenate(found)


def difference_image(
    first: np.ndarray,
    second: np.ndarray,
    stars: np.ndarray,
    *,
    gain: float,
    saturation: float = math.inf,
    invalid: np.ndarray | None = None,
) -> Difference | None:
    """Subtract two registered epochs of one field.

    The sky of each is subtracted (sep, mesh of 64 px). The sharper epoch, by the FWHM of its stars, is
    convolved with a kernel of 9 x 9 free pixels that maps its stars to those of the other by weighted least
    squares (Bramich 2008, MNRAS 386, L77). One kernel for the whole frame matches PSF, scale and a shift of
    a few pixels. Stars that fit far worse than the others are rejected before a second fit. The noise of a
    pixel is that of both skies and of the light of both epochs, propagated through the kernel. The ratio is
    smoothed with a Gaussian of the broader FWHM and scaled to a robust standard deviation of 1.

    Parameters
    ----------
    first, second : ndarray (y, x)
        Counts (ADU) on the same pixels of the sky.
    stars : ndarray (n, 3)
        x, y in pixels and flux of the stars for the fit of the kernel.
    gain : float
        Electrons per count of both epochs.
    saturation : float
        Counts; stars that reach it in either epoch are not fitted.
    invalid : ndarray (y, x) of bool, optional
        Pixels without data in either epoch.

    Returns
    -------
    Difference or None
        None if one of the epochs has no measurable sky.

    Raises
    ------
    ValueError
        For epochs of different shapes.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"epochs of shapes {np.shape(first)} and {np.shape(second)}")
    one, two = subtract_sky(first, invalid), subtract_sky(second, invalid)
    if one is None or two is None:
        return None
    bad = one.invalid | two.invalid
    full = (np.asarray(first) >= saturation) | (np.asarray(second) >= saturation)
    widths = measure(first, bad).fwhm, measure(second, bad).fwhm
    swap = widths[0] > widths[1]  # False where one is NaN
    sharp, broad = (two, one) if swap else (one, two)
    fitted = _fit_stars(stars, bad | full)
    kernel = match_kernel(sharp, broad, fitted, gain)
    difference = broad.pixels - _convolve(sharp.pixels, kernel)
    noise = np.sqrt(_variance(broad, gain) + _convolve(_variance(sharp, gain), kernel**2))
    difference = -difference if swap else difference
    bad = ndimage.maximum_filter(bad, 2 * KERNEL + 1, mode="constant")
    fwhm, scale = float(np.nanmax([*widths, 0]) or FALLBACK_FWHM), float(kernel.sum())
    ratio = _standardised(difference / noise, bad, fwhm / FWHM_PER_SIGMA)
    if swap and scale > 0:
        difference, noise = difference / np.float32(scale), noise / np.float32(scale)
    convolved = "second" if swap else "first"
    return Difference(ratio, bad, scale, convolved, difference, noise, fwhm, len(fitted))


def _standardised(ratio: np.ndarray, bad: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth an image with a Gaussian of ``sigma`` px and scale it to median 0 and robust sigma 1."""
    ratio[bad] = 0
    ratio = ndimage.gaussian_filter(ratio, sigma, mode="constant", radius=math.ceil(3 * sigma))
    if bad.all():
        return ratio
    median = np.median(ratio[~bad])
    return (ratio - median) / np.float32(mad_sigma(ratio[~bad], median) or 1)


def match_kernel(sharp: SkySubtracted, broad: SkySubtracted, stars: np.ndarray, gain: float) -> np.ndarray:
    """Fit the kernel that maps the stars of ``sharp`` to those of ``broad``.

    Parameters
    ----------
    sharp, broad : SkySubtracted
        Registered epochs.
    stars : ndarray (n, 2)
        int64, pixels x, y; the stamps around them lie in the frame.
    gain : float
        Electrons per count.

    Returns
    -------
    ndarray (9, 9)
        float32; the identity for fewer than `MIN_STARS` stars.
    """
    side = 2 * KERNEL + 1
    if len(stars) < MIN_STARS:
        identity = np.zeros((side, side), np.float32)
        identity[KERNEL, KERNEL] = 1
        return identity
    reach = STAMP + KERNEL
    inside = slice(KERNEL, KERNEL + 2 * STAMP + 1)
    designs, targets = [], []
    for x, y in stars:
        window = slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1)
        source, target, rms = sharp.pixels[window], broad.pixels[window], broad.rms[window]
        light = np.maximum(target, 0)[inside, inside] / gain
        weight = 1 / np.sqrt(2 * rms[inside, inside] ** 2 + 2 * light)
        shifted = np.lib.stride_tricks.sliding_window_view(source, (side, side))[..., ::-1, ::-1]
        designs.append(shifted.reshape(-1, side * side) * weight.reshape(-1, 1))
        targets.append((target[inside, inside] * weight).ravel())
    design, wanted = np.array(designs, dtype=np.float64), np.array(targets, dtype=np.float64)
    kernel = _least_squares(design, wanted)
    misfit = np.log(np.mean((wanted - design @ kernel) ** 2, axis=1))
    median = np.median(misfit)
    good = misfit - median <= REJECTION * mad_sigma(misfit, median)
    kernel = _least_squares(design[good], wanted[good])
    return kernel.reshape(side, side).astype(np.float32)


def _fit_stars(stars: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Pixels of the brightest stars whose stamps lie in the frame and hold no bad pixel: int64 ``(n, 2)``."""
    catalogue = np.asarray(stars, dtype=np.float64).reshape(-1, 3)
    reach = STAMP + KERNEL
    height, width = bad.shape
    pixels = np.rint(catalogue[np.argsort(catalogue[:, 2])[::-1], :2]).astype(np.int64)
    inside = (pixels >= reach).all(axis=1) & (pixels[:, 0] < width - reach) & (pixels[:, 1] < height - reach)
    chosen: list[np.ndarray] = []
    for x, y in pixels[inside]:
        if len(chosen) == MAX_STARS:
            break
        if not bad[y - reach : y + reach + 1, x - reach : x + reach + 1].any():
            chosen.append(np.array([x, y]))
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def _least_squares(design: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(design.reshape(-1, design.shape[-1]), wanted.ravel(), rcond=1e-6)[0]


def _variance(frame: SkySubtracted, gain: float) -> np.ndarray:
    """Variance of each pixel from sky and light, float32 counts squared."""
    return frame.rms**2 + np.maximum(frame.pixels, 0) / np.float32(gain)


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve with a small odd kernel, float32 ``(y, x)``; pixels beyond the edge are 0."""
    return ndimage.convolve(image, kernel, mode="constant")
