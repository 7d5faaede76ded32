"""Compiled kernels against the torch formulas of the same statistics, NumPy, and exact arithmetic."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aqdask.methods.noise_aware.feature_extractor import Detector, FeatureExtractor, unit_noise
from aqdask.methods.noise_aware.kernel_math import (
    bits_of,
    compiled,
    from_bits,
    from_ordered,
    median,
    natural_log,
    ordered,
)
from aqdask.methods.noise_aware.networks import Networks
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.normalise_kernel import noise_terms, normalise
from aqdask.methods.noise_aware.statistics_kernel import measure

PATCHES = 64
LINEAR = NoiseModel(64.0, 1.0, floor=16.0)
DETECTORS = {
    "linear": Detector(LINEAR, saturation=20000.0),
    "saturation unknown": Detector(LINEAR),
    "pixel response, lag 2": Detector(NoiseModel(64.0, 1.0, 1e-5, 16.0, lag=2), saturation=20000.0),
    "sky subtracted": Detector(NoiseModel(1000.0, 0.0, 0.0, 250.0, "subtracted")),
}
finite = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@pytest.fixture(scope="module")
def extractor():
    torch.manual_seed(0)
    return FeatureExtractor(Networks())


def starry(dtype):
    """Patches of sky with stars, some of them saturated, and one that is constant."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:64, :64]
    patches = rng.poisson(1000, (PATCHES, 64, 64)).astype(float)
    for patch, flux in zip(patches, 10 ** rng.uniform(1, 5, PATCHES), strict=True):
        patch += np.round(flux * np.exp(-((y - rng.uniform(0, 64)) ** 2 + (x - rng.uniform(0, 64)) ** 2) / 5))
    patches[7] = 1000
    return patches.clip(0, 20000).astype(dtype)


def gaps():
    """Valid pixels: single bad ones everywhere, a wide hole, half a patch, one row, one pixel, nothing."""
    valid = np.random.default_rng(4).random((PATCHES, 64, 64)) > 0.001
    valid[1, 10:40, 5:50] = False
    valid[2, :, 32:] = False
    valid[3, 1:] = False
    valid[4] = False
    valid[4, 63, 63] = True
    valid[5] = False
    valid[20:40] = True
    return valid


