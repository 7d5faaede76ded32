"""Feature groups: each sees what it is for, and only what it may see."""

import numpy as np
import pytest
from features import CAMERA, NOISE, changed, good_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask import flags
from aqdask.methods.noise_aware.feature_groups import (
    FEATURE_GROUPS,
    CameraModel,
    FrameFeatures,
    as_image,
    as_subpatches,
    noise_ratio,
    sky_misfit,
    sky_sigma,
    subpatch_levels,
)
from aqdask.methods.noise_aware.pooling import box_sum

LOCAL = [group for group in FEATURE_GROUPS if not group.regional]
REGIONAL = [group for group in FEATURE_GROUPS if group.regional]
POOLED = [group for group in REGIONAL if not group.retired]


def of(group, features, **changes):
    frame = FrameFeatures.of(features, CAMERA)
    return group.function(FrameFeatures(**(vars(frame) | changes)))


@pytest.mark.parametrize("group", FEATURE_GROUPS, ids=lambda group: group.name)
def test_a_group_gives_numbers_for_every_patch_and_has_a_reason(group):
    found = of(group, good_frame(1, (5, 7)))
    assert found.shape[:2] == (5, 7)
    assert found.shape[2] >= 1
    assert np.isfinite(found).all()
    assert flags.code(flags.REASONS, group.reason)


def test_names_are_unique_and_both_passes_have_groups():
    assert len({group.name for group in FEATURE_GROUPS}) == len(FEATURE_GROUPS)
    assert LOCAL
    assert REGIONAL


@pytest.mark.parametrize("group", FEATURE_GROUPS, ids=lambda group: group.name)
def test_a_patch_without_data_is_no_trouble_for_the_others(group):
    whole = of(group, changed(good_frame(2), np.s_[3, 4], all=np.nan))
    uninformative = np.zeros((8, 8), bool)
    uninformative[3, 4] = True
    assert np.isfinite(whole[~uninformative]).all()
    assert np.isnan(whole[uninformative]).any()  # and no neighbour speaks for it


def test_a_frame_without_any_data_gives_no_number_and_no_warning():
    features = changed(good_frame(3), np.s_[:], all=np.nan)
    for camera in (CAMERA, CameraModel(NOISE, np.zeros((32, 32)))):
        frame = FrameFeatures.of(features, camera)
        assert not frame.unflagged.any()
        assert np.isnan(frame.misfit).all()
        for group in FEATURE_GROUPS:
            found = group.function(frame)
            assert np.isnan(found).any(axis=-1).all(), group.name


