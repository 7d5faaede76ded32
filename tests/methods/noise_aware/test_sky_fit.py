"""The sky of a frame: robust against what is on it, and what is on it stands out."""

import numpy as np
import pytest

from aqdask.methods.noise_aware.sky_fit import make_template, mode, robust_line, smooth_amplitude

SIDE = 64  # sub-patches a side: a frame of 1024 px
Y, X = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
VIGNETTING = 1 - 0.15 * (X**2 + Y**2) / 2
SIGMA = 2.0  # counts, of one sub-patch's level
RIDGE = (SIGMA / 4) ** 2


def night(seed, frames=12, share=0.03):
    """Levels of frames of a vignetted camera: pedestal, skies of 500 to 1500 counts, some bad sub-patches."""
    rng = np.random.default_rng(seed)
    skies = rng.uniform(500, 1500, frames)
    levels = 600 + skies[:, None, None] * VIGNETTING + rng.normal(0, SIGMA, (frames, SIDE, SIDE))
    levels += rng.uniform(20, 300, levels.shape) * (rng.random(levels.shape) < share)
    return levels


def ghost(amplitude):
    return amplitude * (np.hypot(X - 0.3, Y + 0.2) < 0.2)


def test_a_line_is_found_under_outliers():
    rng = np.random.default_rng(1)
    x = rng.uniform(900, 1100, 500)
    y = 40 + 0.7 * x + rng.normal(0, 2, 500)
    y[:75] += rng.uniform(50, 500, 75)
    y[80], x[81] = np.nan, np.nan
    alpha, beta = robust_line(x, y, 1e-6)
    assert alpha + beta * 1000 == pytest.approx(740, abs=1)
    assert beta == pytest.approx(0.7, abs=0.03)


def test_a_flat_template_says_nothing_and_no_value_is_nan():
    noise = np.random.default_rng(2).normal(0, 0.1, 400)
    alpha, beta = robust_line(100 + noise, 300 + 5 * noise, 1.0)
    assert abs(beta) < 0.2
    assert alpha + beta * 100 == pytest.approx(300, abs=0.1)
    alpha, beta = robust_line(np.full(4, np.nan), np.ones(4), 1.0)
    assert np.isnan(alpha)
    assert beta == 0


def test_the_template_is_the_vignetting():
    levels = night(3)
    levels[:, 10, 10] = np.nan
    template = make_template(levels, RIDGE)
    assert np.isnan(template[10, 10])
    known = np.isfinite(template)
    slope, offset = np.polyfit(VIGNETTING[known], template[known], 1)
    misfit = template[known] - offset - slope * VIGNETTING[known]
    assert misfit.std() < SIGMA  # the mean of a dozen, but for bad sub-patches
    assert slope * 0.15 > 50 * SIGMA  # flat it is not


@pytest.mark.parametrize("sky", [400.0, 1000.0, 2500.0])
def test_a_ghost_of_three_per_cent_stands_out_on_another_frame(sky):
    template = make_template(night(4), RIDGE)
    noise = np.random.default_rng(5).normal(0, SIGMA, (SIDE, SIDE))
    level = 600 + sky * (VIGNETTING + ghost(0.03)) + noise
    alpha, beta = robust_line(template, level, RIDGE)
    misfit = (level - alpha - beta * template) / SIGMA
    assert np.median(misfit[ghost(1) > 0]) == pytest.approx(0.03 * sky / SIGMA, rel=0.15)
    assert abs(np.median(misfit[ghost(1) == 0])) < 0.5
    assert (np.abs(misfit[ghost(1) == 0]) > 5).mean() < 0.01


def test_a_ghost_in_one_frame_of_the_references_is_not_in_the_template():
    levels = night(6, share=0.0)
    levels[3] += 1000 * ghost(0.05)
    alone, among = make_template(np.delete(levels, 3, axis=0), RIDGE), make_template(levels, RIDGE)
    within = (among - alone)[ghost(1) > 0] - np.median(among - alone)
    assert np.median(within) < 2 * SIGMA < 50 / 5


def test_the_mode_lies_where_values_are_dense():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(10, 1, 600), rng.uniform(12, 60, 400)])
    assert mode(values) == pytest.approx(10, abs=0.7)


def test_a_cloud_over_two_fifths_of_the_frame_does_not_shift_the_rest():
    rng = np.random.default_rng(4)
    template = 1000 + np.add.outer(np.linspace(0, 60, 30), np.linspace(0, 60, 30))
    level = 0.9 * template + rng.normal(0, 3, template.shape)
    level[:, :12] += rng.uniform(20, 300, (30, 12))
    alpha, beta = robust_line(template, level, ridge=1.0)
    clear = (level - alpha - beta * template)[:, 12:]
    assert abs(np.median(clear)) < 3


def test_the_shape_of_a_frame_is_that_of_most_patches():
    rng = np.random.default_rng(5)
    y, x = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 24), indexing="ij")
    truth = 3 * x - 2 * y + (x**2 + y**2)
    sky = truth + rng.normal(0, 0.1, x.shape)
    sky[:6, :8] += 40  # a cloud over a tenth of the frame
    everywhere = np.ones(x.shape, bool)
    assert smooth_amplitude(sky, everywhere) == pytest.approx(truth.std(), rel=0.03)
    assert smooth_amplitude(sky, ~(sky > 20)) == pytest.approx(truth[sky <= 20].std(), rel=0.03)
    assert smooth_amplitude(rng.normal(0, 0.1, x.shape), everywhere) < 0.03
    assert smooth_amplitude(sky, np.zeros(x.shape, bool)) == 0
    assert smooth_amplitude(np.ones(x.shape), everywhere) == pytest.approx(0, abs=1e-9)
