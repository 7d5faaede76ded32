"""Ingest in one process: what becomes of every source, and what a second run does (nothing)."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
import subprocess
import time
from pathlib import Path

import dask
import numpy as np
import pytest
from astropy.io import fits
from night import (
    BLANK,
    OPTIONS,
    SHAPE,
    files,
    ledger_of,
    night_frame,
    same_bytes,
    sky,
    stamps,
    states,
    tiny_bundle,
    touch_later,
    write_frame,
    write_night,
)

import aqdask as aq
from aqdask.errors import ArchiveError, UsageError
from aqdask.execution import ingest as ingest_module
from aqdask.execution.executors import SerialExecutor
from aqdask.execution.reporter import Silent
from aqdask.specs import ArchiveSpec
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.lease import sole_writer
from aqdask.store.ledger import DONE, PENDING, Ledger
from aqdask.store.quality_store import QualityStore


def ingest(sources, archive, **options):
    """One archive, serially, with the tests' small chunks; its summary."""
    settings = options if archive.exists() else OPTIONS | options
    (summary,) = aq.ingest(sources, archive, cluster="serial", **settings)
    return summary


def reasons(summary):
    return dict(summary.problems)


class Backwards(SerialExecutor):
    """Finishes last what was given first."""

    def run(self, function, queue, *, stage):
        while items := queue.take(1000):
            for item in reversed(items):
                yield item, function(item)


# --- what becomes of sources ---------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """Good frames of every container, and every way to be no frame."""
    folder = write_night(tmp_path / "mixed", 2)
    plain = write_frame(tmp_path / "plain.fits", sky(50)).read_bytes()
    (folder / "packed.fits.gz").write_bytes(gzip.compress(plain))
    (folder / "packed.fits.bz2").write_bytes(bz2.compress(plain))
    rice = fits.CompImageHDU(sky(50), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), rice]).writeto(folder / "rice.fits.fz")
    write_frame(folder / "float.fits", sky(51, dtype="float32"))
    write_frame(folder / "small.fits", sky(52, (100, 100)))
    write_frame(folder / "blank.fits", np.full(SHAPE, BLANK, "int16"), BLANK=BLANK)
    (folder / "text.fits").write_text("this is no FITS file\n" * 200)
    (folder / "empty.fits").write_bytes(b"")
    (folder / "cut.fits").write_bytes(plain[:20000])
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_every_source_ends_as_done_or_quarantined_with_its_reason(mixed, tmp_path):
    summary = ingest(mixed, tmp_path / "a.zarr")
    good = ["L/f00.fits", "R/f01.fits", "packed.fits.bz2", "packed.fits.gz", "rice.fits.fz"]
    found = states(tmp_path / "a.zarr")
    assert sorted(name for name, state in found.items() if state == DONE) == good
    assert (summary.done, summary.quarantined, summary.pending) == (5, 6, 0)
    expected = {
        "float.fits": "type float32, the archive holds int16",
        "small.fits": "shape 100 x 100, the archive holds 130 x 200",
        "blank.fits": "no valid pixel",
        "text.fits": "FITS",
        "empty.fits": "empty",
        "cut.fits": "truncated",
    }
    assert sorted(reasons(summary)) == sorted(expected)
    for name, words in expected.items():
        assert words in reasons(summary)[name], name


def test_stored_pixels_headers_and_provenance_are_those_of_the_source(night, undisturbed):
    frames = FrameStore.open(undisturbed)
    ids = [str(name) for name in frames.coordinate("frame_id")]
    assert ids == sorted(ids)
    for row, name in enumerate(ids):
        number = int(name[3:5])
        image, invalid = frames.read(row)
        assert image.dtype == np.dtype("int16")
        np.testing.assert_array_equal(image, night_frame(number))
        blank = night_frame(number) == BLANK
        np.testing.assert_array_equal(blank, np.zeros(SHAPE, bool) if invalid is None else invalid)
        header = fits.getheader(night / name)
        assert str(frames.coordinate("header")[row]) == header.tostring(endcard=False, padding=False)
        assert str(frames.coordinate("filter")[row]) == name[0]
        assert str(frames.coordinate("path")[row]) == str(night / name)
    for entry in ledger_of(undisturbed).rows():
        assert entry.size == (night / entry.frame_id).stat().st_size
        assert entry.mtime_ns == (night / entry.frame_id).stat().st_mtime_ns
        assert len(entry.sha256) == 64


