"""Lines across frames: drawn into pixels, measured patch by patch, and found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from features import line_features, noise_sums
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.methods.noise_aware.feature_extractor import fill_invalid
from aqdask.methods.noise_aware.frame_line import FrameLine
from aqdask.methods.noise_aware.frame_lines import find_lines, is_along, patches_crossed, shared_lines
from aqdask.methods.noise_aware.frame_sums import PATCH, FrameSums, unpacked
from aqdask.methods.noise_aware.noise_model import (
    NoiseModel,
    clipped_variance,
    difference,
    sky_level,
    variance_stabilise,
)
from aqdask.methods.noise_aware.patch_statistics import LINE_SUMS, View, line_sums
from aqdask.methods.noise_aware.scorer import with_position
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.presets import preset
from aqdask.specs import PatchGrid
from aqdask.stats.patches import cut, cut_valid

NOISE = 33.0
MODEL = NoiseModel(NOISE**2, 0.0)


def measured(image, invalid=None, model=MODEL):
    """Features for lines of a frame, float32 ``(n_y, n_x)`` by name, as the scorer gives them."""
    grid = PatchGrid(*image.shape)
    patches = torch.tensor(cut(image, grid).reshape(-1, 64, 64), dtype=torch.float32)
    valid = torch.tensor(cut_valid(invalid, grid).reshape(-1, 64, 64))
    variance = clipped_variance(difference(patches, valid))
    sky = sky_level(patches, valid, variance)
    u = fill_invalid(variance_stabilise(patches, sky, model).float(), valid)
    found = torch.cat([line_sums(View(u, u, u, u)), sky[:, None], variance[:, None]], dim=1).numpy()
    rows, columns = np.divmod(np.arange(len(patches)), grid.shape[1])
    found = with_position(found, grid.starts(0)[rows], grid.starts(1)[columns])
    found[valid.flatten(1).float().mean(dim=1).numpy() < 0.25] = np.nan
    names = (*LINE_SUMS, "sky", "noise", "top", "left")
    return {name: found[:, k].reshape(grid.shape) for k, name in enumerate(names)}


def noise(seed=0, shape=(1024, 1024), sky=1000.0):
    return sky + NOISE * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def streak(shape, start, end, peak, sigma=1.1):
    """Electrons of a streak between two points."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    step = np.subtract(end, start)
    length = np.hypot(*step)
    along = ((y - start[0]) * step[0] + (x - start[1]) * step[1]) / length
    away = ((y - start[0]) * step[1] - (x - start[1]) * step[0]) / length
    return np.where((along >= 0) & (along <= length), peak * np.exp(-0.5 * (away / sigma) ** 2), 0)


def ends_apart(line, start, end):
    """Distance of the farther end from where it should be, px."""
    found = np.array([line.start, line.end]), np.array([start, end])
    return min(np.hypot(*(one - found[1]).T).max() for one in (found[0], found[0][::-1]))


def strong(features):
    return [line for line in find_lines(features) if line.significance > 6]


# --- known lines ------------------------------------------------------------------------------------------


@given(st.floats(0, np.pi), st.floats(0.3, 0.7), st.floats(0.3, 0.7), st.floats(0.2, 0.28))
@settings(max_examples=25, deadline=None)
def test_a_streak_of_any_place_and_angle_is_found_with_its_ends(angle, y, x, half):
    shape = (768, 768)
    step = half * 768 * np.array([np.sin(angle), np.cos(angle)])
    start, end = 768 * np.array([y, x]) - step, 768 * np.array([y, x]) + step
    lines = strong(measured(noise(1, shape) + streak(shape, start, end, 100)))
    along_axes = min(abs(step)) < 10  # rows and columns are known by patch
    assert ends_apart(lines[0], start, end) < (70 if along_axes else 60)
    assert all(is_along(line, lines[0], 8) for line in lines)  # along the axes, rows or columns of it, too


@pytest.mark.parametrize("peak", [15, 30, 100, 1000])
@pytest.mark.parametrize("ends", [((0, 100), (1023, 700)), ((300, 0), (320, 1023)), ((1023, 10), (20, 1023))])
def test_streaks_across_the_frame(peak, ends):
    lines = strong(measured(noise(2) + streak((1024, 1024), *ends, peak)))
    assert len(lines) == 1
    assert ends_apart(lines[0], *ends) < (64 if peak == 15 else 24)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["column", "row"])
