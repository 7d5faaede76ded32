"""Photometry against known fluxes and photutils; scatter and false alarms with the true mask."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import sep
from photutils.aperture import CircularAperture, aperture_photometry

from aqdask.photometry.aperture_photometry import Scatter, aperture_magnitudes, photometric_scatter
from aqdask.photometry.apertures import aperture_masked
from aqdask.photometry.difference import difference_image
from aqdask.photometry.false_alarms import DetectionCounts, DetectionList, count_candidates, count_detections
from aqdask.photometry.sky_subtraction import extract_sources, subtract_sky
from aqdask.simulate import defects as d
from aqdask.simulate.camera import flat_field
from aqdask.simulate.frame import SimulatedFrame, add_stars, simulate_frame
from aqdask.simulate.scene import SceneSpec
from aqdask.simulate.sources import render_stars

SCENE = SceneSpec(height=512, width=512, field_seed=3, star_density=1 / 1000, flux_minimum=3000.0)
NONE = np.zeros((0, 3))
SATURATION = 0.95 * SCENE.saturation


def frame(*defects: d.Defect, seed: int = 11, scene: SceneSpec = SCENE) -> tuple[SimulatedFrame, np.ndarray]:
    """Simulated frame and the union of its truth."""
    made = simulate_frame(scene, defects, seed)
    truth = np.zeros(scene.shape, bool)
    for pixels in made.truth.values():
        truth |= pixels
    return made, truth


def scatter(made: SimulatedFrame, mask: np.ndarray | None, **options) -> Scatter:
    return photometric_scatter(
        made.image, made.stars, mask, radius=4.0, gain=SCENE.gain, sky_noise=SCENE.sky_noise,
        flat=flat_field(SCENE), saturation=SATURATION, **options,
    )  # fmt: skip


# --- magnitudes ------------------------------------------------------------------------------------------


def test_a_star_without_noise_has_the_magnitude_of_its_flux():
    """Noise of 1 count keeps sep's background alive; the star has 1e6 electrons, 0.3 % beyond 12 px."""
    scene = SceneSpec(height=128, width=128)
    star = np.array([[60.0, 70.0, 1e6]])
    sky = np.random.default_rng(0).normal(100, 1, (128, 128))
    image = render_stars(scene, star) / 2.0 + sky
    found = aperture_magnitudes(image, star[:, :2], 12.0, gain=2.0)
    assert found.mag[0] == pytest.approx(-2.5 * math.log10(1e6), abs=0.005)
    # photons of the star, and pi 12**2 pixels of sky of 2 electrons
    noise = math.sqrt(1e6 + math.pi * 144 * 4) / 1e6
    assert found.error[0] == pytest.approx(1.0857 * noise, rel=0.05)
    assert found.flag[0] == 0


def test_magnitudes_equal_those_of_photutils():
    made, _ = frame()
    stars = made.stars[(made.stars[:, 2] > 5000) & (np.abs(made.stars[:, :2] - 256) < 240).all(axis=1)]
    found = aperture_magnitudes(made.image, stars[:, :2], 4.0, SCENE.gain)
    light = subtract_sky(made.image).pixels.astype(float)
    sums = aperture_photometry(light, CircularAperture(stars[:, :2], 4.0))["aperture_sum"].value
    np.testing.assert_allclose(found.mag, -2.5 * np.log10(sums * SCENE.gain), rtol=0, atol=2e-4)


def test_a_flat_divides_the_light_of_stars_but_not_the_sky():
    image = np.random.default_rng(0).normal(1000, 5, (128, 128))
    image += render_stars(SceneSpec(height=128, width=128), np.array([[64.0, 64.0, 1e5]]))
    whole = aperture_magnitudes(image, np.array([[64, 64]]), 5.0, 1.0)
    half = aperture_magnitudes(image, np.array([[64, 64]]), 5.0, 1.0, flat=np.full(image.shape, 0.5))
    assert whole.mag[0] - half.mag[0] == pytest.approx(2.5 * math.log10(2), abs=1e-5)


def test_stars_without_pixels_have_no_magnitude_and_a_flag():
    image = np.random.default_rng(0).normal(100, 5, (96, 96)).astype(">i2")
    invalid = np.zeros(image.shape, bool)
    invalid[40:60, 40:60] = True
    found = aperture_magnitudes(image, np.array([[-50.0, 10], [50, 50], [0, 0]]), 3.0, 1.0, invalid)
    assert np.isnan(found.mag[:2]).all()
    assert found.flag[0] & sep.APER_TRUNC
    assert found.flag[1] & (sep.APER_ALLMASKED | sep.APER_HASMASKED)
    assert found.flag[2] & sep.APER_TRUNC


