"""Noise of the sky by the noise model of a bundle."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aqdask.methods import dispatch
from aqdask.methods.bundle import Bundle, Calibration
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.products.weights import MEASURED, MODEL, measured_variance, weight_map
from aqdask.specs import PatchGrid

SKY = np.array([[100.0, 400.0], [np.nan, 900.0]])


def bundle(noise: NoiseModel, key: str = "cam|L", **more) -> Bundle:
    facts = {"noise": asdict(noise), **more}
    calibrations = {"": Calibration({}, facts), key: Calibration({}, facts)}
    return Bundle("m", "aqdask", 4, "none", {}, {}, calibrations)


def test_the_variance_is_that_of_the_model_at_the_sky():
    found, exact = dispatch.patch_variance(bundle(NoiseModel(-40, 0.5)), "cam", "L", SKY, 400.0)
    assert exact
    assert_allclose(found, -40 + 0.5 * SKY + 0.375 * 0.25)
    scaled, _ = dispatch.patch_variance(bundle(NoiseModel(-40, 0.5, unit=0.5)), "cam", "L", SKY, 400.0)
    assert_allclose(scaled, (-40 + 0.5 * SKY / 0.5 + 0.375 * 0.25) * 0.25)


def test_a_brighter_frame_has_the_model_of_its_stratum():
    brighter = {"limit": 300.0, "facts": {"noise": asdict(NoiseModel(5, 1.0))}}
    model = bundle(NoiseModel(0, 0.5), brighter=brighter)
    dark, bright = (dispatch.patch_variance(model, "cam", "L", SKY, level)[0] for level in (200.0, 500.0))
    assert_allclose(dark, 0.5 * SKY + 0.375 * 0.25)
    assert_allclose(bright, 5 + SKY + 0.375)


@pytest.mark.parametrize(
    ("noise", "camera", "source"),
    [
        (NoiseModel(0, 0.5), "cam", MODEL),
        (NoiseModel(0, 0.5), "other", MEASURED),
        (NoiseModel(9, 0, source="none"), "cam", MEASURED),
        (NoiseModel(9, 0, source="subtracted"), "cam", MEASURED),
    ],
)
def test_a_weight_is_the_inverse_variance_and_zero_where_masked(noise, camera, source):
    grid, dq = PatchGrid(6, 7, 4), np.zeros((6, 7), np.uint8)
    dq[1, 2] = 2
    maps = {"sky": SKY, "noise_ratio": np.full((2, 2), 2.0)}
    weight, found = weight_map(bundle(noise), camera, "L", maps, dq, grid, lambda: None)
    variance = noise.a + noise.b * SKY + 0.375 * noise.b**2
    variance = variance * (1 if source == MODEL else 4)
    assert (found, weight.dtype, weight[1, 2]) == (source, np.float32, 0)
    assert_allclose([weight[0, 0], weight[0, 6], weight[5, 6]], 1 / variance.ravel()[[0, 1, 3]], rtol=1e-6)
    assert not weight[4:, :4].any()  # a patch without sky


def test_measured_noise_is_that_of_white_noise_under_a_gradient_and_stars():
    rng, grid = np.random.default_rng(1), PatchGrid(64, 96, 32)
    image = rng.normal(500, 4, (64, 96)) + np.linspace(0, 300, 96)
    image[40:43, 40:43] += 5000
    invalid = np.zeros(image.shape, bool)
    invalid[:32, 64:] = True
    found = measured_variance(image, invalid, grid)
    assert np.isnan(found[0, 2])
    assert_allclose(np.delete(found.ravel(), 2), 16, rtol=0.25)
