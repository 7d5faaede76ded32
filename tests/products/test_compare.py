"""Masks of two models on the same frames, against counts by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tracemalloc

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from night import sky, tiny_bundle

import aqdask as aq
from aqdask import flags
from aqdask.errors import UsageError
from aqdask.products import compare as module

DIMS = ("frame", "patch_y", "patch_x")
NAMES = [flag.name for flag in flags.REASONS]


def quality(pvalue, reason=1, ids=None, **attrs) -> xr.Dataset:
    """Dataset like that of `open_quality`, with chunks of one frame."""
    pvalue = np.array(pvalue, dtype="float32")
    reasons = np.broadcast_to(np.array(reason, dtype="uint8"), pvalue.shape)
    names = [f"f{n}" for n in range(len(pvalue))] if ids is None else ids
    return xr.Dataset(
        {
            "pvalue": (DIMS, da.from_array(pvalue, chunks=(1, -1, -1))),
            "reason": (DIMS, da.from_array(reasons, chunks=(1, -1, -1)), flags.cf_values(flags.REASONS)),
        },
        coords={"frame_id": ("frame", np.array(names, dtype=np.dtypes.StringDType()))},
        attrs={"model": "m", "model_sha256": "0123456789abcdef", "patch": 64, **attrs},
    )


NAN = math.nan
A = quality(
    [[[0.001, 0.5, 0.01], [0.9, NAN, NAN]], [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]],
    reason=[[[1, 1, 3], [1, 0, 0]], [[1, 1, 1], [1, 1, 1]]],
)
B = quality(
    [[[0.002, 0.5, 0.02], [0.001, 0.5, NAN]], [[0.5, 0.003, 0.004], [0.5, NAN, 0.5]]],
    reason=[[[2, 1, 1], [5, 1, 0]], [[1, 5, 8], [1, 0, 1]]],
)


def test_every_patch_is_counted_once():
    found = aq.compare(A, B)
    assert (found.both, found.only_a, found.only_b, found.neither) == (1, 1, 3, 4)
    assert (found.no_data_a, found.no_data_b, found.no_data_both) == (1, 1, 1)
    assert (found.patches, found.changed, found.frames) == (9, 4, 2)
    assert found.patches + found.no_data_a + found.no_data_b + found.no_data_both == 12
    assert found.agreement == pytest.approx(5 / 9)
    assert (found.model_a, found.alpha) == ("m-01234567", 0.01)


def test_reasons_are_those_of_the_model_that_masks():
    found = aq.compare(A, B)
    assert {row.reason: (row.gained, row.lost) for row in found.by_reason} == {
        NAMES[5]: (2, 0),
        NAMES[8]: (1, 0),
        NAMES[3]: (0, 1),
    }
    assert found.by_reason[0].reason == NAMES[5]  # most changes first


def test_each_model_names_its_own_codes():
    other = B.copy()
    other["reason"] = other["reason"].assign_attrs(flag_values=[5, 8], flag_meanings="blur dots")
    assert {row.reason for row in aq.compare(A, other).by_reason} == {"blur", "dots", NAMES[3]}
    del other["reason"].attrs["flag_values"]
    assert {row.reason for row in aq.compare(A, other).by_reason} == {"code 5", "code 8", NAMES[3]}


def test_frames_come_with_the_most_changes_first():
    table = aq.compare(B, A, 0.0035).by_frame
    assert table["frame_id"].values.tolist() == ["f0", "f1"]
    more = aq.compare(A.isel(frame=[1, 0]), B.isel(frame=[1, 0])).by_frame
    assert more["frame_id"].values.tolist() == ["f1", "f0"]  # as many changes: as they stood
    assert more["row"].values.tolist() == [0, 1]
    columns = {name: more[name].values.tolist() for name in more.data_vars}
    assert columns == {
        "compared": [5, 4], "masked_a": [0, 2], "masked_b": [2, 2], "gained": [2, 1], "lost": [0, 1],
        "no_data": [1, 2],
    }  # fmt: skip


def test_frames_are_matched_by_their_id():
    found, mixed = aq.compare(A, B), aq.compare(A, B.isel(frame=[1, 0]))
    assert mixed.by_frame.identical(found.by_frame)
    assert dataclasses.replace(mixed, by_frame=None).facts() == found.facts()


def test_two_equal_models_agree_in_everything():
    found = aq.compare(A, A)
    assert (found.agreement, found.changed, found.by_reason) == (1, 0, ())


@pytest.mark.parametrize(
    ("pvalue", "agreement"),
    [(0.5, 1), (0.001, 1), (NAN, NAN)],  # none masked, all masked, nothing to compare
    ids=["none", "all", "no data"],
)
def test_what_is_not_defined_is_nan_and_null(pvalue, agreement):
    same = quality(np.full((2, 3, 3), pvalue))
    found = aq.compare(same, same)
    assert found.agreement == pytest.approx(agreement, nan_ok=True)
    facts = json.loads(json.dumps(found.facts(), allow_nan=False))
    assert facts["agreement"] == (None if math.isnan(agreement) else agreement)


def test_no_frames_at_all():
    found = aq.compare(A.isel(frame=slice(0)), B.isel(frame=slice(0)))
    assert (found.frames, found.patches, found.by_frame.sizes["frame"]) == (0, 0, 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.02, 0.9))
@settings(max_examples=20, deadline=None)
def test_any_block_size_gives_the_same_counts(seed, block, alpha):
    rng = np.random.default_rng(seed)
    values = rng.random((2, 5, 3, 4)).astype("float32")
    values[rng.random(values.shape) < 0.2] = NAN
    a, b = quality(values[0]), quality(values[1])
    compared = np.isfinite(values).all(axis=0)
    bad = (values <= np.float32(alpha)) & compared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = aq.compare(a, b, alpha)
    assert found.both == (bad[0] & bad[1]).sum()
    assert found.only_b == (bad[1] & ~bad[0]).sum()
    assert found.patches == compared.sum()


def test_memory_is_that_of_a_block(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 100_000)
    shape, chunks = (400, 100, 100), (10, 100, 100)  # 4e6 patches: 20 MB a model
    maps = {
        "pvalue": (DIMS, da.full(shape, 0.5, chunks=chunks, dtype="float32")),
        "reason": (DIMS, da.ones(shape, chunks=chunks, dtype="uint8")),
    }
    a = xr.Dataset(maps)
    tracemalloc.start()
    try:
        found = aq.compare(a, a)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.neither == 4_000_000
    assert peak < 15e6


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            B.isel(patch_x=slice(2)),
            "2 x 3 patches of 64 px and into 2 x 2 patches.*Expected: the same patches",
        ),
        (B.isel(frame=[0]), r"1 frame in a only and 0 in b only \(f1, ...\)"),
        (quality(np.ones((2, 2, 3)), ids=["f0", "g1"]), r"1 frame in a only and 1 in b only \(f1"),
        (quality(np.ones((3, 2, 3)), ids=["f0", "f1", "f1"]), "0 frames in a only and 0 in b only.*twice"),
        (B.drop_vars("frame_id"), "2 and 2 frames, of which not all have a `frame_id`"),
        (B.drop_vars("reason"), "a dataset of pvalue.*`pvalue` and `reason`"),
        (xr.Dataset(), "a dataset of nothing"),
    ],
    ids=["patches", "fewer", "others", "twice", "no ids", "no reason", "nothing"],
)
def test_what_cannot_be_compared_is_refused(other, message):
    with pytest.raises(UsageError, match=message):
        aq.compare(A, other)


def test_patches_at_other_places_are_refused():
    here, there = (part.assign_coords(x0=("patch_x", [0, 64, 128])) for part in (A, B))
    assert aq.compare(here, there).patches == 9
    with pytest.raises(UsageError, match="the same patches"):
        aq.compare(here, there.assign_coords(x0=("patch_x", [0, 64, 100])))


def test_alpha_outside_0_to_1_is_refused():
    with pytest.raises(UsageError, match="alpha = 1"):
        aq.compare(A, B, 1)


# --- an archive, and arrays in none ----------------------------------------------------------------------


def test_two_models_of_one_archive(archive, model, tmp_path):
    place = shutil.copytree(archive, tmp_path / "a.zarr")
    second = tiny_bundle("other", seed=5)
    aq.score(place, second, cluster="serial")
    a, b = aq.open_quality(place, "tiny"), aq.open_quality(place, "other")
    found = aq.compare(a, b, 0.5)
    masked = [(part["pvalue"].values <= 0.5) for part in (a, b)]
    assert found.only_b == (masked[1] & ~masked[0]).sum()
    assert found.changed == sum(row.gained + row.lost for row in found.by_reason) > 0
    assert found.no_data_both == np.isnan(a["pvalue"].values).sum() > 0
    assert {"time", "filter", "camera"} <= set(found.by_frame.coords)
    assert found.model_b == f"other-{second.digest[:8]}"


def test_an_image_in_no_archive(model):
    maps = [aq.quality_of(sky(3), one) for one in (model, tiny_bundle("other", seed=1))]
    found = aq.compare(*maps, alpha=0.2)
    assert (found.frames, found.patches) == (1, maps[0]["pvalue"].size)
