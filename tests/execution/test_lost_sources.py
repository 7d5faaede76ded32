"""What is stored stays until its replacement stands: sources that vanish, fail, change under the reader."""

from __future__ import annotations

import errno
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from distributed import KilledWorker
from night import (
    OPTIONS,
    files,
    ledger_of,
    night_frame,
    same_bytes,
    sky,
    states,
    touch_later,
    write_frame,
    write_night,
)

import aqdask as aq
from aqdask.errors import SourceUnreachable
from aqdask.execution.executors import SerialExecutor
from aqdask.io import reader as reader
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import DONE, PENDING, QUARANTINED
from aqdask.store.quality_store import QualityStore

NOT_THERE = "source unreachable: the file is not there (moved or deleted, or a broken link)"


def ingest(sources, archive, cluster="serial", **options):
    settings = options if archive.exists() else OPTIONS | options
    (summary,) = aq.ingest(sources, archive, cluster=cluster, **settings)
    return summary


@pytest.fixture
def own(tmp_path, bundle):
    """A night of its own with its finished archive, and a list of its files: ``(folder, archive, list)``."""
    folder, archive = write_night(tmp_path / "own", 4), tmp_path / "own.zarr"
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(folder.rglob("*.fits"))))
    ingest(f"@{listed}", archive)
    aq.score(archive, bundle, cluster="serial")
    return folder, archive, listed


def pixels_and_maps(archive):
    return {name: data for name, data in files(archive).items() if "/c/" in name}


def run(listed, archive, bundle, way, cluster="serial", **options):
    if way == "run":
        (summary,) = aq.run(f"@{listed}", archive, bundle, cluster=cluster, **options)
        return summary
    summary = ingest(f"@{listed}", archive, cluster=cluster, **options)
    return summary


@pytest.mark.parametrize("way", ["ingest", "run"])
def test_a_folder_that_is_moved_away_costs_nothing(own, bundle, way):
    folder, archive, listed = own
    held = pixels_and_maps(archive)
    folder.rename(folder.with_name("moved"))
    summary = run(listed, archive, bundle, way)
    assert (summary.done, summary.quarantined, summary.pending) == (4, 0, 0)
    assert [reason for _, reason in summary.kept] == [NOT_THERE] * 4
    assert pixels_and_maps(archive) == held
    assert aq.verify(archive, cluster="serial").sound
    folder.with_name("moved").rename(folder)
    summary = run(listed, archive, bundle, way)
    assert (summary.worked, summary.kept) == (0, [])
    assert pixels_and_maps(archive) == held


@pytest.mark.parametrize("way", ["ingest", "run"])
@pytest.mark.parametrize(
    "damage", ["no FITS", "truncated", "shape", "type", "all NaN", "other scaling", "empty"]
)
def test_a_source_rewritten_badly_costs_nothing(own, bundle, way, damage):
    folder, archive, listed = own
    held, path = pixels_and_maps(archive), folder / "L" / "f02.fits"
    good = path.read_bytes()
    if damage == "shape":
        write_frame(path, sky(2, (64, 64)))
    elif damage == "type":
        write_frame(path, sky(2, dtype="int32"))
    elif damage == "all NaN":
        write_frame(path, np.full((130, 200), -32768, "int16"), BLANK=-32768)
    elif damage == "other scaling":
        path.write_bytes(
            good.replace(b"BITPIX  =                   16", b"BITPIX  =                   17", 1)
        )
    else:
        path.write_bytes({"no FITS": b"nothing", "truncated": good[:9000], "empty": b""}[damage])
    touch_later(path)
    summary = run(listed, archive, bundle, way)
    assert (summary.done, summary.quarantined, summary.pending) == (4, 0, 0)
    ((name, reason),) = summary.kept
    assert name == "own/L/f02.fits"
    assert reason
    assert pixels_and_maps(archive) == held
    assert aq.verify(archive, cluster="serial").sound
    again = run(listed, archive, bundle, way)
    assert (again.worked, again.kept) == (0, summary.kept)  # told again, not read again
    write_frame(path, sky(77))
    touch_later(path, 20)
    summary = run(listed, archive, bundle, way)
    assert (summary.worked, summary.kept) == (1, [])
    np.testing.assert_array_equal(FrameStore.open(archive).read(0)[0], sky(0))
    row = ledger_of(archive).entries["own/L/f02.fits"].row
    np.testing.assert_array_equal(FrameStore.open(archive).read(row)[0], sky(77))


