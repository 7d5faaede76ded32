"""Parts of light curves: zero points by ensembles, weights, positions of stars, forced photometry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aqdask.errors import FrameError
from aqdask.photometry.aperture_photometry import aperture_magnitudes
from aqdask.photometry.ensemble import Ensemble, fit_zero_point
from aqdask.photometry.forced_photometry import FLAGS, forced_photometry, instrumental_magnitudes
from aqdask.photometry.quality_weights import quality_weights, weighted_median
from aqdask.photometry.sky_subtraction import SkySubtracted, subtract_sky
from aqdask.photometry.star_matching import apply_affine, fit_affine, match_stars
from aqdask.photometry.star_positions import recentre

STARS, FRAMES, NOISE = 60, 40, 0.01


def solved(spoilt: np.ndarray | None = None, quality: float = 1.0) -> tuple[Ensemble, np.ndarray, np.ndarray]:
    """Ensemble, true zero points, and those found, ``(frame, case)``; spoilt measurements lose 0.5 mag."""
    rng = np.random.default_rng(7)
    mean, true = rng.uniform(-14, -10, STARS), rng.uniform(-0.3, 0.3, FRAMES)
    true[0] = 0
    spoilt = np.zeros((FRAMES, STARS), bool) if spoilt is None else spoilt
    mag = mean - true[:, None] + NOISE * rng.standard_normal((FRAMES, STARS)) + 0.5 * spoilt
    ensemble, star, error = Ensemble(mean, np.ones(STARS, bool)), np.arange(STARS), np.full(STARS, NOISE)
    for _ in range(20):
        found = [
            ensemble.add(star, mag[i], error, ~spoilt[i], np.where(spoilt[i], quality, 1))
            for i in range(FRAMES)
        ]
        if _ < 19:
            change = ensemble.improve()
    assert change < 1e-4
    return ensemble, true, np.array([[point.value for point in points] for points in found])


def test_zero_points_and_scatter_of_known_magnitudes():
    ensemble, true, found = solved()
    away = found - true[:, None]
    assert np.abs(away - np.median(away, axis=0)).max() < 4 * NOISE / math.sqrt(STARS)
    np.testing.assert_allclose(np.median(ensemble.scatter, axis=1), NOISE, rtol=0.05)
    assert (ensemble.number == FRAMES).all()


def test_masked_measurements_count_only_without_the_mask():
    spoilt = np.random.default_rng(1).uniform(size=(FRAMES, STARS)) < 0.3
    spoilt[::2] = False
    ensemble, true, found = solved(spoilt)
    no_mask, masked, weighted = np.median(ensemble.scatter, axis=1)
    assert masked == pytest.approx(NOISE, rel=0.05)
    assert weighted == masked  # all weights are 1 where nothing is masked
    assert no_mask > 5 * NOISE
    away = np.abs(found - true[:, None] - np.median(found - true[:, None], axis=0))
    assert away[1::2, 1].max() < 5 * NOISE / math.sqrt(0.7 * STARS) < away[1::2, 0].max()
    np.testing.assert_array_equal(ensemble.number[1], (~spoilt).sum(axis=0))


def test_a_star_has_no_part_in_the_zero_point_of_its_own_scatter():
    difference = np.array([0.01, -0.02, 0.03])
    point, away = fit_zero_point(difference, np.ones(3), np.ones(3))
    assert point.value == pytest.approx(difference.mean())
    np.testing.assert_allclose(away, [(-0.02 + 0.03) / 2 - 0.01, 0.02 + 0.02, -0.005 - 0.03])
    assert np.isnan(fit_zero_point(difference[:1], np.ones(1), np.ones(1))[1]).all()  # there is no other


def test_a_frame_without_usable_stars_has_no_zero_point():
    point, away = fit_zero_point(np.array([np.nan, 1.0]), np.ones(2), np.array([1.0, 0.0]))
    assert np.isnan(point.value)
    assert point.stars == 0
    assert np.isnan(away).all()


def test_variable_star_does_not_pull_zero_points():
    spoilt = np.zeros((FRAMES, STARS), bool)
    spoilt[::2, 0] = True  # half a magnitude in every second frame, unmasked
    ensemble, true, found = solved(spoilt)
    away = found[:, 0] - true
    assert abs(away[::2].mean() - away[1::2].mean()) < 0.1 * 0.5 / STARS
    assert ensemble.scatter[0, 0] == pytest.approx(0.25, rel=0.05)


def test_quality_weights_are_smallest_bayes_factors():
    np.testing.assert_allclose(
        quality_weights(np.array([0.05, 0.01, 0.37, 1.0])), [0.407, 0.125, 1, 1], atol=1e-3
    )
    np.testing.assert_array_equal(quality_weights(np.array([0.0, np.nan])), 0)


def test_weighted_median():
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.ones(3)) == 2
    assert weighted_median(np.array([1.0, 9.0, np.nan]), np.array([5.0, 0.0, 7.0])) == 1
    assert np.isnan(weighted_median(np.array([1.0]), np.zeros(1)))


def field(seed: int, number: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 500, (number, 2))


@pytest.mark.parametrize("angle", [0, 3, 180])
def test_frames_of_one_field_are_matched_whatever_their_rotation(angle):
    stars, turn = field(0), math.radians(angle)
    true = np.array([[math.cos(turn), -math.sin(turn), 40.0], [math.sin(turn), math.cos(turn), -25.0]])
    found = apply_affine(true, stars) + np.random.default_rng(2).normal(0, 0.05, stars.shape)
    found = np.concatenate([found[:30], field(3, 5), found[36:]])  # missing and spurious ones
    np.testing.assert_allclose(match_stars(stars, found), true, atol=0.2)


def test_frames_of_two_fields_are_not_matched():
    with pytest.raises(FrameError, match="no common pattern of stars among 80 and 80"):
        match_stars(field(0), field(1))
    with pytest.raises(FrameError, match="too few stars to match: 80 and 2 of the two frames, at least 3"):
        match_stars(field(0), field(0)[:2])


def test_few_stars_of_a_rotated_frame_are_matched_by_the_same_bytes_each_time():
    stars, turn = field(6, 8), math.radians(5)
    true = np.array([[math.cos(turn), -math.sin(turn), 40.0], [math.sin(turn), math.cos(turn), -25.0]])
    found = apply_affine(true, stars) + np.random.default_rng(2).normal(0, 0.05, stars.shape)
    affine = match_stars(stars, found)
    np.testing.assert_allclose(affine, true, atol=0.2)
    assert {match_stars(stars, found).tobytes() for _ in range(3)} == {affine.tobytes()}


def test_a_fit_leaves_out_wrong_positions():
    stars = field(4)
    target = stars + np.array([3.0, -2.0])
    target[:15] += 20
    np.testing.assert_allclose(fit_affine(stars, target), [[1, 0, 3], [0, 1, -2]], atol=1e-6)
    np.testing.assert_allclose(fit_affine(stars[20:25], target[20:25]), [[1, 0, 3], [0, 1, -2]])


def light_of(stars: np.ndarray, shape=(200, 200), flux=20_000.0, sigma=1.5) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.random.default_rng(5).normal(1000, 10, shape)
    for star_x, star_y in stars:
        image += (
            flux / (2 * np.pi * sigma**2) * np.exp(-((x - star_x) ** 2 + (y - star_y) ** 2) / 2 / sigma**2)
        )
    return image


def test_positions_are_corrected_by_the_good_stars():
    true = np.stack(np.meshgrid(*[np.arange(20.3, 190, 40)] * 2), axis=-1).reshape(-1, 2)
    light = subtract_sky(light_of(true))
    light.pixels[15:25, 22:26] += 3000  # beside the first star
    good = np.arange(len(true)) > 0
    found = recentre(light.pixels, true + np.array([1.5, -1.0]), good, 3.5, 6.0)
    np.testing.assert_allclose(found, true, atol=0.05)
    assert recentre(light.pixels, true + 9.0, good, 3.5, 6.0) is None
    none = np.zeros(len(true), bool)
    np.testing.assert_array_equal(recentre(light.pixels, true, none, 3.5, 6.0), true)


def test_flux_flags_and_masked_fraction():
    stars = np.array(
        [[50.0, 50.0], [1.0, 100.0], [150.0, 150.0], [100.0, 100.0], [300.0, 50.0], [120.0, 30.0]]
    )
    image = light_of(stars[:4])
    masked, saturated, invalid = (np.zeros(image.shape, bool) for _ in range(3))
    masked[:, 50:] = True
    saturated[150, 151] = invalid[100, 101] = True
    light = subtract_sky(image, invalid)
    found = forced_photometry(light, stars, 5.0, masked=masked, saturated=saturated, gain=2.0)
    both = FLAGS["edge"] | FLAGS["faint"]
    assert found.flags.tolist() == [
        0,
        FLAGS["edge"],
        FLAGS["saturated"],
        FLAGS["invalid"],
        both,
        FLAGS["faint"],
    ]
    expected = aperture_magnitudes(image, stars[:1], 5.0, 2.0, invalid)
    assert found.flux[0] * 2 == pytest.approx(10 ** (-0.4 * expected.mag[0]))
    assert 1.0857 * found.error[0] / found.flux[0] == pytest.approx(expected.error[0], rel=1e-3)
    assert found.masked[0] == pytest.approx(0.5 + 5 / (math.pi * 25), abs=0.01)  # half, and half a column
    assert np.isnan(found.flux[4])
    assert np.isfinite(instrumental_magnitudes(found.flux, found.flags)).tolist() == [True] + [False] * 5


def test_without_gain_the_error_is_that_of_the_sky():
    light = SkySubtracted(
        np.full((50, 50), 5, np.float32), np.ones((50, 50), np.float32), np.zeros((50, 50), bool)
    )
    none = light.invalid
    found = forced_photometry(light, np.array([[25.0, 25.0]]), 4.0, masked=none, saturated=none)
    assert found.error[0] == pytest.approx(math.sqrt(math.pi * 16), rel=1e-4)