def test_bytes_and_order_do_not_depend_on_who_finishes_first(night, undisturbed, bundle, tmp_path):
    archive, backwards = tmp_path / "b.zarr", Backwards()
    aq.ingest(night, archive, cluster=backwards, **OPTIONS)
    aq.score(archive, bundle, cluster=backwards)
    same_bytes(archive, undisturbed)


def test_frames_added_later_come_after_those_that_are_there(tmp_path):
    folder, archive = write_night(tmp_path / "n", 3, first=5), tmp_path / "a.zarr"
    ingest(folder, archive)
    before = files(archive, "frames/image/c")
    write_night(folder, 2)  # ids that sort before the known ones
    summary = ingest(folder, archive)
    assert (summary.worked, summary.done) == (2, 5)
    ids = [str(name) for name in FrameStore.open(archive).coordinate("frame_id")]
    assert ids == ["L/f06.fits", "R/f05.fits", "R/f07.fits", "L/f00.fits", "R/f01.fits"]
    after = files(archive, "frames/image/c")
    assert {name: after[name] for name in before} == before


# --- a second run --------------------------------------------------------------------------------------


def test_a_second_run_with_nothing_new_rewrites_no_shard(night, scored, bundle):
    before = {name: stamp for name, stamp in stamps(scored).items() if "/c/" in name}
    held = files(scored)
    assert ingest(night, scored).worked == 0
    assert aq.score(scored, bundle, cluster="serial").worked == 0
    (summary,) = aq.run(night, scored, bundle, cluster="serial")
    assert summary.worked == 0
    assert {name: stamp for name, stamp in stamps(scored).items() if "/c/" in name} == before
    same_bytes(files(scored), held)


def test_scanning_10000_known_sources_against_the_ledger_takes_under_5_seconds(tmp_path):
    """The scan of 10,000 files and the reading of the ledger; the files are never opened, so they hold
    nothing, and the ledger's records are made here rather than by 10,000 ingests."""
    count, folder, archive = 10_000, tmp_path / "n", tmp_path / "a.zarr"
    folder.mkdir()
    FrameStore.create(layout.create(archive, ArchiveSpec(SHAPE, "int16"), created_by="test"))
    FrameStore.open(archive, writable=True).grow(count)
    records = []
    for row in range(count):
        name = f"f{row:05d}.fits"
        (folder / name).touch()
        mtime = (folder / name).stat().st_mtime_ns
        known = {"path": str(folder / name), "hdu": 0, "row": row, "size": 0, "mtime_ns": mtime, "suffix": ""}
        records.append({"event": "register", "frame_id": name, **known, "state": PENDING, "reason": ""})
        records.append(
            {"event": "ingest", "frame_id": name, "state": DONE, "sha256": "0" * 64, "crc32c": "0" * 8}
        )
    ledger = Ledger(layout.open_root(archive, writable=True)["ledger"])
    ledger.append(records)
    ledger.close()
    start = time.perf_counter()
    (summary,) = aq.ingest(folder, archive, cluster="serial")
    assert time.perf_counter() - start < 5
    assert (summary.worked, summary.done) == (0, count)


# --- sources that change -------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, bundle):
    """A night of its own with its finished archive: ``(folder, archive)``."""
    folder, archive = write_night(tmp_path / "own", 6), tmp_path / "own.zarr"
    ingest(folder, archive)
    aq.score(archive, bundle, cluster="serial")
    return folder, archive


def quality_of_row(archive, bundle, row):
    store = QualityStore.open(archive, f"{bundle.name}-{bundle.digest[:8]}")
    return {**store.read(row, row + 1), "frame_score": np.asarray(store.group["frame_score"][row])}


