"""Alignment, coadds and depth of images whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.testing import assert_allclose

from aqdask.errors import FrameError
from aqdask.io.wcs import wcs_transform
from aqdask.photometry.alignment import MIN_STARS, Stars, align, find_stars
from aqdask.photometry.coadd import combine, depth, occupied_sky
from aqdask.photometry.resampling import resample, resample_weighted
from aqdask.photometry.sky_subtraction import subtract_sky
from aqdask.references.image_statistics import HALF_LIGHT_PER_FWHM

SHAPE, FWHM, SIGMA = (160, 200), 3.0, 5.0


def field(shift=(0.0, 0.0), angle=0.0, scale=1.0, seed=0, stars=40, noise=SIGMA) -> np.ndarray:
    """Gaussian stars on a sky of 1000 counts, moved by ``shift`` (x, y) after a rotation about the origin."""
    rng = np.random.default_rng(7)
    x, y = rng.uniform(8, (SHAPE[1] - 8, SHAPE[0] - 8), (stars, 2)).T
    flux = rng.uniform(3e3, 3e4, stars)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = cos * x - sin * y + shift[0], sin * x + cos * y + shift[1]
    rows, columns = np.indices(SHAPE)
    s = FWHM / 2.3548
    light = [
        f / (2 * np.pi * s**2) * np.exp(-((columns - a) ** 2 + (rows - b) ** 2) / (2 * s**2))
        for f, a, b in zip(flux, x, y, strict=True)
    ]
    image = 1000 + scale * np.sum(light, axis=0) + np.random.default_rng(seed).normal(0, noise, SHAPE)
    return image.astype(np.float32)


def stars_of(image: np.ndarray) -> Stars:
    return find_stars(image, subtract_sky(image))


@pytest.fixture(scope="module")
def reference() -> Stars:
    return stars_of(field())


def test_stars_have_their_fwhm(reference):
    assert len(reference.xy) > 25
    assert reference.fwhm * HALF_LIGHT_PER_FWHM == pytest.approx(FWHM, rel=0.1)  # a Moffat profile's factor


def test_stars_are_measured_above_their_local_sky(reference):
    """What a mesh leaves of vignetting is no light of the stars."""
    y, x = np.indices(SHAPE)
    dome = 20 - 40 * np.hypot(x / SHAPE[1] - 0.5, y / SHAPE[0] - 0.5) ** 2
    light = subtract_sky(field(seed=1))
    stars = find_stars(field(seed=1), replace(light, pixels=light.pixels + dome.astype(np.float32)))
    found = align(stars, reference, lambda xy: xy)
    assert found.scale == pytest.approx(1, rel=0.02)
    assert stars.fwhm == pytest.approx(reference.fwhm, rel=0.05)


def test_a_wcs_is_believed_where_the_stars_are_found_by_it(reference):
    stars = stars_of(field((3.5, -2.25), scale=0.5, seed=1))
    found = align(stars, reference, lambda xy: xy + np.array([3.5, -2.25]))
    assert found.method == "wcs"
    assert found.scale == pytest.approx(2, rel=0.02)
    assert found.offset < 0.1


@pytest.mark.parametrize("expected", [None, (40.0, 40.0)], ids=["no WCS", "a wrong WCS"])
def test_stars_are_matched_without_a_wcs_that_fits(reference, expected):
    stars = stars_of(field((6, -4), angle=0.05, seed=1))
    found = align(stars, reference, None if expected is None else lambda xy: xy + expected)
    assert found.method == "stars"
    cos, sin = np.cos(0.05), np.sin(0.05)
    place = found.transform(np.array([[100.0, 80.0]]))
    assert_allclose(place, [[cos * 100 - sin * 80 + 6, sin * 100 + cos * 80 - 4]], atol=0.05)


def test_another_field_and_too_few_stars_are_refused(reference):
    rng = np.random.default_rng(3)
    other = Stars(rng.uniform(0, 150, (30, 2)), np.ones((30, 7)), FWHM)
    with pytest.raises(FrameError, match=r"with the reference: no common pattern of stars among .* and 30"):
        align(other, reference)
    few = Stars(reference.xy[:3], reference.flux[:3], FWHM)
    with pytest.raises(FrameError, match=f"too few stars to match: .* and 3 of .*, at least {MIN_STARS}"):
        align(few, reference)


def test_resampling_moves_counts_and_leaves_out_bad_pixels():
    image = field((4, -3), noise=0.0) - 1000
    weight, bad = np.full(SHAPE, 0.25, np.float32), np.zeros(SHAPE, bool)
    bad[60:70, 50:60] = True
    image[60:70, 50:60] = np.nan
    values, weights = resample_weighted(
        image, weight, bad, SHAPE, lambda xy: xy + np.array([4, -3]), scale=2.0
    )
    good = weights > 0
    assert_allclose(values[good], 2 * (field(noise=0.0) - 1000)[good], atol=0.5)
    assert set(np.unique(weights)) == {np.float32(0), np.float32(0.25 / 4)}
    assert not good[62:74, 45:57].any()  # the bad pixels and one more on each side
    assert good[61, 60]
    assert good.sum() > 0.9 * good.size


def test_images_are_resampled_by_their_wcs():
    own, other = (WCS(naxis=2) for _ in range(2))
    for wcs, pixel in ((own, (50.0, 60.0)), (other, (54.0, 57.0))):
        wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (10.0, 20.0)
        wcs.wcs.crpix, wcs.wcs.cdelt = pixel, (-1e-3, 1e-3)
    transform = wcs_transform(own, other)
    assert transform(np.empty((0, 2))).shape == (0, 2)
    found = resample(field((4, -3), noise=0.0), SHAPE, transform)
    assert np.isnan(found[:3]).all()
    assert np.isnan(found[:, -4:]).all()
    assert_allclose(found[4:-1, 1:-5], field(noise=0.0)[4:-1, 1:-5], atol=0.5)
    mask = np.zeros(SHAPE, bool)
    mask[60, 50] = True
    assert np.argwhere(resample(mask, SHAPE, transform, order=0) > 0).tolist() == [[63, 46]]


def test_a_clipped_mean_drops_an_outlier_and_keeps_stars():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (9, 30, 30)).astype(np.float32)
    values[:, 10, 10] = 1000 * rng.uniform(0.85, 1.15, 9)  # a star under changing seeing
    values[4, 5, 5] = 50
    weights = np.ones_like(values)
    weights[0, 20] = 0
    found = combine(values, weights)
    assert (found.clipped[5, 5], found.clipped[10, 10]) == (1, 0)
    assert found.frames[20].tolist() == [8] * 30
    assert_allclose(found.mean[5, 5], np.delete(values[:, 5, 5], 4).mean(), rtol=1e-5)
    assert_allclose(found.weight[1, 1], 9)
    assert not combine(values, weights, clip=0).clipped.any()


def test_weights_give_the_inverse_variance_of_the_mean():
    values = np.stack([np.full((1, 2), v, np.float32) for v in (1.0, 4.0)])
    weights = np.array([[[1.0, 0.0]], [[3.0, 0.0]]], np.float32)
    found = combine(values, weights)
    assert_allclose(found.mean, [[3.25, np.nan]])
    assert_allclose(found.weight, [[4, 0]])
    equal = combine(values, weights, weighted=False)
    assert_allclose(equal.mean, [[2.5, np.nan]])
    assert_allclose(equal.weight, [[4 / (1 + 1 / 3), 0]], rtol=1e-6)  # variance (1 + 1/3) / 4


def test_depth_of_white_noise_is_that_of_its_apertures():
    image = field(stars=12) - 1000
    found = depth(image, occupied_sky(image, FWHM), FWHM)
    share, annulus = 1 - 0.5**4, 1 + 1 / 16  # of a Gaussian within its FWHM; noise of the local sky
    expected = -2.5 * np.log10(5 * SIGMA * np.sqrt(np.pi * FWHM**2 * annulus) / share)
    assert found.limit == pytest.approx(expected, abs=0.1)
    assert found.noise == pytest.approx(SIGMA, rel=0.05)
    assert np.isnan(depth(image, np.ones(SHAPE, bool), FWHM).limit)
