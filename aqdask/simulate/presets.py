"""Scenes of some telescopes, and a broad prior over scenes for training."""

from __future__ import annotations

import math

import numpy as np

from aqdask.errors import UsageError
from aqdask.simulate.scene import SceneSpec

MAX_CROWDING = 0.1  # stars per FWHM**2; with more a frame is confusion noise only

PRESETS: dict[str, SceneSpec] = {
    "default": SceneSpec(),
    # Ground-based Wide Angle Camera: 18 cm at f/1.2, 13 um pixels of 11.7 arcsec, 10 s without a filter, to
    # V = 16 (Turpin et al. 2020). About 1e5 stars per frame near the Milky Way; sky 20.5 mag/arcsec**2.
    "gwac": SceneSpec(
        sky=3000.0, gain=1.4, read_noise=12.0, pedestal=500.0, fwhm=1.5, beta=3.0, fwhm_variation=0.4,
        star_density=1e5 / 4096**2, flux_minimum=700.0, flux_maximum=5e6, flux_slope=0.85, vignetting=0.3,
        structure=0.01, structure_scale=1024.0, full_well=90_000.0, dust=12, pixel_response=0.01,
        hot_pixels=1e-4, camera="SIM-GWAC", filter="W", pixel_scale=11.7,
    ),
    # 2 m telescope with a finely sampled seeing of 1 arcsec: few stars, galaxies, deep wells.
    "wide_psf": SceneSpec(
        sky=400.0, gain=1.1, read_noise=5.0, pedestal=1000.0, fwhm=5.5, psf="kolmogorov", fwhm_variation=0.05,
        star_density=1 / 4000, flux_minimum=800.0, flux_maximum=2e7, flux_slope=0.6, galaxies=1 / 4000,
        galaxy_radius=4.0, vignetting=0.05, structure=0.005, full_well=150_000.0, dust=20,
        pixel_response=0.005, hot_pixels=2e-5, camera="SIM-2M", filter="r", pixel_scale=0.18,
    ),
    # Milky Way field of a small telescope: crowded and well sampled.
    "crowded": SceneSpec(
        sky=1500.0, fwhm=2.6, beta=3.0, fwhm_variation=0.1, star_density=1 / 110, flux_minimum=400.0,
        flux_slope=0.8, full_well=80_000.0, dust=10, pixel_response=0.01, hot_pixels=5e-5,
        camera="SIM-30CM", pixel_scale=1.2,
    ),
}  # fmt: skip


def preset(name: str) -> SceneSpec:
    """Return a scene of `PRESETS`, 4096 x 4096 px.

    Other sizes and values: ``dataclasses.replace(preset("gwac"), height=512, width=512)``.

    Parameters
    ----------
    name : str
        'default', 'gwac', 'wide_psf' or 'crowded'.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    if name not in PRESETS:
        raise UsageError(
            f"a preset {name!r}",
            expected=f"one of {', '.join(PRESETS)}",
        )
    return PRESETS[name]


def wide_field_prior(rng: np.random.Generator, height: int, width: int) -> SceneSpec:
    """Draw a random scene of a random camera, from a prior over good frames of any telescope.

    Log-uniform: FWHM 1.5 to 8 px, sky 50 to 5000 e-, density 1/2000 to 1/100 stars a pixel (at most
    `MAX_CROWDING` per square FWHM), gain 0.3 to 4 e-/ADU, read noise 3 to 15 e-, pedestal 100 to 2000 ADU,
    structure 0.5 to 3 % at 128 to 1024 px, full well 40 000 to 200 000 e- (one camera in four: none).
    Uniform: vignetting 0 to 0.3, growth of the FWHM 0 to 0.4, pixel response 0 to 2 %, dust up to one grain
    in 512 px squared. One scene in three has a Kolmogorov PSF, the others have Moffat exponents of 2.5 to
    5; half have galaxies. The faintest stars are 1 to 10 times the noise within one FWHM. Seeds are random.
    """

    def log_uniform(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    fwhm, sky, read_noise = log_uniform(1.5, 8), log_uniform(50, 5000), log_uniform(3, 15)
    faintest = log_uniform(1, 10) * fwhm * math.sqrt(sky + read_noise**2)
    return SceneSpec(
        height=height,
        width=width,
        sky=sky,
        gain=log_uniform(0.3, 4),
        read_noise=read_noise,
        pedestal=log_uniform(100, 2000),
        fwhm=fwhm,
        beta=float(rng.uniform(2.5, 5)),
        psf="kolmogorov" if rng.uniform() < 1 / 3 else "moffat",
        fwhm_variation=float(rng.uniform(0, 0.4)),
        star_density=min(log_uniform(1 / 2000, 1 / 100), MAX_CROWDING / fwhm**2),
        flux_minimum=faintest,
        flux_maximum=faintest * log_uniform(1e3, 1e5),
        flux_slope=float(rng.uniform(0.6, 1.1)),
        galaxies=log_uniform(1 / 50_000, 1 / 2000) if rng.uniform() < 0.5 else 0.0,
        galaxy_radius=log_uniform(1, 5),
        vignetting=float(rng.uniform(0, 0.3)),
        structure=log_uniform(0.005, 0.03),
        structure_scale=log_uniform(128, 1024),
        full_well=log_uniform(4e4, 2e5) if rng.uniform() < 0.75 else None,
        camera_seed=int(rng.integers(2**31)),
        dust=int(rng.integers(0, height * width // 512**2 + 1, endpoint=True)),
        pixel_response=float(rng.uniform(0, 0.02)),
        hot_pixels=log_uniform(1e-6, 2e-4),
    )