@pytest.mark.parametrize("image", [np.full((64, 64), np.nan), np.full((64, 64), 7), np.zeros((0, 0))])
def test_what_has_no_sky_gives_nothing(image):
    found = aperture_magnitudes(image, np.array([[1.0, 2.0]]), 3.0, 1.0)
    assert np.isnan(found.mag).all()
    assert subtract_sky(image) is None
    assert count_detections(image, NONE) == DetectionCounts()
    assert count_candidates(image, image, NONE, NONE, gain=1.0) == DetectionCounts()


def test_empty_lists_of_stars():
    made, _ = frame()
    assert aperture_magnitudes(made.image, NONE[:, :2], 3.0, 1.0).mag.shape == (0,)
    nothing = photometric_scatter(made.image, NONE, radius=3.0, gain=1.0, sky_noise=10.0)
    assert (nothing.stars, nothing.kept) == (0, 0)
    assert math.isnan(nothing.rms_all)
    assert math.isnan(nothing.lost)
    found = count_detections(made.image, [])
    assert found.known == found.real == 0 < found.spurious


# --- scatter ---------------------------------------------------------------------------------------------


def test_a_good_frame_scatters_by_its_photons_and_an_empty_mask_changes_nothing():
    made, truth = frame()
    found = scatter(made, truth)
    assert found == dataclasses.replace(found, kept=found.stars, rms_kept=found.rms_all)
    assert found.stars > 30
    assert found.lost == 0
    assert found.robust_all < 0.04  # 1 / 20 for the faintest stars
    assert scatter(made, None) == found


def test_the_true_mask_of_structured_background_gives_the_scatter_of_a_good_frame():
    region = d.Region(0.3, 1.0, 0.2, 0.9)
    spoilt, truth = frame(d.Background(0.3, scale=8.0, region=region))
    found, good = scatter(spoilt, truth), scatter(frame()[0], None)
    assert found.stars == good.stars  # chosen by what is true of them
    assert found.rms_all > 3 * found.rms_kept
    assert found.robust_kept < 1.3 * good.robust_all
    assert 0.2 < found.lost < 0.8


def test_a_mask_that_is_given_as_invalid_keeps_a_ghost_out_of_the_sky_around_it():
    spoilt, truth = frame(d.Ghost(0.2, radius=0.25))
    beside, good = scatter(spoilt, truth), scatter(frame()[0], None)
    without = scatter(spoilt, truth, invalid=truth)
    assert without.kept == beside.kept > 10
    assert without.rms_kept < 1.5 * good.rms_all
    assert without.rms_kept < 0.7 * beside.rms_kept


def test_saturated_and_crowded_stars_are_not_taken():
    scene = SceneSpec(height=256, width=256, star_density=0.0)
    stars = np.array([
        [60.0, 60, 2e4],  # alone
        [180, 60, 2e4], [188, 60, 4e3],  # 20 % of it, at 8 px: the brighter is disturbed, and so is the other
        [60, 180, 5e6],  # saturated
        [180, 180, 200],  # too faint
        [1, 120, 2e4],  # cut by the edge
        [120, 120, 3e4],  # alone
    ])  # fmt: skip
    image = add_stars(simulate_frame(scene, [], 1).image, stars, scene, 1)
    found = photometric_scatter(
        image, stars, radius=4.0, gain=scene.gain, sky_noise=scene.sky_noise, saturation=SATURATION
    )
    assert (found.stars, found.unmeasured_all) == (2, 0)


# --- detections ------------------------------------------------------------------------------------------


def test_detections_of_a_good_frame_are_stars_and_an_empty_mask_loses_none():
    made, truth = frame()
    found = count_detections(made.image, made.stars, truth)
    assert found == count_detections(made.image, made.stars)
    assert (found.real_lost, found.spurious_removed) == (0, 0)
    bright = (made.stars[:, 2] > 3000) & (made.stars[:, :2] > 0).all(axis=1)
    bright &= (made.stars[:, :2] < 511).all(axis=1)
    assert 0.9 * bright.sum() < found.real <= found.known
    assert found.spurious <= 0.03 * found.real


@pytest.mark.parametrize(
    ("defect", "least", "lost"),
    [
        (d.CosmicRays(1000.0, density=1e-4), 10, 0.02),
        (d.Background(0.3, scale=8.0, region=d.Region(0.5)), 20, 0.6),  # half of the frame is masked
    ],
    ids=["cosmic rays", "background"],
)
def test_the_true_mask_takes_spurious_detections(defect, least, lost):
    made, truth = frame(defect)
    found = count_detections(made.image, made.stars, truth, radius=1.5)
    good = count_detections(frame()[0].image, made.stars)
    assert found.spurious >= good.spurious + least
    assert found.spurious_kept <= good.spurious + 2
    assert found.real_lost <= lost * found.real


def test_a_trail_does_not_take_the_stars_of_the_whole_frame():
    made, _ = frame(d.Trail(400.0))
    assert (
        count_detections(made.image, made.stars).real
        > 0.95 * count_detections(frame()[0].image, made.stars).real
    )


