"""Presets and the prior over scenes, and frames drawn from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aqdask.errors import UsageError
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.presets import MAX_CROWDING, PRESETS, preset, wide_field_prior
from aqdask.simulate.scene import SceneSpec
from aqdask.simulate.sources import draw_stars


def test_default_is_the_default() -> None:
    assert preset("default") == SceneSpec()
    with pytest.raises(UsageError, match="one of default, gwac, wide_psf, crowded"):
        preset("hubble")


def test_gwac_is_dense_and_undersampled() -> None:
    spec = preset("gwac")
    assert (spec.shape, spec.pixel_scale) == ((4096, 4096), 11.7)
    x, y, _ = draw_stars(spec, 1).T
    inside = (np.abs(x - 2047.5) < 2048) & (np.abs(y - 2047.5) < 2048)
    assert inside.sum() == pytest.approx(1e5, rel=0.02)
    assert spec.fwhm < 2  # Nyquist


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_give_frames_of_sky_and_stars(name: str) -> None:
    spec = dataclasses.replace(preset(name), height=256, width=256)
    frame = simulate_frame(spec, seed=6)
    level = spec.pedestal + spec.sky / spec.gain
    assert np.percentile(frame.image, 30) == pytest.approx(level, rel=0.15)
    assert frame.image.max() > level + 20 * spec.sky_noise / spec.gain
    assert frame.truth == {}


def test_prior_covers_its_ranges_log_uniformly() -> None:
    rng = np.random.default_rng(12)
    scenes = [wide_field_prior(rng, 64, 64) for _ in range(600)]
    for name, least, most in (("fwhm", 1.5, 8), ("sky", 50, 5000), ("gain", 0.3, 4), ("read_noise", 3, 15)):
        values = np.log([getattr(spec, name) for spec in scenes])
        spread = (values - np.log(least)) / np.log(most / least)
        assert 0 <= spread.min() < 0.02 < 0.98 < spread.max() <= 1
        assert spread.mean() == pytest.approx(0.5, abs=0.05)  # four standard errors
        assert spread.var() == pytest.approx(1 / 12, rel=0.15)
    assert np.mean([spec.psf == "kolmogorov" for spec in scenes]) == pytest.approx(1 / 3, abs=0.08)
    assert np.mean([spec.galaxies > 0 for spec in scenes]) == pytest.approx(1 / 2, abs=0.08)
    density = np.array([spec.star_density for spec in scenes])
    crowding = density * np.array([spec.fwhm for spec in scenes]) ** 2
    assert 1 / 2000 <= density.min() < density.max() <= 1 / 100
    assert crowding.max() <= MAX_CROWDING * (1 + 1e-9)
    assert len({spec.camera_seed for spec in scenes}) == 600


def test_prior_repeats_with_its_generator() -> None:
    one, again, other = (wide_field_prior(np.random.default_rng(seed), 64, 96) for seed in (1, 1, 2))
    assert one == again != other
    assert one.shape == (64, 96)


@pytest.mark.parametrize("seed", range(8))
def test_frames_of_the_prior_show_sky_above_the_pedestal(seed: int) -> None:
    """The lower third of the pixels is vignetted sky; little of the frame is saturated."""
    spec = wide_field_prior(np.random.default_rng(seed), 256, 256)
    image = simulate_frame(spec, seed=seed).image
    sky = (np.percentile(image, 35) - spec.pedestal) * spec.gain
    assert 0.75 * spec.sky - spec.sky_noise < sky < 1.15 * spec.sky + spec.sky_noise
    assert (image >= spec.saturation).mean() < 0.01
