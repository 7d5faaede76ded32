"""Camera: vignetting, flat field, dark current, blooming and read-out."""

from __future__ import annotations

import math

import numpy as np

from aqdask.simulate.scene import SceneSpec, stream

GAUSSIAN_ABOVE = 50.0  # e-; larger Poisson numbers are drawn as Gaussian (skewness below 0.14), 5 x faster
DUST_RADII = 12.0, 48.0  # px, radius of the shadow of a grain: the pupil out of focus
DUST_DEPTHS = 0.02, 0.04  # fraction of the light lost in a shadow
DUST_INNER = 0.25, 0.45  # radius of the bright centre (secondary mirror) as a fraction of the shadow's
HOT_EXCESS = 100.0, 20_000.0  # e- of dark current in an exposure, log-uniform


def vignette(spec: SceneSpec) -> np.ndarray:
    """Transmission of the optics, float32 ``(y, x)``: 1 at the centre, ``1 - vignetting`` in the corners."""
    return 1 - np.float32(spec.vignetting / 2) * corner_distance(spec.shape)


def corner_distance(shape: tuple[int, int]) -> np.ndarray:
    """Squared distance from the centre, 2 in the corners: float32 ``(y, x)``."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32) ** 2
    x = np.linspace(-1, 1, shape[1], dtype=np.float32) ** 2
    return y[:, None] + x


def flat_field(spec: SceneSpec) -> np.ndarray:
    """Relative response of every pixel, float32 ``(y, x)``: vignetting, dust and pixel response."""
    flat = vignette(spec)
    if spec.dust:
        _add_dust(flat, spec)
    if spec.pixel_response:
        rng = stream(spec.camera_seed, "pixel-response")
        response = rng.standard_normal(spec.shape, dtype=np.float32)
        response *= np.float32(spec.pixel_response)
        flat *= np.maximum(1 + response, 0)
    return flat


def _add_dust(flat: np.ndarray, spec: SceneSpec) -> None:
    """Multiply ``flat`` in place by the shadows of dust, rings with edges of 2 px."""
    rng = stream(spec.camera_seed, "dust")
    for _ in range(spec.dust):
        y, x = rng.uniform(0, spec.height), rng.uniform(0, spec.width)
        radius, depth, inner = (rng.uniform(*limits) for limits in (DUST_RADII, DUST_DEPTHS, DUST_INNER))
        top, left = max(int(y - radius) - 2, 0), max(int(x - radius) - 2, 0)
        part = flat[top : int(y + radius) + 3, left : int(x + radius) + 3]
        rows, columns = np.arange(part.shape[0]) + top - y, np.arange(part.shape[1]) + left - x
        distance = np.hypot(rows[:, None], columns)
        shadow = np.clip((radius - distance) / 2, 0, 1) * np.clip((distance - inner * radius) / 2, 0, 1)
        part *= (1 - depth * shadow).astype(np.float32)


def dark_current(spec: SceneSpec) -> np.ndarray | None:
    """Electrons of hot pixels in one exposure, float32 ``(y, x)``; None without hot pixels."""
    number = round(spec.hot_pixels * spec.height * spec.width)
    if not number:
        return None
    rng = stream(spec.camera_seed, "hot-pixels")
    place = rng.integers(0, spec.height * spec.width, number)
    dark = np.zeros(spec.height * spec.width, np.float32)
    dark[place] = np.exp(rng.uniform(math.log(HOT_EXCESS[0]), math.log(HOT_EXCESS[1]), number))
    return dark.reshape(spec.shape)


def bleed(charge: np.ndarray, full_well: float | None) -> np.ndarray:
    """Spill charge above the full well along the columns (blooming).

    Half of the excess of a pixel runs to each side and fills pixel after pixel. Charge that reaches the last
    row turns back; charge that then reaches row 0, next to the serial register, is lost. Otherwise charge is
    conserved.

    Parameters
    ----------
    charge : ndarray (y, x)
        float32, expected electrons; negative pixels count as empty.
    full_well : float or None
        Electrons; None: no limit.

    Returns
    -------
    ndarray (y, x)
        float32, ``charge`` itself if nothing spills.
    """
    if full_well is None or not len(columns := np.flatnonzero((charge > full_well).any(axis=0))):
        return charge
    wells = np.maximum(charge[:, columns], 0).astype(np.float64)
    half = np.maximum(wells - full_well, 0) / 2
    np.minimum(wells, full_well, out=wells)
    moving = np.zeros(len(columns))
    for sweep in (range(len(wells)), range(len(wells) - 1, -1, -1)):  # upwards, then downwards
        for row in sweep:
            filled = wells[row] + moving
            np.minimum(filled, full_well, out=wells[row])
            moving = filled - wells[row] + half[row]
    spilled = charge.copy()
    spilled[:, columns] = wells
    return spilled


def read_out(spec: SceneSpec, expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw counts from expected electrons, with photon and read noise, gain, pedestal and saturation.

    Parameters
    ----------
    spec : SceneSpec
        Gives read noise, gain, pedestal and saturation.
    expected : ndarray (y, x)
        float32, electrons; negative pixels count as 0.
    rng : Generator
        Source of the noise.

    Returns
    -------
    ndarray (y, x)
        uint16, ADU.

    Notes
    -----
    At and above `GAUSSIAN_ABOVE` electrons one Gaussian number stands for photon and read noise. The
    Gaussian numbers of all pixels are drawn first, so that faint pixels do not change the noise of others.
    """
    expected = np.maximum(expected, 0)
    counts = rng.standard_normal(expected.shape, dtype=np.float32)
    faint = expected < GAUSSIAN_ABOVE
    readout = counts[faint] * np.float32(spec.read_noise)
    counts *= np.sqrt(expected + np.float32(spec.read_noise**2))
    counts += expected
    counts[faint] = readout + rng.poisson(expected[faint])
    counts /= np.float32(spec.gain)
    counts += np.float32(spec.pedestal)
    return np.clip(np.rint(counts), 0, spec.saturation).astype(np.uint16)


def peak_electrons(spec: SceneSpec) -> float:
    """Electrons of a pixel at saturation."""
    return max(spec.saturation - spec.pedestal, 1.0) * spec.gain
