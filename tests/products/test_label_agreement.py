"""Files of labels from the page, and the agreement of flags and masks with labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from night import SHAPE

import aqdask as aq
from aqdask import flags
from aqdask.errors import AqdaskError, UsageError
from aqdask.execution.open_archive import writing
from aqdask.execution.reporter import Silent
from aqdask.products.agreement import LabelAgreement, patches_of
from aqdask.specs import PatchGrid
from aqdask.store import layout
from aqdask.store.ledger import open_ledger
from aqdask.store.quality_store import QualityStore

GRID = PatchGrid(*SHAPE, 32)  # 5 x 7 patches
F = [f"{'LR'[n % 2]}/f{n:02d}.fits" for n in range(6)]
SPIKE, LINE = (flags.code(flags.REASONS, name) for name in ("spike", "line"))


@pytest.fixture
def own(archive, tmp_path) -> Path:
    """A copy of the scored archive, to be labelled."""
    return Path(shutil.copytree(archive, tmp_path / "night.zarr"))


def page(folder, *labels, **changes):
    """The file that the page of the report saves."""
    path = folder / "labels.json"
    found = {"aqdask_labels": 1, "archive": "night.zarr", "labels": list(labels)} | changes
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def test_the_labels_of_the_page_come_in_together(own, tmp_path):
    bad = {"frame_id": F[0], "verdict": "bad", "box": None, "note": "Wölkchen"}
    box = {"frame_id": F[0], "verdict": "good", "box": [0, 0, 32, 64], "note": ""}
    assert aq.label_from_file(own, page(tmp_path, bad, box)) == 2
    rows = aq.labels(own).to_pylist()
    assert [(row["verdict"], row["x1"], row["note"]) for row in rows] == [
        ("bad", None, "Wölkchen"),
        ("good", 32, ""),
    ]
    assert aq.label_from_file(own, page(tmp_path)) == 0  # nothing labelled is no mistake


def test_a_file_fits_the_frames_that_were_judged_only_whatever_the_archive_is_called(own, tmp_path):
    pixels = {entry.frame_id: entry.crc32c for entry in open_ledger(layout.open_root(own)).rows()}
    mine = [{"frame_id": name, "verdict": "bad", "pixels": pixels[name]} for name in F[:2]]
    assert aq.label_from_file(own, page(tmp_path, *mine, archive="renamed.zarr")) == 2
    other = mine[0] | {"frame_id": F[2]}  # a frame of this name with other pixels
    with pytest.raises(UsageError, match=f"other pixels of {F[2]} than those that were judged"):
        aq.label_from_file(own, page(tmp_path, mine[1], other))
    with pytest.raises(UsageError, match="labels of the archive renamed"):
        aq.label_from_file(own, page(tmp_path, mine[0], {**mine[1], "pixels": ""}, archive="renamed.zarr"))
    assert aq.labels(own).num_rows == 2


def test_labels_of_the_archive_are_taken_back_and_files_without_checksums_are_read_with_a_note(own, tmp_path):
    class Heard(Silent):
        said: list[str] = []  # noqa: RUF012

        def say(self, text):
            self.said.append(text)

    aq.label(own, F[0], "bad")
    cleared = [{"frame_id": name, "verdict": "removed"} for name in F[:2]]
    assert aq.label_from_file(own, page(tmp_path, *cleared), reporter=Heard()) == 1
    assert aq.labels(own).num_rows == 0
    [note] = Heard.said
    assert note.startswith("note: 2 of 2 labels have no checksum")
    assert aq.label_from_file(own, page(tmp_path, *cleared)) == 0


@pytest.mark.parametrize(
    ("labels", "changes", "told"),
    [
        ([{"frame_id": F[0], "verdict": "bad"}, {"frame_id": "x", "verdict": "bad"}], {}, "no frame 'x'"),
        ([{"frame_id": F[0], "verdict": "bad"}, {"frame_id": F[0], "verdict": "good"}], {}, "two verdicts"),
        ([{"frame_id": F[0], "verdict": "meh"}], {}, "the verdict 'meh' in label 1"),
        ([{"frame_id": F[0], "verdict": "bad", "box": "all"}], {}, "label 1 with a field of another type"),
        ([{"frame_id": F[0], "verdict": "bad", "box": [0, 0, True, 5]}], {}, "the box 0,0,True,5"),
        ([{"frame_id": 7, "verdict": "bad"}], {}, "a field of another type"),
        (["bad"], {}, "a label 1 that is no object"),
        ([], {"archive": "other.zarr"}, "labels of the archive other.zarr, not of night.zarr"),
        ([], {"aqdask_labels": 2}, "has the format 2"),
        ([], {"labels": {}}, "has no list"),
    ],
)  # fmt: skip
def test_a_wrong_entry_refuses_the_whole_file(own, tmp_path, labels, changes, told):
    with pytest.raises(UsageError, match=told):
        aq.label_from_file(own, page(tmp_path, *labels, **changes))
    assert aq.labels(own).num_rows == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "\x80"])
def test_other_files_are_refused(own, tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"labels\.json (is no JSON|holds no labels)"):
        aq.label_from_file(own, path)
    with pytest.raises(AqdaskError, match="none"):
        aq.label_from_file(own, tmp_path / "none")


@pytest.mark.parametrize(
    ("box", "patches"),
    [
        ((0, 0, 200, 130), [(y, x) for y in range(5) for x in range(7)]),
        ((0, 0, 32, 32), [(0, 0)]),
        ((16, 0, 48, 32), [(0, 0), (0, 1)]),  # half of both
        ((17, 0, 47, 32), [(0, 0), (0, 1)]),  # half of it is in each
        ((20, 0, 48, 32), [(0, 1)]),  # 12 of 28 columns are in the first
        ((70, 70, 72, 71), [(2, 2)]),  # smaller than a patch
        ((190, 120, 200, 130), [(3, 6), (4, 6)]),  # the last rows overlap
    ],
)
def test_a_box_stands_for_the_patches_that_share_half_with_it(box, patches):
    assert list(zip(*np.nonzero(patches_of(box, GRID)), strict=True)) == patches


def given_maps(archive, model, row, masked, reason, flag):
    """Make a frame masked in some patches for one reason, and give it a flag."""
    name = f"tiny-{model.digest[:8]}"
    store = QualityStore.open(archive, name, writable=True)
    pvalue, code = np.full((1, *GRID.shape), 0.5, "f4"), np.full((1, *GRID.shape), LINE, "u1")
    for y, x in masked:
        pvalue[0, y, x], code[0, y, x] = 0.001, reason
    store.group["pvalue"][row : row + 1] = pvalue
    store.group["reason"][row : row + 1] = code
    with writing(archive) as held:
        entry = held.ledger.entries[held.ledger.rows()[row].frame_id]
        held.ledger.append([{
            "event": "score", "frame_id": entry.frame_id, "quality": name, "state": "done",
            "source": entry.crc32c, "values": {"frame_flag": flag},
        }])  # fmt: skip


def test_precision_and_recall_by_reason(own, model):
    rows = [frame for band in "LR" for frame in F if frame[0] == band]  # order of the archive
    given_maps(own, model, 0, [(0, 0), (0, 1)], SPIKE, 1)  # labelled bad, flagged
    given_maps(own, model, 1, [], SPIKE, 0)  # labelled bad, missed
    given_maps(own, model, 2, [(2, 2)], LINE, 1)  # labelled good, flagged
    given_maps(own, model, 3, [], SPIKE, 1)  # labelled bad, flagged for the frame as a whole
    given_maps(own, model, 4, [], SPIKE, 0)  # labelled good
    for frame, verdict in zip(rows, ("bad", "bad", "good", "bad", "good"), strict=False):
        aq.label(own, frame, verdict)
    aq.label(own, rows[0], "bad", box=(0, 0, 96, 32))  # two of its three patches are masked
    aq.label(own, rows[0], "good", box=(0, 32, 32, 64))
    aq.label(own, rows[2], "good", box=(64, 64, 96, 96))  # a false mask
    aq.label(own, rows[1], "bad", box=(0, 0, 32, 32))  # missed
    found = aq.label_agreement(own)
    assert isinstance(found, LabelAgreement)
    shown = [(r.unit, r.reason, r.bad, r.found, r.good, r.false, r.precision, r.recall) for r in found.rows]
    assert shown == [
        ("frame", "", 3, 2, 2, 1, 2 / 3, 2 / 3),
        ("frame", "line", 3, 0, 2, 1, 0.0, 0.0),
        ("frame", "spike", 3, 1, 2, 0, 1.0, 1 / 3),
        ("frame", "whole frame", 3, 1, 2, 0, 1.0, 1 / 3),
        ("box", "", 2, 1, 2, 1, 0.5, 0.5),
        ("box", "line", 2, 0, 2, 1, 0.0, 0.0),
        ("box", "spike", 2, 1, 2, 0, 1.0, 0.5),
        ("patch", "", 4, 2, 2, 1, 2 / 3, 0.5),
        ("patch", "spike", 4, 2, 2, 0, 1.0, 0.5),
        ("patch", "line", 4, 0, 2, 1, 0.0, 0.0),
    ]
    assert json.loads(json.dumps(found.facts()))["rows"][0]["recall"] == 2 / 3
    assert aq.label_agreement(own, alpha=0.0005).of("box").found == 0


def test_of_overlapping_boxes_the_later_one_counts(own, model):
    given_maps(own, model, 0, [(0, 0)], SPIKE, 0)
    aq.label(own, F[0], "bad", box=(0, 0, 64, 32))
    aq.label(own, F[0], "good", box=(0, 0, 32, 32))
    row = aq.label_agreement(own).of("patch")
    assert (row.bad, row.found, row.good, row.false) == (1, 0, 1, 1)


def test_a_method_without_a_flag_has_no_frames_to_compare_and_unscored_ones_are_named(own, model):
    aq.label(own, F[0], "bad")
    assert aq.label_agreement(own).rows == ()
    with writing(own) as held:
        name = f"tiny-{model.digest[:8]}"
        held.ledger.append([{"event": "score", "frame_id": F[0], "quality": name, "state": "pending"}])
    assert aq.label_agreement(own).unscored == (F[0],)
    with pytest.raises(UsageError, match="alpha = 2"):
        aq.label_agreement(own, alpha=2)