def test_forget_gives_up_what_is_certainly_gone_and_nothing_else(own, bundle, monkeypatch):
    folder, archive, listed = own
    (folder / "L" / "f00.fits").unlink()
    (folder / "R" / "f01.fits").write_bytes(b"nothing")
    touch_later(folder / "R" / "f01.fits")
    touch_later(folder / "L" / "f02.fits")
    fail_with(monkeypatch, "own/L/f02.fits", errno.EIO)
    summary = run(listed, archive, bundle, "run", forget=True)
    assert {name for name, _ in summary.problems} == {"own/L/f00.fits", "own/R/f01.fits"}
    assert [name for name, _ in summary.kept] == ["own/L/f02.fits"]
    store = QualityStore.open(archive, f"{bundle.name}-{bundle.digest[:8]}")
    for name, entry in ledger_of(archive).entries.items():
        given_up = name in ("own/L/f00.fits", "own/R/f01.fits")
        assert FrameStore.open(archive).read(entry.row)[0].any() != given_up
        assert np.isnan(store.read(entry.row, entry.row + 1)["score"]).all() == given_up
    assert aq.verify(archive, cluster="serial").sound


def test_forget_looks_for_what_a_folder_no_longer_holds(tmp_path):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    ingest(folder, archive)
    (folder / "L" / "f00.fits").unlink()
    assert ingest(folder, archive).done == 3  # files may go once they are taken in
    summary = ingest(folder, archive, forget=True)
    assert (summary.done, [name for name, _ in summary.problems]) == (2, ["L/f00.fits"])