@pytest.mark.parametrize(("first", "last"), [(0, 1023), (600, 1023), (210, 600)])
def test_columns_and_rows_bright_and_dark_whole_and_in_part(sign, kind, first, last):
    image = noise(3)
    turned = image if kind == "column" else image.T
    turned[first : last + 1, 333] += 30 * sign
    (line,) = strong(measured(image))
    assert line.kind == kind
    places = [(float(first), 333.0), (float(last), 333.0)]
    assert ends_apart(line, *(places if kind == "column" else [place[::-1] for place in places])) < 40


def test_several_lines_are_all_found():
    image = noise(4) + streak((1024, 1024), (0, 200), (1023, 900), 100)
    image += streak((1024, 1024), (0, 900), (1023, 100), 60)
    image += streak((1024, 1024), (700, 0), (760, 1023), 15, sigma=8)  # an aircraft, out of focus
    image[:, 50] += 40
    image[800] -= 40
    kinds = sorted(line.kind for line in strong(measured(image)))
    assert kinds == ["column", "row", "streak", "streak", "streak"]


@pytest.mark.parametrize("shape", [(512, 1024), (300, 700), (1001, 777), (321, 321)])
def test_frames_that_are_not_square_and_overlapping_last_patches(shape):
    ends = (20.0, shape[1] - 1.0), (shape[0] - 1.0, 30.0)
    (line,) = strong(measured(noise(5, shape) + streak(shape, *ends, 120)))
    assert ends_apart(line, *ends) < 24
    image = noise(6, shape)
    image[:, shape[1] - 5] += 60
    (line,) = strong(measured(image))
    assert (line.kind, line.start[1]) == ("column", shape[1] - 5)


def test_a_streak_across_a_gap():
    invalid = np.zeros((1024, 1024), bool)
    invalid[400:600, 300:600] = True
    image = noise(7) + streak((1024, 1024), (100, 0), (900, 1023), 100)
    image[invalid] = 60_000
    (line,) = strong(measured(image, invalid))
    assert ends_apart(line, (100, 0), (900, 1023)) < 24


# --- none -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(512, 512), (1024, 1024), (400, 900), (1001, 777)])
def test_noise_alone_has_no_line(shape):
    strongest = [find_lines(measured(noise(seed, shape)))[0].significance for seed in range(10, 16)]
    assert max(strongest) < 5.5
    assert min(strongest) > 2.5  # the strongest line is there all the same: thresholds are made of it


def test_a_slope_a_bowl_and_an_amplifier_boundary_are_no_lines():
    y, x = np.mgrid[:1024, :1024] / 1024
    image = noise(20) + 300 * x + 150 * y + 200 * (x - 0.4) ** 2
    image[:, 500:] += 6
    assert find_lines(measured(image))[0].significance < 6.5  # what a few references allow


@pytest.mark.parametrize("seed", range(3))
def test_a_crowded_field_has_no_line(seed):
    scene = replace(preset("crowded"), height=768, width=768)
    model = NoiseModel((scene.read_noise**2 / scene.gain - scene.pedestal) / scene.gain, 1 / scene.gain)
    found = find_lines(measured(simulate_frame(scene, seed=seed).image.astype(float), model=model))
    assert found[0].significance < 5.5


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_spikes_and_bleeding_columns_of_bright_stars_are_no_lines(angle):
    image = noise(21)
    rng = np.random.default_rng(22)
    y, x = np.mgrid[:1024, :1024].astype(np.float32)
    for top, left in rng.integers(50, 970, (6, 2)):
        image += 3e6 / (1 + ((y - top) ** 2 + (x - left) ** 2) / 9) ** 3
        for turn in (angle, angle + np.pi / 2):
            along = (y - top) * np.sin(turn) + (x - left) * np.cos(turn)
            away = (y - top) * np.cos(turn) - (x - left) * np.sin(turn)
            image += 2e5 / (9 + along**2) * np.exp(-0.5 * away**2)
        image[max(top - 70, 0) : top + 70, left : left + 2] = 60_000
    assert find_lines(measured(image))[0].significance < 6


@pytest.mark.parametrize("shape", [(40, 50), (64, 64), (128, 1024), (1024, 100), (130, 140)])
def test_frames_too_small_for_a_line_have_none_or_a_weak_one(shape):
    features = measured(noise(30, shape))
    lines = find_lines(features)
    assert all(line.significance < 5 for line in lines)
    assert all(patches_crossed(features, line).shape == PatchGrid(*shape).shape for line in lines)


