"""Tests of whole frames: what each sees, from three references on, and what must not disturb it."""

from dataclasses import replace

import numpy as np
import pytest
from features import CAMERA, NOISE, changed, good_frame
from scipy import stats

from aqdask.methods.noise_aware.feature_groups import CameraModel, FrameFeatures, as_image
from aqdask.methods.noise_aware.frame_tests import (
    FRAME_TESTS,
    SKY,
    SKY_WEIGHT,
    TESTS,
    FrameDistributions,
    equivalent_sigma,
    frame_values,
)

ALL = np.s_[:, :]


def values(features, camera=CAMERA, unflagged=None):
    frame = FrameFeatures.of(features, camera)
    return frame_values(frame if unflagged is None else replace(frame, unflagged=unflagged))


def distributions(count, **options):
    return FrameDistributions.fit([values(good_frame(n)) for n in range(count)], **options)


def wider(features, by):
    """All stars wider by this, in the head's unit."""
    return {**features, "size_sum": features["size_sum"] + by * features["size_weight"]}


def pvalues(tests, found):
    return tests.pvalues(tests.distances(found))


def test_shares_and_weights_add_up_and_names_are_unique():
    assert sum(test.share for test in FRAME_TESTS) == pytest.approx(1)
    assert sum(test.weight for test in FRAME_TESTS) + SKY_WEIGHT == pytest.approx(1)
    assert len({test.name for test in FRAME_TESTS}) == len(FRAME_TESTS)


@pytest.mark.parametrize("count", [3, 5, 20])
def test_three_references_are_enough_to_see_a_wide_psf(count):
    tests = distributions(count)
    bad = pvalues(tests, values(wider(good_frame(50), 3.0)))
    good = pvalues(tests, values(good_frame(50)))
    assert bad["size_frame"] < 1e-4
    assert min(good.values()) > 1e-3
    assert all(bad[name] == pytest.approx(good[name], rel=0.3) for name in ("noise_frame", "bowl_frame"))


def test_sharper_stars_are_good_unless_asked_for():
    sharp = values(wider(good_frame(50), -3.0))
    assert pvalues(distributions(5), sharp)["size_frame"] > 0.9
    assert pvalues(distributions(5, two_sided=True), sharp)["size_frame"] < 1e-3


def test_ellipticity_is_compared_in_any_direction():
    tests, features = distributions(5), good_frame(50)
    for name in ("e1_sum", "e2_sum"):
        for sign in (-1, 1):
            bad = {**features, name: features[name] + sign * 2 * features[name.replace("sum", "weight")]}
            assert pvalues(tests, values(bad))["ellipticity_frame"] < 1e-3


def test_noise_needs_the_noise_model_and_allows_for_another_sky():
    features = good_frame(50)
    noisy = values({**features, "noise": features["noise"] * 1.2})
    tests = distributions(5)
    assert pvalues(tests, noisy)["noise_frame"] < 1e-3
    brighter = noisy | {"ln_variance": noisy["ln_variance"] + 2.0}
    assert pvalues(tests, brighter)["noise_frame"] > 0.05
    assert "noise_frame" not in distributions(5, disabled=("noise",)).predictive


@pytest.mark.parametrize("shape", ["slope", "bowl"])
def test_slope_and_bowl_are_told_apart_and_not_hidden_by_the_template(shape):
    """The template has the shape of the bowl itself, as vignetting has."""
    y, x = np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8), indexing="ij")
    form = x if shape == "slope" else -(x**2 + y**2) / 2
    zero = -NOISE.a / NOISE.b
    flat = np.repeat((1 - 0.05 * (x**2 + y**2))[..., None], 16, axis=-1)
    camera = replace(CAMERA, template=as_image(zero + 800 * flat))

    def frame(seed, change=0.0):
        level = zero + 900 * flat[..., 0] * (1 + change * form)
        return {**good_frame(seed), "sky": level.astype(np.float32)}

    tests = FrameDistributions.fit([values(frame(n), camera) for n in range(8)])
    found = pvalues(tests, values(frame(50, 0.1), camera))
    other = {"slope": "bowl_frame", "bowl": "slope_frame"}[shape]
    assert found[f"{shape}_frame"] < 1e-3 < 0.05 < found[other]
    measured = values(frame(50, 0.1), camera)
    size = measured["slope_x"] if shape == "slope" else measured["bowl"]
    assert size == pytest.approx(0.2 if shape == "slope" else -0.1, rel=0.15)


def test_flagged_patches_say_nothing_of_the_frame():
    features, unflagged = good_frame(50), np.ones((8, 8), bool)
    unflagged[2, 2:6] = False
    trail = changed(features, np.s_[2, 2:6], e1_sum=500.0, size_sum=500.0, noise=1e6, sky=5e4)
    assert values(trail, unflagged=unflagged) == pytest.approx(values(features, unflagged=unflagged))


def test_a_frame_without_data_has_no_pvalue():
    tests = distributions(3)
    nothing = changed(good_frame(1), ALL, all=np.nan)
    found = pvalues(tests, values(nothing))
    assert all(np.isnan(value) for value in found.values())
    assert equivalent_sigma(found, 0.0) == pytest.approx(0.0, abs=1e-3)


def test_the_score_of_a_frame_is_the_quantile_of_its_least_weighted_p_value():
    pvalues = dict.fromkeys(TESTS, 0.5)
    slope, size = ({**pvalues, name: 1e-4} for name in ("slope_frame", "size_frame"))
    assert equivalent_sigma({**pvalues, "slope_frame": 1e-4}, 0.0) == pytest.approx(
        stats.norm.isf(1e-4 / 0.55 / 2), abs=0.01
    )
    assert equivalent_sigma(slope, 0.0) > equivalent_sigma(size, 0.0) > 2.5
    assert equivalent_sigma(pvalues, 8.0) > 7
    assert np.isfinite(equivalent_sigma({"size_frame": 0.0}, 0.0))


def test_a_frame_of_another_shape_than_the_template_has_no_slope():
    camera = CameraModel(NOISE, template=np.full((40, 40), 1000.0))
    found = frame_values(FrameFeatures.of(good_frame(1), camera))
    assert np.isnan([found["slope_y"], found["slope_x"], found["bowl"]]).all()
    assert np.isfinite(found["size"])


def test_noise_that_follows_the_sky_of_the_references_is_good():
    """A wrong gain: the noise model errs in proportion to the sky."""
    frames = [values(good_frame(n)) for n in range(5)]
    for number, frame in enumerate(frames):
        frame[SKY] = 6 + 0.05 * number
        frame["noise"] = -0.5 * (frame[SKY] - 6)
    tests = FrameDistributions.fit(frames)
    like = {**frames[2], SKY: 6.3, "noise": -0.15}
    unlike = {**frames[2], SKY: 6.1, "noise": 0.15}
    assert pvalues(tests, like)["noise_frame"] > 0.1
    assert pvalues(tests, unlike)["noise_frame"] < 1e-3
