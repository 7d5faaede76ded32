"""Group ``labels/`` of an archive: verdicts of people on frames, and on boxes of their pixels.

The array ``records`` holds one string, lines of JSON in the order in which they were given; its one chunk is
replaced whole. Of several records about the same frame, or about the same box of a frame, the last one
counts. Labels are written without the archive's lock, so that frames can be judged during a run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from aqdask.errors import ArchiveError, UsageError
from aqdask.io import places
from aqdask.paths import is_object
from aqdask.store import layout
from aqdask.store.lease import user_name
from aqdask.store.ledger import Ledger, open_ledger
from aqdask.text import printable

GROUP = "labels"
CHUNK = f"{GROUP}/records/c/0"
GOOD, BAD, REMOVED = "good", "bad", "removed"
LONGEST_NOTE = 1000  # characters
ATTEMPTS = 20  # to replace an object that others replace at the same time
Box = tuple[int, int, int, int]
"""First and one past the last pixel, ``x0, y0, x1, y1``, from 0 as the ``x0`` of patches."""

_RECORDS: dict[str, Any] = {
    "shape": (1,), "dtype": str, "chunks": (1,), "fill_value": "", "dimension_names": ("log",),
    "compressors": [ZstdCodec(level=1), Crc32cCodec()],
    "attributes": {"long_name": "verdicts on frames and boxes, one JSON object a line; the last one counts"},
}  # fmt: skip


@dataclass(frozen=True)
class Label:
    """Verdict of a person on a frame, or on a box of it.

    Parameters
    ----------
    frame_id : str
        Id of the frame.
    verdict : str
        'good' or 'bad'; in stored records also 'removed'.
    box : tuple of int, optional
        ``x0, y0, x1, y1`` in pixels; None for the frame as a whole.
    note : str
        Remark, printable.
    by, time : str
        Account name, and UTC time in ISO 8601.
    pixels : str
        crc32c of the frame's pixels as they were judged; empty where unknown.
    """

    frame_id: str
    verdict: str
    box: Box | None = None
    note: str = ""
    by: str = ""
    time: str = ""
    pixels: str = ""

    def told(self) -> str:
        """Return the label in words, such as ``labelled bad by ana on 2026-11-26: clouds``."""
        return f"labelled {self.verdict} by {self.by} on {self.time[:10]}" + (self.note and f": {self.note}")


def records(root: zarr.Group) -> list[Label]:
    """Read all records, in order; empty for an archive without labels.

    Raises
    ------
    ArchiveError
        If they do not decode.
    """
    found = sync((root.store_path / CHUNK).get(prototype=default_buffer_prototype()))
    return [] if found is None else _decoded(found.to_bytes(), root.store)


def latest(root: zarr.Group) -> list[Label]:
    """Return the last label of each frame and of each box, in the order in which they were given."""
    found: dict[tuple[str, Box | None], Label] = {}
    for label in records(root):
        found.pop(_target(label), None)
        found[_target(label)] = label
    return [label for label in found.values() if label.verdict != REMOVED]


def valid(root: zarr.Group, ledger: Ledger) -> list[Label]:
    """Return the labels of `latest` whose frames still have the pixels that were judged."""
    return [label for label in latest(root) if is_valid(label, ledger)]


def is_valid(label: Label, ledger: Ledger) -> bool:
    """Return True unless the frame's pixels have been replaced since it was judged."""
    at = ledger.table.find(label.frame_id)
    return at >= 0 and label.pixels in ("", ledger.table.text("crc32c", at))


def bad_boxes(labels: Sequence[Label]) -> dict[str, list[Box]]:
    """Return the boxes labelled bad, by frame id."""
    found: dict[str, list[Box]] = {}
    for label in labels:
        if label.box and label.verdict == BAD:
            found.setdefault(label.frame_id, []).append(label.box)
    return found


def of_frames(labels: Sequence[Label], verdict: str) -> dict[str, Label]:
    """Return the labels of whole frames with this verdict, by frame id."""
    return {label.frame_id: label for label in labels if label.box is None and label.verdict == verdict}


