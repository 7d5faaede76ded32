"""Reconstructions in counts: the inverse of the stabilisation, and lazy datasets."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
import xarray as xr

import aqdask as aq
from aqdask.errors import UncalibratedWarning, UsageError
from aqdask.methods.base import reconstruct_frame
from aqdask.methods.dispatch import load_scorer
from aqdask.methods.noise_aware.feature_extractor import _counts
from aqdask.methods.noise_aware.noise_model import NoiseModel, compress, restore_counts, variance_stabilise
from aqdask.methods.shipped import load_shipped

MODELS = {
    "linear": NoiseModel(100.0, 0.6, floor=50.0),
    "quadratic": NoiseModel(100.0, 0.6, 1e-4, floor=50.0),
    "constant": NoiseModel(900.0, 0.0, floor=200.0),
    "pedestal": NoiseModel(-500.0, 0.8, floor=60.0),  # a sky of 620 is below the clamp
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sky", [1000.0, 620.0, 40000.0])
def test_counts_come_back_from_the_stabilised_signal(name, sky):
    """Below and above the clamp of the variance, with skies on either side of it."""
    counts = torch.linspace(-2000, 65000, 64 * 64, dtype=torch.float64).reshape(1, 64, 64)
    level = torch.tensor([sky], dtype=torch.float64)
    back = restore_counts(variance_stabilise(counts, level, MODELS[name]), level, MODELS[name])
    torch.testing.assert_close(back, counts, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("source", ["frames", "subtracted"])
def test_counts_of_compressed_signal_have_the_unit_of_the_frame(source):
    """Where the sky was subtracted, the signal is in units of the noise of the patch."""
    noise = NoiseModel(900.0, 0.0, floor=1.0, source=source, unit=2.0**-20)
    counts = torch.linspace(-200, 5000, 64 * 64, dtype=torch.float64).reshape(1, 64, 64)
    levels = torch.tensor([[1.0, 0.0, 20.0, 400.0]], dtype=torch.float64)
    u = variance_stabilise(counts, levels[:, 2], noise)
    if source == "subtracted":
        u = u * (900 / 400) ** 0.5
    torch.testing.assert_close(_counts(compress(u), levels, noise), counts * noise.unit)


def test_signal_without_counts_stays_finite():
    """A network may give more than any counts would, where the response varies."""
    noise, level = MODELS["quadratic"], torch.tensor([1000.0])
    assert restore_counts(torch.full((1, 2, 2), 1e4), level, noise).isfinite().all()


@pytest.fixture(scope="module")
def both(model):
    return {"aqdask": load_shipped(), "paper": model}


@pytest.mark.parametrize("method", ["aqdask", "paper"])
def test_an_archive_is_reconstructed_lazily_frame_by_frame(archive, both, method):
    expected = pytest.warns(UncalibratedWarning, match="not calibrated for tinycam L, tinycam R: ")
    with expected if method == "aqdask" else contextlib.nullcontext():
        lazy = aq.reconstruct(archive, both[method])
    frames = aq.open_frames(archive)
    assert lazy["reconstruction"].dims == ("frame", "y", "x")
    assert {one.attrs["units"] for one in lazy.values()} == {"count"}
    assert lazy["residual"].chunks == frames["image"].chunks
    assert list(lazy["frame_id"].values) == list(frames["frame_id"].values)
    found = lazy.isel(frame=3).compute(scheduler="synchronous")
    one = frames.isel(frame=3)
    invalid = one["invalid"].values
    about = str(one["camera"].values), str(one["filter"].values)
    wanted = reconstruct_frame(load_scorer(both[method]), one["image"].values, invalid, *about)
    np.testing.assert_allclose(found["reconstruction"], wanted.counts, rtol=1e-5)
    np.testing.assert_array_equal(found["residual"], one["image"].values - found["reconstruction"])
    assert invalid.any()
    assert np.isnan(found["residual"].values)[invalid].all()
    assert np.isfinite(found["residual"].values)[~invalid].mean() > 0.99  # hot pixels are no data


def test_arrays_of_every_kind(archive, model):
    image = aq.open_frames(archive)["image"][0].load()
    wanted = aq.reconstruct(image, model)["reconstruction"].values
    assert wanted.dtype == np.float32
    for given in (image.values, image.chunk({"y": 50, "x": 64}), image.values.astype("int32")):
        found = aq.reconstruct(given, model, camera="tinycam", filter="L")["reconstruction"]
        assert found.dims == ("y", "x")
        np.testing.assert_allclose(found.values, wanted, rtol=1e-6)
    assert found.dtype == np.float64
    bad = np.zeros(image.shape, bool)
    bad[:9] = True
    assert np.isnan(aq.reconstruct(image, model, invalid=bad)["residual"][:9]).all()


def test_what_has_no_pixels_is_refused(archive, model):
    with pytest.raises(UsageError, match="one with `image`"):
        aq.reconstruct(xr.Dataset(), model)
    with pytest.raises(UsageError, match="invalid of shape"):
        aq.reconstruct(np.zeros((64, 64), np.float32), model, invalid=np.zeros((3, 3), bool))
