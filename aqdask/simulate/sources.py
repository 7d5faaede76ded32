"""Stars and galaxies of a scene: random catalogues and their expected light on the pixels."""

from __future__ import annotations

import math

import numpy as np

from aqdask.simulate.psf import PHASES, core_radius, local_fwhm, psf_table, stamp_radius, wide_stamp, zones
from aqdask.simulate.scene import FIELD_MARGIN, SceneSpec, stream

LARGEST_TABLE = 100  # px; the few stars with a larger stamp are drawn one by one
GALAXY_SLOPE = 1.0  # N(>F) is proportional to F**-1 (0.4 dex per mag, as observed at 20 to 25 mag)
GALAXY_RANGE = 100.0  # largest flux over the smallest
GALAXY_SPREAD = 0.35  # standard deviation of the natural logarithm of half-light radii
MIN_AXIS_RATIO = 0.2  # of a disc
HALF_LIGHT = 1.67835  # half-light radius of an exponential disc in scale lengths
GALAXY_REACH = 4.0  # half-light radii from the centre to the edge of a stamp (1 % of the flux is outside)


def power_law(rng: np.random.Generator, number: int, least: float, most: float, slope: float) -> np.ndarray:
    """Fluxes from ``least`` to ``most`` with N(>F) proportional to ``F**-slope``, float64 ``(number,)``."""
    faintest, brightest = least**-slope, most**-slope
    return rng.uniform(brightest, faintest, number) ** (-1 / slope)