def test_a_changed_source_is_done_again_in_its_row_and_no_other_is(own, bundle):
    folder, archive = own
    row = ledger_of(archive).entries["L/f02.fits"].row
    before = stamps(archive)
    write_frame(folder / "L" / "f02.fits", sky(77), FILTER="B")
    touch_later(folder / "L" / "f02.fits")
    assert ingest(folder, archive).worked == 1
    frames = FrameStore.open(archive)
    np.testing.assert_array_equal(frames.read(row)[0], sky(77))
    assert str(frames.coordinate("filter")[row]) == "B"
    assert ledger_of(archive).entries["L/f02.fits"].row == row
    assert aq.score(archive, bundle, cluster="serial").worked == 1
    expected = aq.quality_of(sky(77), bundle)["score"].values
    np.testing.assert_array_equal(quality_of_row(archive, bundle, row)["score"][0], expected)
    shards = {
        name for name, stamp in stamps(archive).items() if stamp != before[name] and "/image/c/" in name
    }
    assert shards == {f"frames/image/c/{row}/0/0"}
    assert aq.verify(archive, cluster="serial").sound


def test_retry_looks_again_into_what_is_quarantined_and_nothing_else_does(own, tmp_path):
    folder, archive = own
    shutil.copy(folder / "L" / "f00.fits", tmp_path / "good.fits")
    bad = folder / "bad.fits"
    bad.write_bytes(b"x" * (tmp_path / "good.fits").stat().st_size)
    stamp = bad.stat()
    assert ingest(folder, archive).quarantined == 1
    shutil.copy(tmp_path / "good.fits", bad)  # repaired, with size and time as they were
    os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert ingest(folder, archive).worked == 0
    summary = ingest(folder, archive, retry=True)
    assert (summary.worked, summary.quarantined) == (1, 0)


def test_rehash_finds_content_that_changed_behind_its_size_and_time(own):
    folder, archive = own
    path = folder / "R" / "f01.fits"
    stamp, data = path.stat(), bytearray(path.read_bytes())
    data[2880 * 2 + 11] ^= 1  # a pixel
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert ingest(folder, archive).worked == 0
    assert ingest(folder, archive, rehash=True).worked == 1
    assert ingest(folder, archive, rehash=True).worked == 0


def test_rehash_redoes_nothing_where_only_times_changed(own):
    folder, archive = own
    held = files(archive)
    for path in folder.rglob("*.fits"):
        touch_later(path)
    assert ingest(folder, archive, rehash=True).worked == 0
    assert ingest(folder, archive).worked == 0  # the new times are known now
    same_bytes(files(archive), held)


def test_rehash_redoes_nothing_of_a_file_one_of_whose_images_does_not_fit(tmp_path):
    images = [fits.ImageHDU(sky(1), name="ONE"), fits.ImageHDU(sky(2, (64, 64)), name="GUIDE")]
    folder, archive = write_night(tmp_path / "n", 2), tmp_path / "a.zarr"
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(folder / "two.fits")
    summary = ingest(folder, archive, hdu="all")
    assert list(reasons(summary)) == ["two.fits[GUIDE]"]
    assert ingest(folder, archive, rehash=True).worked == 0


# --- options -------------------------------------------------------------------------------------------


def test_by_shape_makes_one_archive_a_shape_and_type_and_a_second_run_changes_nothing(mixed, tmp_path):
    first = aq.ingest(mixed, tmp_path / "s.zarr", cluster="serial", by_shape=True, **OPTIONS)
    places = {Path(summary.archive).name: summary for summary in first}
    assert sorted(places) == ["s-100x100-int16.zarr", "s-130x200-float32.zarr", "s-130x200-int16.zarr"]
    assert [places[name].done for name in sorted(places)] == [1, 1, 5]
    assert [places[name].quarantined for name in sorted(places)] == [0, 0, 4]  # what is no frame at all
    held = {name: (files(tmp_path / name), states(tmp_path / name)) for name in places}
    second = aq.ingest(mixed, tmp_path / "s.zarr", cluster="serial", by_shape=True)
    assert [summary.worked for summary in second] == [0, 0, 0]
    for name, (bytes_before, states_before) in held.items():
        same_bytes(files(tmp_path / name), bytes_before)
        assert states(tmp_path / name) == states_before


