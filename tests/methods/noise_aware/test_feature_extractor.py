"""Folding and networks on strips, against torch's own layers; full pixels and gaps of a patch."""

import hashlib

import numpy as np
import pytest
import torch

from aqdask.methods.noise_aware.feature_extractor import (
    Detector,
    FeatureExtractor,
    fill_invalid,
    fold,
    unfold,
    unit_noise,
)
from aqdask.methods.noise_aware.networks import FOLD, Networks
from aqdask.methods.noise_aware.noise_model import NoiseModel

DIGEST = "f3ce2c3776085b50"  # of the noise in gaps, part of stored scores
DETECTOR = Detector(NoiseModel(64.0, 1.0, floor=16.0), saturation=5000.0)


@pytest.fixture
def extractor():
    torch.manual_seed(0)
    return FeatureExtractor(Networks())


def counts(seed=0, number=4):
    return torch.from_numpy(np.random.default_rng(seed).poisson(1000, (number, 64, 64)).astype(np.float32))


def test_strips_are_a_view_and_squares_are_pixel_shuffle():
    v = counts()
    strips = fold(v)
    assert strips.data_ptr() == v.data_ptr()
    assert strips.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(strips[1, :, 5, 2], v[1, 5, 2 * FOLD : 3 * FOLD], rtol=0, atol=0)
    channels = torch.randn(2, FOLD**2, 8, 8)
    torch.testing.assert_close(unfold(channels), torch.nn.PixelShuffle(FOLD)(channels)[:, 0], rtol=0, atol=0)


