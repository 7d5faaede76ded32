"""Constant fill beyond the detector is no data; dead pixels, saturation and few photons are."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from fits_files import write
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from aqdask.io.fill import find_fill, opened
from aqdask.io.reader import read_frame
from aqdask.specs import ReadSpec

SIDE = 256
Y, X = np.mgrid[:SIDE, :SIDE]


def noise(dtype="u2", seed=0, level=1000.0, sigma=30.0):
    """A frame whose largest value is that of a star."""
    image = np.random.default_rng(seed).normal(level, sigma, (SIDE, SIDE))
    image[100:103, 100:103] = 30000
    return image.astype(dtype)


def turned(degrees):
    """Pixels beyond a square that is turned in its array."""
    angle = np.deg2rad(degrees)
    x, y = X - SIDE / 2, Y - SIDE / 2
    across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.maximum(abs(across), abs(along)) > 0.44 * SIDE


AREAS = {
    "turned": turned(8),
    "a little": turned(1),
    "round": np.hypot(Y - 128, X - 128) > 125,
    "dithered": (X < 7) | (Y >= SIDE - 20),
    "gap": abs(X - 128) < 10,
    "masked square": (abs(X - 128) < 20) & (abs(Y - 128) < 20),
    "half": X < 128,
}


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("name", AREAS)
def test_fill_is_found_to_the_pixel(name, dtype):
    image = noise(dtype)
    for value in (0, 1000) if dtype == "u2" else (0, 1000, -999):
        image[AREAS[name]] = value
        found = find_fill(image)
        assert not (AREAS[name] & ~found).any()
        # a pixel of the sky with the same value may touch it
        assert (found & ~AREAS[name]).sum() <= (0 if value != 1000 else 10 * SIDE // 16)


def test_two_kinds_of_fill_are_found():
    image = noise("f4")
    image[:, :30], image[:, -20:] = 0, -999
    assert_array_equal(find_fill(image), (X < 30) | (X >= SIDE - 20))


def dead_columns(image):
    image[:, 40:43] = 0
    image[:, :3] = 0
    image[-2:] = 0


def dead_cluster(image):
    image[50:70, 50:70] = 0


def zeros(image):
    image[np.random.default_rng(1).uniform(size=image.shape) < 0.1] = 0


def saturated(image):
    image[100:200, 100:200] = 65535
    image[:, :50] = 65535


def constant(image):
    image[:] = 7


def empty(image):
    image[:] = 0
    image[5, 5] = 3


@pytest.mark.parametrize("spoil", [dead_columns, dead_cluster, zeros, saturated, constant, empty])
def test_what_belongs_to_the_detector_is_no_fill(spoil):
    image = noise()
    spoil(image)
    assert find_fill(image) is None


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_in_images_of_few_photons_zeros_are_pixels_and_fill_is_found_beside_them(share):
    image = (np.random.default_rng(3).uniform(size=(1024, 1024)) > share).astype("u2")
    image[500, 500] = 9
    assert find_fill(image) is None
    image[:, :100] = 0
    found = find_fill(image)
    assert found[:, :100].all()
    assert found[:, 200:].sum() == 0
    assert found[:, 100:].mean() < 0.02


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (17, 16), (63, 65)])
def test_frames_of_any_shape(shape):
    image = np.random.default_rng(0).normal(1000, 30, shape).astype("f4")
    assert find_fill(image) is None
    image[:] = np.nan
    assert find_fill(image) is None


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0.3, 0.95))
def test_an_opening_keeps_what_a_square_fits_into(width, seed, share):
    mask = np.random.default_rng(seed).uniform(size=(15, 19)) < share
    expected = np.zeros_like(mask)
    for y in range(mask.shape[0] - width + 1):
        for x in range(mask.shape[1] - width + 1):
            square = np.s_[y : y + width, x : x + width]
            expected[square] |= mask[square].all()
    assert_array_equal(opened(mask, width), expected)


def test_a_frame_is_read_with_the_fill_invalid_and_its_pixels_as_they_are(tmp_path):
    image = noise("f4")
    image[AREAS["turned"]] = 0
    image[60, 60] = np.nan
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(image))
    frame = read_frame(path, 0, ReadSpec())
    assert_array_equal(frame.image, image)
    assert_array_equal(frame.invalid, AREAS["turned"] | np.isnan(image))
    assert f"{AREAS['turned'].mean():.0%} of the pixels are a constant fill: no data" in frame.info.notes
    kept = read_frame(path, 0, ReadSpec(fill=False))
    assert kept.invalid.sum() == 1
    assert not any("fill" in note for note in kept.info.notes)