def write(
    path: places.Place, labels: Sequence[Label], *, fsync: bool = True, missing_ok: bool = False
) -> list[Label]:
    """Add labels, or with the verdict 'removed' take them back: all of them, or none.

    User, time and the checksum of the pixels are added to what is given. With ``missing_ok``, removals of
    labels that are not there are left out.

    Returns
    -------
    list of Label
        The records as they were stored.

    Raises
    ------
    UsageError
        For an unknown frame, a frame with other pixels than those that were judged (where `Label.pixels` is
        given), a box outside of its frame, another verdict, two verdicts on one frame or box, and the removal
        of a label that is not there.
    ArchiveError
        If the archive cannot be written.
    """
    root = layout.open_root(path, writable=True, fsync=fsync)
    ledger = open_ledger(root, damaged=True)
    shape = layout.read_spec(root).shape
    crc32c = dict(zip(*(ledger.rows().texts(name) for name in ("frame_id", "crc32c")), strict=True))
    _check(labels, shape, crc32c)
    known = {_target(label) for label in latest(root)}
    absent = [label for label in labels if label.verdict == REMOVED and _target(label) not in known]
    if missing_ok:
        labels = [label for label in labels if label not in absent]
    else:
        for label in absent:
            raise _refused(f"no label of {_shown(label)} to remove", "a frame or box as `--list` shows it")
    by, time = user_name(), datetime.now(UTC).isoformat(timespec="seconds")
    new = [
        replace(one, note=printable(one.note), by=by, time=time, pixels=crc32c[one.frame_id])
        for one in labels
    ]
    if new:
        with layout.storing(path), _alone(places.join(path, GROUP)):
            _create(root)
            _append(path, new, fsync)
    return new


def problems(root: zarr.Group, ledger: Ledger) -> list[str]:
    """Describe lost metadata, records that do not decode, and labels that fit no frame."""
    if not _names(root):
        return []
    found = []
    whole = layout.has_metadata(root.store_path / GROUP)
    if not whole or layout.array_problem(layout.group(root, GROUP), "records", _RECORDS, 1):
        found.append("the group of labels has lost its metadata")
    try:
        kept = [label for label in records(root) if label.verdict != REMOVED]
        _check_each(kept, layout.read_spec(root).shape, set(ledger.rows().texts("frame_id")))
    except ArchiveError as error:
        found.append(error.got)
    except UsageError as error:
        found.append(f"a label fits no frame: {error.got}")
    return found


def mend(root: zarr.Group) -> None:
    """Restore lost metadata; the records stay as they are."""
    if _names(root):
        _create(root)


def erase(root: zarr.Group) -> None:
    """Delete all labels."""
    sync((root.store_path / GROUP).delete_dir())


def _target(label: Label) -> tuple[str, Box | None]:
    return label.frame_id, label.box


def _shown(label: Label) -> str:
    return printable(label.frame_id) + (f" in the box {','.join(map(str, label.box))}" if label.box else "")


def _check(labels: Sequence[Label], shape: tuple[int, int], known: Mapping[str, str]) -> None:
    _check_each(labels, shape, known.keys())
    verdicts: dict[tuple[str, Box | None], str] = {}
    for label in labels:
        if label.pixels not in ("", known[label.frame_id]):
            raise _refused(
                f"other pixels of {printable(label.frame_id)} than those that were judged",
                "labels of the frames that this archive holds, as it holds them now",
                "make the report again and judge these frames there: this is another archive, or their files "
                "have been replaced since",
            )
        if verdicts.setdefault(_target(label), label.verdict) != label.verdict:
            raise _refused(
                f"two verdicts on {_shown(label)}, {verdicts[_target(label)]} and {label.verdict}",
                "one verdict on each frame and box",
            )


