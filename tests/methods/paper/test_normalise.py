"""Min-max and MAE against a plain float64 reference, patch by patch."""

import numpy as np
import pytest
import torch

from aqdask.methods.paper.normalise import minmax
from aqdask.methods.paper.residual import mean_absolute_error
from aqdask.methods.tensors import as_float


def reference_minmax(patch, valid):
    """The definition, in float64."""
    data = patch[valid].astype(np.float64)
    if data.size == 0 or data.max() == data.min():
        return np.zeros(patch.shape)
    scaled = np.full(patch.shape, np.sort((data - data.min()) / np.ptp(data))[(data.size - 1) // 2])
    scaled[valid] = (data - data.min()) / np.ptp(data)
    return scaled


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", ">i2", "uint16", "int32", "uint32", "float32", ">f4", "float64"]
)
def test_minmax_is_the_definition(dtype):
    generator = np.random.default_rng(1)
    patches = generator.poisson(100, (6, 16, 16)).astype(dtype)
    valid = generator.random((6, 16, 16)) < 0.8
    valid[1] = True
    valid[2] = False
    patches[3] = 7  # constant
    got = minmax(as_float(patches, "cpu"), torch.from_numpy(valid)).numpy()
    expected = np.stack([reference_minmax(*pair) for pair in zip(patches, valid, strict=True)])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_small_differences_of_large_integers_survive():
    patches = (2**30 + np.arange(16, dtype=np.int32)).reshape(1, 4, 4)
    np.testing.assert_allclose(
        minmax(as_float(patches, "cpu")).numpy().ravel(), np.arange(16) / 15, rtol=1e-6
    )


def test_no_mask_and_a_full_mask_give_the_same_bits():
    patches = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0))
    full, other = torch.ones(5, 8, 8, dtype=torch.bool), patches.flip(0)
    assert torch.equal(minmax(patches), minmax(patches, full))
    assert torch.equal(mean_absolute_error(patches, other), mean_absolute_error(patches, other, full))


def test_what_is_not_valid_may_be_anything():
    patches = torch.tensor([[[1.0, 3.0], [torch.nan, -torch.inf]]])
    valid = torch.tensor([[[True, True], [False, False]]])
    assert minmax(patches, valid).tolist() == [[[0.0, 1.0], [0.0, 0.0]]]


def test_mean_absolute_error_is_the_definition():
    generator = np.random.default_rng(2)
    patches, other = generator.random((2, 4, 8, 8)).astype(np.float32)
    valid = generator.random((4, 8, 8)) < 0.5
    valid[3] = False
    expected = [
        np.abs(a.astype(np.float64) - b)[v].mean()
        for a, b, v in zip(patches[:3], other[:3], valid[:3], strict=True)
    ]
    got = mean_absolute_error(*(torch.from_numpy(array) for array in (patches, other, valid))).numpy()
    np.testing.assert_allclose(got[:3], expected, rtol=1e-6)
    assert np.isnan(got[3])
