"""An inbox, looked at by a clock of the test: when a file is taken, waited for, and given up."""

from __future__ import annotations

import gzip
import os
import shutil

import pytest

from aqdask.errors import FrameError
from aqdask.io import inbox as module
from aqdask.io.inbox import RECHECK, Inbox
from aqdask.specs import ReadSpec

READ = ReadSpec()


@pytest.fixture
def box(inbox):
    return Inbox(str(inbox), settle=1.0, patience=10.0)


def taken(box, now):
    return [os.path.basename(arrival.source.path) for arrival in box.look(now, READ).arrivals]


def test_a_file_is_taken_once_when_it_has_settled(box, inbox, night):
    shutil.copy(night[0], inbox)
    assert taken(box, 0.0) == []
    assert taken(box, 0.9) == []
    (arrival,) = box.look(1.0, READ).arrivals
    assert (arrival.arrived, arrival.source.relative, len(arrival.found)) == (0.0, "f00.fits", 1)
    assert arrival.source.size == night[0].stat().st_size
    assert [taken(box, now) for now in (1.5, 9, 99)] == [[], [], []]


def test_a_growing_file_is_taken_only_when_it_is_complete(box, inbox, night):
    content = night[0].read_bytes()
    path = inbox / "grows.fits"
    for now, part in enumerate((1000, 3000, 30000, len(content))):
        path.write_bytes(content[:part])
        assert taken(box, now / 2) == []
    assert taken(box, 2.4) == []
    assert taken(box, 2.5) == ["grows.fits"]


def test_a_file_that_pauses_while_it_grows_is_waited_for(box, inbox, night):
    content = night[0].read_bytes()
    path = inbox / "slow.fits"
    path.write_bytes(content[:30000])
    assert taken(box, 0.0) == []
    look = box.look(2.0, READ)
    assert look.arrivals == []
    assert look.waiting == 1
    assert "waiting up to 8 s" in look.notes[0]
    assert "truncated" in look.notes[0]
    assert [box.look(now, READ).notes for now in (4.0, 7.0)] == [[], []]  # told once
    path.write_bytes(content)
    assert taken(box, 8.0) == []
    assert taken(box, 9.0) == ["slow.fits"]


def test_a_short_file_is_given_up_after_the_patience_and_taken_again_when_it_changes(box, inbox, night):
    content = night[0].read_bytes()
    path = inbox / "short.fits"
    path.write_bytes(content[:30000])
    assert all(taken(box, now) == [] for now in (0, 1, 3, 6, 9.9))
    (arrival,) = [a for now in (10, 12, 15) for a in box.look(now, READ).arrivals]
    assert isinstance(arrival.found, FrameError)
    path.write_bytes(content)
    found = [name for now in range(16, 16 + 2 * RECHECK) for name in taken(box, now)]
    assert found == ["short.fits"]


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_compressed_file_is_read_to_its_end_before_it_is_taken(box, inbox, night, part):
    content = gzip.compress(night[0].read_bytes())
    path = inbox / "f.fits.gz"
    path.write_bytes(content[: int(part * len(content))])
    assert [taken(box, now) for now in (0, 1, 2, 5)] == [[], [], [], []]
    path.write_bytes(content)
    assert [taken(box, now) for now in (6, 7)] == [[], ["f.fits.gz"]]


def test_a_file_that_is_renamed_into_place_counts_from_then(box, inbox, night):
    shutil.copy(night[0], inbox / "f.fits.part")
    assert [taken(box, now) for now in (0, 5)] == [[], []]
    (inbox / "f.fits.part").rename(inbox / "f.fits")
    assert [taken(box, now) for now in (6, 6.9, 7)] == [[], [], ["f.fits"]]


def test_other_contents_under_the_same_name_are_taken_again(box, inbox, night):
    path = inbox / "f.fits"
    shutil.copy(night[0], path)
    assert [taken(box, now) for now in (0, 1)] == [[], ["f.fits"]]
    shutil.copy(night[1], path)
    os.utime(path, ns=(0, 10**18))
    assert [name for now in range(2, 2 + 2 * RECHECK) for name in taken(box, now)] == ["f.fits"]


def test_a_file_that_is_gone_before_it_was_read_is_told(box, inbox, night):
    shutil.copy(night[0], inbox)
    box.look(0.0, READ)
    (inbox / "f00.fits").unlink()
    look = box.look(2.0, READ)
    assert look.arrivals == []
    assert look.notes == [f"{inbox}/f00.fits is gone before it was read"]
    assert look.waiting == 0


