"""Masks of patches with their reasons in numbers, compared with the maps themselves."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyarrow import csv

import aqdask as aq
from aqdask import flags
from aqdask.cli import aqdask
from aqdask.errors import UsageError
from aqdask.products import mask_summaries
from aqdask.products.flagged import VARIABLE_REASONS, StoredModel, flag_reasons, flagged
from aqdask.products.mask_summaries import GOOD, MaskSummaries, main_reasons, read_reasons, summarise_masks
from aqdask.store.quality_store import QualityStore

NAMES = [flag.name for flag in flags.REASONS]


@pytest.fixture
def copied(archive, tmp_path):
    """A copy of the archive that may be damaged."""
    return shutil.copytree(archive, tmp_path / "copy.zarr")


def name_of(archive):
    return next(path.name for path in (archive / "quality").iterdir() if path.is_dir())


@pytest.mark.parametrize("block", [1, 2**24])
def test_the_numbers_are_those_of_the_maps(archive, block, monkeypatch):
    monkeypatch.setattr(mask_summaries, "BLOCK_BYTES", block)
    quality, found = aq.open_quality(archive), summarise_masks(archive, name_of(archive), 0.2)
    bad, reasons = ~(quality["pvalue"].values > 0.2), quality["reason"].values
    assert bad.any()
    np.testing.assert_allclose(found.masked, bad.mean(axis=(1, 2)))
    for place, flag in enumerate(flags.REASONS):
        expected = (bad & (reasons == flag.value)).sum(axis=(1, 2))
        np.testing.assert_array_equal(found.counts[:, place], expected)
    assert found.known.all()
    assert not found.damaged.any()


def test_maps_of_reasons(archive):
    store, quality = QualityStore.open(archive, name_of(archive)), aq.open_quality(archive)
    found = read_reasons(store, np.array([4, 1]), np.array([True, False]), 0.2)
    bad = ~(quality["pvalue"].values[4] > 0.2)
    np.testing.assert_array_equal(found[0], np.where(bad, quality["reason"].values[4], GOOD))
    assert (found[1] == 0).all()


def test_missing_data_is_the_main_reason_only_where_nothing_else_is_masked():
    counts = np.zeros((4, len(NAMES)), int)
    counts[0, [NAMES.index("no_data"), NAMES.index("size")]] = 30, 2
    counts[1, NAMES.index("no_data")] = 30
    counts[2, [NAMES.index("saturated"), NAMES.index("line"), NAMES.index("spike")]] = 9, 5, 4
    assert main_reasons(counts).tolist() == ["size", "no_data", "line", ""]


@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_frames_with_missing_or_damaged_maps_are_named_and_the_others_are_not(copied, how):
    name = name_of(copied)
    whole = summarise_masks(copied, name, 0.2)
    shard = copied / "quality" / name / "pvalue" / "c" / "0" / "0" / "0"
    if how == "gone":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[10] ^= 1
        shard.write_bytes(data)
    found = summarise_masks(copied, name, 0.2)
    damaged = np.arange(6) < 4 if how == "gone" else np.arange(6) == found.damaged.argmax()
    np.testing.assert_array_equal(found.damaged, damaged)
    np.testing.assert_array_equal(found.known, ~damaged)
    assert np.isnan(found.masked[damaged]).all()
    np.testing.assert_array_equal(found.masked[~damaged], whole.masked[~damaged])


def test_an_alpha_beyond_its_range_is_refused(archive):
    with pytest.raises(UsageError, match="alpha = 2"):
        summarise_masks(archive, name_of(archive), 2)


# --- flags ---------------------------------------------------------------------------------------------


def summaries(**shares):
    counts = np.zeros((1, len(NAMES)), int)
    for name, share in shares.items():
        counts[0, NAMES.index(name)] = round(100 * share)
    return MaskSummaries(counts, 100, np.ones(1, bool), np.zeros(1, bool))


SPANS = {"frame_sky": (900.0, 1000.0, 1100.0), "frame_noise_ratio": (0.98, 1.0, 1.02)}


class Model(StoredModel):
    """Model that is calibrated for one camera and filter."""

    @property
    def spans(self):
        return lambda camera, filter: SPANS if (camera, filter) == ("cam", "L") else {}


@pytest.mark.parametrize(
    ("values", "masks", "reason"),
    [
        ({"frame_sky": 2000.0, "frame_noise_ratio": 1.0}, summaries(size=0.9, sky=0.05), "size"),
        ({"frame_sky": 2000.0, "frame_noise_ratio": 1.03}, summaries(spike=0.01), "sky"),
        ({"frame_sky": 1000.0, "frame_noise_ratio": 1.2}, summaries(spike=0.01), "noise"),
        ({"frame_sky": 1000.0, "frame_noise_ratio": float("nan")}, summaries(spike=0.01), "spike"),
        ({}, summaries(), ""),
    ],
)
def test_the_reason_of_a_flag_is_that_of_the_mask_or_the_variable_farthest_out(values, masks, reason):
    columns = {name: np.array([value]) for name, value in values.items()}
    found = flag_reasons(np.array([True]), columns, masks, Model(None), ["cam"], ["L"])
    assert found.tolist() == [reason]
    assert flag_reasons(np.array([False]), columns, masks, Model(None), ["cam"], ["L"]).tolist() == [""]


@pytest.mark.parametrize(("told", "reason"), [("size", "size"), ("", "spike")])
def test_without_a_calibration_of_its_own_the_method_tells_the_reason(told, reason):
    class Other(Model):
        def distant_reason(self, camera, band, values):
            assert (camera, band, values["frame_size_ratio"]) == ("cam", "R", 1.5)
            return told

    columns = {name: np.array([1.5]) for name in VARIABLE_REASONS}
    found = flag_reasons(np.array([True]), columns, summaries(spike=0.01), Other(None), ["cam"], ["R"])
    assert found.tolist() == [reason]


def test_a_model_without_flags_flags_frames_that_are_largely_masked():
    masked = np.array([0.1, 0.3, np.nan])
    assert flagged({}, masked).tolist() == [False, True, False]
    assert flagged({"frame_flag": np.array([1, 0, 255], np.uint8)}, masked).tolist() == [True, False, False]


# --- table ---------------------------------------------------------------------------------------------


def test_the_table_with_reasons_reads_the_maps_without_masks(archive, exported, tmp_path):
    words = ["export", str(archive), str(tmp_path), "--table", "--reasons", "--alpha", "0.2"]
    done = CliRunner().invoke(
        aqdask, [*words, "--format", "parquet", "--format", "csv", "--cluster", "serial"]
    )
    assert done.exit_code == 0, done.output
    found, whole = (pq.read_table(folder / "frames.parquet") for folder in (tmp_path, exported))
    kept = [name for name in whole.column_names if name not in ("masked_fraction", "dq_file")]
    assert found.select(kept) == whole.select(kept)
    summary = summarise_masks(archive, name_of(archive), 0.2)
    assert found["main_reason"].to_pylist() == [*summary.main_reasons, None]
    np.testing.assert_array_equal(found["masked_patches"].to_pylist()[:6], summary.masked)
    shares = np.array([found[f"share_{name}"].to_pylist()[:6] for name in NAMES]).T
    np.testing.assert_array_equal(shares, summary.shares)
    again = csv.read_csv(tmp_path / "frames.csv")
    assert again["frame_id"].to_pylist() == found["frame_id"].to_pylist()
    np.testing.assert_allclose(again["share_residual"].to_pylist()[:6], shares[:, NAMES.index("residual")])
    assert [t.isoformat()[:16] for t in again["time"].to_pylist()[:2]] == [
        "2024-05-07T01:00",
        "2024-05-07T01:02",
    ]


def test_the_table_has_the_position_of_the_centre(exported):
    found = pq.read_table(exported / "frames.parquet")
    np.testing.assert_allclose(found["ra"].to_pylist()[:6], 150.0, atol=1e-3)
    np.testing.assert_allclose(found["dec"].to_pylist()[:6], 2.0, atol=1e-3)
    assert found["airmass"].null_count == 7
    assert found["ra"].to_pylist()[6] is None