def test_by_shape_sends_a_source_that_changed_its_shape_to_the_other_archive(tmp_path):
    folder = write_night(tmp_path / "n", 3)
    write_frame(folder / "other.fits", sky(9, (100, 100)))
    aq.ingest(folder, tmp_path / "s.zarr", cluster="serial", by_shape=True, **OPTIONS)
    write_frame(folder / "L" / "f00.fits", sky(8, (100, 100)))
    touch_later(folder / "L" / "f00.fits")
    aq.ingest(folder, tmp_path / "s.zarr", cluster="serial", by_shape=True)
    large, small = states(tmp_path / "s-130x200-int16.zarr"), states(tmp_path / "s-100x100-int16.zarr")
    assert large == {"L/f00.fits": DONE, "L/f02.fits": DONE, "R/f01.fits": DONE}  # as it was stored
    assert small == {"L/f00.fits": DONE, "other.fits": DONE}
    problem = ledger_of(tmp_path / "s-130x200-int16.zarr").entries["L/f00.fits"].problem
    assert problem.startswith("shape 100 x 100, the archive holds 130 x 200 (`aqdask ingest --by-shape`")


def test_by_shape_accounts_for_a_new_source_that_is_no_frame(tmp_path):
    folder = write_night(tmp_path / "n", 3)
    aq.ingest(folder, tmp_path / "s.zarr", cluster="serial", by_shape=True, **OPTIONS)
    (folder / "late.fits").write_bytes(b"nothing")
    (summary,) = aq.ingest(folder, tmp_path / "s.zarr", cluster="serial", by_shape=True)
    assert list(reasons(summary)) == ["late.fits"]


def test_no_pixels_keeps_quality_only_with_the_same_bytes(night, undisturbed, bundle, tmp_path):
    archive = tmp_path / "q.zarr"
    ingest(night, archive, pixels=False)
    aq.score(archive, bundle, cluster="serial")
    assert not (archive / "frames" / "image").exists()
    same_bytes(files(archive, "quality"), files(undisturbed, "quality"))
    assert "image" not in aq.open_frames(archive)
    assert aq.verify(archive, cluster="serial").sound


def test_no_pixels_says_of_a_frame_why_it_could_not_be_scored(tmp_path, bundle):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "q.zarr"
    ingest(folder, archive, pixels=False)
    (folder / "R" / "f01.fits").unlink()
    summary = aq.score(archive, bundle, cluster="serial")
    assert (summary.done, summary.pending, summary.quarantined) == (2, 1, 0)
    assert summary.kept == [
        ("R/f01.fits", "source unreachable: the file is not there (moved or deleted, or a broken link)")
    ]


def test_input_masks_and_the_bad_pixel_map_become_invalid_pixels(tmp_path):
    rng = np.random.default_rng(4)
    dq, bad = rng.random(SHAPE) < 0.01, rng.random(SHAPE) < 0.01
    write_frame(tmp_path / "n" / "a.fits", sky(1), masks={"DQ": dq})
    write_frame(tmp_path / "n" / "b.fits", sky(2))
    write_frame(tmp_path / "n" / "c.fits", sky(3), masks={"DQ": dq[:50]})
    write_frame(tmp_path / "bad.fits", bad.astype("uint8"))
    summary = ingest(
        tmp_path / "n", tmp_path / "a.zarr", mask_hdu="DQ", bad_pixel_map=str(tmp_path / "bad.fits")
    )
    image, invalid = FrameStore.open(tmp_path / "a.zarr").read(0)
    np.testing.assert_array_equal(invalid, dq | bad)
    np.testing.assert_array_equal(image, sky(1))  # masked pixels keep their values
    assert ledger_of(tmp_path / "a.zarr").entries["a.fits"].invalid_pixels == (dq | bad).sum()
    assert "no mask HDU 'DQ'" in reasons(summary)["b.fits"]
    assert "the mask is 50 x 200 px, the image 130 x 200 px" in reasons(summary)["c.fits"]


def test_every_image_of_a_multi_extension_file_is_a_frame(tmp_path):
    images = [fits.ImageHDU(sky(n), name=name) for n, name in enumerate(("CHIP1", "CHIP2"))]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "mosaic.fits")
    ingest(tmp_path / "mosaic.fits", tmp_path / "all.zarr", hdu="all")
    frames = FrameStore.open(tmp_path / "all.zarr")
    assert [str(n) for n in frames.coordinate("frame_id")] == ["mosaic.fits[CHIP1]", "mosaic.fits[CHIP2]"]
    np.testing.assert_array_equal(frames.read(1)[0], sky(1))
    ingest(tmp_path / "mosaic.fits", tmp_path / "one.zarr", hdu="CHIP2")
    np.testing.assert_array_equal(FrameStore.open(tmp_path / "one.zarr").read(0)[0], sky(1))
    assert states(tmp_path / "one.zarr") == {"mosaic.fits": DONE}