def test_a_view_is_what_the_networks_give_without_any_folding_of_ours(extractor):
    torch.manual_seed(0)
    networks = Networks().eval()
    v = counts() / 1000
    with torch.inference_mode():
        view = extractor.view(v)  # compress leaves values near 1 nearly as they are
        compressed = 10 * torch.asinh(v / 10)
        residual = compressed - networks.autoencoder(compressed[:, None])[:, 0]
        weight, product = networks.head(compressed[:, None])
    shape = torch.cat([weight, product], dim=1).flatten(2).sum(dim=2)
    torch.testing.assert_close(view.residual, residual, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(view.shape, shape, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_full_pixels_are_counted_among_the_valid(extractor, masked, dtype):
    patches = counts().to(dtype)
    patches[1, :16] = 5000
    patches[2, 0, 0] = 4999
    valid = torch.ones(patches.shape, dtype=torch.bool)
    valid[1, :8] = False
    if masked:
        patches[1, :4] = torch.nan
    with torch.inference_mode():
        levels, _ = extractor.normalised(patches, valid if masked else None, DETECTOR)
    share, full = levels[:, 0], levels[:, 1]
    assert share.tolist() == [1, 0.875 if masked else 1, 1, 1]
    assert full.tolist() == pytest.approx([0, 1 / 7 if masked else 0.25, 0, 0])


@pytest.mark.parametrize("masked", [False, True])
def test_where_saturation_is_unknown_a_plateau_at_the_top_may_be_full(extractor, masked):
    patches = counts()
    patches[1, :24] = 65000  # three eighths
    patches[2, :10] = 65000  # a bright star is no plateau
    patches[3] = 0
    valid = torch.ones(patches.shape, dtype=torch.bool) if masked else None
    with torch.inference_mode():
        levels, _ = extractor.normalised(patches, valid, Detector(DETECTOR.noise))
    assert levels[:, 1].tolist() == [0, -0.375, 0, -1]


def test_the_noise_of_gaps_is_the_same_everywhere_and_that_of_a_sky():
    noise = unit_noise(64)
    assert noise.dtype == torch.float32
    digest = hashlib.sha256(noise.numpy().astype("<f4").tobytes()).hexdigest()
    assert digest[:16] == DIGEST
    assert noise.mean().abs() < 0.03
    assert noise.var() == pytest.approx(1, abs=0.05)
    assert noise.abs().max() < 4
    sums = torch.cat([noise.sum(dim=0), noise.sum(dim=1)]) / 8
    assert sums.abs().max() < 2.2


def test_isolated_pixels_and_two_bad_columns_are_in_painted_from_their_neighbours():
    u = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(u.shape, dtype=torch.bool)
    valid[0, 10, 20] = False
    valid[1, :, 30:32] = False
    filled = fill_invalid(u, valid)
    around = u[0, 9:12, 19:22].flatten()
    torch.testing.assert_close(filled[0, 10, 20], (around.sum() - around[4]) / 8)
    torch.testing.assert_close(filled[1, 1:-1, 30], (u[1, :-2, 29] + u[1, 1:-1, 29] + u[1, 2:, 29]) / 3)
    assert torch.equal(filled[valid], u[valid])


@pytest.mark.parametrize("gap", [np.s_[:, :25], np.s_[40:], np.s_[:40, 30:], np.s_[20:40, 20:40]])
def test_a_wide_gap_continues_the_sky_of_the_patch(gap):
    """Slope included, as far as the valid pixels tell it, and with its noise."""
    steps = torch.arange(64) - 31.5
    sky = 0.5 + 0.01 * steps[:, None] - 0.005 * steps
    noise = torch.randn(200, 64, 64, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(noise.shape, dtype=torch.bool)
    valid[(slice(None), *(gap if isinstance(gap, tuple) else (gap,)))] = False
    filled = fill_invalid(sky + noise, valid)
    assert torch.equal(filled[valid], (sky + noise)[valid])
    away = (filled - sky)[~valid].view(200, -1)
    assert away.mean().abs() < 0.12
    assert away.std() == pytest.approx(1, abs=0.08)


def test_a_gap_does_not_show_what_lies_under_it(extractor):
    patches = counts()
    valid = torch.ones(patches.shape, dtype=torch.bool)
    valid[:, :, :20] = False
    other = patches.clone()
    other[:, :, :20] = 40000.0
    found = [extractor.extract(values, valid, DETECTOR) for values in (patches, other)]
    assert found[0].tobytes() == found[1].tobytes()
    assert np.isfinite(found[0]).all()


class OfLittleMemory(torch.nn.Module):
    """Layers on a device that has no memory for more patches than ``room``."""

    def __init__(self, layers, room):
        super().__init__()
        self.layers, self.room, self.sizes = layers, room, []

    def forward(self, patches):
        self.sizes.append(len(patches))
        if len(patches) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.layers(patches)


def test_a_batch_that_does_not_fit_into_the_memory_of_a_device_is_halved(extractor, caplog):
    """As on a GPU, here on the processor: the same features, and one warning for all frames."""
    image = np.random.default_rng(3).poisson(1000, (1024, 640)).astype(np.uint16)
    invalid = np.zeros(image.shape, bool)
    invalid[100:140, 30:90] = True
    tops, lefts = (axis.ravel() for axis in np.mgrid[0:1024:64, 0:640:64])
    frame = image, invalid, tops, lefts, 64, DETECTOR
    whole = extractor.extract_frame(*frame)
    extractor.batch, extractor.head = 4096, OfLittleMemory(extractor.head, 100)
    for _ in range(2):
        np.testing.assert_array_equal(extractor._extract_on_device(*frame), whole)
    assert extractor.head.sizes == [160] * 5 + [128] + [64, 64, 32] * 2
    assert [record.message for record in caplog.records] == [
        "warning: cpu has no memory for 4096 patches at a time: 64 from now on"
    ]


def test_a_device_without_memory_for_the_smallest_batch_fails(extractor):
    tops, lefts = (axis.ravel() for axis in np.mgrid[0:640:64, 0:640:64])
    extractor.head = OfLittleMemory(extractor.head, 63)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        extractor._extract_on_device(np.zeros((640, 640), np.uint16), None, tops, lefts, 64, DETECTOR)