def test_a_frame_without_data_has_none():
    features = {
        name: np.full((8, 8), np.nan, np.float32) for name in (*LINE_SUMS, "sky", "noise", "top", "left")
    }
    assert find_lines(features) == ()


# --- parts ------------------------------------------------------------------------------------------------


def test_sums_survive_packing():
    sums = noise_sums(np.random.default_rng(0), (3, 4))
    features = line_features(sums) | {"sky": np.ones((3, 4)), "noise": np.ones((3, 4))}
    cells, columns, rows, known = unpacked(features)
    assert known.all()
    codes = [cells.reshape(3, 16, 4, 16).swapaxes(1, 2).reshape(3, 4, 256), columns, rows.swapaxes(0, 1)]
    np.testing.assert_allclose((np.concatenate(codes, axis=2) - 128.0) / 127, sums, atol=0.5 / 127 + 1e-6)
    features["packed_0"][1, 2] = np.nan
    cells, columns, rows, known = unpacked(features)
    assert not known[1, 2]
    assert all((part == 128).all() for part in (cells[16:32, 32:48], columns[1, 2], rows[2, 1]))


@pytest.mark.parametrize("shape", [(256, 320), (300, 260), (301, 257), (2200, 330)])
def test_the_assembled_image_is_that_of_the_pixels(shape):
    image = noise(40, shape)
    sums = FrameSums.of(measured(image))
    side = 8 if max(shape) > 2048 else 4
    assert sums.cell == side
    height, width = (side * (length // side) for length in shape)
    cells = (
        (image[:height, :width] - 1000).reshape(height // side, side, width // side, side).sum(axis=(1, 3))
    )
    found = sums.cells[: height // side, : width // side]
    assert found.shape == cells.shape
    inner = np.s_[: 64 * (len(sums.tops) - 1) // side, : 64 * (len(sums.lefts) - 1) // side]
    assert np.corrcoef(cells[inner].ravel(), found[inner].ravel())[0, 1] > 0.93
    assert np.corrcoef(cells.ravel(), found.ravel())[0, 1] > 0.75  # the last patches are interpolated
    assert sums.columns.shape == (len(sums.tops), shape[1])
    assert sums.rows.shape == (len(sums.lefts), shape[0])
    for row, top in enumerate(sums.tops):
        exact = (image[top : top + PATCH] - 1000).sum(axis=0)
        assert np.corrcoef(exact, sums.columns[row])[0, 1] > 0.9


def test_a_frame_wider_than_8192_px_is_searched():
    shape = (3, 130)
    features = line_features(noise_sums(np.random.default_rng(42), shape))
    features |= {"sky": np.full(shape, 1000.0), "noise": np.full(shape, NOISE**2)}
    sums = FrameSums.of(features)
    assert sums.cell == 32
    assert sums.cells.shape == sums.bright.shape == (6, 260)
    assert not sums.bright.any()
    assert len(find_lines(features)) == 1


def test_a_slope_of_the_sky_leaves_no_steps_at_the_edges_of_patches():
    y, x = np.mgrid[:512, :490]
    sums = FrameSums.of(measured(noise(41, (512, 490)) + 0.4 * x - 0.3 * y))
    assert np.abs(sums.columns.mean(axis=0)).max() < 1.7  # eight patches: the largest of 490 is 3.3 / 8**.5
    assert np.abs(sums.cells.mean(axis=1)).max() < 0.5


# --- lines of the detector --------------------------------------------------------------------------------


def test_columns_that_all_frames_have_are_left_out_and_a_new_one_is_found():
    frames = []
    for seed in range(60, 64):
        image = noise(seed, (512, 512))
        image[:, 100] += 60
        frames.append(find_lines(measured(image)))
    known = shared_lines(frames)
    assert [(line.kind, line.start[1]) for line in known] == [("column", 100.0)]
    image[:, 300] += 60
    features = measured(image)
    assert sorted(line.start[1] for line in strong(features)) == [100.0, 300.0]
    assert [line.start[1] for line in find_lines(features, known)] == [300.0]


def test_a_streak_at_one_place_in_two_frames_is_not_the_detectors():
    streaks = [[FrameLine("streak", (0.0, 5.0), (500.0, 5.0), 6.0, 9.0)]] * 4
    column = FrameLine("column", (0.0, 5.0), (500.0, 5.0), 1.0, 9.0)
    assert shared_lines(streaks) == ()
    assert shared_lines([[column], [], [], [column]]) == ()
