"""Aperture photometry at known positions, with the masked fraction of each aperture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep

from aqdask.photometry.sky_subtraction import SkySubtracted

FLAGS = {"edge": 1, "invalid": 2, "saturated": 4, "faint": 8}
"""Bits of `StarFluxes.flags`: aperture beyond the frame, with pixels that are no data, with saturated ones;
flux below 3 standard deviations. Such a measurement has no magnitude."""
MIN_SIGNAL_TO_NOISE = 3.0


@dataclass(frozen=True, eq=False)
class StarFluxes:
    """Measurements of stars, each ``(n,)``.

    Parameters
    ----------
    flux, error : ndarray
        float64, counts above the sky, and their standard deviation from the noise of the sky and, where the
        gain is known, of the light.
    masked : ndarray
        float64, fraction of the aperture that is masked.
    flags : ndarray
        uint8, bits of `FLAGS`; 0 = clean.
    """

    flux: np.ndarray
    error: np.ndarray
    masked: np.ndarray
    flags: np.ndarray


def forced_photometry(
    frame: SkySubtracted,
    positions: np.ndarray,
    radius: float,
    *,
    masked: np.ndarray,
    saturated: np.ndarray,
    gain: float = math.nan,
) -> StarFluxes:
    """Measure stars in circular apertures.

    Parameters
    ----------
    frame : SkySubtracted
        The frame.
    positions : ndarray (n, 2)
        x, y in pixels; stars beyond the frame, or at NaN, are flagged as at the edge.
    radius : float
        Pixels.
    masked, saturated : ndarray (y, x) of bool
        True = bad.
    gain : float
        Electrons per count; NaN where unknown.
    """
    height, width = frame.pixels.shape
    inside = np.all((positions > -0.5) & (positions < (width - 0.5, height - 0.5)), axis=1)
    x, y = np.ascontiguousarray(np.where(inside[:, None], positions, 0).T)
    known_gain = gain if math.isfinite(gain) and gain > 0 else None

    def summed(image: np.ndarray) -> np.ndarray:
        return sep.sum_circle(np.ascontiguousarray(image, dtype=np.float32), x, y, radius, subpix=0)[0]

    flux, error, at_edge = sep.sum_circle(
        frame.pixels, x, y, radius, err=frame.rms, gain=known_gain, subpix=0
    )
    flux, error = (np.where(inside, values, np.nan) for values in (flux, error))
    bits = {
        "edge": ~inside | ((at_edge & sep.APER_TRUNC) != 0),
        "invalid": summed(frame.invalid) > 0,
        "saturated": summed(saturated) > 0,
        "faint": ~(flux > MIN_SIGNAL_TO_NOISE * error),
    }
    flags = sum(np.where(value, FLAGS[name], 0).astype(np.uint8) for name, value in bits.items())
    share = np.clip(summed(masked) / (math.pi * radius**2), 0, 1)
    return StarFluxes(flux, error, share, np.asarray(flags, dtype=np.uint8))


def instrumental_magnitudes(flux: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Return ``-2.5 log10`` of clean fluxes in counts, float64 ``(n,)``; NaN for flagged measurements."""
    clean = (flags == 0) & (flux > 0)
    return -2.5 * np.log10(np.where(clean, flux, np.nan))
