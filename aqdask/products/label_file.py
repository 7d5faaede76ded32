"""Files of labels, as the page of `aqdask report` saves them, and the table of an archive's labels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from aqdask.errors import UsageError, place_unreadable
from aqdask.io.places import absolute
from aqdask.paths import read_regular
from aqdask.store import labels, layout
from aqdask.store.labels import Label
from aqdask.store.ledger import open_ledger
from aqdask.text import printable

FORMAT = 1  # value of `aqdask_labels` in a file
COLUMNS = {
    "frame_id": pa.string(), "verdict": pa.string(), "x0": pa.int64(), "y0": pa.int64(), "x1": pa.int64(),
    "y1": pa.int64(), "note": pa.string(), "by": pa.string(), "time": pa.string(), "valid": pa.bool_(),
}  # fmt: skip


def read_label_file(path: str | os.PathLike[str], archive: str | os.PathLike[str]) -> list[Label]:
    """Read a file of labels for an archive.

    The file is JSON: ``{"aqdask_labels": 1, "archive": "night.zarr", "labels": [{"frame_id": "L/f00.fits",
    "verdict": "bad", "box": [x0, y0, x1, y1] or null, "note": "", "pixels": "9d5ccd3c"}]}``. ``verdict`` is
    'good', 'bad', or 'removed' for a label that is taken back; ``pixels`` is the crc32c of the frame's pixels
    as they were judged, which `aqdask.store.labels.write` compares. Files of earlier releases lack it.

    Raises
    ------
    UsageError
        For a file that cannot be read or has another form, and for one of an archive of another name with
        labels that lack ``pixels``: two archives may have the same frame ids.
    """
    try:
        found = json.loads(read_regular(path))
    except FileNotFoundError as error:
        raise UsageError(
            f"no file {printable(path)}",
            expected="the file that the page of `aqdask report` saved",
            consequence="No label was changed",
            remedy="check the path",
        ) from error
    except OSError as error:
        raise place_unreadable(path, error) from error
    except ValueError as error:
        raise _bad_file(path, f"is no JSON ({error})") from error
    if not isinstance(found, Mapping) or "aqdask_labels" not in found:
        raise _bad_file(path, "holds no labels")
    if found["aqdask_labels"] != FORMAT:
        raise _bad_file(path, f"has the format {found['aqdask_labels']!r}", f"format {FORMAT}")
    listed = found.get("labels")
    if not isinstance(listed, list):
        raise _bad_file(path, "has no list `labels`")
    given = [_label(path, number, entry) for number, entry in enumerate(listed, start=1)]
    mine, theirs = printable(PurePath(absolute(archive)).name), found.get("archive")
    is_other = theirs and printable(PurePath(str(theirs)).name) != mine
    if is_other and not (given and all(label.pixels for label in given)):
        raise UsageError(
            f"{printable(path)} holds labels of the archive {printable(str(theirs))}, not of {mine}",
            expected="labels of the same archive: another one may have frames of the same names",
            consequence="No label was changed",
            remedy='if it was renamed, write its new name behind "archive" in the file',
        )
    return given


def label_table(archive: str | os.PathLike[str]) -> pa.Table:
    """Return the labels of an archive that count, one row each, in the order in which they were given.

    Returns
    -------
    pyarrow.Table
        ``frame_id``, ``verdict`` ('good' or 'bad'), the box ``x0``, ``y0``, ``x1``, ``y1`` in pixels (null
        for a whole frame), ``note``, ``by``, ``time`` (UTC, ISO 8601), and ``valid``: False where the frame's
        pixels have been replaced since, so that the label is not honoured.
    """
    root = layout.open_root(archive)
    ledger = open_ledger(root, damaged=True)
    rows = []
    for label in labels.latest(root):
        box = dict(zip(("x0", "y0", "x1", "y1"), label.box or (None,) * 4, strict=True))
        about = {name: getattr(label, name) for name in ("frame_id", "verdict", "note", "by", "time")}
        rows.append(about | box | {"valid": labels.is_valid(label, ledger)})
    return pa.Table.from_pylist(rows, pa.schema(list(COLUMNS.items())))


def _label(path: str | os.PathLike[str], number: int, entry: Any) -> Label:
    """Make a label of one entry of a file; the archive checks frame, verdict and box."""
    if not isinstance(entry, Mapping):
        raise _bad_file(path, f"has a label {number} that is no object")
    box, texts = entry.get("box"), [entry.get(name) or "" for name in ("frame_id", "note", "pixels")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(box, list | None):
        raise _bad_file(path, f"has a label {number} with a field of another type")
    if entry.get("verdict") not in (labels.GOOD, labels.BAD, labels.REMOVED):
        told = f"has the verdict {entry.get('verdict')!r} in label {number}"
        raise _bad_file(path, told, "good, bad or removed")
    frame_id, note, pixels = texts
    return Label(frame_id, entry["verdict"], None if box is None else tuple(box), note, pixels=pixels)


def _bad_file(path: str | os.PathLike[str], problem: str, expected: str = "") -> UsageError:
    return UsageError(
        f"the file {printable(path)} {problem}",
        expected=expected or "labels as the page of `aqdask report` saves them",
        consequence="No label was changed",
        remedy="save them again from the page",
    )
