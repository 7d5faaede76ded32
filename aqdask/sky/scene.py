"""A simulated sky before the detector: what the scene is, its stars and its smooth light, in electrons.

Pixel coordinates are 0-based with whole numbers at pixel centres, arrays are ``(y, x)``.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from aqdask.errors import UsageError

PHASES = 8  # star positions lie on a grid of 1/8 px, so that a stamp taken from the table is exact
FIELD_MARGIN = 64  # px; stars are also drawn beyond the edges, for their wings and for shifted pointings
FAINT_EDGE = 0.02  # a stamp ends where the star is fainter than this fraction of the sky noise ...
MINIMUM_RADII = 4.0  # ... and not before this many Moffat radii (beta 3.5: 0.08 % of the flux is outside)


@dataclass(frozen=True)
class SceneSpec:
    """One exposure: sky, stars, optics and detector.

    Parameters
    ----------
    height, width : int
        Frame shape in pixels.
    sky : float
        Mean sky at the centre, electrons per pixel.
    gain : float
        Electrons per ADU.
    read_noise : float
        Electrons, standard deviation.
    pedestal : float
        Bias level, ADU.
    fwhm : float
        Seeing, full width at half maximum of the Moffat profile in pixels (before the pixel's own width).
    beta : float
        Exponent of the Moffat profile, above 1.
    drift, drift_angle : float
        Stars are smeared along a line of this length in pixels, in degrees from +x towards +y.
    star_density : float
        Stars per pixel.
    flux_minimum, flux_maximum, flux_slope : float
        N(>F) is proportional to ``F**-flux_slope`` between these fluxes (electrons).
    vignetting : float
        Fraction of the light lost in the corners; it grows with the square of the radius.
    structure, structure_scale : float
        Natural sky structure: rms as a fraction of the sky, and its scale in pixels.
    saturation : int
        Largest value in ADU, at most 65535.
    field_seed : int or None
        Frames with the same number show the same stars; None: stars follow the frame's seed.
    pointing : tuple of float
        Shift ``(y, x)`` of the field in pixels, at most `FIELD_MARGIN`.
    """

    height: int = 4096
    width: int = 4096
    sky: float = 1000.0
    gain: float = 1.5
    read_noise: float = 8.0
    pedestal: float = 600.0
    fwhm: float = 2.4
    beta: float = 3.5
    drift: float = 0.0
    drift_angle: float = 0.0
    star_density: float = 1 / 800
    flux_minimum: float = 500.0
    flux_maximum: float = 3e6
    flux_slope: float = 0.9
    vignetting: float = 0.12
    structure: float = 0.02
    structure_scale: float = 512.0
    saturation: int = 65535
    field_seed: int | None = None
    pointing: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        positive = min(self.height, self.width, self.gain, self.fwhm, self.flux_minimum, self.structure_scale)
        if positive <= 0 or self.beta <= 1 or not 0 < self.saturation <= 65535:
            raise UsageError(
                f"a scene with {self}",
                expected="shape, gain, fwhm, flux and scale above 0, beta above 1, saturation in 1 to 65535",
                consequence="No frame can be drawn from it",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """``(y, x)``."""
        return self.height, self.width

    @property
    def moffat_radius(self) -> float:
        """The radius alpha of ``(1 + (r / alpha)**2)**-beta`` in pixels (Moffat 1969)."""
        return self.fwhm / (2 * math.sqrt(2 ** (1 / self.beta) - 1))

    @property
    def sky_noise(self) -> float:
        """Standard deviation of an empty sky pixel in electrons."""
        return math.sqrt(self.sky + self.read_noise**2)


@dataclass(frozen=True)
class Light:
    """Expected electrons, float32 ``(y, x)``: smooth ``sky`` and ``stars``, both behind the vignetting."""

    sky: np.ndarray
    stars: np.ndarray


def stream(seed: int, name: str) -> np.random.Generator:
    """Random numbers for one purpose: a child of ``seed`` by name, so that no purpose disturbs another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),)))


def correlated_field(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """White noise smoothed by a Gaussian of FWHM ``scale`` pixels: float32 ``(y, x)``, mean 0, variance 1.

    Independent numbers on a grid of one Gaussian sigma are spread by that Gaussian along each axis in turn:
    two matrix products, whatever the scale.
    """
    sigma = scale / 2.3548

    def kernel(length: int) -> np.ndarray:
        knots = np.arange(-4, math.ceil(length / sigma) + 5) * sigma
        weight = np.exp(-0.5 * ((np.arange(length)[:, None] - knots) / sigma) ** 2)
        return (weight / np.sqrt((weight**2).sum(axis=1, keepdims=True))).astype(np.float32)

    down, across = kernel(shape[0]), kernel(shape[1])
    white = rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32)
    return down @ white @ across.T


def vignette(spec: SceneSpec) -> np.ndarray:
    """Transmission of the optics, float32 ``(y, x)``: 1 at the centre, ``1 - vignetting`` in the corners."""
    y = np.linspace(-1, 1, spec.height, dtype=np.float32) ** 2
    x = np.linspace(-1, 1, spec.width, dtype=np.float32) ** 2
    return 1 - np.float32(spec.vignetting / 2) * (y[:, None] + x)


