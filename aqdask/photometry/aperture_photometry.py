"""Aperture photometry, and its scatter against true magnitudes with and without a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep
from scipy.spatial import KDTree

from aqdask.photometry.apertures import aperture_masked
from aqdask.photometry.sky_subtraction import subtract_sky
from aqdask.stats.robust import mad_sigma

POGSON = 2.5 / math.log(10)  # magnitudes per relative error
MIN_SIGNAL_TO_NOISE = 20.0  # from the true flux
# An isolated star has no neighbour of more than this fraction of its flux within this many aperture radii.
# For a Moffat profile with beta = 3.5 and apertures of 1.7 FWHM, fainter neighbours change a magnitude by
# less than 0.01.
ISOLATION = ((2.0, 0.01), (5.0, 10.0))


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """Instrumental magnitudes of stars, each ``(n,)``.

    Parameters
    ----------
    mag : ndarray
        float64, ``-2.5 log10`` of the electrons in the aperture; NaN for a flux at or below 0.
    error : ndarray
        float64, standard deviation in magnitudes from the sky noise and the photon noise of the star.
    flag : ndarray
        int16, flags of sep: 0 = clean, ``sep.APER_TRUNC`` = truncated by the edge of the frame,
        ``sep.APER_HASMASKED`` = some pixels are invalid (replaced by the mean of the others),
        ``sep.APER_ALLMASKED`` = all pixels are invalid.
    """

    mag: np.ndarray
    error: np.ndarray
    flag: np.ndarray


@dataclass(frozen=True)
class Scatter:
    """Scatter of measured minus true magnitudes, for all stars and for the stars that a mask keeps.

    Deviations are from the median of each set, which holds the zero point and the aperture correction.

    Parameters
    ----------
    stars, kept : int
        Number of isolated, bright, unsaturated stars, and of those without a masked pixel in the aperture.
    rms_all, rms_kept : float
        Standard deviation about the median, magnitudes; NaN for fewer than two stars.
    robust_all, robust_kept : float
        1.4826 times the median absolute deviation, magnitudes.
    offset_all, offset_kept : float
        The medians, measured minus true, magnitudes.
    unmeasured_all, unmeasured_kept : int
        Stars without a positive flux, which count in ``stars`` and ``kept`` and in no other number.
    """

    stars: int
    kept: int
    rms_all: float
    rms_kept: float
    robust_all: float
    robust_kept: float
    offset_all: float
    offset_kept: float
    unmeasured_all: int
    unmeasured_kept: int

    @property
    def lost(self) -> float:
        """Fraction of the stars that the mask removes; NaN without stars."""
        return 1 - self.kept / self.stars if self.stars else math.nan


def aperture_magnitudes(
    image: np.ndarray,
    stars_xy: np.ndarray,
    radius: float,
    gain: float,
    invalid: np.ndarray | None = None,
    flat: np.ndarray | None = None,
) -> Magnitudes:
    """Instrumental magnitudes in circular apertures, above a sky on a mesh of 64 px.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts (ADU) of any real type.
    stars_xy : ndarray (n, 2)
        Positions in pixels; n may be 0.
    radius : float
        Aperture radius in pixels.
    gain : float
        Electrons per count.
    invalid : ndarray (y, x) of bool, optional
        Pixels without data.
    flat : ndarray (y, x), optional
        Transmission above 0; counts above the sky are divided by it.

    Returns
    -------
    Magnitudes
        NaN for stars outside the frame, and for a frame without measurable sky.
    """
    positions = np.asarray(stars_xy, dtype=np.float64).reshape(-1, 2)
    frame = subtract_sky(image, invalid) if len(positions) else None
    if frame is None:
        missing = np.full(len(positions), np.nan)
        return Magnitudes(missing, missing.copy(), np.full(len(positions), sep.APER_ALLMASKED, np.int16))
    light, rms = frame.pixels, frame.rms
    if flat is not None:
        light, rms = (np.ascontiguousarray(part / flat, dtype=np.float32) for part in (light, rms))
    x, y = np.ascontiguousarray(positions.T)
    flux, error, flag = sep.sum_circle(light, x, y, radius, err=rms, mask=frame.invalid, gain=gain, subpix=0)
    positive = np.isfinite(flux) & (flux > 0)
    electrons = np.where(positive, flux * gain, np.nan)
    return Magnitudes(-2.5 * np.log10(electrons), POGSON * error * gain / electrons, flag)


def photometric_scatter(
    image: np.ndarray,
    stars: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    radius: float,
    gain: float,
    sky_noise: float,
    invalid: np.ndarray | None = None,
    flat: np.ndarray | None = None,
    saturation: float = math.inf,
    min_signal_to_noise: float = MIN_SIGNAL_TO_NOISE,
) -> Scatter:
    """Measure the scatter of measured minus true magnitudes, without and with a mask.

    Stars are selected by their true properties, so that two frames of one field give the same stars, apart
    from saturation. A star is used if its signal to noise ``F / sqrt(F + pi radius**2 sky_noise**2)`` is at
    least ``min_signal_to_noise``, no other star of 1 % of its flux lies within 2 radii nor of 10 times its
    flux within 5, and its aperture lies in the frame and holds no pixel at or above ``saturation``.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts (ADU).
    stars : ndarray (n, 3)
        x, y in pixels and true flux in electrons of all stars.
    mask : ndarray (y, x) of bool, optional
        True = bad; None masks nothing.
    radius, gain, invalid, flat
        As for `aperture_magnitudes`.
    sky_noise : float
        Standard deviation of an empty sky pixel of a good frame, electrons.
    saturation : float
        Counts.
    min_signal_to_noise : float
        Limit for the true flux.

    Notes
    -----
    The mask selects stars and does not change the sky: light of a masked ghost still raises the sky on a
    mesh of 64 px around it. With the mask also in ``invalid``, that light is kept out of the sky, and the
    numbers of all stars are meaningless.
    """
    catalogue = np.asarray(stars, dtype=np.float64).reshape(-1, 3)
    bright = _signal_to_noise(catalogue[:, 2], radius, sky_noise) >= min_signal_to_noise
    chosen = catalogue[bright & isolated_stars(catalogue, radius)]
    measured = aperture_magnitudes(image, chosen[:, :2], radius, gain, invalid, flat)
    usable = (measured.flag & sep.APER_TRUNC) == 0
    if math.isfinite(saturation):
        usable &= ~aperture_masked(np.asarray(image) >= saturation, chosen[:, :2], radius)
    chosen, mag = chosen[usable], measured.mag[usable]
    difference = mag + 2.5 * np.log10(chosen[:, 2])
    kept = ~aperture_masked(mask, chosen[:, :2], radius)
    rms_all, robust_all, offset_all, unmeasured_all = _spread(difference)
    rms_kept, robust_kept, offset_kept, unmeasured_kept = _spread(difference[kept])
    return Scatter(
        stars=len(chosen), kept=int(kept.sum()), rms_all=rms_all, rms_kept=rms_kept, robust_all=robust_all,
        robust_kept=robust_kept, offset_all=offset_all, offset_kept=offset_kept,
        unmeasured_all=unmeasured_all, unmeasured_kept=unmeasured_kept,
    )  # fmt: skip


def _signal_to_noise(flux: np.ndarray, radius: float, sky_noise: float) -> np.ndarray:
    """Signal to noise of these fluxes in electrons, ``(n,)``; 0 for a flux at or below 0."""
    light = np.maximum(flux, 0)
    return light / np.sqrt(light + math.pi * radius**2 * sky_noise**2)


def isolated_stars(stars: np.ndarray, radius: float) -> np.ndarray:
    """Flag stars without a neighbour that `ISOLATION` excludes.

    Parameters
    ----------
    stars : ndarray (n, 3)
        x, y in pixels and flux.
    radius : float
        Aperture radius in pixels.

    Returns
    -------
    ndarray (n,)
        bool.
    """
    isolated = np.ones(len(stars), dtype=bool)
    tree = KDTree(stars[:, :2])
    for radii, fraction in ISOLATION:
        pairs = tree.query_pairs(radii * radius, output_type="ndarray")
        for star, neighbour in (pairs.T, pairs.T[::-1]):
            isolated[star[stars[neighbour, 2] > fraction * stars[star, 2]]] = False
    return isolated


def _spread(difference: np.ndarray) -> tuple[float, float, float, int]:
    """RMS and robust RMS about the median, the median, and the number of values that are not finite."""
    finite = difference[np.isfinite(difference)]
    unmeasured = len(difference) - len(finite)
    if len(finite) < 2:
        return math.nan, math.nan, float(finite[0]) if len(finite) else math.nan, unmeasured
    median = float(np.median(finite))
    rms = float(np.sqrt(np.mean((finite - median) ** 2)))
    return rms, float(mad_sigma(finite, median)), median, unmeasured
