"""Aperture photometry against known stars, with and without a mask.

False detections and candidates are in `aqdask.photometry.false_alarms`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep

from aqdask.photometry.apertures import pairs_within, subtract_sky, touched
from aqdask.photometry.false_alarms import Detections, add_sources, detections, difference_candidates

__all__ = [
    "Detections", "Magnitudes", "Scatter", "add_sources", "aperture_magnitudes", "detections",
    "difference_candidates", "photometric_scatter",
]  # fmt: skip

POGSON = 2.5 / math.log(10)  # magnitudes a relative error of 1
LEAST_SIGNAL = 20.0  # signal to noise, from the true flux
# Aperture radii within which an isolated star has no other of more than this fraction of its own flux. With
# a Moffat profile of beta 3.5 and apertures of 1.7 FWHM what is left changes a magnitude by less than 0.01.
ISOLATION = ((2.0, 0.01), (5.0, 10.0))
ROBUST = 1.4826  # standard deviation of a normal distribution / median absolute deviation


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """Instrumental magnitudes of stars, each ``(n,)``.

    Parameters
    ----------
    mag : ndarray
        float64, ``-2.5 log10`` of the electrons in the aperture; NaN where there are none.
    error : ndarray
        float64, standard deviation in magnitudes from the noise of the sky and of the star's photons.
    flag : ndarray
        int16, sep's: 0 = clean, ``sep.APER_TRUNC`` = cut by the frame's edge, ``sep.APER_HASMASKED`` =
        some pixels are invalid (their light is taken from the others), ``sep.APER_ALLMASKED`` = all are.
    """

    mag: np.ndarray
    error: np.ndarray
    flag: np.ndarray


@dataclass(frozen=True)
class Scatter:
    """How far measured magnitudes are from true ones, for all stars and for those that a mask leaves.

    Each set is taken about its own median, which is its zero point (with the light beyond the aperture).

    Parameters
    ----------
    stars, kept : int
        Isolated, bright, unsaturated stars, and those of them whose aperture no masked pixel touches.
    rms_all, rms_kept : float
        Standard deviation about the median, magnitudes; NaN for fewer than two stars.
    robust_all, robust_kept : float
        1.4826 times the median absolute deviation, magnitudes.
    offset_all, offset_kept : float
        The medians, measured minus true, magnitudes.
    unmeasured_all, unmeasured_kept : int
        Stars without a positive flux: counted in ``stars`` and ``kept``, in no other number.
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
        """Fraction of the stars that the mask takes; NaN where there are none."""
        return 1 - self.kept / self.stars if self.stars else math.nan


