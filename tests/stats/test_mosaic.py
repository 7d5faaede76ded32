"""Colour mosaics told from the pixels, and not from stars, slopes, noise or demosaiced planes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve

from aqdask.stats.mosaic import shows_mosaic

XTRANS = ("GBGGRG", "RGRBGB", "GBGGRG", "GRGGBG", "BGBRGR", "GRGGBG")
SHARE = {"R": 0.6, "G": 1.0, "B": 0.5}


def sky(shape: tuple[int, int] = (256, 256), level: float = 400, seed: int = 0) -> np.ndarray:
    """Photon noise, a slope over the frame and stars, in whole counts."""
    rng = np.random.default_rng(seed)
    image = level * (1 + np.linspace(0, 0.5, shape[1])) * np.ones(shape)
    for y, x in rng.integers(3, np.array(shape) - 3, (max(1, image.size // 1500), 2)):
        image[y - 1 : y + 2, x - 1 : x + 2] += 5000
    return rng.poisson(image).astype("uint16")


def mosaic(rows: tuple[str, ...], level: float = 400, depth: float = 1.0) -> np.ndarray:
    """Photon noise behind a filter array; ``depth`` scales the differences of its colours."""
    share = np.array([[1 - depth * (1 - SHARE[colour]) for colour in row] for row in rows])
    tiled = np.tile(share, (256 // len(rows) + 1, 256 // len(rows) + 1))[:256, :256]
    return np.random.default_rng(1).poisson(level * tiled).astype("uint16")


@pytest.mark.parametrize("rows", [("RG", "GB"), ("GB", "RG"), XTRANS])
def test_filter_arrays_show(rows):
    assert shows_mosaic(mosaic(rows))
    assert shows_mosaic(mosaic(rows, depth=0.05).astype("float32"))  # a twentieth of the noise a colour


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(64, 64), (250, 333), (600, 800)])
def test_a_sky_does_not(shape, seed):
    assert not shows_mosaic(sky(shape, seed=seed))


def test_planes_that_were_split_or_demosaiced_do_not():
    raw = mosaic(("RG", "GB"), level=2000).astype(float)
    assert not shows_mosaic(raw[::2, ::2])
    red = np.zeros_like(raw)
    red[::2, ::2] = raw[::2, ::2]
    assert not shows_mosaic(convolve(red, np.outer([1, 2, 1], [1, 2, 1]) / 4, mode="mirror"))


def test_a_dark_of_such_a_sensor_does_not():
    assert not shows_mosaic(np.random.default_rng(2).normal(300, 3, (256, 256)).round().astype("int16"))
    assert not shows_mosaic(np.full((256, 256), 7.0))


def test_pixels_without_data_are_left_out():
    image = sky().astype("float32")
    image[::2, ::2][:40] = 0
    invalid = image == 0
    assert shows_mosaic(image)
    assert not shows_mosaic(image, invalid)
    image[invalid] = np.nan
    assert not shows_mosaic(image)
    assert not shows_mosaic(image, np.ones_like(invalid))


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (12, 12)])
def test_tiny_frames_show_nothing(shape):
    assert not shows_mosaic(np.zeros(shape))
