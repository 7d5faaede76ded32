"""The published scorer: the same bits however patches are grouped, no data said plainly."""

import numpy as np
import pytest
import torch

from aqdask import flags
from aqdask.kernels.patches import cut, cut_valid
from aqdask.models.autoencoder import WIDTHS, seeded_autoencoder
from aqdask.models.bundle import Bundle, calibration_key
from aqdask.models.paper import BATCH, calibration_of
from aqdask.models.scorer import load_scorer
from aqdask.specs import PatchGrid

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


def patchwise(result):
    return {name: value.ravel() for name, value in result.items() if value.ndim}


def test_variables_are_what_is_declared(scorer, image):
    result = scorer.score_frame(image)
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
    result = scorer.score_frame(image)
    np.testing.assert_allclose(result["mae"].ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(result["frame_score"], expected.mean(), rtol=1e-5)
    assert (result["score"] == result["mae"]).all()


@pytest.mark.parametrize("dtype", ["uint16", "float32", ">f4"])
@pytest.mark.parametrize("masked", [False, True])
def test_patches_give_the_bits_of_the_frame_in_any_order_and_grouping(scorer, image, invalid, dtype, masked):
    grid, frame = PatchGrid(*SHAPE), image.astype(dtype)
    whole = patchwise(scorer.score_frame(frame, invalid if masked else None))
    patches = cut(frame, grid).reshape(-1, 64, 64)
    valid = cut_valid(invalid, grid).reshape(-1, 64, 64) if masked else None
    order = np.random.default_rng(2).permutation(len(patches))
    for parts in ([order], np.split(order, [1, 4, 40]), np.split(order, [BATCH])):
        for part in parts:
            some = scorer.score_patches(patches[part], None if valid is None else valid[part])
            same_bits(some, {name: value[part] for name, value in whole.items()})


def test_a_full_mask_and_no_mask_give_the_same_bits(scorer, image):
    same_bits(scorer.score_frame(image), scorer.score_frame(image, np.zeros(SHAPE, bool)))


def test_threads_do_not_change_the_bits(scorer, image):
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(scorer.score_frame(image))
    torch.set_num_threads(before)
    same_bits(*results)


def test_patches_without_enough_data_have_no_score(scorer, image, invalid):
    result = scorer.score_frame(image, invalid)
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
    same_bits(scorer.score_frame(holes), scorer.score_frame(image.astype(np.float32), invalid))


def test_a_frame_without_data_is_nan_throughout(scorer):
    result = scorer.score_frame(np.full((100, 100), np.nan))
    assert np.isnan(result["frame_score"])
    assert np.isnan(result["score"]).all()
    assert not result["reason"].any()


def test_a_frame_smaller_than_a_patch(scorer, image):
    assert np.isfinite(scorer.score_frame(image[:40, :50])["score"]).all()
    assert np.isnan(scorer.score_frame(image[:20, :20])["score"]).all()  # a tenth of a patch


def test_camera_and_filter_choose_the_calibration(scorer, image):
    pooled, own = scorer.score_frame(image), scorer.score_frame(image, camera="cam", filter="L")
    assert (own["pvalue"] == 1).all()  # its reference scores are all larger
    assert (pooled["pvalue"] < 1).all()
    same_bits(pooled, scorer.score_frame(image, camera="cam", filter="B"))


def test_no_patches_give_empty_arrays(scorer):
    result = scorer.score_patches(np.zeros((0, 64, 64), np.uint16))
    assert {value.shape for value in result.values()} == {(0,)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(scorer, image, invalid):
    device = load_scorer(scorer._bundle, "cuda")
    np.testing.assert_allclose(
        device.score_frame(image, invalid)["mae"], scorer.score_frame(image, invalid)["mae"], rtol=1e-5
    )
