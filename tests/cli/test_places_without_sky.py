"""Frames with overscan or with corners beyond the detector, from FITS files to masks."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import aqdask as aq
from aqdask.simulate.truth import NARROW_FRACTIONS, patch_fraction
from aqdask.specs import PatchGrid

ALPHA = 0.01
OVERSCAN = (slice(0, 512), slice(20, 532))


@pytest.fixture(scope="module")
def trouble(data_dir, tmp_path_factory):
    """``trouble(kind)``: the folder of one kind of ``make_trouble.py``."""
    path = data_dir / "trouble" / "make_trouble.py"
    spec = importlib.util.spec_from_file_location("make_trouble", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        module.KINDS[kind](folder)
        return folder, module.TRAIL

    return make


def scored(folder, place, **options):
    """Calibrate on refs/ and score test/: notes, quality, and share of invalid pixels of the first frame."""
    model = place / "m.safetensors"
    aq.ingest(folder / "refs", place / "refs.zarr", cluster="serial", **options)
    bundle = aq.calibrate(place / "refs.zarr", "wide-field", frames=["*"], out=model, cluster="serial")
    aq.ingest(folder / "test", place / "test.zarr", cluster="serial", **options)
    aq.score(place / "test.zarr", model, cluster="serial")
    frames = aq.open_frames(place / "test.zarr")
    return bundle.notes, aq.open_quality(place / "test.zarr"), float(frames["invalid"][0].mean())


def found(quality, truth):
    """Masked share of the patches of the trail, by its amplitude; of all patches where there is none."""
    result: dict[int, list[np.ndarray]] = {}
    for frame, pvalue in zip(quality["frame_id"].values, quality["pvalue"].values, strict=True):
        amplitude = int(str(frame).removesuffix(".fits").rpartition("_")[2])
        fraction = patch_fraction(truth, PatchGrid(*truth.shape))
        counted = fraction >= NARROW_FRACTIONS["trail"] if amplitude else np.isfinite(pvalue)
        result.setdefault(amplitude, []).append(pvalue[counted & np.isfinite(pvalue)] <= ALPHA)
    return {amplitude: float(np.concatenate(masked).mean()) for amplitude, masked in result.items()}
