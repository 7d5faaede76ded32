"""Labels in an archive: the last verdict counts, all or nothing is written, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from night import OPTIONS, SHAPE, files, sky, write_frame, write_night

import aqdask as aq
from aqdask.errors import ArchiveError, UsageError
from aqdask.store import labels, layout
from aqdask.store.labels import Label
from aqdask.store.ledger import open_ledger

A, B = "L/f00.fits", "R/f01.fits"


@pytest.fixture(scope="module")
def _ingested(tmp_path_factory):
    folder = write_night(tmp_path_factory.mktemp("night"), 2)
    archive = tmp_path_factory.mktemp("archive") / "night.zarr"
    aq.ingest(folder, archive, cluster="serial", **OPTIONS)
    return archive


@pytest.fixture
def archive(_ingested, tmp_path) -> Path:
    """Two frames, to be labelled."""
    return Path(shutil.copytree(_ingested, tmp_path / "night.zarr"))


def verdicts(archive):
    return {(row["frame_id"], row["x0"]): row["verdict"] for row in aq.labels(archive).to_pylist()}


def test_the_last_verdict_on_a_frame_and_on_a_box_counts(archive):
    assert verdicts(archive) == {}
    aq.label(archive, A, "bad", note="clouds")
    aq.label(archive, A, "good", box=(8, 0, 40, 20))
    aq.label(archive, A, "good")
    aq.label(archive, B, "bad")
    aq.label(archive, A, "bad", box=(8, 0, 40, 20))
    assert verdicts(archive) == {(A, None): "good", (B, None): "bad", (A, 8): "bad"}
    assert len(labels.records(layout.open_root(archive))) == 5  # who said what before stays


def test_a_label_says_who_when_and_why(archive, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ana")
    aq.label(archive, A, "bad", box=[0, 1, 2, 3], note="a \x1b[31mred\nnote")
    [row] = aq.labels(archive).to_pylist()
    assert (row["by"], row["note"], row["valid"]) == ("ana", r"a \x1b[31mred\x0anote", True)
    assert [row[name] for name in ("x0", "y0", "x1", "y1")] == [0, 1, 2, 3]
    age = np.datetime64("now") - np.datetime64(row["time"].removesuffix("+00:00"))
    assert abs(age) < np.timedelta64(60, "s")


def test_a_label_is_taken_back_but_only_one_that_is_there(archive):
    aq.label(archive, A, "bad")
    aq.label(archive, A, "bad", box=(0, 0, 9, 9))
    assert aq.label(archive, A, None) == 1
    assert verdicts(archive) == {(A, 0): "bad"}
    with pytest.raises(UsageError, match=r"no label of L/f00.fits to remove"):
        aq.label(archive, A, None)
    with pytest.raises(UsageError, match=r"in the box 0,0,9,8 to remove"):
        aq.label(archive, A, None, box=(0, 0, 9, 8))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Label("nope.fits", "bad"), "no frame 'nope.fits'"),
        (Label(A, "worse"), "the verdict 'worse' on L/f00.fits"),
        (Label(A, "bad", (0, 0, SHAPE[1] + 1, 5)), "the box 0,0,201,5 on L/f00.fits"),
        (Label(A, "bad", (0, 0, 5, SHAPE[0] + 1)), "the box 0,0,5,131"),
        (Label(A, "bad", (5, 0, 5, 5)), "the box 5,0,5,5"),
        (Label(A, "bad", (-1, 0, 5, 5)), "the box -1,0,5,5"),
        (Label(A, "bad", (0.5, 0, 5, 5)), "the box 0.5,0,5,5"),
        (Label(A, "bad", (0, 0, 5)), "the box 0,0,5 on"),
        (Label(A, "bad", note="x" * 1001), "a note of 1001 characters"),
        (Label(B, "good"), "two verdicts on R/f01.fits, bad and good"),
    ],
)
def test_one_wrong_label_of_several_refuses_all(archive, given, told):
    before = files(archive, "")
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        labels.write(archive, [Label(B, "bad"), given])
    assert files(archive, "") == before


def test_a_label_of_replaced_pixels_is_told_and_not_honoured(archive, tmp_path):
    folder = write_night(tmp_path / "again", 2)
    place = tmp_path / "a.zarr"
    aq.ingest(folder, place, cluster="serial", **OPTIONS)
    aq.label(place, "*", "bad")
    write_frame(folder / A, sky(77), FILTER="L")
    aq.ingest(folder, place, cluster="serial", **OPTIONS)
    assert {row["frame_id"]: row["valid"] for row in aq.labels(place).to_pylist()} == {A: False, B: True}
    root = layout.open_root(place)
    assert [label.frame_id for label in labels.valid(root, open_ledger(root))] == [B]


def test_labels_touch_nothing_else_and_any_zarr_reader_opens_them(archive):
    before = files(archive, "")
    aq.label(archive, A, "bad")
    now = files(archive, "")
    assert {name for name in now if now[name] != before.get(name)} == {
        "labels/zarr.json", "labels/records/zarr.json", "labels/records/c/0"
    }  # fmt: skip
    [text] = zarr.open_group(archive / "labels", mode="r")["records"][:]
    assert json.loads(text)["verdict"] == "bad"
    assert xr.open_zarr(archive / "labels", consolidated=False)["records"].shape == (1,)


def test_labels_can_be_given_while_a_run_holds_the_archive(archive, tmp_path):
    from aqdask.execution.open_archive import writing

    with writing(archive):
        aq.label(archive, A, "bad")
    aq.label(archive, B, "good")  # the run has written the metadata of all groups together
    assert verdicts(archive) == {(A, None): "bad", (B, None): "good"}
    assert aq.verify(archive, cluster="serial").sound


def test_labels_of_several_people_at_once_are_all_kept(archive):
    def give(number):
        labels.write(archive, [Label(A, "bad", (number, 0, number + 1, 1))], fsync=False)

    people = [threading.Thread(target=give, args=(number,)) for number in range(12)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert sorted(row["x0"] for row in aq.labels(archive).to_pylist()) == list(range(12))


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_flipped_bit_is_no_other_verdict(archive, at):
    aq.label(archive, "*", "bad")
    chunk = archive / labels.CHUNK
    data = bytearray(chunk.read_bytes())
    data[at] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"the labels of .*night\.zarr do not decode"):
        aq.labels(archive)
