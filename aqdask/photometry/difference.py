"""The difference of two epochs of one field: sky subtracted, PSF and scale matched, in units of its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aqdask.photometry.apertures import Subtracted, subtract_sky
from aqdask.references.image_statistics import measure

KERNEL = 4  # px either side: a kernel of 9 x 9
STAMP = 8  # px either side of a star
STARS = 150  # the brightest of these fit the kernel
MINIMUM_STARS = 3  # fewer do not: the epochs are subtracted as they are
REJECTION = 5.0  # robust sigmas by which a star fits worse than others: variable, or touched by a defect
USUAL_FWHM = 2.5  # px, where no star can be measured


@dataclass(frozen=True, eq=False)
class Difference:
    """Second epoch minus first.

    Parameters
    ----------
    significance : ndarray (y, x)
        float32, difference in units of its own noise, smoothed to the PSF; standard deviation 1 (robust).
    invalid : ndarray (y, x)
        bool, True = no data in either epoch, or within reach of the kernel.
    scale : float
        Sum of the kernel: counts of the epoch that was not convolved for one of the other's.
    convolved : str
        'first' or 'second': the sharper one.
    """

    significance: np.ndarray
    invalid: np.ndarray
    scale: float
    convolved: str


def difference_image(
    first: np.ndarray,
    second: np.ndarray,
    stars: np.ndarray,
    *,
    gain: float,
    saturation: float = math.inf,
    invalid: np.ndarray | None = None,
) -> Difference | None:
    """Subtract two registered epochs; None where one of them has no measurable sky.

    Each loses its sky (sep, 64 px). The sharper one (FWHM of its stars) is convolved with the kernel of
    9 x 9 free pixels that turns its stars into those of the other by weighted least squares (Bramich 2008,
    MNRAS 386, L77): PSF, scale and a shift of a few pixels are matched at once, the same for the whole
    frame. Stars that fit far worse than the others are left out of a second fit. The noise of a pixel is
    that of both skies and of the light of both epochs through the kernel; the ratio is smoothed with a
    Gaussian of the broader FWHM, and scaled to a robust standard deviation of 1.

    Parameters
    ----------
    first, second : ndarray (y, x)
        Counts (ADU) on the same pixels of the sky.
    stars : ndarray (n, 3)
        x, y in pixels and flux: what the kernel is fitted to.
    gain : float
        Electrons per count, of both.
    saturation : float
        Counts; stars that reach it in either epoch are not fitted.
    invalid : ndarray (y, x) of bool, optional
        Pixels that are no data in either epoch.

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
    kernel = match_kernel(sharp, broad, _fitted(stars, bad | full), gain)
    difference = broad.pixels - convolve(sharp.pixels, kernel)
    variance = _variance(broad, gain) + convolve(_variance(sharp, gain), kernel**2)
    ratio = (-difference if swap else difference) / np.sqrt(variance)
    bad = _grown(bad)
    ratio[bad] = 0
    width = np.nanmax([*widths, 0]) or USUAL_FWHM
    ratio = convolve(ratio, _gaussian(width))
    median = np.median(ratio[~bad]) if not bad.all() else 0.0
    sigma = 1.4826 * np.median(np.abs(ratio[~bad] - median)) if not bad.all() else 0.0
    significance = (ratio - np.float32(median)) / np.float32(sigma or 1)
    return Difference(significance, bad, float(kernel.sum()), "second" if swap else "first")


def match_kernel(sharp: Subtracted, broad: Subtracted, stars: np.ndarray, gain: float) -> np.ndarray:
    """The kernel that turns the stars of ``sharp`` into those of ``broad``: float32 ``(9, 9)``.

    ``stars`` is int64 ``(n, 2)``, pixels x, y whose stamps lie in the frame; for fewer than `MINIMUM_STARS`
    the kernel changes nothing.
    """
    side = 2 * KERNEL + 1
    if len(stars) < MINIMUM_STARS:
        nothing = np.zeros((side, side), np.float32)
        nothing[KERNEL, KERNEL] = 1
        return nothing
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
    good = misfit - median <= REJECTION * 1.4826 * np.median(np.abs(misfit - median))
    kernel = _least_squares(design[good], wanted[good])
    return kernel.reshape(side, side).astype(np.float32)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution with a small odd kernel, float32 ``(y, x)``; beyond the edge there is nothing.

    A sum of shifted copies: exact, and quick enough for kernels of some ten pixels.
    """
    half = kernel.shape[0] // 2
    height, width = image.shape
    padded = np.pad(image, half)
    total = np.zeros(image.shape, np.float32)
    for (down, across), weight in np.ndenumerate(kernel[::-1, ::-1].astype(np.float32)):
        if weight:
            total += weight * padded[down : down + height, across : across + width]
    return total


def _fitted(stars: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Pixels of the brightest stars whose stamps lie in the frame and hold no bad pixel: int64 ``(n, 2)``."""
    known = np.asarray(stars, dtype=np.float64).reshape(-1, 3)
    reach = STAMP + KERNEL
    height, width = bad.shape
    pixels = np.rint(known[np.argsort(known[:, 2])[::-1], :2]).astype(np.int64)
    inside = (pixels >= reach).all(axis=1) & (pixels[:, 0] < width - reach) & (pixels[:, 1] < height - reach)
    chosen: list[np.ndarray] = []
    for x, y in pixels[inside]:
        if len(chosen) == STARS:
            break
        if not bad[y - reach : y + reach + 1, x - reach : x + reach + 1].any():
            chosen.append(np.array([x, y]))
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def _least_squares(design: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(design.reshape(-1, design.shape[-1]), wanted.ravel(), rcond=1e-6)[0]


def _variance(frame: Subtracted, gain: float) -> np.ndarray:
    """Variance of each pixel from sky and light, counts squared."""
    return frame.rms**2 + np.maximum(frame.pixels, 0) / np.float32(gain)


def _grown(bad: np.ndarray) -> np.ndarray:
    """Bad pixels and all that a kernel brings in touch with them."""
    if not bad.any():
        return bad
    return convolve(bad.astype(np.float32), np.ones((2 * KERNEL + 1,) * 2, np.float32)) > 0


def _gaussian(fwhm: float) -> np.ndarray:
    """A Gaussian of this FWHM in pixels, float32, sum 1, out to three sigma."""
    sigma = fwhm / 2.3548
    reach = np.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
    profile = np.exp(-0.5 * (reach / sigma) ** 2)
    return (np.outer(profile, profile) / profile.sum() ** 2).astype(np.float32)