def test_counts_add_up():
    one, two = DetectionCounts(5, 4, 3, 2, 1), DetectionCounts(1, 1, 1, 1, 1)
    assert one + two == DetectionCounts(6, 5, 4, 3, 2)
    assert (one.real_lost, one.spurious_removed) == (2, 2)


# --- differences -----------------------------------------------------------------------------------------

TRANSIENTS = np.column_stack([np.linspace(40, 470, 12), np.linspace(450, 60, 12), np.full(12, 20_000.0)])


def test_equal_epochs_differ_by_the_transients_only():
    first, second = frame(seed=1)[0], frame(seed=2)[0]
    image = add_stars(second.image, TRANSIENTS, SCENE, 3)
    options = {"gain": SCENE.gain, "saturation": SATURATION}
    found = count_candidates(first.image, image, first.stars, TRANSIENTS, **options)
    assert (found.known, found.real, found.real_lost) == (12, 12, 0)
    assert found.spurious <= 1
    back = count_candidates(image, first.image, first.stars, TRANSIENTS, **options)
    assert back.real == 12  # what fades is a candidate as well
    empty = [np.zeros(SCENE.shape, bool)] * 2
    assert count_candidates(first.image, image, first.stars, TRANSIENTS, *empty, **options) == found


def test_other_seeing_and_transparency_are_matched():
    scene = dataclasses.replace(SCENE, fwhm=3.2, gain=2.0, sky=1500.0)  # counts are 3/4 of the first's
    first, second = frame(seed=1)[0], frame(seed=2, scene=scene)[0]
    result = difference_image(first.image, second.image, first.stars, gain=1.5, saturation=SATURATION)
    assert result.convolved == "first"
    assert result.scale == pytest.approx(0.75, rel=0.02)
    image = add_stars(second.image, TRANSIENTS, scene, 3)
    found = count_candidates(
        first.image, image, first.stars, TRANSIENTS, gain=1.5, saturation=0.7 * SATURATION
    )
    assert found.real == 12
    assert found.spurious <= 3


@pytest.mark.parametrize("position", ["first", "second"])
def test_the_true_mask_takes_spurious_candidates_of_either_epoch(position):
    good, (spoilt, truth) = frame(seed=1)[0], frame(d.CosmicRays(2000.0, density=1e-4), seed=2)
    images = (spoilt.image, good.image) if position == "first" else (good.image, spoilt.image)
    masks = (truth, None) if position == "first" else (None, truth)
    image = add_stars(images[1], TRANSIENTS, SCENE, 3)
    found = count_candidates(
        images[0], image, good.stars, TRANSIENTS, *masks, gain=SCENE.gain, saturation=SATURATION, radius=2
    )
    assert found.spurious > 10
    assert found.spurious_kept <= 2
    assert found.real_lost <= 1


def test_epochs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"epochs of shapes \(8, 8\) and \(8, 9\)"):
        difference_image(np.zeros((8, 8)), np.zeros((8, 9)), NONE, gain=1.0)


def test_without_stars_epochs_are_subtracted_as_they_are():
    rng = np.random.default_rng(0)
    images = rng.normal(100, 5, (2, 128, 128))
    result = difference_image(*images, NONE, gain=1.0)
    assert result.scale == 1
    assert result.significance.std() == pytest.approx(1, abs=0.1)


# --- parts -----------------------------------------------------------------------------------------------


def test_pairs_of_detections_and_sources_equal_those_of_every_combination():
    rng = np.random.default_rng(0)
    detected, known = rng.uniform(0, 90, (200, 2)), rng.uniform(0, 90, (300, 2))
    distance = np.hypot(*(detected[:, None] - known).transpose(2, 0, 1))
    real = distance.min(axis=1) <= 3.0
    found = DetectionList(detected, known, match=3.0).counts()
    assert (found.spurious, found.known) == ((~real).sum(), 300)
    assert found.real == len(set(distance.argmin(axis=1)[real]))
    assert DetectionList(detected, known[:0]).counts() == DetectionCounts(spurious=200, spurious_kept=200)


def test_apertures_with_a_masked_pixel_are_flagged():
    mask = np.zeros((20, 30), bool)
    mask[5, 7] = True
    places = np.array([[7.4, 4.6], [7.6, 5.0], [9.0, 5.0], [-3.0, 5.0], [100.0, 100.0]])
    assert aperture_masked(mask, places, 0).tolist() == [True, False, False, False, False]
    assert aperture_masked(mask, places, 2.0).tolist() == [True, True, True, False, False]
    assert not aperture_masked(None, places, 2.0).any()


def test_a_failure_of_sep_is_raised(monkeypatch):
    def full(*_, **__):
        raise Exception("internal pixel buffer full")

    before = sep.get_extract_pixstack()
    monkeypatch.setattr(sep, "extract", full)
    with pytest.raises(RuntimeError, match="sep cannot extract sources: internal pixel buffer full"):
        extract_sources(np.zeros((64, 64), np.float32), 5.0)
    assert sep.get_extract_pixstack() == before
