"""Position centring: the mean of the others, and a guard that knows field and pointing."""

import numpy as np
import pytest
from aqdask.methods.noise_aware.centring import Guard, agreement, leave_one_out, place_mean, star_pattern
from features import changed, good_frame

from aqdask.methods.noise_aware.patch_statistics import CELLS

SIDE = 12  # patches
PIXELS = 64 * SIDE
MARGIN = 128  # px of sky around, into which a frame may be shifted


# --- the mean at a place -----------------------------------------------------------------------------------


def some(seed=0, frames=5, holes=0.2):
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 1, (frames, 4, 6, 2))
    values[rng.random(values.shape) < holes] = np.nan
    return values


def test_leave_one_out_is_the_mean_of_the_others():
    values = some()
    found = leave_one_out(values)
    for k in range(len(values)):
        others = np.delete(values, k, axis=0)
        known = np.isfinite(others).any(axis=0)
        expected = values[k] - np.nanmean(np.where(known, others, 0), axis=0)
        np.testing.assert_allclose(found[k][known], expected[known], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))


def test_without_holes_it_is_the_short_formula():
    values = some(holes=0)
    expected = values - (values.sum(axis=0) - values) / (len(values) - 1)
    np.testing.assert_allclose(leave_one_out(values), expected, atol=1e-12)
    np.testing.assert_allclose(place_mean(values), values.mean(axis=0), rtol=1e-6)
    assert place_mean(values).dtype == np.float32


def test_a_place_without_data_has_the_mean_of_all_places():
    values = some(holes=0)
    values[:, 1, 2] = np.nan
    values[1:, 0, 0] = np.nan
    np.testing.assert_allclose(place_mean(values)[1, 2], np.nanmean(values, axis=(0, 1, 2)), rtol=1e-6)
    alone = leave_one_out(values)[0, 0, 0]
    np.testing.assert_allclose(alone, values[0, 0, 0] - np.nanmean(values, axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(place_mean(np.full((3, 2, 2, 1), np.nan)), 0)


def test_left_out_frames_spread_as_new_ones_do():
    """A frame that is part of the mean would be too close to it."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((4, 60, 60, 1))
    fresh = rng.standard_normal((60, 60, 1)) - place_mean(values)
    assert leave_one_out(values).std() == pytest.approx(fresh.std(), rel=0.06)


# --- the guard ---------------------------------------------------------------------------------------------


def stars(field, density=1 / 1500):
    """Light of a field's stars, float64 ``(y, x)``, with `MARGIN` around."""
    rng = np.random.default_rng(field)
    side = PIXELS + 2 * MARGIN
    light = np.zeros((side, side))
    count = int(density * side**2)
    light[tuple(rng.integers(0, side, (2, count)))] = rng.pareto(1.0, count) * 100 + 100
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 1.7) ** 2)
    for axis in (0, 1):
        light = np.apply_along_axis(np.convolve, axis, light, kernel / kernel.sum(), "same")
    return light


FIELDS = {field: stars(field) for field in (1, 2)}


def frame(field=1, seed=0, shift=(0, 0), bright=1.0):
    """Columns of a frame; cells are winsorised means of 16 px sub-patches, in sigma."""
    top, left = MARGIN + shift[0], MARGIN + shift[1]
    u = bright * FIELDS[field][top : top + PIXELS, left : left + PIXELS]
    u = u + np.random.default_rng([seed, field]).standard_normal(u.shape)
    y, x = np.indices(u.shape) / PIXELS
    u = u + 2.0 * (x - 0.5) ** 2 + 1.0 * y  # the flat field, which all fields share
    cells = np.clip(u, -1.5, 1.5).reshape(SIDE, CELLS, 16, SIDE, CELLS, 16).mean(axis=(2, 5))
    cells = cells.transpose(0, 2, 1, 3).reshape(SIDE, SIDE, CELLS**2)
    features = good_frame(seed, (SIDE, SIDE))
    return features | {f"cell_{n}": cells[..., n].astype(np.float32) for n in range(CELLS**2)}


ALL = np.ones((SIDE, SIDE), bool)


@pytest.fixture(scope="module")
def guard():
    made, found = Guard.fit([frame(seed=seed) for seed in range(6)], [ALL] * 6)
    assert found > 0.7
    return made


@pytest.mark.parametrize("bright", [0.7, 1.0, 1.5])
def test_the_same_field_passes_with_new_noise(guard, bright):
    assert all(guard.passes(frame(seed=seed, bright=bright), ALL) for seed in range(50, 55))


def test_another_field_is_refused(guard):
    assert not any(guard.passes(frame(2, seed=seed), ALL) for seed in range(50, 55))
    assert abs(agreement(star_pattern(frame(2, seed=9)), guard.pattern, ALL)) < 0.2


@pytest.mark.parametrize(
    "shift", [(32, 0), (0, -32), (-40, 25), (48, 0), (64, 0), (0, 64), (64, 64), (-100, 0), (8, 8), (0, 16)]
)
def test_another_pointing_is_refused(guard, shift):
    assert not guard.passes(frame(seed=60, shift=shift), ALL)


def test_a_pixel_is_no_other_pointing(guard):
    assert guard.passes(frame(seed=60, shift=(1, -1)), ALL)


@pytest.mark.parametrize("rows", [np.s_[:4], np.s_[4:8], np.s_[:, 8:]])
@pytest.mark.parametrize("field", [1, 2])
def test_with_a_third_of_the_frame_spoilt_the_rest_decides(guard, rows, field):
    spoilt, usable = frame(field, seed=61), ALL.copy()
    noise = np.random.default_rng(3)
    for n in range(CELLS**2):
        spoilt[f"cell_{n}"][rows] = noise.normal(0, 3, spoilt[f"cell_{n}"][rows].shape)
    usable[rows] = False
    assert guard.passes(spoilt, usable) is (field == 1)


def test_frames_without_data_or_of_another_shape_never_pass(guard):
    nothing = changed(frame(seed=62), np.s_[:], all=np.nan)
    assert not guard.passes(nothing, np.zeros_like(ALL))
    assert not guard.passes(frame(seed=62), np.zeros_like(ALL))
    assert not guard.passes(good_frame(1, (8, 8)), np.ones((8, 8), bool))
    holes = changed(frame(seed=62), np.s_[2:5, 3], all=np.nan)
    assert guard.passes(holes, np.isfinite(holes["sky"]))


def test_references_of_many_fields_do_not_agree():
    fields = [frame(1 + k % 2, seed=k, shift=(30 * k, -20 * k)) for k in range(4)]
    _, found = Guard.fit(fields, [ALL] * 4)
    assert found < 0.3
