"""Point spread functions: Moffat and Kolmogorov profiles, integrated over pixels, varying over the field."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from aqdask.simulate.scene import SceneSpec

PHASES = 8  # star positions lie on a grid of 1/8 px, so that stamps from a table are exact
FAINT_EDGE = 0.02  # a stamp ends where the star falls below this fraction of the sky noise ...
MIN_MOFFAT_RADII = 4.0  # ... and not before this many Moffat radii (beta 3.5: 0.08 % of the flux is outside)
MIN_FWHM_RADII = 6.0  # ... or this many FWHM (0.5 % of the flux is outside)
ZONE_STEP = 0.025  # largest relative change of the FWHM from one zone of the field to the next ...
MAX_ZONES = 24  # ... up to this number of zones
KOLMOGOROV_FWHM = 0.97586  # in units of lambda / r0 (Fried 1966)
REACH, FINENESS = 64, 128  # Kolmogorov profile: largest radius in FWHM, and samples per FWHM


@lru_cache(maxsize=1)
def kolmogorov_profile() -> tuple[np.ndarray, np.ndarray]:
    """Long-exposure profile of Kolmogorov turbulence, with FWHM 1 and flux 1.

    Returns
    -------
    radii, intensities : ndarray
        float64, radii in FWHM from 0 to `REACH`.

    Notes
    -----
    The modulation transfer function is ``exp(-3.44 (lambda f / r0)**(5/3))`` (Fried 1966). Its integral over
    one frequency axis, Fourier transformed over the other axis, is the profile along a line through the
    centre. The frequency step of 1/512 cycles per FWHM puts replicas 512 FWHM away, which add less than
    0.1 % at `REACH`.
    """
    spacing = 1 / (8 * REACH)
    frequency = np.arange(round(3.5 / spacing)) * spacing  # cycles per FWHM; the MTF ends at 1e-12
    weight = np.where(frequency == 0, 1.0, 2.0) * spacing  # positive and negative frequencies
    squared = frequency**2
    projected = np.array(
        [
            (np.exp(-3.44 * ((squared + one) / KOLMOGOROV_FWHM**2) ** (5 / 6)) * weight).sum()
            for one in squared
        ]
    )
    samples = 8 * REACH * FINENESS
    line = np.fft.irfft(projected, samples) * samples * spacing
    return np.arange(REACH * FINENESS) / FINENESS, line[: REACH * FINENESS]


def _surface(spec: SceneSpec, squared: np.ndarray) -> np.ndarray:
    """Unnormalised profile at squared radii in px**2; `_peak` normalises it."""
    if spec.psf == "moffat":
        return (1 + squared / spec.moffat_radius**2) ** -spec.beta
    radius, intensity = kolmogorov_profile()
    distance = np.sqrt(squared) / spec.fwhm
    inner = np.interp(distance, radius, intensity)
    wing = intensity[-1] * (np.maximum(distance, radius[-1]) / radius[-1]) ** (-11 / 3)
    return np.where(distance < radius[-1], inner, wing)


def _peak(spec: SceneSpec, parts: float = 1.0) -> float:
    """Factor that gives `_surface` a total flux of ``1 / parts``.

    Moffat: ``(beta - 1) / (pi alpha**2)``.
    """
    if spec.psf == "moffat":
        return (spec.beta - 1) / (math.pi * spec.moffat_radius**2 * parts)
    return 1 / (spec.fwhm**2 * parts)


def _smear(spec: SceneSpec) -> list[tuple[float, float]]:
    """Shifts ``(y, x)`` in pixels along the drift, `PHASES` per pixel."""
    steps = math.ceil(spec.drift * PHASES) + 1
    along = np.linspace(-0.5, 0.5, steps) * spec.drift if steps > 1 else np.zeros(1)
    angle = math.radians(spec.drift_angle)
    return [(shift * math.sin(angle), shift * math.cos(angle)) for shift in along]


def psf_table(spec: SceneSpec, radius: int) -> np.ndarray:
    """Point spread function integrated over pixels, at every sub-pixel phase.

    Parameters
    ----------
    spec : SceneSpec
        Gives the profile and the drift.
    radius : int
        Half side of a stamp, pixels.

    Returns
    -------
    ndarray (PHASES, PHASES, 2 radius + 2, 2 radius + 2)
        float32; element ``[p, q]`` is a star at ``(p, q) / PHASES`` px above the centre of pixel
        ``(radius, radius)``. The infinite profile has flux 1, so the sum of a stamp is slightly smaller.
        Each pixel is the mean of ``PHASES**2`` midpoints.
    """
    half = radius + 2
    fine = (np.arange(2 * half * PHASES) + 0.5) / PHASES - half
    shifts = _smear(spec)
    profile = np.zeros((fine.size, fine.size))
    for down, across in shifts:
        profile += _surface(spec, (fine - down)[:, None] ** 2 + (fine - across) ** 2)
    profile *= _peak(spec, len(shifts) * PHASES**2)
    pixel, phase = np.arange(-radius, radius + 2), np.arange(PHASES)
    edge = (pixel + half) * PHASES - phase[:, None] - PHASES // 2  # (phase, pixel): first midpoint of a pixel
    rows = np.concatenate([np.zeros((1, fine.size)), profile.cumsum(axis=0)])
    rows = rows[edge + PHASES] - rows[edge]  # (phase_y, pixel_y, fine_x)
    columns = np.concatenate([np.zeros((*rows.shape[:2], 1)), rows.cumsum(axis=2)], axis=2)
    table = columns[:, :, edge + PHASES] - columns[:, :, edge]  # (phase_y, pixel_y, phase_x, pixel_x)
    return np.ascontiguousarray(table.transpose(0, 2, 1, 3), dtype=np.float32)


def core_radius(spec: SceneSpec) -> int:
    """Radius in pixels within which `wide_stamp` integrates over pixels."""
    return math.ceil(4 * spec.fwhm + spec.drift / 2) + 8


def wide_stamp(
    spec: SceneSpec, rows: np.ndarray, columns: np.ndarray, core: np.ndarray, phase: tuple[int, int]
) -> np.ndarray:
    """Stamp of a bright star, with the profile taken at pixel centres beyond the core.

    A table of all phases would be too large for such stamps. Beyond the core the profile is nearly a power
    law, whose value at the centre differs from the pixel's mean by less than 0.5 %.

    Parameters
    ----------
    spec : SceneSpec
        Gives the profile and the drift.
    rows, columns : ndarray
        Consecutive integers, pixels from the star's pixel.
    core : ndarray
        Element of ``psf_table(spec, core_radius(spec))`` for ``phase``.
    phase : tuple of int
        Sub-pixel phase (y, x) in 1/8 px.

    Returns
    -------
    ndarray (rows, columns)
        float32, for flux 1.
    """
    y, x = rows - phase[0] / PHASES, columns - phase[1] / PHASES
    shifts = _smear(spec)
    stamp = np.zeros((rows.size, columns.size))
    for down, across in shifts:
        stamp += _surface(spec, (y - down)[:, None] ** 2 + (x - across) ** 2)
    stamp *= _peak(spec, len(shifts))
    radius = core_radius(spec)
    inside = [np.flatnonzero(np.abs(axis) <= radius) for axis in (rows, columns)]
    stamp[np.ix_(*inside)] = core[np.ix_(rows[inside[0]] + radius, columns[inside[1]] + radius)]
    return stamp.astype(np.float32)


def stamp_radius(spec: SceneSpec, flux: np.ndarray) -> np.ndarray:
    """Half side of the stamp of each star in pixels, int64 ``(n,)``, rounded up to a few sizes."""
    faint_edge = FAINT_EDGE * max(spec.sky_noise, 1.0)
    if spec.psf == "moffat":
        alpha = spec.moffat_radius
        peak = flux * _peak(spec)
        visible = alpha * np.sqrt(np.maximum((peak / faint_edge) ** (1 / spec.beta) - 1, 0))
        smallest = MIN_MOFFAT_RADII * alpha
    else:
        radius, intensity = kolmogorov_profile()
        wanted = faint_edge / (flux * _peak(spec))
        visible = np.interp(-wanted, -intensity, radius)
        beyond = (intensity[-1] / np.minimum(wanted, intensity[-1])) ** (3 / 11)
        visible = spec.fwhm * visible * np.where(wanted < intensity[-1], beyond, 1)
        smallest = MIN_FWHM_RADII * spec.fwhm
    needed = np.maximum(visible, smallest) + spec.drift / 2
    smallest += spec.drift / 2
    size = np.ceil(np.log(needed / smallest) / math.log(1.5) - 1e-9)
    return np.ceil(smallest * 1.5**size).astype(np.int64)


def field_radius(spec: SceneSpec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distance from the centre relative to that of the corners, at most 1, float64 ``(n,)``."""
    middle_x, middle_y = (spec.width - 1) / 2, (spec.height - 1) / 2
    corner = max(middle_x**2 + middle_y**2, 1.0)
    return np.minimum(((x - middle_x) ** 2 + (y - middle_y) ** 2) / corner, 1.0)


def local_fwhm(spec: SceneSpec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """FWHM in pixels at positions x, y: ``fwhm (1 + fwhm_variation r**2)``, r = 1 in the corners."""
    return spec.fwhm * (1 + spec.fwhm_variation * field_radius(spec, x, y))


def zones(spec: SceneSpec, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[SceneSpec, np.ndarray]]:
    """Yield rings of the field with one PSF each: the scene, and a bool ``(n,)`` of the positions within."""
    if not spec.fwhm_variation:
        yield spec, np.ones(len(x), bool)
        return
    count = min(math.ceil(abs(spec.fwhm_variation) / ZONE_STEP), MAX_ZONES)
    ring = np.minimum((field_radius(spec, x, y) * count).astype(int), count - 1)
    for number in range(count):
        fwhm = spec.fwhm * (1 + spec.fwhm_variation * (number + 0.5) / count)
        yield replace(spec, fwhm=fwhm, fwhm_variation=0.0), ring == number