def test_a_file_that_vanishes_while_it_is_read_is_not_taken(box, inbox, night, monkeypatch):
    shutil.copy(night[0], inbox)
    box.look(0.0, READ)
    probe = module.reader.probe

    def vanish(path, read):
        os.unlink(path)
        return probe(path, read)

    monkeypatch.setattr(module.reader, "probe", vanish)
    assert taken(box, 20.0) == []
    assert box.look(21.0, READ).notes == [f"{inbox}/f00.fits is gone before it was read"]


def test_a_failing_disk_is_waited_for_like_an_incomplete_file(box, inbox, night, monkeypatch):
    shutil.copy(night[0], inbox)
    box.look(0.0, READ)

    def fail(path, read):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr(module.reader, "probe", fail)
        assert taken(box, 1.0) == []
    assert taken(box, 3.0) == ["f00.fits"]


def test_a_folder_that_is_not_there_is_waited_for(tmp_path, night):
    box = Inbox(str(tmp_path / "later"), settle=1.0, patience=10.0)
    assert box.look(0.0, READ).notes == [
        f"waiting for the folder {tmp_path}/later (No such file or directory)"
    ]
    assert box.look(1.0, READ).notes == []
    (tmp_path / "later").mkdir()
    shutil.copy(night[0], tmp_path / "later")
    assert box.look(2.0, READ).notes == [f"the folder {tmp_path}/later is there"]
    assert taken(box, 3.0) == ["f00.fits"]
    (tmp_path / "later").rename(tmp_path / "away")
    assert "waiting for the folder" in box.look(4.0, READ).notes[0]
    (tmp_path / "away").rename(tmp_path / "later")
    assert [taken(box, now) for now in (5.0, 6.0, 7.0)] == [[], [], []]  # taken before


def test_sub_folders_belong_to_an_inbox_but_products_archives_and_hidden_names_do_not(tmp_path, inbox, night):
    for name in ("2024/L", "products", "a.zarr", ".hidden"):
        (inbox / name).mkdir(parents=True)
        shutil.copy(night[0], inbox / name)
    (inbox / "a.zarr" / "zarr.json").write_text("{}")
    shutil.copy(night[0], inbox / ".f.fits")
    (inbox / "2024" / "loop").symlink_to(inbox)
    (inbox / "dangling.fits").symlink_to(tmp_path / "nothing")
    (inbox / "notes.txt").write_text("no frame")
    box = Inbox(str(inbox), settle=1.0, patience=10.0, excluded=[str(inbox / "products")])
    box.look(0.0, READ)
    (arrival,) = box.look(1.0, READ).arrivals
    assert arrival.source.relative == "2024/L/f00.fits"


def test_a_folder_below_that_cannot_be_read_is_told_once_and_forgets_nothing(box, inbox, night, monkeypatch):
    (inbox / "L").mkdir()
    shutil.copy(night[0], inbox / "L")
    assert [taken(box, now) for now in (0, 1)] == [[], ["f00.fits"]]
    scandir = os.scandir

    def forbid(path):
        if str(path).endswith("/L"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as context:
        context.setattr(os, "scandir", forbid)
        assert box.look(2.0, READ).notes == [
            f"warning: the folder {inbox}/L cannot be read: Permission denied"
        ]
        assert box.look(3.0, READ).notes == []
    assert [taken(box, now) for now in range(4, 6 + RECHECK)] == [[]] * (2 + RECHECK)


def test_files_that_were_taken_before_a_restart_are_left_alone_unless_they_changed(inbox, night):
    for path in night[:2]:
        shutil.copy(path, inbox)
    known = {}
    for name, change in (("f00.fits", 0), ("f01.fits", 1)):
        status = (inbox / name).stat()
        known[str(inbox / name)] = (status.st_size, status.st_mtime_ns + change)
    box = Inbox(str(inbox), settle=1.0, patience=10.0, known=known)
    assert [taken(box, now) for now in (0, 1)] == [[], ["f01.fits"]]


def test_a_file_is_taken_once_more_for_as_long_as_there_is_patience(box, inbox, night):
    shutil.copy(night[0], inbox)
    path = str(inbox / "f00.fits")
    assert [taken(box, now) for now in (0, 1)] == [[], ["f00.fits"]]
    assert box.retry(path, 2.0)
    assert [taken(box, now) for now in (2.5, 3.0)] == [[], ["f00.fits"]]
    assert not box.retry(path, 10.0)
    assert not box.retry("/elsewhere", 2.0)
