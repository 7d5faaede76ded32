"""Hot pixels of a camera are found, and no star that always falls on the same pixels."""

import numpy as np
import pytest

from aqdask.methods.noise_aware.hot_pixels import LARGEST, hot_pixels

SIDE, FRAMES = 400, 10
Y, X = np.mgrid[-4:5, -4:5]


def undithered(seed, fwhm=1.5, stars=120, limit=50.0):
    """Mean of frames whose stars stay where they are, in sigma of one frame, each cut at ``limit``."""
    rng = np.random.default_rng(seed)
    light = np.zeros((SIDE, SIDE))
    sigma = fwhm / 2.3548
    steps = (np.arange(9) - 4) / 9  # the pixel's own width
    for cy, cx, flux in zip(*rng.uniform(6, SIDE - 6, (2, stars)), rng.pareto(0.8, stars) * 30, strict=True):
        y, x = round(cy), round(cx)
        fine = sum(
            np.exp(-((Y + dy - cy + y) ** 2 + (X + dx - cx + x) ** 2) / 2 / sigma**2)
            for dy in steps
            for dx in steps
        )
        light[y - 4 : y + 5, x - 4 : x + 5] += flux * fine / 81 / (2 * np.pi * sigma**2)
    noise = rng.standard_normal((FRAMES, SIDE, SIDE)) * np.sqrt(1 + light / 100)
    return light, rng, np.clip(light + noise, -limit, limit).mean(axis=0)


def test_planted_hot_pixels_are_found_and_no_star_core():
    light, rng, mean = undithered(1)
    empty = light < 0.01
    empty[[0, -1]] = empty[:, [0, -1]] = False
    places = rng.permutation(np.argwhere(empty))[:200]
    apart = np.array(
        [np.abs(places - p).max(axis=1).clip(0, 3).sum() == 3 * (len(places) - 1) for p in places]
    )
    places = places[apart]
    mean[tuple(places.T)] += np.geomspace(8, 45, len(places))
    found = hot_pixels(mean, FRAMES)
    assert len(places) > 100
    assert found[tuple(places.T)].all()
    assert np.count_nonzero(found) == len(places)


@pytest.mark.parametrize("fwhm", [1.5, 1.8, 2.5])
def test_stars_of_an_undithered_series_are_left_alone(fwhm):
    for seed in range(2, 6):
        light, _, mean = undithered(seed, fwhm)
        assert (light > 20).sum() > 50
        assert not hot_pixels(mean, FRAMES).any()


def test_nothing_is_found_in_one_frame_in_a_tiny_one_or_where_too_much_would_be():
    mean = np.zeros((50, 50))
    mean[10, 10] = 30
    assert hot_pixels(mean, 2).sum() == 1
    assert not hot_pixels(mean, 1).any()
    assert not hot_pixels(mean[:2], 9).any()
    mean[1::4, 1::4] = 30
    assert (mean > 20).mean() > LARGEST
    assert not hot_pixels(mean, 9).any()


def test_no_data_is_no_hot_pixel():
    mean = np.full((30, 30), np.nan)
    mean[5, 5] = 30  # nothing is known of its neighbours
    mean[20:25, 20:25] = 0
    mean[22, 22] = 30
    assert hot_pixels(mean, 5)[22, 22]
    assert not hot_pixels(np.full((30, 30), np.nan), 5).any()