def aperture_magnitudes(
    image: np.ndarray,
    stars_xy: np.ndarray,
    radius: float,
    gain: float,
    invalid: np.ndarray | None = None,
    flat: np.ndarray | None = None,
) -> Magnitudes:
    """Magnitudes in circular apertures above sep's background (a mesh of 64 px).

    Parameters
    ----------
    image : ndarray (y, x)
        Counts (ADU) of any real type.
    stars_xy : ndarray (n, 2)
        Positions in pixels; n may be 0.
    radius : float
        Of the aperture, pixels.
    gain : float
        Electrons per count.
    invalid : ndarray (y, x) of bool, optional
        Pixels that are not data.
    flat : ndarray (y, x), optional
        Transmission above 0, by which the counts above the sky are divided.

    Returns
    -------
    Magnitudes
        NaN for stars outside of the frame, and for a frame without measurable sky.
    """
    positions = np.asarray(stars_xy, dtype=np.float64).reshape(-1, 2)
    frame = subtract_sky(image, invalid) if len(positions) else None
    if frame is None:
        nothing = np.full(len(positions), np.nan)
        return Magnitudes(nothing, nothing.copy(), np.full(len(positions), sep.APER_ALLMASKED, np.int16))
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
    least_signal: float = LEAST_SIGNAL,
) -> Scatter:
    """Scatter of measured minus true magnitudes, without and with a mask.

    The stars are chosen by what is true of them, so that two frames of one field give the same ones, save
    for saturation. One is taken whose signal to noise ``F / sqrt(F + pi radius**2 sky_noise**2)`` is at
    least ``least_signal``, with no other star of 1 % of its flux within 2 radii nor of 10 times its flux
    within 5, whose aperture lies in the frame and holds no pixel from ``saturation`` upwards.

    The mask chooses stars and leaves the sky alone: light of a masked ghost still raises the sky around it,
    for a mesh of 64 px. Given as ``invalid`` as well, it keeps that light out of the sky: then the numbers
    of the kept stars are those of a pipeline that hands the mask to its sky estimate (for a ghost of 10 % and
    its exact mask 0.031 mag instead of 0.155, as without the ghost), and those of all stars mean nothing.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts (ADU).
    stars : ndarray (n, 3)
        Of all stars x, y in pixels and flux in electrons, as `aqdask.simulate.frame.SimulatedFrame.stars`.
    mask : ndarray (y, x) of bool, optional
        True = bad; None: nothing is.
    radius, gain, invalid, flat
        As for `aperture_magnitudes`.
    sky_noise : float
        Standard deviation of an empty sky pixel in electrons, of a good frame.
    saturation : float
        Counts.
    least_signal : float
        Smallest true signal to noise.
    """
    known = np.asarray(stars, dtype=np.float64).reshape(-1, 3)
    chosen = known[_bright(known, radius, sky_noise, least_signal) & _isolated(known, radius)]
    measured = aperture_magnitudes(image, chosen[:, :2], radius, gain, invalid, flat)
    usable = (measured.flag & sep.APER_TRUNC) == 0
    if math.isfinite(saturation):
        usable &= ~touched(np.asarray(image) >= saturation, chosen[:, :2], radius)
    chosen, mag = chosen[usable], measured.mag[usable]
    difference = mag + 2.5 * np.log10(chosen[:, 2])
    kept = ~touched(mask, chosen[:, :2], radius)
    rms_all, robust_all, offset_all, unmeasured_all = _spread(difference)
    rms_kept, robust_kept, offset_kept, unmeasured_kept = _spread(difference[kept])
    return Scatter(
        stars=len(chosen), kept=int(kept.sum()), rms_all=rms_all, rms_kept=rms_kept, robust_all=robust_all,
        robust_kept=robust_kept, offset_all=offset_all, offset_kept=offset_kept,
        unmeasured_all=unmeasured_all, unmeasured_kept=unmeasured_kept,
    )  # fmt: skip


def _bright(stars: np.ndarray, radius: float, sky_noise: float, least_signal: float) -> np.ndarray:
    """Which stars have this signal to noise, bool ``(n,)``."""
    flux = stars[:, 2]
    noise = np.sqrt(np.maximum(flux, 0) + math.pi * radius**2 * sky_noise**2)
    return (flux > 0) & (flux >= least_signal * noise)


def _isolated(stars: np.ndarray, radius: float) -> np.ndarray:
    """Which stars have no neighbour that `ISOLATION` excludes, bool ``(n,)``."""
    isolated = np.ones(len(stars), dtype=bool)
    for reach, fraction in ISOLATION:
        one, two, _ = pairs_within(stars[:, :2], stars[:, :2], reach * radius)
        isolated[one[(one != two) & (stars[two, 2] > fraction * stars[one, 2])]] = False
    return isolated


def _spread(difference: np.ndarray) -> tuple[float, float, float, int]:
    """RMS and robust RMS about the median, the median, and how many are not finite."""
    finite = difference[np.isfinite(difference)]
    unmeasured = len(difference) - len(finite)
    if len(finite) < 2:
        return math.nan, math.nan, float(finite[0]) if len(finite) else math.nan, unmeasured
    median = float(np.median(finite))
    away = finite - median
    return float(np.sqrt(np.mean(away**2))), ROBUST * float(np.median(np.abs(away))), median, unmeasured
