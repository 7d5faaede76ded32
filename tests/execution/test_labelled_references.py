"""Labels and references: bad frames and boxes are left out with a word, and damage of labels is told."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import aqdask as aq
from aqdask.errors import ArchiveError, UsageError
from aqdask.execution.executors import SerialExecutor
from aqdask.execution.reference_frames import choose_frames
from aqdask.execution.reporter import Silent
from aqdask.methods.bundle import Bundle
from aqdask.methods.training.provenance import provenance
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import Split
from aqdask.simulate.demo import demo_plan, write_demo_frame
from aqdask.store import labels, layout
from aqdask.store.frame_store import FrameStore

F0, F2, F4 = "L/f00.fits", "L/f02.fits", "L/f04.fits"
BOX = (64, 32, 128, 64)  # x0, y0, x1, y1


class Told(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def chosen(archive, patterns):
    told = Told()
    return choose_frames(archive, patterns, SerialExecutor(), told), told.lines


def test_a_frame_labelled_bad_is_not_proposed_nor_kept(scored):
    aq.label(scored, F0, "bad", note="clouds")
    told = Told()
    found = {p.id: p for p in aq.select(scored, keep=[F0], cluster="serial", reporter=told)}
    assert not found[F0].proposed
    assert found[F0].reason.startswith("labelled bad by ")
    assert found[F0].reason.endswith(": clouds")
    assert any(f"1 to keep cannot serve, such as {F0}: labelled bad" in line for line in told.lines)
    frames, _ = chosen(scored, None)
    assert F0 not in frames.ids
    assert frames.labels() == {"frames_left_out": [F0]}


def test_a_named_frame_labelled_bad_is_left_out_with_a_note(scored):
    aq.label(scored, F0, "bad")
    frames, told = chosen(scored, ["L/*"])
    assert F0 not in frames.ids
    assert F2 in frames.ids
    assert told[0].startswith(f"note: 1 of the named frames, such as {F0} (labelled bad by ")
    with pytest.raises(UsageError, match="labelled bad: 1 of the named frames"):
        chosen(scored, [F0])
    aq.label(scored, F0, "good")
    assert F0 in chosen(scored, [F0])[0].ids


def test_boxes_labelled_bad_are_no_data(scored):
    before, _ = chosen(scored, [F0, F4])
    aq.label(scored, F4, "bad", box=BOX)
    aq.label(scored, F4, "good", box=(0, 0, 8, 8))
    frames, told = chosen(scored, [F0, F4])
    assert told == ["note: 1 box labelled bad in 1 of the references: left out as no data"]
    assert frames.labels() == {"boxes_left_out": {F4: [list(BOX)]}}
    for position, window in ((0, 0), (1, 0), (1, 64)):
        image, invalid = frames.chosen.read(position, window)
        plain, known = before.chosen.read(position, window)
        np.testing.assert_array_equal(image, plain)
        expected = np.zeros((130, 200), bool)
        if position:
            expected[32:64, 64:128] = True
        if window:
            expected = expected[33:97, 68:132]
        expected |= False if known is None else known
        np.testing.assert_array_equal(np.zeros_like(expected) if invalid is None else invalid, expected)
    [sent] = frames.map(_invalid_pixels, [1])  # as on a worker
    assert sent == np.count_nonzero(frames.chosen.read(1)[1])


def _invalid_pixels(image, invalid, metadata):
    return 0 if invalid is None else np.count_nonzero(invalid)


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """Eight good frames, one with a ruined corner."""
    folder = tmp_path_factory.mktemp("drawn")
    for frame in demo_plan(12, 512, seed=5)[:8]:
        write_demo_frame(folder, frame)
    archive = tmp_path_factory.mktemp("archive") / "a.zarr"
    aq.ingest(folder, archive, cluster="serial")
    return archive


@pytest.mark.slow
def test_what_lies_in_a_bad_box_does_not_enter_a_calibration(camera, tmp_path):
    """Two archives that differ in the box only give the same calibration, and say what was left out."""
    bundles = []
    for value in (0, 60000):
        archive = shutil.copytree(camera, tmp_path / f"{value}" / "a.zarr")
        first = spoil(archive, value)
        aq.label(archive, first, "bad", box=(0, 0, 128, 128))
        bundles.append(
            aq.calibrate(archive, "wide-field", frames=["*"], alpha=0.02, name="m", cluster="serial")
        )
    assert bundles[0].contents == bundles[1].contents
    assert bundles[0].provenance["adapted"][-1]["labels"] == {"boxes_left_out": {first: [[0, 0, 128, 128]]}}
    assert Bundle.from_bytes(bundles[0].contents).provenance == bundles[0].provenance


def spoil(archive, value):
    """Set the corner of the first frame to one value, in pixels and ledger; return its id."""
    from aqdask.execution.open_archive import writing
    from aqdask.store.frame_store import checksum

    store = FrameStore.open(archive, writable=True)
    image, invalid = store.read(0)
    image[:128, :128] = value
    store.write(0, image, invalid)
    with writing(archive) as held:
        frame_id = held.ledger.rows()[0].frame_id
        record = {"event": "ingest", "frame_id": frame_id, "state": "done"}
        held.ledger.append([record | {"crc32c": checksum(image, invalid)}])
    return frame_id


def test_verify_tells_lost_metadata_of_labels_and_restores_them(scored):
    aq.label(scored, F0, "bad")
    for lost in ("labels/zarr.json", "labels/records/zarr.json"):
        (scored / lost).unlink()
        found = aq.verify(scored, cluster="serial")
        assert [where for _, where, _ in found.damage] == ["labels"]
        assert aq.verify(scored, cluster="serial", repair=True).sound
    assert aq.labels(scored)["frame_id"].to_pylist() == [F0]


def test_labels_that_do_not_decode_stop_calibrations_until_they_are_given_up(scored):
    aq.label(scored, F0, "bad")
    (scored / labels.CHUNK).write_bytes(b"damaged, all of it")
    found = aq.verify(scored, cluster="serial")
    assert "do not decode" in found.damage[0][2]
    for call in (lambda: aq.select(scored, cluster="serial"), lambda: aq.label(scored, F0, "good")):
        with pytest.raises(ArchiveError, match=r"labels of .* do not decode"):
            call()
    again = aq.verify(scored, cluster="serial", repair=True)
    assert [name for name, _ in again.lost] == ["labels"]
    assert aq.verify(scored, cluster="serial", repair=True, forget=True).sound
    assert labels.records(layout.open_root(scored)) == []
    assert aq.label(scored, F0, "good") == 1


def test_verify_tells_a_label_that_fits_no_frame(scored, monkeypatch):
    monkeypatch.setattr(labels, "_check", lambda *anything: None)
    labels.write(scored, [labels.Label(F0, "bad", (0, 0, 5000, 5))])
    found = aq.verify(scored, cluster="serial")
    assert "a label fits no frame: the box 0,0,5000,5" in found.damage[0][2]


def test_a_training_records_what_labels_left_out():
    frames, left_out = SimpleNamespace(ids=["a", "b", "c"]), {"frames_left_out": ["d"]}
    split = Split(train=(0,), validation=(1,), calibration=(2,))
    found = provenance(frames, split, TrainSpec(labels=left_out), {})
    assert found["labels"] == left_out
    assert "labels" not in found["settings"]
    assert "labels" not in provenance(frames, split, TrainSpec(), {})