def test_an_image_that_a_file_holds_no_more_is_kept_as_stored_and_told(tmp_path):
    images = [fits.ImageHDU(sky(n), name=name) for n, name in enumerate(("CHIP1", "CHIP2"))]
    path = tmp_path / "n" / "mosaic.fits"
    path.parent.mkdir()
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)
    ingest(path.parent, tmp_path / "a.zarr", hdu="all")
    fits.HDUList([fits.PrimaryHDU(), images[0], fits.ImageHDU(sky(5), name="CHIP3")]).writeto(
        path, overwrite=True
    )
    touch_later(path)
    summary = ingest(path.parent, tmp_path / "a.zarr")
    assert summary.kept == [("mosaic.fits[CHIP2]", "the source no longer holds this HDU")]
    assert states(tmp_path / "a.zarr")["mosaic.fits[CHIP3]"] == DONE
    np.testing.assert_array_equal(FrameStore.open(tmp_path / "a.zarr").read(1)[0], sky(1))
    assert ingest(path.parent, tmp_path / "a.zarr").worked == 0
    summary = ingest(path.parent, tmp_path / "a.zarr", forget=True)
    assert reasons(summary) == {
        "mosaic.fits[CHIP2]": "given up (--forget): the source no longer holds this HDU"
    }
    assert not FrameStore.open(tmp_path / "a.zarr").read(1)[0].any()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"chunk": 128}, "--chunk asks for 128, but .* was made with 64"),
        ({"pixels": False}, "--no-pixels asks for False"),
        ({"hdu": "all"}, "--hdu asks for 'all'"),
        ({"mask_hdu": "DQ"}, "--mask-hdu asks for 'DQ'"),
        ({"codec": "zstd"}, "--codec asks for 'zstd'"),
    ],
)
def test_an_option_that_contradicts_the_archive_is_refused(night, scored, option, words):
    held = stamps(scored)
    with pytest.raises(UsageError, match=words):
        ingest(night, scored, **option)
    assert stamps(scored) == held


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_frames_keep_their_own_type_and_shapes_that_are_no_multiple_lose_no_pixel(tmp_path, dtype):
    image = np.random.default_rng(3).integers(0, 100, (71, 93)).astype(dtype)
    if image.dtype.kind == "f":
        image[3, 4] = np.nan
    write_frame(tmp_path / "a.fits", image)
    ingest(tmp_path / "a.fits", tmp_path / "a.zarr")
    found, invalid = FrameStore.open(tmp_path / "a.zarr").read(0)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, image)
    assert (invalid is not None and invalid.sum() == 1) == (image.dtype.kind == "f")


# --- places that cannot be written ---------------------------------------------------------------------


def test_a_run_whose_lock_was_taken_over_stops_and_is_resumed(night, undisturbed, tmp_path):
    archive = tmp_path / "a.zarr"

    class StandsStill(Silent):
        """After the first frames another machine takes the lock over."""

        def advance(self, done, quarantined=0):
            if (archive / "frames/image/c").exists() and not self.taken:
                self.taken = True
                (archive / "lock.json").write_text('{"pid": 7, "host": "node7", "token": "another"}')
                time.sleep(0.5)

        taken = False

    reporter = StandsStill()
    with (
        dask.config.set({"aqdask.lock-timeout": "0.6 s"}),
        pytest.raises(ArchiveError, match=r"taken over by process 7 of .* on node7"),
    ):
        aq.ingest(night, archive, cluster="serial", reporter=reporter, **OPTIONS)
    assert reporter.taken
    known = [entry.state for entry in ledger_of(archive).rows()]
    assert 0 < known.count(DONE) < len(known)
    assert "another" in (archive / "lock.json").read_text()  # it is not ours to remove
    with dask.config.set({"aqdask.lock-timeout": "0.6 s"}):
        aq.ingest(night, archive, cluster="serial")
    same_bytes({n: b for n, b in files(archive).items() if n.startswith("frames")},
               {n: b for n, b in files(undisturbed).items() if n.startswith("frames")})  # fmt: skip


