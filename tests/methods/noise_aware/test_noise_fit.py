"""The noise model of a camera comes out of simulated patches, or is honest about where it comes from."""

import math

import numpy as np
import pytest
import torch

from aqdask.errors import UsageError
from aqdask.methods.noise_aware.noise_fit import LEAST_PATCHES, fit_noise, is_coarse, is_white
from aqdask.methods.noise_aware.noise_model import clipped_variance, difference, sky_level

GAIN, READ, PEDESTAL = 1.8, 9.0, 600.0  # electrons a count, electrons, counts
A, B = (READ / GAIN) ** 2 - PEDESTAL / GAIN, 1 / GAIN  # truth of Var(I) = A + B I, in counts
Y, X = np.mgrid[:64, :64]


def patches(seed, skies, response=0.0, stars=0, flux=3e4):
    """Counts ``(n, 64, 64)`` of skies in electrons, Poisson and read noise, pixel response, some stars."""
    rng = np.random.default_rng(seed)
    light = np.broadcast_to(np.asarray(skies, float)[:, None, None], (len(skies), 64, 64)).copy()
    for image in light:
        for cy, cx in rng.uniform(0, 64, (stars, 2)):
            image += flux * rng.pareto(1.2) * np.exp(-((Y - cy) ** 2 + (X - cx) ** 2) / 2.4) / 7.5
    light *= 1 + response * rng.standard_normal((64, 64))
    return (rng.poisson(np.minimum(light, 1e7)) + rng.normal(0, READ, light.shape)) / GAIN + PEDESTAL


def measured(counts, lag=1):
    values = torch.tensor(counts, dtype=torch.float32)
    variance = clipped_variance(difference(values, None, lag))
    return sky_level(values, None, variance).double().numpy(), variance.double().numpy()


def at(model, counts):
    return model.a + model.b * counts + model.c * counts**2


@pytest.mark.parametrize(("stars", "close"), [(0, 0.03), (6, 0.06)], ids=["empty", "stars"])
def test_slope_and_constant_come_back(stars, close):
    model = fit_noise(*measured(patches(1, np.linspace(200, 6000, 300), stars=stars)))
    assert model.source == "frames"
    assert model.b == pytest.approx(B, rel=close)
    for electrons in (300, 5500):
        counts = electrons / GAIN + PEDESTAL
        assert at(model, counts) == pytest.approx(A + B * counts, rel=close)
    assert model.c == 0


def test_an_ordinary_line_through_the_same_patches_would_be_far_off():
    """The reweighting earns its place: stars ruin least squares here."""
    level, variance = measured(patches(1, np.linspace(200, 6000, 300), stars=6))
    level = np.append(level, np.full(15, level.max()))
    variance = np.append(variance, np.full(15, 40 * variance.max()))
    assert fit_noise(level, variance).b == pytest.approx(B, rel=0.1)
    assert np.polyfit(level, variance, 1)[0] > 2 * B


def test_pixel_response_gives_the_square_term():
    response = 0.012
    model = fit_noise(*measured(patches(2, np.geomspace(500, 50_000, 600), response)))
    assert model.c == pytest.approx(response**2, rel=0.25)
    counts = 40_000 / GAIN + PEDESTAL
    truth = A + B * counts + response**2 * (counts - PEDESTAL) ** 2
    assert at(model, counts) == pytest.approx(truth, rel=0.05)
    assert truth > 1.8 * (A + B * counts)  # without c it would be far off


@pytest.mark.parametrize(
    ("gain", "source", "slope"),
    [(GAIN, "header", B), (math.nan, "none", 0.0), (0.0, "none", 0.0), (-2.0, "none", 0.0)],
)
def test_a_small_range_of_sky_is_not_asked_for_the_slope(gain, source, slope):
    level, variance = measured(patches(3, np.full(200, 1000.0)))
    model = fit_noise(level, variance, gain=gain)
    assert (model.source, model.b, model.c) == (source, slope, 0)
    counts = 1000 / GAIN + PEDESTAL
    assert at(model, counts) == pytest.approx(A + B * counts, rel=0.03)  # right at the sky that was seen


def test_a_slope_that_falls_is_not_believed():
    level = np.linspace(1000, 2000, 200)
    spread = np.random.default_rng(4).normal(1, 0.02, 200)
    model = fit_noise(level, (2000 - 0.5 * level) * spread, gain=2.0)
    assert (model.source, model.b) == ("header", 0.5)


def test_the_floor_is_below_all_patches_and_above_zero():
    level, variance = measured(patches(5, np.linspace(200, 6000, 300)))
    model = fit_noise(level, variance, lag=2)
    assert 0 < model.floor < variance.min()
    assert model.lag == 2


@pytest.mark.parametrize(
    "variance",
    [np.zeros(500), np.full(500, np.nan), np.ones(LEAST_PATCHES - 1)],
    ids=["constant", "nan", "few"],
)
def test_images_without_noise_are_refused_with_the_number(variance):
    usable = np.count_nonzero(variance > 0)
    with pytest.raises(
        UsageError, match=rf"^{usable} of \d+ patches .*at least {LEAST_PATCHES}.* What to do"
    ):
        fit_noise(np.full(variance.size, 100.0), variance)


def test_patches_without_a_level_or_noise_do_not_count():
    level, variance = measured(patches(6, np.linspace(200, 6000, 200)))
    expected = fit_noise(level, variance)
    more = fit_noise(np.append(level, [np.nan, 500, 500]), np.append(variance, [1.0, np.nan, 0.0]))
    assert more == expected


def test_smoothed_noise_is_not_white_and_is_seen_two_pixels_apart():
    white = np.random.default_rng(7).normal(0, 5, (20, 66, 66))
    smooth = sum(white[:, y : y + 64, x : x + 64] for y in (0, 1) for x in (0, 1)) / 2
    (_, near), (_, far) = measured(white[:, :64, :64]), measured(white[:, :64, :64], lag=2)
    assert is_white(near, far)
    (_, near), (_, far) = measured(smooth), measured(smooth, lag=2)
    assert not is_white(near, far)
    assert np.median(far) == pytest.approx(25, rel=0.05)
    assert is_white(np.full(3, np.nan), far[:3])  # nothing known: nothing against it


@pytest.mark.parametrize(
    ("sigma", "integer", "coarse"), [(0.3, True, True), (1.24, True, False), (0.01, False, False)]
)
def test_counts_that_do_not_show_the_noise(sigma, integer, coarse):
    counts = np.random.default_rng(8).normal(100.2, sigma, (20, 64, 64))
    _, variance = measured(np.round(counts) if integer else counts)
    assert is_coarse(variance, integer) is coarse


def test_nothing_measured_in_integers_is_coarse():
    assert is_coarse(np.full(4, np.nan), True)
    assert not is_coarse(np.full(4, np.nan), False)
