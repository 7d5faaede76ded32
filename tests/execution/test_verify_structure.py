"""Lost metadata and lost records: never taken for what was never there, and mended from what is stored."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from kill_points import to_layout_1
from night import files, ledger_of, same_bytes, write_frame, write_night

import aqdask as aq
from aqdask.errors import ArchiveError, UsageError
from aqdask.execution.pipeline import group_name
from aqdask.store import layout
from aqdask.store.frame_store import COORDINATES
from aqdask.store.quality_store import QualityStore

LOSS = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "not JSON": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "of something else": lambda path: path.write_text(json.dumps({"zarr_format": 3, "node_type": "array"})),
}
lost = pytest.mark.parametrize("loss", LOSS.values(), ids=list(LOSS))


REMEDY = r"damaged: .*--repair"


def stored(archive):
    """Everything that is stored but metadata."""
    return {name: data for name, data in files(archive).items() if not name.endswith("zarr.json")}


def quality_of(archive, bundle):
    return archive / "quality" / group_name(bundle)


def check(archive):
    return aq.verify(archive, cluster="serial")


def mended(archive, undisturbed):
    """Not sound, then repaired to the same bytes."""
    assert not check(archive).sound
    again = aq.verify(archive, cluster="serial", repair=True)
    assert again.sound, (again.damage, again.incomplete)
    same_bytes(stored(archive), stored(undisturbed))
    assert ledger_of(archive).counts() == ledger_of(undisturbed).counts()


# --- metadata of arrays and groups ----------------------------------------------------------------------


@lost
@pytest.mark.parametrize("array", ["image", "invalid", *COORDINATES])
def test_lost_metadata_of_frames(scored, undisturbed, tmp_path, bundle, array, loss):
    loss(scored / "frames" / array / "zarr.json")
    with pytest.raises(ArchiveError, match=REMEDY):
        aq.open_frames(scored)
    with pytest.raises(ArchiveError, match=REMEDY):
        aq.ingest(write_night(tmp_path / "more", 1, first=20), scored, cluster="serial")
    with pytest.raises(ArchiveError, match=REMEDY):
        aq.score(scored, bundle, cluster="serial")
    mended(scored, undisturbed)


@lost
@pytest.mark.parametrize("variable", ["score", "pvalue", "ra", "frame_score", "y0", "bundle"])
def test_lost_metadata_of_maps(scored, undisturbed, tmp_path, bundle, variable, loss):
    loss(quality_of(scored, bundle) / variable / "zarr.json")
    if variable == "pvalue":
        with pytest.raises(ArchiveError, match=REMEDY):
            aq.export(scored, tmp_path / "out", cluster="serial")
        with pytest.raises(ArchiveError, match=REMEDY):
            aq.mask(aq.open_quality(scored), 0.01)
    mended(scored, undisturbed)


@lost
@pytest.mark.parametrize("group", ["frames", "quality", "ledger", "quality/*"])
def test_lost_metadata_of_groups(scored, undisturbed, group, loss):
    (place,) = scored.glob(f"{group}/zarr.json")
    loss(place)
    mended(scored, undisturbed)


@lost
@pytest.mark.parametrize("variable", ["score", "ra", "frame_score", "y0", ""])
def test_score_mends_its_own_group_and_scores_nothing_again(scored, undisturbed, bundle, variable, loss):
    before = ledger_of(scored).entries
    loss(quality_of(scored, bundle) / variable / "zarr.json")
    assert aq.score(scored, bundle, cluster="serial").done == 10
    same_bytes(stored(scored), stored(undisturbed))
    assert check(scored).sound
    assert ledger_of(scored).entries == before


def test_a_quality_group_that_is_gone_is_missed_and_scored_again(scored, undisturbed, bundle, tmp_path):
    shutil.rmtree(quality_of(scored, bundle))
    found = check(scored)
    assert not found.sound
    assert any(group_name(bundle) in where for _, where, _ in found.damage)
    with pytest.raises(UsageError, match="holds no quality groups"):
        aq.export(scored, tmp_path / "out", cluster="serial")
    again = aq.verify(scored, cluster="serial", repair=True)
    assert not again.sound
    assert [name for name, _ in again.lost] == [group_name(bundle)]
    aq.score(scored, bundle, cluster="serial")
    assert check(scored).sound
    same_bytes(stored(scored), stored(undisturbed))


def test_a_quality_group_that_is_gone_for_good_can_be_forgotten(scored, bundle):
    shutil.rmtree(quality_of(scored, bundle))
    again = aq.verify(scored, cluster="serial", repair=True, forget=True)
    assert again.sound
    assert check(scored).sound
    assert ledger_of(scored).qualities == {}
    assert not quality_of(scored, bundle).exists()


def test_a_frame_that_cannot_be_made_again_can_be_forgotten(tmp_path, bundle):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    aq.run(folder, archive, bundle, cluster="serial", chunk=64, frames_per_shard=4)
    (folder / "L" / "f00.fits").unlink()
    row = ledger_of(archive).entries["L/f00.fits"].row
    (archive / "frames/image/c" / str(row) / "0/0").write_bytes(b"")
    assert not aq.verify(archive, cluster="serial", repair=True).sound
    again = aq.verify(archive, cluster="serial", repair=True, forget=True)
    assert again.sound, (again.damage, again.incomplete)
    entry = ledger_of(archive).entries["L/f00.fits"]
    assert entry.reason.startswith("given up (--forget): ")
    maps = QualityStore.open(archive, group_name(bundle)).read(row, row + 1)
    assert np.isnan(maps["score"]).all()


def test_root_metadata_that_are_lost_are_refused_and_nothing_is_touched(scored, night):
    (scored / "zarr.json").unlink()
    before = files(scored, "frames", "quality", "ledger")
    for call in (check, lambda archive: aq.ingest(night, archive, cluster="serial"), aq.open_frames):
        with pytest.raises(ArchiveError, match="not an aqdask archive"):
            call(scored)
    assert files(scored, "frames", "quality", "ledger") == before


# --- shards ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [LOSS["gone"], LOSS["empty"], LOSS["half"]])
def test_missing_pixels_are_not_scored_and_the_remedy_is_named(scored, bundle, tmp_path, loss):
    from night import tiny_bundle

    loss(scored / "frames/image/c/3/0/0")
    (name,) = [entry.frame_id for entry in ledger_of(scored).rows() if entry.row == 3]
    other = tiny_bundle("other", seed=1)
    for _ in range(2):
        summary = aq.score(scored, other, cluster="serial")
        assert (summary.done, summary.quarantined, summary.pending) == (9, 1, 0)
        ((frame, reason),) = summary.problems
        assert frame == name
        assert "--repair" in reason
    assert aq.verify(scored, cluster="serial", repair=True).sound
    assert aq.score(scored, other, cluster="serial").done == 10


@pytest.mark.parametrize("loss", [LOSS["gone"], LOSS["empty"], LOSS["half"]])
def test_missing_maps_are_not_exported_as_masks(scored, bundle, tmp_path, loss):
    loss(quality_of(scored, bundle) / "pvalue/c/0/0/0")
    table = aq.export(scored, tmp_path / "out", cluster="serial")
    reasons = table["reason"].to_pylist()
    assert sum("--repair" in reason for reason in reasons) == 4
    assert len(list((tmp_path / "out/dq").iterdir())) == 6


def test_missing_invalid_pixels_are_missed_in_an_export(scored, tmp_path):
    entry = next(entry for entry in ledger_of(scored).rows() if entry.invalid_pixels)
    (scored / "frames/invalid/c" / str(entry.row) / "0/0").unlink()
    table = aq.export(scored, tmp_path / "out", cluster="serial")
    reasons = dict(zip(table["frame_id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert [name for name, reason in reasons.items() if "--repair" in reason] == [entry.frame_id]


def test_missing_pixels_are_no_reference(scored):
    (scored / "frames/image/c/3/0/0").unlink()
    (name,) = [entry.frame_id for entry in ledger_of(scored).rows() if entry.row == 3]
    with pytest.raises(ArchiveError, match="missing or damaged"):
        aq.train(scored, frames=[name, "L/*"], method="paper", steps=1, patch=32)
    assert not next(p for p in aq.select(scored) if p.id == name).proposed


# --- the ledger -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["segment", "chunk", "half a chunk", "flipped bit"])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_lost_records_are_told_and_made_again(tmp_path, bundle, undisturbed, night, part, which):
    archive = tmp_path / "a.zarr"
    aq.ingest(night / "L", archive, cluster="serial", chunk=64, frames_per_shard=4)
    aq.ingest(night / "R", archive, cluster="serial")
    aq.score(archive, bundle, cluster="serial")
    pixels = files(archive, "frames/image/c", "frames/invalid/c")
    maps = stored(archive)
    segments = sorted(path for path in (archive / "ledger").iterdir() if path.is_dir())
    assert len(segments) > 2
    chunk = segments[which] / "c/0"
    if part == "segment":
        shutil.rmtree(segments[which])
    elif part == "chunk":
        chunk.unlink()
    else:
        data = chunk.read_bytes()
        cut = (
            data[: len(data) // 2] if part == "half a chunk" else data[:9] + bytes([data[9] ^ 1]) + data[10:]
        )
        chunk.write_bytes(cut)
    if (part, which) != ("segment", -1):  # then it looks as if the score had not been run, and is run again
        assert not check(archive).sound
        for call in (
            lambda: aq.ingest(night, archive, cluster="serial"),
            lambda: aq.score(archive, bundle, cluster="serial"),
            lambda: aq.export(archive, tmp_path / "out", cluster="serial"),
            lambda: aq.open_frames(archive),
        ):
            with pytest.raises(ArchiveError, match="lost records"):
                call()
    again = aq.verify(archive, cluster="serial", repair=True)
    assert again.sound, (again.damage, again.incomplete)
    aq.score(archive, bundle, cluster="serial")
    assert files(archive, "frames/image/c", "frames/invalid/c") == pixels
    assert check(archive).sound
    same_bytes(stored(archive), maps)
    (summary,) = aq.run(night, archive, bundle, cluster="serial")
    assert (summary.done, summary.quarantined, summary.pending) == (10, 0, 0)
    same_bytes(stored(archive), maps)


@pytest.mark.parametrize("also", ["", "image", "frame_id"])
def test_lost_records_of_frames_whose_sources_are_gone_are_made_from_what_is_stored(tmp_path, also):
    folder, archive = write_night(tmp_path / "n", 4), tmp_path / "a.zarr"
    aq.ingest(folder, archive, cluster="serial", chunk=64)
    pixels = stored(archive)
    shutil.rmtree(archive / "ledger" / "000001")
    if also:
        (archive / "frames" / also / "zarr.json").unlink()
    folder.rename(tmp_path / "away")
    assert aq.verify(archive, cluster="serial", repair=True).sound
    same_bytes(stored(archive), pixels)
    assert ledger_of(archive).counts()["done"] == 4


def test_metadata_of_segments_lose_nothing(scored, night, bundle):
    before = ledger_of(scored).entries
    for path in (scored / "ledger").glob("0*/zarr.json"):
        path.unlink()
    assert ledger_of(scored).entries == before
    assert aq.ingest(night, scored, cluster="serial")[0].worked == 0
    assert all((path / "zarr.json").exists() for path in (scored / "ledger").glob("0*"))


def test_rows_with_pixels_that_the_ledger_does_not_know_are_not_cut(scored, night):
    for path in sorted((scored / "ledger").glob("0*")):
        shutil.rmtree(path)
    with pytest.raises(ArchiveError, match="knows nothing"):
        aq.ingest(night, scored, cluster="serial")
    assert not check(scored).sound
    assert aq.verify(scored, cluster="serial", repair=True).sound


# --- layouts, quarantined rows, creation ----------------------------------------------------------------


def test_an_archive_of_layout_1_is_the_same_archive(scored, undisturbed, night, bundle):
    before = ledger_of(scored).entries
    to_layout_1(scored)
    assert check(scored).sound  # read as it is
    assert layout.version_of(layout.open_root(scored)) == 1
    assert ledger_of(scored).entries == before
    assert aq.ingest(night, scored, cluster="serial")[0].worked == 0  # written: raised to this layout
    assert layout.version_of(layout.open_root(scored)) == layout.LAYOUT_VERSION
    assert check(scored).sound
    assert aq.score(scored, bundle, cluster="serial").worked == 0
    same_bytes(stored(scored), stored(undisturbed))


def test_a_compaction_of_layout_1_that_was_killed_is_opened(scored):
    """0.2.0.dev0 wrote a merged segment, then removed the old ones, the first first."""
    before = ledger_of(scored).entries
    to_layout_1(scored)
    place = scored / "ledger"
    shutil.copytree(place / "000001", place / "000003")
    shutil.copytree(place / "000002", place / "000004")
    shutil.rmtree(place / "000001")  # what registers the frames of which 000002 tells
    found = ledger_of(scored)
    assert found.entries == before
    assert found.damage == []


def test_quarantined_rows_are_no_damage_and_repair_leaves_their_fill_values(tmp_path, bundle):
    from night import BLANK, SHAPE, tiny_aqdask

    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    write_frame(folder / "blank.fits", np.full(SHAPE, BLANK, "int16"), BLANK=BLANK)
    ours = tiny_aqdask()
    aq.run(folder, archive, ours, cluster="serial", chunk=64, frames_per_shard=4)
    found = check(archive)
    assert (found.sound, found.counts["quarantined"]) == (True, 1)
    group = QualityStore.open(archive, group_name(ours)).group
    row = ledger_of(archive).entries["blank.fits"].row
    fill = group["frame_flag"].fill_value
    assert group["frame_flag"][row] == fill
    (archive / "quality" / group_name(ours) / "frame_flag/c/0").unlink()
    assert aq.verify(archive, cluster="serial", repair=True).sound
    assert group["frame_flag"][row] == fill
    assert fits.getdata(folder / "L" / "f00.fits").shape == SHAPE


def test_creation_that_was_cut_short_goes_on(night, tmp_path, undisturbed, bundle):
    from kill_points import Killed, killing

    for at in range(0, 40, 3):
        archive = tmp_path / f"{at}.zarr"
        with pytest.raises(Killed), killing(at):
            aq.ingest(night, archive, cluster="serial", chunk=64, frames_per_shard=4)
        aq.ingest(night, archive, cluster="serial", chunk=64, frames_per_shard=4)
        same_bytes(files(archive, "frames/image/c"), files(undisturbed, "frames/image/c"))


# --- found by a reader ----------------------------------------------------------------------------------


def flip_first_chunk(path):
    data = bytearray(path.read_bytes())
    data[40] ^= 16
    path.write_bytes(data)


def test_damage_of_one_frames_maps_does_not_cost_its_neighbours(tmp_path, bundle):
    """Without pixels and without sources nothing could make the neighbours' maps again."""
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    aq.run(folder, archive, bundle, cluster="serial", chunk=64, frames_per_shard=4, pixels=False)
    store = QualityStore.open(archive, group_name(bundle))
    before = store.read(0, 3)
    folder.rename(tmp_path / "away")
    aq.ingest(write_night(tmp_path / "more", 1, first=9), archive, cluster="serial")
    flip_first_chunk(quality_of(archive, bundle) / "pvalue/c/0/0/0")
    damaged = {frame_id for frame_id, _, _ in check(archive).damage}
    assert len(damaged) == 1
    summary = aq.score(archive, bundle, cluster="serial")
    assert summary.pending == 1  # the damaged one, whose source is away
    after = QualityStore.open(archive, group_name(bundle)).read(0, 4)
    rows = [e.row for e in ledger_of(archive).rows() if e.frame_id not in damaged and e.row < 3]
    assert len(rows) == 2
    for name, values in before.items():
        np.testing.assert_array_equal(after[name][rows], values[rows])
    (tmp_path / "away").rename(folder)
    assert aq.score(archive, bundle, cluster="serial").done == 4
    assert check(archive).sound


