"""Verify names what is damaged or missing; repair makes the same bytes again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from night import InterruptAfter, files, ledger_of, same_bytes, write_night

import aqdask as aq
from aqdask.errors import UsageError
from aqdask.store.quality_store import QualityStore

FRAME = "R/f01.fits"  # it has invalid pixels, too


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": flip,
    "a truncated shard": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a zero-byte shard": lambda path: path.write_bytes(b""),
    "a missing shard": lambda path: path.unlink(),
}
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))


def shard_of(archive, what, row):
    if what in ("image", "invalid"):
        return archive / "frames" / what / "c" / str(row) / "0" / "0"
    (group,) = (archive / "quality").glob("tiny-*")
    return group / what / "c" / str(row // 4) / "0" / "0"


def row_of(archive, frame_id=FRAME):
    return ledger_of(archive).entries[frame_id].row


def test_a_finished_archive_is_sound(undisturbed):
    found = aq.verify(undisturbed, cluster="serial")
    assert found.sound
    assert found.checked == 10
    assert found.counts == {"done": 10, "quarantined": 0, "pending": 0}


@damaged
@pytest.mark.parametrize("what", ["image", "invalid"])
def test_damaged_pixels_are_found_named_and_made_again(scored, undisturbed, damage, what):
    damage(shard_of(scored, what, row_of(scored)))
    found = aq.verify(scored, cluster="serial")
    assert {(name, where) for name, where, _ in found.damage} == {(FRAME, "frames")}
    again = aq.verify(scored, cluster="serial", repair=True)
    assert again.sound
    assert again.repaired == [FRAME]
    same_bytes(scored, undisturbed)


@damaged
@pytest.mark.parametrize("what", ["pvalue", "reason", "ra"])
def test_damaged_maps_are_found_named_and_made_again(scored, undisturbed, damage, what):
    row = row_of(scored)
    damage(shard_of(scored, what, row))
    ids = [entry.frame_id for entry in ledger_of(scored).rows()]
    sharing = set(ids[row // 4 * 4 : row // 4 * 4 + 4])  # K = 4 frames share the shard
    found = aq.verify(scored, cluster="serial")
    named = {name for name, _, _ in found.damage}
    assert named <= sharing
    assert named == sharing or damage is flip  # a flipped bit may hit one frame's chunk only
    assert named
    assert all(where.startswith("tiny-") for _, where, _ in found.damage)
    again = aq.verify(scored, cluster="serial", repair=True)
    assert again.sound
    assert set(again.repaired) == named
    same_bytes(scored, undisturbed)


def test_several_damages_at_once_are_repaired_in_one_go(scored, undisturbed):
    whats = [("image", 0), ("image", 4), ("mae", 0), ("score", 9), ("invalid", row_of(scored))]
    for (what, row), damage in zip(whats, (*DAMAGE.values(), flip), strict=True):
        damage(shard_of(scored, what, row))
    assert not aq.verify(scored, cluster="serial").sound
    assert aq.verify(scored, cluster="serial", repair=True).sound
    same_bytes(scored, undisturbed)


SMALL = {
    "frames/time": "frames (coordinates)",
    "frames/frame_id": "frames (coordinates)",
    "frames/header": "frames (coordinates)",
    "quality/tiny-*/frame_score": "(values)",
    "quality/tiny-*/y0": "(fixed)",
    "quality/tiny-*/x1": "(fixed)",
}


@pytest.mark.parametrize("damage", [flip, DAMAGE["a missing shard"], DAMAGE["a zero-byte shard"]])
@pytest.mark.parametrize("array", SMALL)
def test_damaged_small_arrays_are_found_and_made_again(scored, undisturbed, array, damage):
    (place,) = scored.glob(array)
    damage(place / "c" / "0")
    found = aq.verify(scored, cluster="serial")
    assert {where.removeprefix(place.parent.name).strip() for _, where, _ in found.damage} <= {
        SMALL[array],
        SMALL[array].removeprefix("frames").strip(),
    }
    assert found.damage
    assert aq.verify(scored, cluster="serial", repair=True).sound
    same_bytes(scored, undisturbed)


def test_a_damaged_model_is_found_and_written_again_by_score(scored, undisturbed, bundle):
    (group,) = (scored / "quality").glob("tiny-*")
    flip(group / "bundle" / "c" / "0")
    found = aq.verify(scored, cluster="serial")
    assert [what for _, _, what in found.damage] == [
        "the stored model is damaged; aqdask score with the model file writes it again"
    ]
    assert not aq.verify(scored, cluster="serial", repair=True).sound
    aq.score(scored, bundle, cluster="serial")
    assert aq.verify(scored, cluster="serial").sound
    same_bytes(scored, undisturbed)


def test_a_source_that_is_gone_does_not_cost_the_other_coordinates(scored):
    entry = ledger_of(scored).entries[FRAME]
    before = aq.open_frames(scored).load()
    flip(scored / "frames" / "time" / "c" / "0")
    source = Path(entry.path)
    away = source.rename(source.with_suffix(".away"))
    try:
        aq.verify(scored, cluster="serial", repair=True)
    finally:
        away.rename(source)
    after = aq.open_frames(scored).load()
    assert (after["header"] == before["header"]).all()
    assert after["frame_id"].values[entry.row] == FRAME
    assert np.isnat(after["time"].values).sum() == 1


def test_a_sample_reads_that_fraction_and_finds_damage_within_it(scored):
    assert aq.verify(scored, cluster="serial", sample=0.3).checked == 3
    assert aq.verify(scored, cluster="serial", sample=4).checked == 4
    assert aq.verify(scored, cluster="serial", sample=99).checked == 10
    for row in range(10):
        flip(shard_of(scored, "image", row))
    found = aq.verify(scored, cluster="serial", sample=0.3, seed=5)
    assert len({name for name, _, _ in found.damage}) == 3
    other = aq.verify(scored, cluster="serial", sample=0.3, seed=6)
    assert {n for n, _, _ in other.damage} != {n for n, _, _ in found.damage}


@pytest.mark.parametrize("sample", [0, -1, 1.5])
def test_a_sample_that_is_no_fraction_is_refused(undisturbed, sample):
    with pytest.raises(UsageError, match=f"sample = {sample}"):
        aq.verify(undisturbed, sample=sample, cluster="serial")


def test_what_is_pending_is_incomplete_and_repair_finishes_it(night, ingested, undisturbed, bundle):
    archive = ingested()
    with pytest.raises(KeyboardInterrupt, match="stopped by the test"):
        aq.score(archive, bundle, cluster="serial", reporter=InterruptAfter(1))
    found = aq.verify(archive, cluster="serial")
    assert not found.sound
    assert found.damage == []
    assert len(found.incomplete) == 6  # one shard of four was scored
    assert all("not scored by tiny-" in what for _, what in found.incomplete)
    assert aq.verify(archive, cluster="serial", repair=True).sound
    same_bytes(archive, undisturbed)


def test_what_cannot_be_repaired_is_said_and_what_is_left_of_it_is_kept(tmp_path):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    aq.ingest(folder, archive, cluster="serial", chunk=64)
    flip(shard_of(archive, "image", 1))
    left = files(archive)
    shutil.move(folder / "L" / "f02.fits", tmp_path)
    found = aq.verify(archive, cluster="serial", repair=True)
    assert [name for name, _, _ in found.damage] == ["L/f02.fits"]
    assert found.repaired == []
    ((name, why),) = found.lost
    assert name == "L/f02.fits"
    assert "cannot be read" in why
    same_bytes(files(archive), left)


def test_a_source_that_has_changed_is_no_repair(tmp_path):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    aq.ingest(folder, archive, cluster="serial", chunk=64)
    flip(shard_of(archive, "image", 1))
    flip(folder / "L" / "f02.fits")
    found = aq.verify(archive, cluster="serial", repair=True)
    assert not found.sound
    assert found.repaired == []
    assert [(name, "has changed" in why) for name, why in found.lost] == [("L/f02.fits", True)]


def test_repair_of_maps_needs_no_source_and_no_model_file(scored, undisturbed):
    (name,) = (path.name for path in (scored / "quality").glob("tiny-*"))
    entries = ledger_of(scored).entries.values()
    flip(shard_of(scored, "pvalue", 0))
    assert all(entry.scores[name].state == "done" for entry in entries)
    assert aq.verify(scored, cluster="serial", repair=True).sound
    stored = QualityStore.open(scored, name).read(0, 10)["pvalue"]
    np.testing.assert_array_equal(stored, QualityStore.open(undisturbed, name).read(0, 10)["pvalue"])