def draw_stars(spec: SceneSpec, seed: int) -> np.ndarray:
    """The stars of the field: float64 ``(n, 3)`` of x, y (pixels) and flux (electrons before vignetting)."""
    rng = stream(seed if spec.field_seed is None else spec.field_seed, "stars")
    height, width = spec.height + 2 * FIELD_MARGIN, spec.width + 2 * FIELD_MARGIN
    number = rng.poisson(spec.star_density * height * width)
    x = rng.uniform(0, width, number) - FIELD_MARGIN + spec.pointing[1]
    y = rng.uniform(0, height, number) - FIELD_MARGIN + spec.pointing[0]
    # Inverse of the cumulative power law, cut at both ends.
    faintest, brightest = spec.flux_minimum**-spec.flux_slope, spec.flux_maximum**-spec.flux_slope
    flux = rng.uniform(brightest, faintest, number) ** (-1 / spec.flux_slope)
    return np.column_stack([np.round(x * PHASES) / PHASES, np.round(y * PHASES) / PHASES, flux])


def psf_table(spec: SceneSpec, radius: int) -> np.ndarray:
    """Pixel-integrated point spread function at every sub-pixel phase.

    Returns float32 ``(PHASES, PHASES, 2 radius + 2, 2 radius + 2)``: element ``[p, q]`` is a star at
    ``(p, q) / PHASES`` px above the centre of pixel ``(radius, radius)``. The whole profile has flux 1
    (Moffat normalisation ``(beta - 1) / (pi alpha**2)``), so a stamp sums to a little less. Each pixel
    is the mean of `PHASES` squared midpoints.
    """
    half = radius + 2
    fine = (np.arange(2 * half * PHASES) + 0.5) / PHASES - half
    steps = math.ceil(spec.drift * PHASES) + 1
    along = np.linspace(-0.5, 0.5, steps) * spec.drift if steps > 1 else np.zeros(1)
    angle, alpha = math.radians(spec.drift_angle), spec.moffat_radius
    profile = np.zeros((fine.size, fine.size))
    for shift in along:
        y, x = fine - shift * math.sin(angle), fine - shift * math.cos(angle)
        profile += (1 + (y[:, None] ** 2 + x**2) / alpha**2) ** -spec.beta
    profile *= (spec.beta - 1) / (math.pi * alpha**2 * steps * PHASES**2)
    pixel, phase = np.arange(-radius, radius + 2), np.arange(PHASES)
    edge = (pixel + half) * PHASES - phase[:, None] - PHASES // 2  # (phase, pixel): first midpoint of a pixel
    rows = np.concatenate([np.zeros((1, fine.size)), profile.cumsum(axis=0)])
    rows = rows[edge + PHASES] - rows[edge]  # (phase_y, pixel_y, fine_x)
    columns = np.concatenate([np.zeros((*rows.shape[:2], 1)), rows.cumsum(axis=2)], axis=2)
    table = columns[:, :, edge + PHASES] - columns[:, :, edge]  # (phase_y, pixel_y, phase_x, pixel_x)
    return np.ascontiguousarray(table.transpose(0, 2, 1, 3), dtype=np.float32)


def stamp_radius(spec: SceneSpec, flux: np.ndarray) -> np.ndarray:
    """Half side of each star's stamp in whole pixels, int64 ``(n,)``, from a few sizes (one table each)."""
    alpha = spec.moffat_radius
    peak = flux * (spec.beta - 1) / (math.pi * alpha**2)
    faint_edge = FAINT_EDGE * max(spec.sky_noise, 1.0)
    visible = alpha * np.sqrt(np.maximum((peak / faint_edge) ** (1 / spec.beta) - 1, 0))
    needed = np.maximum(visible, MINIMUM_RADII * alpha) + spec.drift / 2
    smallest = MINIMUM_RADII * alpha + spec.drift / 2
    size = np.ceil(np.log(needed / smallest) / math.log(1.5) - 1e-9)
    return np.ceil(smallest * 1.5**size).astype(np.int64)


def render_stars(spec: SceneSpec, stars: np.ndarray) -> np.ndarray:
    """Expected electrons of all stars without vignetting, float32 ``(y, x)``."""
    if not len(stars):
        return np.zeros(spec.shape, np.float32)
    radii = stamp_radius(spec, stars[:, 2])
    pad = int(radii.max()) + FIELD_MARGIN + math.ceil(max(map(abs, spec.pointing))) + 2
    canvas = np.zeros((spec.height + 2 * pad, spec.width + 2 * pad), np.float32)
    steps = np.round(stars[:, :2] * PHASES).astype(np.int64)
    for radius in np.unique(radii):
        table = psf_table(spec, int(radius))
        side = table.shape[-1]
        chosen = radii == radius
        pixel, phase = np.divmod(steps[chosen], PHASES)
        corner = pixel + pad - radius
        for (left, top), (across, down), flux in zip(corner, phase, stars[chosen, 2], strict=True):
            canvas[top : top + side, left : left + side] += np.float32(flux) * table[down, across]
    return canvas[pad : pad + spec.height, pad : pad + spec.width].copy()


def expose(spec: SceneSpec, stars: np.ndarray, seed: int) -> Light:
    """The light that reaches the detector in a good frame."""
    transmission = vignette(spec)
    structure = correlated_field(spec.shape, spec.structure_scale, stream(seed, "structure"))
    sky = transmission * np.float32(spec.sky)
    sky *= np.maximum(1 + np.float32(spec.structure) * structure, 0)
    return Light(sky, render_stars(spec, stars) * transmission)