def arguments(patches, valid, detector):
    """Arguments of the kernels for patches as one column of a frame."""
    return (
        patches.reshape(-1, 64), np.empty((0, 0), bool) if valid is None else valid.reshape(-1, 64),
        64 * np.arange(PATCHES), np.zeros(PATCHES, int), np.empty((64, 64), patches.dtype),
        noise_terms(detector.noise), detector.saturation, unit_noise(64).numpy(),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
def test_levels_and_signal_are_those_of_torch(extractor, name, masked, dtype):
    patches, detector = starry(dtype), DETECTORS[name]
    valid = gaps() if masked else None
    if masked:
        patches[~valid] = np.nan
    with torch.inference_mode():
        known = None if valid is None else torch.from_numpy(valid)
        levels, signal = extractor.normalised(torch.from_numpy(patches), known, detector)
    found, u = normalise(*arguments(patches, valid, detector))
    if math.isfinite(detector.saturation):
        np.testing.assert_allclose(found[:, 1], levels[:, 1], rtol=1e-6)
    for column in (0, 2, 3):
        np.testing.assert_allclose(found[:, column], levels[:, column], rtol=2e-6)
    usable = np.isfinite(signal.numpy()).all(axis=(1, 2)) & (found[:, 0] > 0)
    assert usable.sum() >= PATCHES - 4
    np.testing.assert_allclose(u[usable], signal.numpy()[usable], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
def test_features_are_those_of_torch(extractor, name, masked):
    patches, valid = torch.from_numpy(starry(np.float32)), torch.from_numpy(gaps()) if masked else None
    found = extractor.extract(patches, valid, DETECTORS[name])
    with torch.inference_mode():
        levels, u = extractor.normalised(patches, valid, DETECTORS[name])
        view = extractor.view(u)
        parts = [row.function(view) for row in extractor.statistics]
        wanted = torch.cat([levels, *parts], dim=1).numpy()
    packed = [name.startswith("packed") for name in extractor.feature_names]
    usable = np.isfinite(found).all(axis=1)
    assert usable.sum() >= PATCHES - (4 if masked else 0)
    plain = ~np.array(packed)
    np.testing.assert_allclose(found[usable][:, plain], wanted[usable][:, plain], rtol=2e-3, atol=2e-3)
    codes = [np.ascontiguousarray(v[usable][:, packed]).astype("<u4").view(np.uint8) for v in (found, wanted)]
    assert np.abs(codes[0].astype(int) - codes[1]).max() <= 1  # a rounding tie


def test_the_networks_get_the_compressed_signal_in_both_types():
    about = arguments(starry(np.float32), None, DETECTORS["linear"])
    (levels, u), (same, v, short, *_) = normalise(*about), measure(*about)
    np.testing.assert_array_equal(levels, same)
    np.testing.assert_allclose(v, 10 * np.arcsinh(u / 10), rtol=1e-5, atol=2e-6)
    wanted = torch.from_numpy(v).bfloat16()
    torch.testing.assert_close(torch.from_numpy(short).view(torch.bfloat16), wanted, rtol=0, atol=0)


@given(arrays(np.float32, st.integers(1, 300), elements=finite))
@settings(deadline=None)
def test_the_median_is_the_lower_one(values):
    keys = np.array([ordered(value) for value in values], np.int32)
    assert median(keys) == np.sort(values)[(len(values) - 1) // 2]


@given(finite, finite)
@settings(deadline=None)
def test_ordered_bits_are_ordered(one, other):
    assert (ordered(one) < ordered(other)) == (one < other) or one == other == 0
    assert from_bits(bits_of(one)) == from_ordered(ordered(one)) == np.float32(one)


def test_the_logarithm_is_exact_to_float32():
    @compiled
    def logarithms(x, out):
        for n in range(x.size):
            out[n] = natural_log(x[n])

    x = np.geomspace(1, 1e7, 100_000).astype(np.float32)
    out = np.empty_like(x)
    logarithms(x, out)
    np.testing.assert_allclose(out, np.log(x.astype(np.float64)), rtol=3e-7, atol=1e-7)


# --- numba's cache -------------------------------------------------------------------------------------

KERNELS = """
import hashlib
import numpy as np
from aqdask.methods.noise_aware import normalise_kernel, statistics_kernel, streaks

rng = np.random.default_rng(5)
frame = rng.poisson(1000, (256, 256)).astype(np.uint16)
corners = np.arange(0, 256, 64)
tops, lefts = np.repeat(corners, 4), np.tile(corners, 4)
unit = rng.normal(size=(64, 64)).astype(np.float32)
noise = (64.0, 1.0, 0.0, 16.0, 1.0, 0.0)
found = []
for valid in (np.empty((0, 0), bool), rng.random((256, 256)) > 0.01):
    about = frame, valid, tops, lefts, np.empty((64, 64), np.float32), noise, 2e4, unit
    levels, v, *others = statistics_kernel.measure(*about)
    found += [*normalise_kernel.normalise(*about), levels, v, *others]
    for dtype, shift in ((np.int32, 0), (np.int16, 16)):
        smooth = rng.normal(size=(16, 16, 16, 16)).astype(np.float32).view(np.int32) >> shift
        found.append(statistics_kernel.residual_statistics(v, smooth.astype(dtype), shift))
found.append(streaks._contrasts(unit, np.full((9, 64), np.arange(30.0, 39)[:, None] + 0.3), 5.0))
print(hashlib.sha256(b"".join(one.tobytes() for one in found)).hexdigest())
"""


@pytest.mark.slow
def test_the_process_that_compiles_gives_the_bytes_of_those_that_load(tmp_path):
    command = [sys.executable, "-c", KERNELS]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    found = [subprocess.run(command, env=environment, check=True, stdout=-1).stdout for _ in range(2)]
    assert any(tmp_path.rglob("*.nbc"))
    assert found[0] == found[1] != b""