@pytest.mark.parametrize("place", ["frames/image/c/3/0/0", "quality/*/pvalue/c/0/0/0", "frames/time/c/0"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_cannot_be_read_now_is_no_damage(scored, undisturbed, monkeypatch, place, number):
    (path,) = scored.glob(place)
    kind = type(path)

    def refusing(real):
        def read(self, *arguments, **options):
            if self == path:
                raise OSError(number, os.strerror(number), str(path))
            return real(self, *arguments, **options)

        return read

    with monkeypatch.context() as patch:
        for name in ("read_bytes", "open"):
            patch.setattr(kind, name, refusing(getattr(kind, name)))
        patch.setattr(layout, "open_reader", layout.open_array)  # whose reading cannot be intercepted
        for options in ({}, {"repair": True}, {"repair": True, "forget": True}):
            with pytest.raises(ArchiveError, match="could not be read"):
                aq.verify(scored, cluster="serial", **options)
    same_bytes(stored(scored), stored(undisturbed))
    assert check(scored).sound


@pytest.mark.parametrize("place", ["frames/image/c/3/0/0", "quality/*/pvalue/c/0/0/0"])
def test_a_disk_that_fails_for_zarrs_is_no_damage(scored, undisturbed, place):
    (path,) = scored.glob(place)
    path.rename(path.with_name("kept"))
    path.symlink_to(path.name)  # a loop: what opens it fails with ELOOP
    with pytest.raises(ArchiveError, match="could not be read"):
        aq.verify(scored, cluster="serial")
    path.unlink()
    path.with_name("kept").rename(path)
    same_bytes(stored(scored), stored(undisturbed))
    assert check(scored).sound


@pytest.mark.parametrize("array", ["frames/image", "frames/time", "quality/*/score", "quality/*/frame_score"])
def test_metadata_of_an_earlier_time_cost_no_frame(scored, undisturbed, array):
    (place,) = scored.glob(f"{array}/zarr.json")
    metadata = json.loads(place.read_text())
    metadata["shape"][0] = 2
    place.write_text(json.dumps(metadata))
    assert not check(scored).sound
    again = aq.verify(scored, cluster="serial", repair=True, forget=True)
    assert again.sound, (again.damage, again.incomplete)
    assert again.given_up == []
    same_bytes(stored(scored), stored(undisturbed))


def test_a_model_that_is_lost_does_not_cost_its_maps(scored, undisturbed, bundle):
    shutil.rmtree(quality_of(scored, bundle) / "bundle/c")
    again = aq.verify(scored, cluster="serial", repair=True, forget=True)
    assert not again.sound
    assert again.given_up == []
    aq.score(scored, bundle, cluster="serial")
    assert check(scored).sound
    same_bytes(stored(scored), stored(undisturbed))


def test_record_and_model_of_a_group_lost_at_once(scored, bundle):
    for path in sorted((scored / "ledger").glob("0*")):
        shutil.rmtree(path)
    shutil.rmtree(quality_of(scored, bundle) / "bundle/c")
    again = aq.verify(scored, cluster="serial", repair=True)
    assert [name for name, _ in again.lost] == [group_name(bundle)]
    aq.score(scored, bundle, cluster="serial")
    assert check(scored).sound


def test_record_model_and_a_map_of_a_group_lost_at_once(scored, bundle):
    for path in sorted((scored / "ledger").glob("0*")):
        shutil.rmtree(path)
    shutil.rmtree(quality_of(scored, bundle) / "bundle")
    (quality_of(scored, bundle) / "score/zarr.json").unlink()
    found = check(scored)
    assert any("score has lost its metadata" in what for _, _, what in found.damage)
    again = aq.verify(scored, cluster="serial", repair=True)
    assert not again.sound
    aq.score(scored, bundle, cluster="serial")
    assert check(scored).sound


def test_a_lost_last_segment_and_bad_sources_cost_no_pixels(tmp_path):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    aq.ingest(folder, archive, cluster="serial", chunk=64)
    pixels = files(archive, "frames/image/c")
    shutil.rmtree(sorted((archive / "ledger").glob("0*"))[-1])
    for path in folder.rglob("*.fits"):
        path.write_bytes(path.read_bytes()[:3000])
    (summary,) = aq.ingest(folder, archive, cluster="serial")
    assert (summary.quarantined, summary.pending) == (0, 3)
    assert all("verify --repair" in reason for _, reason in summary.waiting)
    assert files(archive, "frames/image/c") == pixels
    again = aq.verify(archive, cluster="serial", repair=True)
    assert again.sound, (again.damage, again.incomplete)
    assert ledger_of(archive).counts()["done"] == 3
    assert files(archive, "frames/image/c") == pixels


def test_a_segment_that_stands_twice_resets_nothing(scored):
    before = ledger_of(scored).entries
    segments = sorted((scored / "ledger").glob("0*"))
    shutil.copytree(segments[0], scored / "ledger" / f"{int(segments[-1].name) + 1:06d}")
    assert not check(scored).sound
    assert aq.verify(scored, cluster="serial", repair=True).sound
    assert ledger_of(scored).entries == before