def test_two_writers_at_once_are_refused(night, scored, bundle):
    with sole_writer(scored):
        with pytest.raises(ArchiveError, match="another aqdask process is writing"):
            ingest(night, scored)
        with pytest.raises(ArchiveError, match="another aqdask process is writing"):
            aq.score(scored, bundle, cluster="serial")
        assert aq.verify(scored, cluster="serial").sound  # reading is free
    assert ingest(night, scored).worked == 0


@pytest.fixture
def small_disk(tmp_path, require):
    """``small_disk(kib)``: a real file system that is full after so much; may be called again to grow it."""
    place, mounted = tmp_path / "disk", []

    def size(kib):
        place.mkdir(exist_ok=True)
        options = f"remount,size={kib}k" if mounted else f"size={kib}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True)
        require(done.returncode == 0, "mounting a small file system needs root")
        mounted.append(kib)
        return place

    yield size
    if mounted:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("kib", [4, 40, 120, 250, 400])
def test_a_full_disk_ends_with_an_error_and_resumes_when_there_is_room(
    small_disk, kib, night, undisturbed, bundle
):
    archive = small_disk(kib) / "a.zarr"

    def finish():
        ingest(night, archive)
        aq.score(archive, bundle, cluster="serial")

    with pytest.raises(ArchiveError, match="could not be written: No space left on device"):
        finish()
    small_disk(20_000)
    finish()
    same_bytes(archive, undisturbed)
    assert not list(archive.rglob("*.partial"))


def test_a_place_where_nothing_can_be_made_is_an_archive_error(night, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchiveError, match="could not be written"):
        ingest(night, tmp_path / "file" / "a.zarr")


def test_what_somebody_else_made_is_not_touched(night, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.tex").write_text("all of it")
    with pytest.raises(ArchiveError, match="exists and is not an aqdask archive"):
        ingest(night, folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_sources_without_any_image_make_no_archive(tmp_path):
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "text.fits").write_text("no FITS")
    with pytest.raises(UsageError, match="none of 1 source holds a 2-D image"):
        ingest(tmp_path / "n", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_a_model_for_another_patch_size_gets_a_group_of_its_own(scored, undisturbed):
    other = tiny_bundle("wide", patch=64)
    kept = [f"quality/{path.name}" for path in (undisturbed / "quality").iterdir() if path.is_dir()]
    assert aq.score(scored, other, cluster="serial").worked == 10
    assert aq.open_quality(scored, "wide").sizes["patch_y"] == 3
    assert aq.open_quality(scored, "tiny").sizes["patch_y"] == 5
    same_bytes(files(scored, *kept), files(undisturbed, *kept))


def test_an_archive_that_another_process_begins_meanwhile_is_gone_on_with(night, tmp_path, monkeypatch):
    archive, probe = tmp_path / "a.zarr", ingest_module.probe

    def while_another_ingests(*arguments):
        monkeypatch.undo()
        found = probe(*arguments)
        ingest(night, archive)
        return found

    monkeypatch.setattr(ingest_module, "probe", while_another_ingests)
    (summary,) = aq.ingest(night, archive, cluster="serial")
    assert (summary.done, summary.worked) == (10, 0)


@pytest.mark.real
def test_every_real_file_good_or_bad_is_accounted_for_in_one_run(data_dir, tmp_path):
    sources = [data_dir / name for name in ("bsu_2022yid", "formats", "bad_inputs")]
    (summary,) = aq.ingest(sources, tmp_path / "real.zarr", cluster="serial")
    assert (summary.done, summary.quarantined, summary.pending) == (24, 95, 0)
    entries = ledger_of(tmp_path / "real.zarr").entries.values()
    assert {entry.path for entry in entries} == {
        os.path.abspath(path) for folder in sources for path in folder.rglob("*") if path.is_file()
    }
    assert all(entry.reason for entry in entries if entry.state == "quarantined")
    assert aq.verify(tmp_path / "real.zarr", cluster="serial").sound


def test_an_unknown_codec_makes_no_archive(night, tmp_path):
    with pytest.raises(UsageError, match=r"the codec 'gzip'.*one of lz4, zstd"):
        ingest(night, tmp_path / "a.zarr", codec="gzip")
    assert not (tmp_path / "a.zarr").exists()