def _positions(spec: SceneSpec, density: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width = spec.height + 2 * FIELD_MARGIN, spec.width + 2 * FIELD_MARGIN
    number = rng.poisson(density * height * width)
    x = rng.uniform(0, width, number) - FIELD_MARGIN + spec.pointing[1]
    y = rng.uniform(0, height, number) - FIELD_MARGIN + spec.pointing[0]
    return x, y


def draw_stars(spec: SceneSpec, seed: int) -> np.ndarray:
    """Draw the stars of the field, float64 ``(n, 3)``: x, y (pixels), flux (electrons before vignetting)."""
    rng = stream(seed if spec.field_seed is None else spec.field_seed, "stars")
    x, y = _positions(spec, spec.star_density, rng)
    flux = power_law(rng, len(x), spec.flux_minimum, spec.flux_maximum, spec.flux_slope)
    return np.column_stack([np.round(x * PHASES) / PHASES, np.round(y * PHASES) / PHASES, flux])


def render_stars(spec: SceneSpec, stars: np.ndarray) -> np.ndarray:
    """Expected electrons of stars ``(n, 3)`` (x, y, flux) without vignetting, float32 ``(y, x)``."""
    if not len(stars):
        return np.zeros(spec.shape, np.float32)
    parts = [(zone, stars[chosen]) for zone, chosen in zones(spec, stars[:, 0], stars[:, 1])]
    radii = [stamp_radius(zone, part[:, 2]) for zone, part in parts]
    usual = [radius[radius <= LARGEST_TABLE] for radius in radii]
    pad = max((int(radius.max()) for radius in usual if radius.size), default=0)
    pad += FIELD_MARGIN + math.ceil(max(map(abs, spec.pointing))) + 2
    canvas = np.zeros((spec.height + 2 * pad, spec.width + 2 * pad), np.float32)
    for (zone, part), radius in zip(parts, radii, strict=True):
        for size in np.unique(radius[radius <= LARGEST_TABLE]):
            _add_stamps(canvas, pad, psf_table(zone, int(size)), part[radius == size])
    image = canvas[pad : pad + spec.height, pad : pad + spec.width].copy()
    for (zone, part), radius in zip(parts, radii, strict=True):
        if (radius > LARGEST_TABLE).any():
            _add_wide(image, zone, part[radius > LARGEST_TABLE], radius[radius > LARGEST_TABLE])
    return image


def _add_stamps(canvas: np.ndarray, pad: int, table: np.ndarray, stars: np.ndarray) -> None:
    side = table.shape[-1]
    pixel, phase = np.divmod(np.round(stars[:, :2] * PHASES).astype(np.int64), PHASES)
    corner = pixel + pad - (side - 2) // 2
    for (left, top), (across, down), flux in zip(corner, phase, stars[:, 2], strict=True):
        canvas[top : top + side, left : left + side] += np.float32(flux) * table[down, across]


def _add_wide(image: np.ndarray, spec: SceneSpec, stars: np.ndarray, radii: np.ndarray) -> None:
    table = psf_table(spec, core_radius(spec))
    pixel, phase = np.divmod(np.round(stars[:, :2] * PHASES).astype(np.int64), PHASES)
    for (x, y), (across, down), flux, radius in zip(pixel, phase, stars[:, 2], radii, strict=True):
        rows = np.arange(max(y - radius, 0), min(y + radius + 1, image.shape[0]))
        columns = np.arange(max(x - radius, 0), min(x + radius + 1, image.shape[1]))
        if rows.size and columns.size:
            stamp = wide_stamp(spec, rows - y, columns - x, table[down, across], (int(down), int(across)))
            image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += np.float32(flux) * stamp


def draw_galaxies(spec: SceneSpec, seed: int) -> np.ndarray:
    """Draw the galaxies of the field.

    Returns
    -------
    ndarray (n, 6)
        float64: x, y (pixels), flux (electrons before vignetting), half-light radius along the major axis
        (pixels, log-normal), axis ratio, position angle (radians from +x towards +y). Discs have random
        orientations: the cosine of the inclination is uniform, the axis ratio at least `MIN_AXIS_RATIO`.
    """
    rng = stream(seed if spec.field_seed is None else spec.field_seed, "galaxies")
    x, y = _positions(spec, spec.galaxies, rng)
    flux = power_law(rng, len(x), spec.flux_minimum, GALAXY_RANGE * spec.flux_minimum, GALAXY_SLOPE)
    radius = spec.galaxy_radius * np.exp(GALAXY_SPREAD * rng.standard_normal(len(x)))
    ratio = np.maximum(rng.uniform(0, 1, len(x)), MIN_AXIS_RATIO)
    return np.column_stack([x, y, flux, radius, ratio, rng.uniform(0, np.pi, len(x))])


def disc_mixture() -> tuple[np.ndarray, np.ndarray]:
    """Approximate an exponential disc by a sum of Gaussians.

    Returns
    -------
    fluxes, variances : ndarray
        float64; fluxes with sum 1, variances in scale lengths squared.

    Notes
    -----
    ``exp(-r)`` is the integral over t of ``t**-1.5 exp(-1 / 4t) exp(-r**2 t) / (2 sqrt(pi))``, a scale
    mixture of Gaussians (Andrews & Mallows 1974), here by the trapezoidal rule in log t.
    """
    t = np.exp(np.linspace(math.log(0.03), math.log(200), 12))
    variance = 1 / (2 * t)
    flux = t**-0.5 * np.exp(-1 / (4 * t)) * variance
    return flux / flux.sum(), variance


def render_galaxies(spec: SceneSpec, galaxies: np.ndarray) -> np.ndarray:
    """Expected electrons of galaxies from `draw_galaxies` without vignetting, float32 ``(y, x)``.

    The variances of the PSF (as a Gaussian of its FWHM), of a pixel (1/12 px**2) and of the drift
    (length**2 / 12) are added to those of the Gaussians of `disc_mixture`. This is exact for Gaussians and
    accurate near the core.
    """
    image = np.zeros(spec.shape, np.float32)
    share, variance = disc_mixture()
    seeing = (local_fwhm(spec, galaxies[:, 0], galaxies[:, 1]) / 2.3548) ** 2 + 1 / 12
    drift = spec.drift**2 / 12 * _outer(math.radians(spec.drift_angle))
    for (x, y, flux, radius, ratio, angle), blur in zip(galaxies, seeing, strict=True):
        reach = math.ceil(GALAXY_REACH * math.hypot(radius, math.sqrt(blur)))
        rows = np.arange(max(round(y) - reach, 0), min(round(y) + reach + 1, spec.height))
        columns = np.arange(max(round(x) - reach, 0), min(round(x) + reach + 1, spec.width))
        if not (rows.size and columns.size):
            continue
        shape = _outer(angle) + ratio**2 * _outer(angle + np.pi / 2)
        spread = variance[:, None, None] * (radius / HALF_LIGHT) ** 2 * shape + blur * np.eye(2) + drift
        stamp = _gaussians(rows - y, columns - x, share * flux, spread)
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += stamp
    return image


def _outer(angle: float) -> np.ndarray:
    """Matrix ``(2, 2)`` over (x, y) that projects onto a direction."""
    direction = np.array([math.cos(angle), math.sin(angle)])
    return np.outer(direction, direction)


def _gaussians(y: np.ndarray, x: np.ndarray, flux: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Sum of Gaussians with these fluxes ``(k,)`` and covariances ``(k, 2, 2)``: float32 ``(y, x)``."""
    inverse = np.linalg.inv(spread)
    scale = (flux * np.sqrt(np.linalg.det(inverse)) / (2 * np.pi)).astype(np.float32)
    a, b, c = (part.astype(np.float32) for part in (inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]))
    x, y = x.astype(np.float32), y.astype(np.float32)
    across = a[:, None, None] * x**2 + 2 * b[:, None, None] * (y[:, None] * x)
    across += c[:, None, None] * (y**2)[:, None]
    return np.tensordot(scale, np.exp(-0.5 * across), axes=1)
