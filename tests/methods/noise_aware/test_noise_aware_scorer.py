"""Our scorer: the same bits however a frame is cut up, no data said plainly, and what is out of reference."""

from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated import TINY, Frames, image

import aqdask as aq
from aqdask import flags
from aqdask.errors import ModelError
from aqdask.execution.config import changed
from aqdask.flags import OUTSIDE
from aqdask.methods.base import BATCH, score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.noise_aware import train as noise_train
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training import crops, loop
from aqdask.specs import MIN_VALID, PatchGrid
from aqdask.stats.patches import cut, cut_valid

SHAPE = (460, 500)  # 8 x 8 patches that overlap in both directions
NO_DATA, SATURATED = (flags.code(flags.REASONS, name) for name in ("no_data", "saturated"))
CAMERA = ("cam", "L")


@pytest.fixture(scope="module")
def frame():
    return image(40)[: SHAPE[0], : SHAPE[1]]


@pytest.fixture(scope="module")
def invalid():
    mask = np.random.default_rng(1).random(SHAPE) < 0.1
    mask[64:128, 64:128] = True  # a whole patch
    mask[128:192, 0:50] = True  # more than three quarters of a patch
    mask[256:300, 256:300] = True  # half of one
    return mask


def same_bits(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        assert array.tobytes() == right[name].tobytes(), name


def test_variables_are_what_is_declared(scorer, frame):
    result = score_frame(scorer, frame, None, *CAMERA)
    assert list(result) == [variable.name for variable in scorer.variables]
    for variable in scorer.variables:
        assert result[variable.name].dtype == variable.dtype
        assert result[variable.name].shape == (() if variable.per_frame else PatchGrid(*SHAPE).shape)
    assert np.isfinite(result["score"]).all()
    assert ((result["pvalue"] > 0) & (result["pvalue"] <= 1)).all()
    assert {"score", "pvalue", "reason", "mae", "frame_score"} <= result.keys()


def test_a_bundle_gives_the_same_maps_after_a_journey_through_bytes(tiny, scorer, frame):
    same_bits(score_frame(load_scorer(tiny), frame, None, *CAMERA), score_frame(scorer, frame, None, *CAMERA))
    assert Bundle.from_bytes(tiny.contents).contents == tiny.contents


@pytest.mark.parametrize("dtype", ["uint16", "float32", ">f4", "int32"])
@pytest.mark.parametrize("masked", [False, True])
def test_patches_give_the_bits_of_the_frame_in_any_order_and_grouping(scorer, frame, invalid, dtype, masked):
    grid, pixels = PatchGrid(*SHAPE), frame.astype(dtype)
    n_y, n_x = grid.shape
    patches, valid = cut(pixels, grid).reshape(-1, 64, 64), cut_valid(invalid, grid).reshape(-1, 64, 64)
    tops, lefts = (a.ravel() for a in np.meshgrid(grid.starts(0), grid.starts(1), indexing="ij"))
    measured = np.empty((n_y * n_x, len(scorer.feature_names)), np.float32)
    order = np.random.default_rng(2).permutation(len(patches))
    for part in np.split(order, [1, 4, BATCH + 7]):
        some = valid[part] if masked else None
        measured[part] = scorer.extract_features(patches[part], some, tops[part], lefts[part], *CAMERA)
    found = scorer.score_features(measured.reshape(n_y, n_x, -1), *CAMERA)
    same_bits(found, score_frame(scorer, pixels, invalid if masked else None, *CAMERA))


def test_a_full_mask_and_no_mask_give_the_same_bits(scorer, frame):
    for pixels in (frame, frame.astype(np.float32)):
        none, full = (score_frame(scorer, pixels, mask, *CAMERA) for mask in (None, np.zeros(SHAPE, bool)))
        same_bits(none, full)


@pytest.mark.parametrize("chunks", [(460, 500), (100, 77), ((1, 63, 396), (250, 250))])
def test_quality_of_any_chunking_is_score_frame(tiny, scorer, frame, invalid, chunks):
    expected = score_frame(scorer, frame, invalid, *CAMERA)
    about = {"invalid": invalid, "camera": CAMERA[0], "filter": CAMERA[1]}
    with changed({"scheduler": "synchronous", "aqdask.precision": "fp32"}):
        (found,) = dask.compute(aq.quality_of(da.from_array(frame, chunks=chunks), tiny, **about))
    for name, array in expected.items():
        assert found[name].values.tobytes() == array.tobytes(), name


# --- what is not data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_a_full_block_is_saturated_in_any_type_and_a_dead_one_is_not(scorer, frame, dtype):
    spoilt = frame.copy()
    spoilt[64:192, 64:192], spoilt[256:384, 64:192] = 65535, 0
    found = score_frame(scorer, spoilt.astype(dtype), None, *CAMERA)
    assert (found["reason"][1:3, 1:3] == SATURATED).all()
    assert (found["reason"] == SATURATED).sum() == 4
    assert np.isfinite(found["score"][4:6, 1:3]).all()
    assert (found["pvalue"][4:6, 1:3] < 0.05).all()


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
@pytest.mark.parametrize("value", [0, 1000])
def test_a_constant_frame_is_not_saturated_in_any_type(scorer, dtype, value):
    found = score_frame(scorer, np.full(SHAPE, value, dtype), None, *CAMERA)
    assert not (found["reason"] == SATURATED).any()
    assert (found["pvalue"] <= 0.01).all()


@pytest.mark.parametrize("seed", range(4))
def test_zeros_where_a_frame_without_sky_has_no_data_are_not_saturated(scorer, seed):
    pixels = np.random.default_rng(seed).normal(0, 25, SHAPE).astype(np.float32)
    pixels[64:192, 64:192] = 0
    assert not (score_frame(scorer, pixels, None, *CAMERA)["reason"] == SATURATED).any()


def test_patches_without_enough_data_have_no_score_and_half_a_patch_has(scorer, frame, invalid):
    result = score_frame(scorer, frame, invalid, *CAMERA)
    share = cut_valid(invalid, PatchGrid(*SHAPE)).mean(axis=(2, 3))
    few = share < MIN_VALID
    assert few.sum() == 2
    assert (share < 0.6).sum() > 2
    for name in ("score", "pvalue", "mae", "sky", "size_ratio", "e1", "stars", "noise_ratio"):
        np.testing.assert_array_equal(np.isnan(result[name]), few, err_msg=name)
    np.testing.assert_array_equal(result["reason"] == NO_DATA, few)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@given(seed=st.integers(0, 99), share=st.sampled_from([0.02, 0.3, 0.7, 0.9]))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_values_of_invalid_pixels_do_not_matter(scorer, frame, dtype, seed, share):
    rng = np.random.default_rng(seed)
    pixels = frame[:150, :140].astype(dtype)
    mask = rng.random(pixels.shape) < share
    other = pixels.copy()
    values = [0, 1, 65535] if dtype == "uint16" else [np.nan, np.inf, -1e30, 65535, 0]
    other[mask] = rng.choice(values, int(mask.sum()))
    same_bits(score_frame(scorer, pixels, mask, *CAMERA), score_frame(scorer, other, mask, *CAMERA))


def test_nan_is_no_data_as_a_mask_is(scorer, frame, invalid):
    holes = frame.astype(np.float32)
    holes[invalid] = np.nan
    masked = score_frame(scorer, frame.astype(np.float32), invalid, *CAMERA)
    same_bits(score_frame(scorer, holes, None, *CAMERA), masked)


@pytest.mark.parametrize("shape", [(460, 500), (100, 100), (20, 30)])
def test_a_frame_without_data_is_nan_throughout_and_flagged(scorer, shape):
    result = score_frame(scorer, np.full(shape, np.nan), None, *CAMERA)
    assert result["frame_score"] == 25  # all of it is masked
    assert np.isnan(result["score"]).all()
    assert not result["reason"].any()
    assert (result["frame_flag"], result["out_of_reference"]) == (1, 0)


@pytest.mark.parametrize("shape", [(512, 320), (40, 50), (64, 64), (65, 300)])
def test_frames_of_other_shapes_are_scored(scorer, shape):
    result = score_frame(scorer, image(41)[: shape[0], : shape[1]], None, *CAMERA)
    assert np.isfinite(result["score"]).all()


def test_full_patches_say_so_and_have_no_score(scorer, frame):
    full = frame.copy()
    full[128:192, 192:256] = 65535
    full[128:150, 320:384] = 65535  # a third of one
    result = score_frame(scorer, full, None, *CAMERA)
    place = np.zeros(result["reason"].shape, bool)
    place[2, 3] = True
    np.testing.assert_array_equal(result["reason"] == SATURATED, place)
    np.testing.assert_array_equal(np.isnan(result["score"]), place)
    assert np.isnan(result["pvalue"][2, 3])


def test_masked_pixels_are_not_full(scorer, frame):
    mask, full = np.zeros(SHAPE, bool), frame.copy()
    mask[128:168, 192:256] = True  # five eighths of a patch
    full[mask] = 65535
    result = score_frame(scorer, full, mask, *CAMERA)
    assert np.isfinite(result["score"]).all()


# --- what is unlike the references -----------------------------------------------------------------------


def test_a_brighter_sky_is_out_of_reference_and_flagged(scorer):
    usual, bright = (score_frame(scorer, image(42, sky=s), None, *CAMERA) for s in (1000.0, 6000.0))
    assert not usual["out_of_reference"] & OUTSIDE["sky"]
    assert bright["out_of_reference"] & OUTSIDE["sky"]
    assert bright["frame_flag"] == 1
    assert bright["frame_score"] > usual["frame_score"]


def test_wrong_gain_is_said(scorer):
    counts = image(43).astype(np.float32)
    loud = score_frame(scorer, 600 + 2.5 * (counts - 600), None, *CAMERA)
    assert loud["out_of_reference"] & OUTSIDE["gain"]
    assert loud["frame_noise_ratio"] > 1.3
    quiet = score_frame(scorer, counts, None, *CAMERA)
    assert not quiet["out_of_reference"]
    assert quiet["frame_noise_ratio"] == pytest.approx(1, abs=0.05)
    assert quiet["frame_sky"] == pytest.approx(np.median(counts), rel=0.02)


def test_good_frames_pass_and_noisy_patches_do_not(scorer):
    good = np.stack([score_frame(scorer, image(n), None, *CAMERA)["pvalue"] for n in range(50, 58)])
    assert (good <= 0.05).mean() < 0.2
    noisy = image(50).astype(np.float32)
    noisy[128:192, 128:192] += np.random.default_rng(3).normal(0, 40, (64, 64))
    result = score_frame(scorer, noisy, None, *CAMERA)
    assert result["pvalue"][2, 2] < 0.02
    assert result["noise_ratio"][2, 2] > 1.5


def test_an_unknown_camera_is_judged_without_the_flat_field_of_another(scorer, frame):
    gradient = frame + 150 * np.linspace(0, 1, SHAPE[1])
    own, other = (score_frame(scorer, gradient, None, *names) for names in (CAMERA, ("other", "R")))
    for name in ("mae", "sky", "noise_ratio", "size_ratio", "e1", "e2", "stars"):
        assert own[name].tobytes() == other[name].tobytes(), name
    sky = flags.code(flags.REASONS, "sky")
    assert sky in own["reason"]
    assert sky not in other["reason"]
    assert np.isfinite(other["pvalue"]).all()


def test_judging_leaves_what_was_measured_alone(scorer):
    patches = cut(image(44)[:128, :128], PatchGrid(128, 128)).reshape(-1, 64, 64)
    where = np.zeros(4, np.int64)
    measured = scorer.extract_features(patches, None, where, where, *CAMERA).reshape(2, 2, -1)
    before = measured.copy()
    for found in scorer.score_features(measured, *CAMERA).values():
        found[...] = 7
    np.testing.assert_array_equal(measured, before)
    nowhere = np.zeros(0, np.int64)
    assert scorer.extract_features(patches[:0], None, nowhere, nowhere).shape == (
        0,
        len(scorer.feature_names),
    )


def test_weights_that_do_not_fit_are_refused(tiny):
    settings = {name: getattr(tiny, name) for name in ("name", "method", "patch", "normalisation")}
    for changes in ({"architecture": {}}, {"weights": {}}):
        parts = {name: getattr(tiny, name) for name in ("architecture", "weights", "calibrations")} | changes
        with pytest.raises(ModelError, match=r"do not fit its architecture.*Expected: .*\. What to do: "):
            load_scorer(Bundle(**settings, **parts))


def test_a_calibration_of_another_release_is_refused_with_what_it_lacks(tiny):
    calibration = tiny.calibration("cam", "L")
    arrays = {name: array for name, array in calibration.arrays.items() if not name.startswith("final")}
    stale = tiny.with_calibrations({"cam|L": replace(calibration, arrays=arrays)})
    with pytest.raises(ModelError, match=r"for 'cam\|L' lacks 'final.*calibrate the model again"):
        score_frame(load_scorer(stale), image(40), None, "cam", "L")


# --- training ----------------------------------------------------------------------------------------------


@pytest.fixture
def _small(monkeypatch):
    """Two passes, and a point of the curve after two steps."""
    monkeypatch.setattr(noise_train, "HELD_OUT_CROPS", 8)
    monkeypatch.setattr(crops, "RESERVOIR_BYTES", 4 * 4 * 4 * 64**2)
    monkeypatch.setattr(loop, "CURVE_STEPS", 2)
    monkeypatch.setattr(loop, "REPORT_STEPS", 1)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(("change", "kept", "noted"), [(1.0, 0, True), (-1e-6, 6, True), (-0.1, 6, False)])
def test_training_never_ends_worse_than_it_started(change, kept, noted, monkeypatch):
    found, original = [], noise_train.FineTuning.held_out

    def held_out(recipe):  # before the training, then after 2, 4 and 6 steps
        found.append(original(recipe) if not found else found[0] + (change if len(found) == 3 else 1.0))
        return found[-1]

    monkeypatch.setattr(noise_train.FineTuning, "held_out", held_out)
    told = []
    bundle = train(Frames(), TINY, progress=lambda progress: told.append(progress.note))
    losses = bundle.provenance["held_out"]["autoencoder"]
    assert bundle.provenance["stopped"]["autoencoder"]["kept"] == kept
    assert losses["trained"] == pytest.approx(losses["shipped"] + min(change, 0))
    shipped = load_shipped().weights
    assert all((value == shipped[name]).all() for name, value in bundle.weights.items()) == (kept == 0)
    note = "Training the autoencoder gained nothing over `aqdask calibrate`"
    assert any(text.startswith(note) for text in bundle.notes) == noted
    assert any(text.startswith(note) for text in told) == noted


@pytest.mark.usefixtures("_small")
def test_training_is_reproducible_and_leaves_the_head(tiny):
    again = train(Frames(), TINY)
    assert again.contents == train(Frames(), TINY).contents
    shipped = load_shipped().weights
    assert all((value == shipped[name]).all() for name, value in again.weights.items() if "head" in name)


def test_frames_of_the_three_sets_are_disjoint_and_recorded(tiny):
    parts = tiny.provenance["frames"]
    assert sorted(name for part in parts.values() for name in part) == Frames().ids
    about = tiny.calibration(*CAMERA).facts["about"]["frames"]
    assert about["threshold"] == parts["calibration"]
    assert about["fit"] == parts["train"]
    assert tiny.calibrated_for(*CAMERA)