def fail_with(monkeypatch, ending, number):
    """LoadedFrame of files with this ending fails with an errno, as on a bad disk or a dead mount."""
    real = os.stat

    def refuse(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).endswith(ending):
            raise OSError(number, os.strerror(number), path)

    def stat(path, *arguments, **options):
        refuse(path)
        return real(path, *arguments, **options)

    opening, descriptor = open, os.open

    def opened(path, *arguments, **options):
        refuse(path)
        return opening(path, *arguments, **options)

    def opened_descriptor(path, *arguments, **options):
        refuse(path)
        return descriptor(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr(os, "open", opened_descriptor)
    monkeypatch.setattr(reader.os, "stat", stat)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_an_outage_leaves_stored_frames_as_they_are(own, bundle, monkeypatch, number):
    folder, archive, listed = own
    held = pixels_and_maps(archive)
    for path in folder.rglob("*.fits"):
        touch_later(path)
    with monkeypatch.context() as patch:
        fail_with(patch, ".fits", number)
        summary = run(listed, archive, bundle, "run")
    assert (summary.done, summary.quarantined) == (4, 0)
    assert len(summary.kept) == 4
    assert all(reason.startswith("source unreachable: ") for _, reason in summary.kept)
    assert pixels_and_maps(archive) == held
    summary = run(listed, archive, bundle, "run")
    assert (summary.done, summary.kept) == (4, [])
    assert pixels_and_maps(archive) == held


class GoneBetween(SerialExecutor):
    """Does something to the sources between the look and the reading of pixels."""

    def __init__(self, do):
        self.do = do

    def run(self, function, queue, *, stage):
        if stage in ("ingest", "run"):
            self.do()
        yield from super().run(function, queue, stage=stage)


def test_new_sources_that_fail_all_at_once_stay_pending(tmp_path, monkeypatch):
    folder, archive = write_night(tmp_path / "n", 4), tmp_path / "a.zarr"
    away = tmp_path / "away"
    summary = ingest(folder, archive, cluster=GoneBetween(lambda: folder.rename(away)))
    assert (summary.done, summary.quarantined, summary.pending) == (0, 0, 4)
    assert [reason for _, reason in summary.waiting] == [NOT_THERE] * 4
    away.rename(folder)
    summary = ingest(folder, archive)
    assert (summary.done, summary.pending) == (4, 0)


def test_one_new_source_that_vanishes_is_quarantined_and_looked_for_again(tmp_path):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    path = folder / "R" / "f01.fits"
    kept = path.read_bytes()
    summary = ingest(folder, archive, cluster=GoneBetween(path.unlink))
    assert summary.problems == [("R/f01.fits", NOT_THERE)]
    path.write_bytes(kept)
    assert ingest(folder, archive).done == 3


def test_one_new_source_whose_disk_fails_stays_pending(tmp_path, monkeypatch):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    with monkeypatch.context() as patch:
        summary = ingest(
            folder, archive, cluster=GoneBetween(lambda: fail_with(patch, "f01.fits", errno.EIO))
        )
    assert (summary.done, summary.pending) == (2, 1)
    assert ingest(folder, archive).done == 3


def test_a_listed_path_that_is_not_there_is_quarantined_until_it_comes(tmp_path):
    folder, archive = write_night(tmp_path / "n", 2), tmp_path / "a.zarr"
    (tmp_path / "list.txt").write_text(f"{folder}\n{tmp_path / 'late.fits'}\n")
    summary = ingest(f"@{tmp_path / 'list.txt'}", archive)
    assert summary.problems == [("late.fits", NOT_THERE)]
    shutil.copy(folder / "L" / "f00.fits", tmp_path / "late.fits")
    summary = ingest(f"@{tmp_path / 'list.txt'}", archive)
    assert (summary.done, summary.problems) == (3, [])


def test_pixels_and_header_are_of_one_reading(tmp_path):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "a.zarr"
    path = folder / "R" / "f01.fits"

    def replace():
        write_frame(path, sky(77), FILTER="B", **{"DATE-OBS": "2030-01-01T00:00:00"})

    ingest(folder, archive, cluster=GoneBetween(replace))
    frames, row = FrameStore.open(archive), ledger_of(archive).entries["R/f01.fits"].row
    np.testing.assert_array_equal(frames.read(row)[0], sky(77))
    assert str(frames.coordinate("filter")[row]) == "B"
    assert np.datetime64(int(frames.coordinate("time")[row]), "us") == np.datetime64("2030-01-01T00:00:00")
    assert "2030-01-01" in str(frames.coordinate("header")[row])
    assert aq.verify(archive, cluster="serial").sound
    assert ingest(folder, archive).worked == 0  # its size and time are those of that reading


def test_the_header_of_a_replaced_frame_is_the_old_one_until_its_pixels_are_new(own, bundle):
    folder, archive, listed = own
    path, row = folder / "L" / "f02.fits", ledger_of(archive).entries["own/L/f02.fits"].row

    def cut():  # after the look, which saw a good file
        path.write_bytes(path.read_bytes()[:9000])

    write_frame(path, sky(77), FILTER="B")
    touch_later(path)
    summary = ingest(f"@{listed}", archive, cluster=GoneBetween(cut))
    assert [name for name, _ in summary.kept] == ["own/L/f02.fits"]
    frames = FrameStore.open(archive)
    np.testing.assert_array_equal(frames.read(row)[0], night_frame(2))
    assert str(frames.coordinate("filter")[row]) == "L"
    assert aq.verify(archive, cluster="serial").sound


def test_an_interrupted_update_is_pending_and_goes_on(own, bundle):
    folder, archive, listed = own
    write_frame(folder / "L" / "f02.fits", sky(77), FILTER="B")
    touch_later(folder / "L" / "f02.fits")

    def stop():
        raise KeyboardInterrupt("stopped by the test")

    with pytest.raises(KeyboardInterrupt, match="stopped by the test"):
        ingest(f"@{listed}", archive, cluster=GoneBetween(stop))
    assert ledger_of(archive).counts() == {DONE: 3, QUARANTINED: 0, PENDING: 1}
    assert not aq.verify(archive, cluster="serial").sound
    assert ingest(f"@{listed}", archive).worked == 1
    assert ledger_of(archive).counts()[DONE] == 4


def test_a_file_that_gives_frames_after_all_leaves_no_ghost(tmp_path):
    folder, archive = write_night(tmp_path / "n", 2), tmp_path / "a.zarr"
    (folder / "mosaic.fits").write_bytes(b"not yet")
    assert ingest(folder, archive, hdu="all").quarantined == 1
    images = [fits.ImageHDU(sky(n), name=name) for n, name in enumerate(("CHIP1", "CHIP2"))]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(folder / "mosaic.fits", overwrite=True)
    touch_later(folder / "mosaic.fits")
    summary = ingest(folder, archive)
    assert (summary.done, summary.quarantined) == (4, 0)
    assert set(states(archive).values()) == {DONE}


@pytest.mark.cluster
def test_a_worker_without_the_mount_costs_nothing(client, own, bundle, monkeypatch, caplog):
    folder, archive, listed = own
    held = pixels_and_maps(archive)
    for path in folder.rglob("*.fits"):
        touch_later(path)
    blind = sorted(client.scheduler_info()["workers"])[0]

    def lose_the_mount(number):
        import aqdask.io.streams as module
        from aqdask.errors import SourceUnreachable as Unreachable

        def refuse(path, *arguments):
            raise Unreachable("the file is not there (moved or deleted, or a broken link)", number)

        module.kept = module._open_regular
        module._open_regular = refuse

    def find_it_again():
        import aqdask.io.streams as module

        module._open_regular = module.kept

    client.run(lose_the_mount, errno.ENOENT, workers=[blind])
    try:
        with client.as_current():
            (summary,) = aq.run(f"@{listed}", archive, bundle)
    finally:
        client.run(find_it_again, workers=[blind])
    assert (summary.done, summary.kept, summary.pending) == (4, [], 0)
    assert pixels_and_maps(archive) == held
    assert aq.verify(archive, cluster="serial").sound


def test_unreachable_tells_path_from_disk():
    assert SourceUnreachable("gone", errno.ENOENT).is_about_path
    assert not SourceUnreachable("broken", errno.EIO).is_about_path


def test_what_is_stored_is_replaced_by_renaming(own, monkeypatch):
    """A writer that is killed within leaves the old shard."""
    _, archive, _ = own
    frames = FrameStore.open(archive, writable=True)
    before = files(archive, "frames/image/c")

    def fails(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zarr.storage._local.os.replace", fails, raising=False)
    monkeypatch.setattr("pathlib.Path.replace", fails)
    with pytest.raises(OSError, match="No space"):
        frames.write(0, sky(99), None)
    same_bytes(files(archive, "frames/image/c"), before)


class Deadly(SerialExecutor):
    """Workers that die on one frame once its pixels are stored; with ``once`` (called then) only once."""

    def __init__(self, name, once=None):
        self.name, self.once = name, once

    def run(self, function, queue, *, stage):
        for item, result in super().run(function, queue, stage=stage):
            names = [task.frame_id for batch in item for task in batch.frames] if stage == "run" else []
            if not any(self.name in name for name in names):
                yield item, result
            elif self.once:
                queue.put(item)
                self.once()
                self.once, self.name = None, "none"
            else:
                yield item, KilledWorker("run-0", SimpleNamespace(address="tcp://a"), 3)


def deadly_run(monkeypatch, tmp_path, bundle, once=None):
    folder, archive = write_night(tmp_path / "own", 4), tmp_path / "own.zarr"
    workers = Deadly("f02", once and (lambda: once(folder / "L/f02.fits")))
    monkeypatch.setattr("aqdask.execution.clusters.SerialExecutor", lambda: workers)
    (summary,) = aq.run(folder, archive, bundle, cluster="serial", **OPTIONS)
    return archive, (summary.done, summary.quarantined, summary.pending)


def test_a_frame_on_which_workers_die_is_quarantined_without_pixels(monkeypatch, tmp_path, bundle):
    archive, found = deadly_run(monkeypatch, tmp_path, bundle)
    assert found == (3, 1, 0)
    (entry,) = (entry for entry in ledger_of(archive).entries.values() if entry.state == QUARANTINED)
    assert "KilledWorker" in entry.reason
    assert not FrameStore.open(archive).has_pixels(entry.row)
    assert aq.verify(archive, cluster="serial").sound


def test_pixels_of_a_killed_writer_whose_source_is_gone_stay(monkeypatch, tmp_path, bundle):
    archive, found = deadly_run(monkeypatch, tmp_path, bundle, once=os.unlink)
    assert found == (3, 0, 1)
    (entry,) = (entry for entry in ledger_of(archive).entries.values() if entry.state == PENDING)
    assert "but its pixels are stored: `aqdask verify --repair`" in entry.reason
    aq.verify(archive, repair=True, cluster="serial")
    assert set(states(archive).values()) == {DONE}