def _check_each(labels: Sequence[Label], shape: tuple[int, int], known: Any) -> None:
    """Raise `UsageError` for the first label that fits no frame of the archive."""
    for label in labels:
        if label.frame_id not in known:
            raise _refused(f"no frame {printable(label.frame_id)!r}", f"one of the {len(known)} frames")
        if label.verdict not in (GOOD, BAD, REMOVED):
            raise _refused(f"the verdict {label.verdict!r} on {_shown(label)}", "'good' or 'bad'")
        if len(label.note) > LONGEST_NOTE:
            raise _refused(f"a note of {len(label.note)} characters", f"at most {LONGEST_NOTE}")
        if label.box is not None and not _fits(label.box, shape):
            raise _refused(
                f"the box {','.join(map(str, label.box))} on {printable(label.frame_id)}",
                f"x0,y0,x1,y1 in whole pixels with 0 <= x0 < x1 <= {shape[1]} and 0 <= y0 < y1 <= {shape[0]}",
            )


def _fits(box: Sequence[object], shape: tuple[int, int]) -> bool:
    if len(box) != 4 or any(type(side) is not int for side in box):
        return False
    x0, y0, x1, y1 = box
    return 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]  # type: ignore[operator]


def _refused(got: str, expected: str, remedy: str = "") -> UsageError:
    return UsageError(
        got,
        expected=expected,
        consequence="No label was changed, nor any other of the same request",
        remedy=remedy
        or "`aqdask info ARCHIVE --frames` lists the frames, `aqdask label ARCHIVE --list` the labels",
    )


def _names(root: zarr.Group) -> list[str]:
    """Return the names below the group; empty where there is no group."""

    async def listed() -> list[str]:
        return [name async for name in root.store.list_dir(f"{root.store_path.path}/{GROUP}".strip("/"))]

    return sync(listed())


def _create(root: zarr.Group) -> None:
    """Make the group and the array, or restore their metadata."""
    if not layout.has_metadata(root.store_path / GROUP):
        layout.delete_metadata(root.store_path / GROUP)
        root.create_group(GROUP)
    group = layout.group(root, GROUP)
    if layout.array_problem(group, "records", _RECORDS, 1):
        layout.mend_array(group, "records", _RECORDS)


def _append(path: places.Place, new: Sequence[Label], fsync: bool) -> None:
    """Replace the records by those with ``new`` behind them, unless another process does so meanwhile."""
    place = places.join(path, CHUNK)
    for _ in range(ATTEMPTS):
        found = places.fetch(place)
        data = _encoded([*(_decoded(found[0], path) if found else []), *new])
        if not is_object(place):
            places.write_file(Path(place), data, fsync=fsync)
            return
        if places.replace(place, data, found[1]) if found else places.create(place, data):
            return
    raise ArchiveError(
        f"the labels of {path} were changed by others {ATTEMPTS} times in a row",
        expected="a moment in which nobody else writes labels",
        consequence="No label was changed",
        remedy="run the same command again",
    )


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Wait until no other process of this file system writes labels; objects are replaced conditionally."""
    if is_object(folder):
        yield
        return
    Path(folder).mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _encoded(labels: Sequence[Label]) -> bytes:
    """Encode records as the chunk of a zarr array of one string."""
    text = "".join(json.dumps(asdict(label), separators=(",", ":")) + "\n" for label in labels)
    packed = bytes(_ZSTD.encode(_TEXT.encode(np.array([text], object))))
    return packed + google_crc32c.value(packed).to_bytes(4, "little")


def _decoded(chunk: bytes, archive: object) -> list[Label]:
    packed = chunk[:-4]
    try:
        if google_crc32c.value(packed) != int.from_bytes(chunk[-4:], "little"):
            raise ValueError("checksum")
        [text] = _TEXT.decode(_ZSTD.decode(packed))
        found = [Label(**json.loads(line)) for line in text.split("\n") if line]
        return [replace(one, box=tuple(one.box) if one.box else None) for one in found]  # type: ignore[arg-type]
    except layout.UNREADABLE as error:
        raise ArchiveError(
            f"the labels of {str(archive).removeprefix('file://')} do not decode",
            expected="the records as they were written",
            consequence="Frames labelled bad could not be told from others, so nothing was done",
            remedy="restore labels/ from a copy, or give the labels up: `aqdask verify --repair --forget`",
        ) from error


_ZSTD, _TEXT = numcodecs.Zstd(level=1), numcodecs.VLenUTF8()
