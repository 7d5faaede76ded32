"""Noise, sky and the scale on which noise is 1: against astropy, numpy in float64, and what is true."""

import math

import numpy as np
import pytest
import torch
from astropy.stats import biweight_location, sigma_clip
from hypothesis import given
from hypothesis import strategies as st

from aqdask.methods.noise_aware.noise_model import (
    CLIP,
    KEPT_VARIANCE,
    NoiseModel,
    clipped_variance,
    compress,
    difference,
    expand,
    linear,
    relinear,
    row_median,
    sky_level,
    variance_stabilise,
)

SIDE = 64
Y, X = np.mgrid[:SIDE, :SIDE]


def tensor(values, dtype=torch.float32):
    return torch.tensor(np.asarray(values), dtype=dtype)


def noisy(seed, variance, count=32, sky=500.3):
    return np.random.default_rng(seed).normal(sky, math.sqrt(variance), (count, SIDE, SIDE))


def with_stars(patches, flux, seed=0, stars=5, sigma=1.1):
    rng = np.random.default_rng(seed)
    patches = patches.copy()
    for patch in patches:
        for cy, cx in rng.uniform(0, SIDE, (stars, 2)):
            profile = np.exp(-((Y - cy) ** 2 + (X - cx) ** 2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
            patch += flux * profile
    return patches


def variance_of(patches, valid=None, lag=1):
    mask = None if valid is None else torch.from_numpy(valid)
    return clipped_variance(difference(tensor(patches), mask, lag)).numpy()


# --- the high-pass -------------------------------------------------------------------------------------


@given(st.tuples(*[st.integers(-50, 50)] * 3), st.sampled_from([1, 2]))
def test_planes_vanish(plane, lag):
    level, down, across = plane
    image = (level + down * Y + across * X)[None]
    assert (difference(tensor(image), None, lag) == 0).all()


@pytest.mark.parametrize("lag", [1, 2])
def test_the_difference_is_its_definition_and_keeps_the_variance_of_white_noise(lag):
    image = noisy(1, 9.0, 8)
    found = difference(tensor(image - 500.3), None, lag).numpy()
    small = image - 500.3
    a, b = small[:, lag:, lag:], small[:, :-lag, lag:]
    c, d = small[:, lag:, :-lag], small[:, :-lag, :-lag]
    np.testing.assert_allclose(found, ((a - b - c + d) / 2).reshape(8, -1), atol=1e-5)
    assert found.var() == pytest.approx(9, rel=0.03)


def test_a_pixel_that_is_not_valid_takes_its_four_differences_with_it():
    valid = np.ones((1, SIDE, SIDE), bool)
    valid[0, 10, 20] = False
    found = difference(torch.zeros(1, SIDE, SIDE), torch.from_numpy(valid)).reshape(SIDE - 1, SIDE - 1)
    assert [tuple(place) for place in found.isnan().nonzero().tolist()] == [
        (9, 19),
        (9, 20),
        (10, 19),
        (10, 20),
    ]


# --- clipped variance ----------------------------------------------------------------------------------


def test_the_correction_is_the_variance_of_a_cut_normal_variable():
    from scipy.stats import truncnorm

    assert pytest.approx(truncnorm.var(-CLIP, CLIP), rel=1e-9) == KEPT_VARIANCE


def test_it_agrees_with_astropys_clipping():
    values = np.random.default_rng(2).standard_t(4, (6, 3969)) * 3
    found = clipped_variance(tensor(values)).numpy()
    for row, variance in zip(values, found, strict=True):
        kept = sigma_clip(row, sigma=CLIP, maxiters=None, cenfunc=lambda v, axis: 0.0 * v[..., :1],
                          stdfunc=lambda v, axis: np.sqrt((v**2).mean() / KEPT_VARIANCE),
                          masked=False, copy=True)  # fmt: skip
        # Student's t has no end of outliers; two rounds from a MAD stop a little before astropy does.
        assert variance == pytest.approx((kept**2).mean() / KEPT_VARIANCE, rel=0.1)


@pytest.mark.parametrize("flux", [0, 1e3, 1e5, 1e6])
@pytest.mark.parametrize("variance", [0.5, 1.54, 400.0])
def test_true_variance_with_and_without_stars(variance, flux):
    found = variance_of(with_stars(noisy(3, variance), flux))
    # A single patch is good to some 4 %; stars of any flux add a little where the noise is small.
    assert np.median(found) == pytest.approx(variance, rel=0.02 if flux == 0 else 0.1)
    assert found.std() / variance < 0.2


@pytest.mark.parametrize("pixels", [1.54, 0.3, 0.05])
def test_coarse_counts(pixels):
    """Rounding adds a twelfth of a count squared; the MAD of such counts takes a handful of values."""
    found = variance_of(np.round(noisy(4, pixels)))
    assert np.isfinite(found).all()
    if pixels > 1:
        assert found.mean() == pytest.approx(pixels + 1 / 12, rel=0.05)
    else:
        assert 0.5 * pixels < found.mean() < pixels + 0.2


def test_a_constant_border_within_a_patch_leaves_a_finite_variance():
    patches = noisy(5, 25.0, 16)
    patches[:, :40] = 0
    found = variance_of(patches)
    assert np.isfinite(found).all()
    assert (found > 0.5).all()


def test_equal_values_have_no_variance_and_no_value_is_nan():
    rows = torch.stack([torch.zeros(100), torch.full((100,), torch.nan)])
    zero, none = clipped_variance(rows).tolist()
    assert zero == 0
    assert math.isnan(none)


def test_what_is_not_valid_has_no_say_in_variance_and_sky():
    patches, rng = noisy(6, 9.0, 8), np.random.default_rng(6)
    valid = rng.random(patches.shape) < 0.6
    spoiled = np.where(valid, patches, rng.choice([np.nan, np.inf, 1e30, -7], patches.shape))
    variance, other = variance_of(patches, valid), variance_of(spoiled, valid)
    assert variance.tobytes() == other.tobytes()
    assert variance.mean() == pytest.approx(9, rel=0.05)
    mask = torch.from_numpy(valid)
    skies = [sky_level(tensor(p), mask, torch.from_numpy(variance)).numpy() for p in (patches, spoiled)]
    assert skies[0].tobytes() == skies[1].tobytes()
    np.testing.assert_allclose(skies[0], 500.3, atol=5 * 3 / math.sqrt(0.6 * SIDE**2))


# --- sky -----------------------------------------------------------------------------------------------


def sky_of(patches, variance, valid=None):
    return sky_level(tensor(patches), valid, tensor(np.full(len(patches), variance))).numpy()


def test_sky_agrees_with_the_biweight_and_is_steadier_than_the_median():
    clean = noisy(7, 16.0, 64)
    found = sky_of(clean, 16.0)
    error = 4 / SIDE
    biweight = np.array([biweight_location(patch) for patch in clean])
    assert np.abs(found - biweight).max() < error
    assert (found - 500.3).std() < 1.15 * error < np.median(clean, axis=(1, 2)).std() * 1.05
    assert abs((found - 500.3).mean()) < 5 * error / 8


def test_stars_pull_the_sky_hardly_more_than_the_median():
    crowded = with_stars(noisy(8, 16.0), 5e3, stars=15)
    median = np.median(crowded, axis=(1, 2)) - 500.3
    assert abs((sky_of(crowded, 16.0) - 500.3).mean()) < 1.5 * median.mean()
    assert crowded.mean() - 500.3 > 5 * median.mean()  # the stars are worth a test


def test_no_mask_and_a_full_mask_give_the_same_sky():
    patches = noisy(9, 4.0, 8)
    full = torch.ones(8, SIDE, SIDE, dtype=torch.bool)
    assert sky_of(patches, 4.0).tobytes() == sky_of(patches, 4.0, full).tobytes()


def test_sky_is_found_from_the_few_pixels_that_are_valid_and_nan_from_none():
    patches = np.full((2, SIDE, SIDE), np.nan)
    patches[0, 1::2, 1::2] = 37.0  # none of every fourth pixel
    found = sky_of(patches, 1.0, torch.from_numpy(np.isfinite(patches)))
    assert found[0] == 37
    assert math.isnan(found[1])


# --- the noise model, and units of the noise --------------------------------------------------------------


def test_variance_is_the_polynomial_above_the_floor():
    model = NoiseModel(a=-200.0, b=0.8, c=1e-4, floor=5.0)
    counts = np.linspace(-1000, 60_000, 501)
    truth = np.maximum(-200 + 0.8 * counts + 1e-4 * counts**2 + 0.375 * 0.64, 5.0)
    np.testing.assert_allclose(model.variance(tensor(counts, torch.float64)).numpy(), truth, rtol=1e-12)
    assert model.variance(torch.tensor([torch.nan])).isnan().all()


def test_it_is_the_difference_of_anscombe_transforms_where_the_variance_is_a_line():
    gain, pedestal, read = 1.7, 300.0, 6.0
    b = 1 / gain
    model = NoiseModel(a=(read**2 / gain**2) - b * pedestal, b=b)
    counts = np.random.default_rng(10).uniform(310, 20_000, (1, SIDE, SIDE))
    sky = 900.0

    def anscombe(values):  # Murtagh, Starck & Bijaoui 1995, electrons
        electrons = gain * (values - pedestal)
        return 2 * np.sqrt(electrons + 3 / 8 + read**2)

    found = variance_stabilise(tensor(counts, torch.float64), tensor([sky], torch.float64), model).numpy()
    np.testing.assert_allclose(found, anscombe(counts) - anscombe(sky), rtol=1e-9)


def test_noise_is_one_at_every_brightness():
    gain, rng = 1.5, np.random.default_rng(11)
    model = NoiseModel(a=64 / gain**2 - 600 / gain, b=1 / gain)
    electrons = np.geomspace(50, 80_000, 12)[:, None, None] * np.ones((12, SIDE, SIDE))
    counts = rng.poisson(electrons) / gain + rng.normal(0, 8 / gain, electrons.shape) + 600
    found = variance_stabilise(tensor(counts), torch.full((12,), 700.0), model).numpy()
    np.testing.assert_allclose(found.std(axis=(1, 2)), 1, atol=0.04)


def test_without_a_slope_it_is_a_plain_division():
    model = NoiseModel(a=9.0, b=0.0)
    u = variance_stabilise(torch.tensor([[[10.0, 13.0]]]), torch.tensor([10.0]), model)
    assert u.tolist() == [[[0.0, 1.0]]]


@given(st.floats(-3, 300), st.floats(0, 0.3))
def test_linear_and_relinear_are_inverses(light, q):
    u = relinear(tensor(light, torch.float64), tensor(q, torch.float64))
    if 1 + q * light > 1e-9:
        assert float(linear(u, tensor(q, torch.float64))) == pytest.approx(light, abs=1e-6, rel=1e-6)


@given(st.floats(-50, 1000), st.floats(0.1, 3.0))
def test_linear_undoes_stabilise(counts, b):
    model = NoiseModel(a=100 * b**2 + 60 * b, b=b)
    sky = tensor([20.0], torch.float64)
    u = variance_stabilise(tensor([[[counts]]], torch.float64), sky, model)
    sigma = model.variance(sky).sqrt()
    assert float(linear(u, b / sigma) * sigma + sky) == pytest.approx(counts, abs=1e-6)


@given(st.floats(-1e4, 1e4))
def test_expand_undoes_compress_which_is_asinh(u):
    value = tensor(u, torch.float64)
    assert float(compress(value)) == pytest.approx(10 * math.asinh(u / 10), rel=1e-9, abs=1e-12)
    assert float(expand(compress(value))) == pytest.approx(u, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("length", [1, 7, 256, 497])
def test_the_median_of_rows_is_the_element_that_torch_finds(length):
    values = torch.from_numpy(np.random.default_rng(length).poisson(30, (5, length)).astype(np.float32))
    torch.testing.assert_close(row_median(values), values.median(dim=1).values, rtol=0, atol=0)
    values[:, 0] = torch.nan
    torch.testing.assert_close(
        row_median(values, some_missing=True), values.nanmedian(dim=1).values, rtol=0, atol=0, equal_nan=True
    )
