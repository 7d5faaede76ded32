"""Frames with a trail each that ``make_trouble.py`` writes: their masks, and what these find."""

from __future__ import annotations

import numpy as np

import aqdask as aq
from aqdask.simulate.truth import NARROW_FRACTIONS, patch_fraction
from aqdask.specs import PatchGrid

ALPHA = 0.01
LEAST = 0.25  # of the patches of the trail, 9 to 12 of each amplitude


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
