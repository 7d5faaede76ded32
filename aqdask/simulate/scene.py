"""Parameters of a simulated exposure, its expected light, and seeded random streams.

Pixel coordinates are 0-based with integers at pixel centres; arrays are ``(y, x)``.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from aqdask.errors import UsageError

PROFILES = ("moffat", "kolmogorov")
FIELD_MARGIN = 64  # px; stars beyond the edges contribute wings, and appear in shifted pointings


@dataclass(frozen=True)
class SceneSpec:
    """Parameters of one exposure: sky, stars, optics and detector.

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
        Seeing, full width at half maximum of the profile in pixels (before the pixel's own width).
    beta : float
        Exponent of the Moffat profile, above 1.
    psf : str
        'moffat' or 'kolmogorov' (long exposure through turbulence, `psf.kolmogorov_profile`).
    fwhm_variation : float
        Fraction by which the FWHM in the corners is larger than at the centre; it grows with the square of
        the radius, as field curvature does.
    drift, drift_angle : float
        Length in pixels and direction in degrees (from +x towards +y) of the line that smears all stars.
    star_density : float
        Stars per pixel.
    flux_minimum, flux_maximum, flux_slope : float
        N(>F) is proportional to ``F**-flux_slope`` between these fluxes (electrons).
    galaxies, galaxy_radius : float
        Galaxies per pixel, and the median of their half-light radii in pixels.
    vignetting : float
        Fraction of the light lost in the corners; it grows with the square of the radius.
    structure, structure_scale : float
        Natural sky structure: rms as a fraction of the sky, and its scale in pixels.
    saturation : int
        Largest value in ADU, at most 65535.
    full_well : float or None
        Largest charge of a pixel in electrons; the excess spills along the column. None: no limit.
    camera_seed : int
        Seed of the fixed pattern (dust, pixel response, hot pixels), the same for frames of one camera.
    dust : int
        Number of out-of-focus dust grains in the flat.
    pixel_response : float
        Pixel response non-uniformity, rms as a fraction.
    hot_pixels : float
        Fraction of the pixels with a large dark current.
    camera, filter : str
        For the header.
    pixel_scale : float
        Arcseconds per pixel, for the header.
    field_seed : int or None
        Seed of the stars, the same for frames of one field; None: the seed of the frame.
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
    psf: str = "moffat"
    fwhm_variation: float = 0.0
    galaxies: float = 0.0
    galaxy_radius: float = 3.0
    full_well: float | None = None
    camera_seed: int = 0
    dust: int = 0
    pixel_response: float = 0.0
    hot_pixels: float = 0.0
    camera: str = "SIMCAM"
    filter: str = "L"
    pixel_scale: float = 1.0

    def __post_init__(self) -> None:
        positive = (self.height, self.width, self.gain, self.fwhm, self.flux_minimum, self.structure_scale,
                    self.galaxy_radius, self.pixel_scale, self.full_well or 1.0)  # fmt: skip
        fractions = self.hot_pixels, self.pixel_response, self.galaxies, self.star_density
        usable = min(positive) > 0 and self.beta > 1 and 0 < self.saturation <= 65535
        if not (usable and all(0 <= one <= 1 for one in fractions) and self.full_well != 0 and self.dust >= 0
                and self.fwhm_variation > -1 and self.psf in PROFILES):  # fmt: skip
            raise UsageError(
                f"a scene with {self}",
                expected="shape, gain, fwhm, flux, scales and full well above 0, beta above 1, saturation in "
                f"1 to 65535, densities and fractions in 0 to 1, variation above -1, psf in {PROFILES}",
                consequence="No frame can be drawn from it",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """``(y, x)``."""
        return self.height, self.width

    @property
    def moffat_radius(self) -> float:
        """Radius alpha of ``(1 + (r / alpha)**2)**-beta`` in pixels (Moffat 1969)."""
        return self.fwhm / (2 * math.sqrt(2 ** (1 / self.beta) - 1))

    @property
    def sky_noise(self) -> float:
        """Standard deviation of an empty sky pixel in electrons."""
        return math.sqrt(self.sky + self.read_noise**2)


@dataclass(frozen=True)
class Light:
    """Expected electrons of a good frame, float32 ``(y, x)``.

    Parameters
    ----------
    sky, stars : ndarray
        Smooth sky, and stars with galaxies, both after multiplication with ``flat``.
    flat : ndarray
        Transmission of optics and detector.
    dark : ndarray or None
        Dark current of hot pixels; None without hot pixels.
    """

    sky: np.ndarray
    stars: np.ndarray
    flat: np.ndarray
    dark: np.ndarray | None = None

    def total(self) -> np.ndarray:
        """Sum of all components, a new array."""
        everything = self.sky + self.stars
        if self.dark is not None:
            everything += self.dark
        return everything


def stream(seed: int, name: str) -> np.random.Generator:
    """Random generator for one purpose: a child of ``seed`` by name, independent of all other purposes."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),)))


def correlated_field(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise with a correlation of FWHM ``scale`` pixels, float32 ``(y, x)``, mean 0, variance 1.

    Independent numbers on a grid with a step of one sigma are convolved with the Gaussian along each axis, as
    two matrix products, so that the cost falls with the scale.
    """
    sigma = scale / 2.3548

    def kernel(length: int) -> np.ndarray:
        knots = np.arange(-4, math.ceil(length / sigma) + 5) * sigma
        weight = np.exp(-0.5 * ((np.arange(length)[:, None] - knots) / sigma) ** 2)
        return (weight / np.sqrt((weight**2).sum(axis=1, keepdims=True))).astype(np.float32)

    down, across = kernel(shape[0]), kernel(shape[1])
    white = rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32)
    return down @ white @ across.T