@pytest.mark.parametrize("group", POOLED, ids=lambda group: group.name)
@given(st.integers(0, 7), st.integers(0, 7), st.floats(100, 1e3))
@settings(max_examples=10)
def test_what_is_flagged_is_excluded_from_pooling(group, y, x, value):
    unflagged = np.ones((8, 8), bool)
    unflagged[y, x] = False
    one = good_frame(4)
    names = [name for name in one if name.endswith("_sum") or name in ("stars", "mae", "spike")]
    other = changed(one, np.s_[y, x], **dict.fromkeys(names, value), noise=abs(value) + 1e4)
    found = [of(group, features, unflagged=unflagged) for features in (one, other)]
    np.testing.assert_array_equal(found[0][unflagged], found[1][unflagged])
    naive = [of(group, features) for features in (one, other)]
    assert (naive[0] != naive[1])[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()


def test_pooling_over_neighbours_is_less_noisy_than_a_patch():
    frame = good_frame(5, (20, 20), moody=0.0)
    local = {group.name: of(group, frame) for group in LOCAL}
    for group in REGIONAL:
        alone = group.name.removesuffix("_region")
        if alone in local and alone != "size":  # size is cut at zero
            pooled = of(group, frame)
            assert pooled.std(axis=(0, 1)).max() < 0.6 * local[alone].std(axis=(0, 1)).max(), group.name


def test_noise_is_measured_against_what_the_camera_has():
    features = good_frame(6, moody=0.0)
    ratio = noise_ratio(features, NOISE)
    assert ratio.mean() == pytest.approx(0, abs=0.02)
    louder = changed(features, np.s_[2, 2], noise=1.25 * float(features["noise"][2, 2]))
    assert noise_ratio(louder, NOISE)[2, 2] - ratio[2, 2] == pytest.approx(np.log(1.25), abs=1e-6)
    expected = np.sqrt(NOISE.a + NOISE.b * features["sky"].astype(float) + 0.375 * NOISE.b**2)
    np.testing.assert_allclose(sky_sigma(features, NOISE), expected)


@given(st.integers(1, 4), st.integers(1, 4))
def test_sub_patches_go_to_their_places_and_back(n_y, n_x):
    image = np.arange(16 * n_y * n_x).reshape(4 * n_y, 4 * n_x)
    np.testing.assert_array_equal(as_image(as_subpatches(image)), image)
    assert as_subpatches(image)[0, 0].tolist() == image[:4, :4].ravel().tolist()


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 5]))
def test_box_sums_are_sums_over_boxes(height, width, side):
    values = np.random.default_rng(7).integers(0, 99, (height, width))
    found = box_sum(values, side)
    for y, x in np.ndindex(height, width):
        top, left = max(y - side // 2, 0), max(x - side // 2, 0)
        assert found[y, x] == values[top : y + side // 2 + 1, left : x + side // 2 + 1].sum()


def test_the_misfit_is_what_the_template_does_not_explain():
    features = good_frame(8)
    tilt = 30 * np.linspace(-1, 1, 32)[:, None] * np.ones((32, 32))
    tilted = dict(features)
    sigma = sky_sigma(features, NOISE)
    cells = as_subpatches(tilt)
    tilted["sky"] = (features["sky"] + cells.mean(axis=-1)).astype(np.float32)
    for n in range(16):
        extra = (cells[..., n] - cells.mean(axis=-1)) / sigma
        tilted[f"cell_{n}"] = (features[f"cell_{n}"] + extra).astype(np.float32)
    levels = subpatch_levels(tilted, NOISE) - subpatch_levels(features, NOISE)
    np.testing.assert_allclose(as_image(levels), tilt, atol=0.3)
    explained = sky_misfit(tilted, CameraModel(NOISE, 1000 + tilt))
    unexplained = sky_misfit(tilted, CameraModel(NOISE))
    assert np.abs(explained).mean() < 0.25 * np.abs(unexplained).mean()


def test_a_template_of_another_shape_is_not_used():
    features = good_frame(9, (4, 9))
    for shape in [(36, 16), (8, 8)]:
        found = sky_misfit(features, CameraModel(NOISE, np.random.default_rng(9).normal(1000, 50, shape)))
        np.testing.assert_array_equal(found, sky_misfit(features, CameraModel(NOISE)))


def test_a_group_of_the_whole_frame_says_the_same_everywhere_and_leaves_out_what_is_flagged():
    (group,) = [group for group in FEATURE_GROUPS if group.name == "sky_frame"]
    frame = good_frame(12, (10, 10))
    steep = {**frame, "sky": frame["sky"] + 3 * np.arange(10, dtype=np.float32)}
    flat, sloped = of(group, frame), of(group, steep)
    assert len(np.unique(sloped)) == 1
    assert sloped[0, 0, 0] > 4 * flat[0, 0, 0]
    unflagged = np.broadcast_to(np.arange(10) > 3, (10, 10))
    clear = FrameFeatures.of(steep, CAMERA).misfit
    cloudy = clear + np.where(unflagged, 0, 40)[..., None]
    camera_noise = [of(group, steep, unflagged=unflagged, misfit=misfit) for misfit in (clear, cloudy)]
    np.testing.assert_array_equal(*camera_noise)
    assert of(group, steep, misfit=cloudy)[0, 0, 0] != camera_noise[0][0, 0, 0]


def test_the_residual_group_is_the_logarithm_of_the_published_score():
    frame = good_frame(11)
    found = of(next(group for group in FEATURE_GROUPS if group.name == "residual"), frame)
    np.testing.assert_allclose(np.exp(found[..., 0]), frame["mae"], rtol=1e-6)


def test_sharper_stars_are_bad_only_where_asked():
    frame = good_frame(10)
    sharp = changed(frame, np.s_[:], size_sum=-50.0)
    group = next(group for group in FEATURE_GROUPS if group.name == "size")
    one, both = (
        group.function(FrameFeatures.of(sharp, CameraModel(NOISE, None, CAMERA.shape_zero, two_sided)))
        for two_sided in (False, True)
    )
    assert not one.any()
    assert (both < -0.5).all()


@pytest.mark.parametrize("group", POOLED, ids=lambda group: group.name)
def test_what_is_left_of_a_region_beside_a_defect_scatters_no_more_than_a_whole_one(group):
    left = np.ones((9, 9), bool)
    left[:, :3] = left[:3] = False  # 36 of 81
    frames = [good_frame(n, (9, 9)) for n in range(150)]
    whole, part = (
        np.array([of(group, f, unflagged=u)[5, 5] for f in frames]) for u in (np.ones_like(left), left)
    )
    ratio = part.std(axis=0) / whole.std(axis=0)
    assert (ratio < 1.25).all(), ratio


def test_partly_valid_patches_scatter_as_whole_ones_and_a_few_bad_pixels_change_nothing():
    whole = good_frame(1)
    at = (slice(2, 5), slice(0, 2))
    nearly, partly = changed(whole, at, valid=0.96), changed(whole, at, valid=0.25)
    for group in FEATURE_GROUPS:
        one, same, weighted = (
            group.function(FrameFeatures.of(features, CAMERA)) for features in (whole, nearly, partly)
        )
        np.testing.assert_array_equal(one, same, err_msg=group.name)
        if group.name == "noise":
            np.testing.assert_allclose(weighted[at], one[at] / 2)
        if group.name == "sky":
            np.testing.assert_allclose(weighted[at][..., 0], one[at][..., 0] / 4)
        if group.name in ("residual", "latent", "spike", "line", "background"):
            np.testing.assert_array_equal(one, weighted, err_msg=group.name)


def test_stars_are_counted_by_the_valid_pixels():
    """A quarter of the pixels with a quarter of the stars: none is missing."""
    features = good_frame(1, shape=(12, 12))
    features["stars"][:] = 8
    partly = changed(features, np.s_[:, :2], valid=0.25, stars=2)
    group = next(group for group in FEATURE_GROUPS if group.name == "stars_region")
    np.testing.assert_allclose(group.function(FrameFeatures.of(partly, CAMERA)), 0, atol=1e-6)
