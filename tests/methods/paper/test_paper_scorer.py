"""The published scorer: the same bits however patches are grouped, no data said plainly."""

import numpy as np
import pytest
import torch

from aqdask import flags
from aqdask.methods.base import score_frame
from aqdask.methods.bundle import Bundle, calibration_key
from aqdask.methods.dispatch import load_scorer
from aqdask.methods.paper.network import WIDTHS, seeded_autoencoder
from aqdask.methods.paper.scorer import BATCH, calibration_of
from aqdask.specs import PatchGrid
from aqdask.stats.patches import cut, cut_valid

SHAPE = (460, 600)  # 8 x 10 patches: two whole batches and a padded one, with overlaps in both directions


@pytest.fixture(scope="module")
def network():
    return seeded_autoencoder(5).eval()


@pytest.fixture(scope="module")
def scorer(network):
    reference = np.linspace(0.1, 0.6, 1000)
    bundle = Bundle(
        name="test",
        method="paper",
        patch=64,
        normalisation="minmax",
        architecture={"widths": list(WIDTHS)},
        weights={name: value.numpy() for name, value in network.state_dict().items()},
        calibrations={
            "": calibration_of(reference),
            calibration_key("cam", "L"): calibration_of(reference + 10),
        },
    )
    return load_scorer(Bundle.from_bytes(bundle.contents))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).poisson(500, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module")
def invalid():
    mask = np.random.default_rng(1).random(SHAPE) < 0.1
    mask[64:128, 64:128] = True  # a whole patch
    mask[128:180, 0:64] = True  # more than three quarters of a patch
    return mask


def same_bits(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        assert array.tobytes() == right[name].tobytes(), name


def extract_features(scorer, patches, valid=None):
    """What is measured on patches that stand anywhere."""
    nowhere = np.zeros(len(patches), np.int64)
    return scorer.extract_features(patches, valid, nowhere, nowhere)


def test_variables_are_what_is_declared(scorer, image):
    result = score_frame(scorer, image)
    assert list(result) == [variable.name for variable in scorer.variables]
    for variable in scorer.variables:
        assert result[variable.name].dtype == variable.dtype
        assert result[variable.name].shape == (() if variable.per_frame else PatchGrid(*SHAPE).shape)
    assert len(scorer.digest) == 64
    assert (scorer.name, scorer.patch) == ("test", 64)


def test_score_is_the_definition_in_float64(scorer, network, image):
    patches = cut(image, PatchGrid(*SHAPE)).reshape(-1, 64, 64).astype(np.float64)
    low, high = patches.min(axis=(1, 2), keepdims=True), patches.max(axis=(1, 2), keepdims=True)
    scaled = (patches - low) / (high - low)
    network.double()
    with torch.inference_mode():
        back = network(torch.from_numpy(scaled)[:, None])[:, 0].numpy()
    network.float()
    expected = np.abs(scaled - back).mean(axis=(1, 2))
    result = score_frame(scorer, image)
    np.testing.assert_allclose(result["mae"].ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(result["frame_score"], expected.mean(), rtol=1e-5)
    assert (result["score"] == result["mae"]).all()


@pytest.mark.parametrize("dtype", ["uint16", "float32", ">f4"])
@pytest.mark.parametrize("masked", [False, True])
def test_patches_give_the_bits_of_the_frame_in_any_order_and_grouping(scorer, image, invalid, dtype, masked):
    grid, frame = PatchGrid(*SHAPE), image.astype(dtype)
    whole = score_frame(scorer, frame, invalid if masked else None)["mae"].ravel()
    patches = cut(frame, grid).reshape(-1, 64, 64)
    valid = cut_valid(invalid, grid).reshape(-1, 64, 64) if masked else None
    order = np.random.default_rng(2).permutation(len(patches))
    for parts in ([order], np.split(order, [1, 4, 40]), np.split(order, [BATCH])):
        for part in parts:
            some = extract_features(scorer, patches[part], None if valid is None else valid[part])
            assert some.shape == (len(part), len(scorer.feature_names))
            assert some.dtype == np.float32
            assert some[:, 0].tobytes() == whole[part].tobytes()


def test_a_full_mask_and_no_mask_give_the_same_bits(scorer, image):
    same_bits(score_frame(scorer, image), score_frame(scorer, image, np.zeros(SHAPE, bool)))


def test_threads_do_not_change_the_bits(scorer, image):
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(score_frame(scorer, image))
    torch.set_num_threads(before)
    same_bits(*results)


def test_patches_without_enough_data_have_no_score(scorer, image, invalid):
    result = score_frame(scorer, image, invalid)
    empty = np.zeros(PatchGrid(*SHAPE).shape, bool)
    empty[1, 1] = empty[2, 0] = True
    for name in ("score", "pvalue", "mae"):
        np.testing.assert_array_equal(np.isnan(result[name]), empty)
    np.testing.assert_array_equal(result["reason"] == flags.code(flags.REASONS, "no_data"), empty)
    np.testing.assert_array_equal(result["reason"] == flags.code(flags.REASONS, "residual"), ~empty)
    np.testing.assert_allclose(result["frame_score"], np.nanmean(result["mae"]), rtol=1e-6)


def test_nan_is_no_data_as_a_mask_is(scorer, image, invalid):
    holes = image.astype(np.float32)
    holes[invalid] = np.nan
    same_bits(score_frame(scorer, holes), score_frame(scorer, image.astype(np.float32), invalid))


def test_a_frame_without_data_is_nan_throughout(scorer):
    result = score_frame(scorer, np.full((100, 100), np.nan))
    assert np.isnan(result["frame_score"])
    assert np.isnan(result["score"]).all()
    assert not result["reason"].any()


def test_a_frame_smaller_than_a_patch(scorer, image):
    assert np.isfinite(score_frame(scorer, image[:40, :50])["score"]).all()
    assert np.isnan(score_frame(scorer, image[:20, :20])["score"]).all()  # a tenth of a patch


def test_camera_and_filter_choose_the_calibration(scorer, image):
    pooled, own = score_frame(scorer, image), score_frame(scorer, image, camera="cam", filter="L")
    assert (own["pvalue"] == 1).all()  # its reference scores are all larger
    assert (pooled["pvalue"] < 1).all()
    same_bits(pooled, score_frame(scorer, image, camera="cam", filter="B"))


def test_no_patches_give_an_empty_array(scorer):
    assert extract_features(scorer, np.zeros((0, 64, 64), np.uint16)).shape == (0, 1)


def test_judging_leaves_what_was_measured_alone(scorer):
    features = np.full((2, 3, 1), 0.3, np.float32)
    for name, found in scorer.score_features(features).items():
        found[...] = 7
        assert (features == np.float32(0.3)).all(), name


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_frame_is_measured_in_batches_and_judged_once(batch, monkeypatch, scorer):
    """A method of two columns that says where each patch stands and how much of it is data."""

    class Where:
        name, digest, patch, variables = "where", "", 32, ()
        feature_names = ("place", "valid")

        def extract_features(self, patches, valid, tops, lefts, camera, filter):
            assert len(patches) <= batch
            assert (patches[:, 0, 0] == 1000 * tops + lefts).all()
            share = 1.0 if valid is None else valid.mean(axis=(1, 2))
            return np.stack([patches[:, 0, 0], share + 0 * tops], axis=1)

        def score_features(self, features, camera, filter):
            assert features.dtype == np.float32
            assert (camera, filter) == ("cam", "L")
            return {"place": features[..., 0], "valid": features[..., 1]}

    monkeypatch.setattr("aqdask.methods.base.BATCH", batch)
    y, x = np.mgrid[0:80, 0:70]
    found = score_frame(Where(), 1000 * y + x, x < 35, "cam", "L")
    np.testing.assert_array_equal(found["place"][:, 2], [38, 32038, 48038])  # the last ones are moved inwards
    np.testing.assert_allclose(found["valid"][0], [0, 29 / 32, 1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(scorer, image, invalid):
    device = load_scorer(scorer._bundle, "cuda")
    np.testing.assert_allclose(
        score_frame(device, image, invalid)["mae"], score_frame(scorer, image, invalid)["mae"], rtol=1e-5
    )
