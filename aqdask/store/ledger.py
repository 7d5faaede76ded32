"""Group ``ledger/`` of an archive: a log of records about every frame, in append-only segments of JSON lines.

The client is the only writer. A segment is a 1-D uint8 array, so that the archive stays one zarr hierarchy.
The state of a frame follows from all records in order, the last one of a kind wins. Segments are numbered
without gaps. The chunk of a segment is written before its metadata, each by a rename, so that a killed client
leaves a whole segment or none: a segment that is missing or does not decode is damage. A snapshot, the whole
state as a Parquet file (`aqdask.store.entry_table`), replaces all earlier segments.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from aqdask.io.frame_type import header_type
from aqdask.store import layout
from aqdask.store.entry_table import (
    CODE,
    DONE,
    PENDING,
    POINTING,
    QUARANTINED,
    SKIPPED,
    Entries,
    Entry,
    EntryTable,
    Rows,
    Score,
)
from aqdask.store.frame_store import FrameStore

__all__ = [
    "DONE", "PENDING", "QUARANTINED", "SKIPPED", "UNREACHABLE", "Entry", "Ledger", "Record", "Rows", "Score",
    "open_ledger",
]  # fmt: skip
FLUSH_SECONDS = 1.0  # at most this much recorded work is repeated after a kill of the client
FLUSH_RECORDS = 2000
COMPACT_SEGMENTS = 64
COMPACT_RECORDS = 100_000  # so many, and as many as there are frames, are merged during a run: linear in all
COMPACT_LATEST = 1000  # segments that are merged during a run, however few records they hold

Record = dict[str, Any]
REGISTERED = ("path", "hdu", "row", "size", "mtime_ns", "suffix", "card", "frame_type", "state", "reason")
UNREACHABLE = "source unreachable: "  # how the reason of a frame begins whose source could not be read at all


class Ledger:
    """States of all frames of an archive, changed only by appending records.

    Parameters
    ----------
    group : zarr.Group
        ``ledger/`` of the archive.
    layout_version : int
        Of the archive. In layout 1 the metadata of a segment came before its chunk, and snapshots were not
        marked: a segment without chunk, or without older ones, was left by a killed client.

    Attributes
    ----------
    table : EntryTable
        The state as columns.
    qualities : dict of str to dict
        Contents of each quality group, by name; see `aqdask.store.quality_store.QualitySpec`.
    damage : list of str
        Segments that are missing or do not decode, so that records are lost.
    orphans : dict of str to None
        Frame ids, in order, of records about unregistered frames.
    before_flush : list of callable
        Called before records are written, by whoever must write something first.
    """

    def __init__(self, group: zarr.Group, layout_version: int = layout.LAYOUT_VERSION) -> None:
        self._group, self._layout_version = group, layout_version
        self._buffer: list[Record] = []
        self._flushed = time.monotonic()
        self._loose = 0  # records since the last snapshot
        self.before_flush: list[Callable[[], None]] = []
        self.table = EntryTable()
        self.qualities: dict[str, Record] = {}
        self.damage: list[str] = []
        self.orphans: dict[str, None] = {}
        self.row_count = 0
        self._numbers = _numbers(group)
        self._superseded: list[int] = []
        for number, packed in self._since_snapshot(layout_version):
            try:
                records = _records(_ZSTD.decode(packed))
            except ValueError:
                self.damage.append(f"segment {number:06d} is missing or does not decode")
                continue
            self._loose += len(records)
            for record in records:
                self._apply(record)
        self.damage.sort()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def entries(self) -> Entries:
        """States of all frames and sources by frame id, in the order of their registration."""
        return Entries(self.table)

    def row_of(self, frame_id: str) -> int:
        """Return the row of a registered frame."""
        return int(self.table.array("row")[self.table.find(frame_id)])

    def rows(self) -> Rows:
        """Return the entries that own a row of the archive, in row order."""
        return self.table.rows()

    def rejected(self) -> Rows:
        """Return the entries of sources without frames, sorted by id."""
        found = self.table.all().where(lambda rows: rows.column("row") < 0)
        return found.take(np.argsort(np.array(found.texts("frame_id"), object), kind="stable"))

    def counts(self, qualities: Sequence[str] = ()) -> dict[str, int]:
        """Count entries by state; quarantined are also those that one of ``qualities`` could not score."""
        counted = np.bincount(self.table.all().worst(qualities), minlength=len(CODE))
        return {state: int(counted[CODE[state]]) for state in (DONE, QUARANTINED, PENDING)}

    def not_lights(self, quality: str = "") -> dict[str, int]:
        """Count the stored frames that are no lights by type; with ``quality``, those that it skips."""
        rows = self.rows()
        found = (rows.column("state") == CODE[DONE]) & ~rows.are_lights()
        if quality:
            found &= rows.are_skipped(quality)
        return dict(Counter(map(str, rows.take(found).texts("frame_type"))))

    def append(self, records: Iterable[Record]) -> None:
        """Apply records, and write them once there are enough."""
        for record in records:
            self._apply(record)
            self._buffer.append(record)
        if len(self._buffer) >= FLUSH_RECORDS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the unwritten records as one segment."""
        self._flushed = time.monotonic()
        for prepare in self.before_flush:
            prepare()
        if self._buffer:
            self._write_segment(_lines(self._buffer))
            self._loose += len(self._buffer)
            self._buffer = []
        if self._loose > max(COMPACT_RECORDS, len(self.table)) or len(self._numbers) > COMPACT_LATEST:
            self.compact()

    def close(self) -> None:
        """Flush, and merge the segments when there are many."""
        self.flush()
        if len(self._numbers) > COMPACT_SEGMENTS:
            self.compact()
        self._remove_superseded()

    def compact(self) -> None:
        """Write the whole state as one snapshot, then remove the segments before it."""
        if self._buffer:
            self.flush()
        before = list(self._numbers)
        self._write_segment(self.table.snapshot(self.qualities))
        self._loose = 0
        self._superseded = before
        self._remove_superseded()

    def _since_snapshot(self, layout_version: int) -> list[tuple[int, bytes]]:
        """Read the segments from the last snapshot on, and add lost ones to `damage`.

        A snapshot becomes the table. The records after it are returned compressed: number and content of each
        segment, in order.
        """
        found: list[tuple[int, bytes]] = []
        for number in range(self._numbers[-1] if self._numbers else 0, 0, -1):
            packed = _read_segment(self._group, number)
            if packed is None:
                if layout_version > 1 or _chunk(self._group, number) is not None:
                    self.damage.append(f"segment {number:06d} is missing or does not decode")
                continue
            data = _ZSTD.decode(packed)
            is_table = data.startswith(PARQUET)
            if is_table:
                self._restore(data)
            else:
                found.append((number, packed))
            if is_table or data.startswith(SNAPSHOT):
                self._superseded = [n for n in self._numbers if n < number]
                break
        return found[::-1]

    def _restore(self, snapshot: bytes) -> None:
        self.table = EntryTable(snapshot)
        self.qualities = self.table.about["qualities"]
        rows = self.table.array("row")
        self.row_count = int(rows.max(initial=-1)) + 1

    def _remove_superseded(self) -> None:
        for number in self._superseded:
            sync((self._group.store_path / f"{number:06d}").delete_dir())
            self._numbers.remove(number)
        self._superseded = []

    def mend_metadata(self) -> None:
        """Write missing metadata of segments (after a killed writer, or a lost file)."""
        for number in self._numbers:
            if not sync((self._group.store_path / f"{number:06d}/zarr.json").exists()):
                chunk = _chunk(self._group, number)
                if chunk is not None:
                    self._write_metadata(number, len(_ZSTD.decode(chunk[:-4])))

    def _write_segment(self, data: bytes) -> None:
        number = self._numbers[-1] + 1 if self._numbers else 1
        packed = bytes(_ZSTD.encode(data))
        chunk = packed + google_crc32c.value(packed).to_bytes(4, "little")
        layout.write_new(self._group.store_path / f"{number:06d}/c/0", chunk)
        self._write_metadata(number, len(data))
        self._numbers.append(number)

    def _write_metadata(self, number: int, length: int) -> None:
        self._group.create_array(
            f"{number:06d}", shape=(length,), dtype="uint8", chunks=(length,),
            compressors=[ZstdCodec(level=1), Crc32cCodec()], dimension_names=(f"byte_{number:06d}",),
            attributes={"long_name": "records of the ledger as lines of JSON, or its whole state as Parquet"},
        )  # fmt: skip

    def _apply(self, record: Record) -> None:
        event = record["event"]
        if event == "snapshot":
            return
        if event == "quality":
            self.qualities[record["name"]] = record
            return
        if event == "forget_quality":
            self.qualities.pop(record["name"], None)
            self.table.remove_score(slice(None), record["name"])
            return
        if event not in _EVENTS:
            raise ValueError(f"unknown ledger event {event!r}")
        frame_id, table = record["frame_id"], self.table
        at = table.find(frame_id)
        if event == "register":
            if at >= 0 and table.array("state")[at] == CODE[DONE] and self._layout_version > 1:
                self.damage.append(f"{frame_id} is registered again, though it is stored")
                return
            self.row_count = max(self.row_count, record["row"] + 1)
            at = table.register(frame_id, at)
            for name in REGISTERED:
                if name in record:
                    table.set(at, name, record[name])
            self.orphans.pop(frame_id, None)
        elif at >= 0:
            _EVENTS[event](table, at, record)
        elif event != "drop":  # what a compaction of layout 1 left behind when it was killed
            self.orphans[frame_id] = None


def open_ledger(root: zarr.Group, *, damaged: bool = False) -> Ledger:
    """Open the ledger of an archive, also where the metadata of its group are lost.

    Raises
    ------
    ArchiveError
        If records are lost, unless ``damaged``: the remaining ones describe an older state.
    """
    group = layout.group(root, "ledger")
    ledger = Ledger(group, layout.version_of(root))
    if ledger.damage:  # or segments that a running writer has just merged
        ledger = Ledger(group, layout.version_of(root))
    _complete_types(ledger, root)
    if ledger.damage and not damaged:
        raise layout.damaged(
            root.store, {text: f"its ledger has lost records ({text})" for text in ledger.damage}
        )
    return ledger


def _complete_types(ledger: Ledger, root: zarr.Group) -> None:
    """Read the frame types that were not recorded (layouts 1 and 2, lost records) from the stored headers.

    Those whose headers do not decode stay unknown.
    """
    table, listed = ledger.table, ledger.table.words("frame_type")
    if None not in listed:
        return
    unknown = listed.index(None)
    rows = ledger.rows().where(lambda rows: rows.column("frame_type") == unknown)
    missing = defaultdict[int, list[tuple[int, int]]](list)
    for at, row in zip(rows.positions_array().tolist(), rows.column("row").tolist(), strict=True):
        missing[row // layout.ROWS_PER_CHUNK].append((at, row))
    if not missing:
        return
    frames = FrameStore.at(root)
    for chunk, places in missing.items():
        start = chunk * layout.ROWS_PER_CHUNK
        part = slice(start, start + layout.ROWS_PER_CHUNK)
        columns = [layout.read_values(frames.group, name, part) for name in ("header", "primary_header")]
        headers = list(zip(*columns, strict=False)) if all(c is not None for c in columns) else []
        for at, row in places:
            if row - start < len(headers):
                header, primary = map(str, headers[row - start])
                table.set(at, "frame_type", header_type(header, primary, frames.spec.read.keywords))


def _ingested(table: EntryTable, at: int, record: Record) -> None:
    for name in ("sha256", "card", "frame_type", "size", "mtime_ns"):
        if name in record:
            table.set(at, name, record[name])
    table.set(at, "state", record["state"])
    table.set(at, "reason", record.get("reason", ""))
    table.set(at, "crc32c", record.get("crc32c", ""))
    table.set(at, "invalid_pixels", record.get("invalid_pixels", 0))
    table.set(at, "attempts", record.get("attempts", table.array("attempts")[at] + 1))
    table.set(at, "changed", False)
    for name in POINTING:
        table.set(at, name, record.get(name, math.nan))
    _settled(table, at)
    for quality in table.qualities:  # other pixels may be scored after all
        if table.score(quality, "state")[at] != CODE[DONE]:
            table.remove_score(at, quality)


def _scored(table: EntryTable, at: int, record: Record) -> None:
    names = ("state", "source", "crc32c", "reason", "values")
    table.set_score(at, record["quality"], Score(**{n: record[n] for n in names if n in record}))


def _touched(table: EntryTable, at: int, record: Record) -> None:
    """Store another time stamp of the same content, or -1 for other content."""
    table.set(at, "size", record["size"])
    table.set(at, "mtime_ns", record["mtime_ns"])
    _settled(table, at)


def _changed(table: EntryTable, at: int, record: Record) -> None:
    table.set(at, "changed", True)
    table.set(at, "hdu", record["hdu"])
    _settled(table, at)


def _kept(table: EntryTable, at: int, record: Record) -> None:
    _settled(table, at)
    table.set(at, "changed", False)
    table.set(at, "problem", record["reason"])
    if "size" in record:
        table.set(at, "is_tried", True)
        table.set(at, "tried_size", record["size"])
        table.set(at, "tried_mtime_ns", record["mtime_ns"])


def _settled(table: EntryTable, at: int) -> None:
    """Clear the problem of a frame."""
    table.set(at, "problem", "")
    table.set(at, "is_tried", False)


_EVENTS: dict[str, Callable[[EntryTable, int, Record], None]] = {
    "register": lambda table, at, record: None,
    "drop": lambda table, at, record: table.drop(at),
    "ingest": _ingested,
    "score": _scored,
    "touch": _touched,
    "changed": _changed,
    "kept": _kept,
}
_ZSTD = numcodecs.Zstd(level=1)
PARQUET = b"PAR1"  # how a snapshot begins
SNAPSHOT = b'{"event":"snapshot"}'  # how one of a layout before 4 begins


def _numbers(group: zarr.Group) -> list[int]:
    """Return the numbers of the segments with any stored object, in order."""

    async def listed() -> list[int]:
        names = [name async for name in group.store_path.store.list_dir(group.store_path.path)]
        return sorted(int(name) for name in names if name.isdecimal())

    numbers: list[int] = sync(listed())
    while numbers and not _is_begun(group, numbers[-1]):
        numbers.pop()  # a folder in which a killed writer wrote nothing whole
    return numbers


def _is_begun(group: zarr.Group, number: int) -> bool:
    place = group.store_path / f"{number:06d}"
    return any(sync((place / key).exists()) for key in ("c/0", layout.METADATA))


def _chunk(group: zarr.Group, number: int) -> bytes | None:
    """Read the one chunk of a segment; None where it is missing."""
    key = group.store_path / f"{number:06d}/c/0"
    found = sync(key.get(prototype=default_buffer_prototype()))
    return None if found is None else found.to_bytes()


def _read_segment(group: zarr.Group, number: int) -> bytes | None:
    """Read the compressed content of a segment, without its metadata; None where it is damaged."""
    chunk = _chunk(group, number)
    if chunk is None or google_crc32c.value(chunk[:-4]) != int.from_bytes(chunk[-4:], "little"):
        return None
    try:
        _ZSTD.decode(chunk[:-4])
    except (ValueError, RuntimeError):
        return None
    return chunk[:-4]


def _records(data: bytes) -> list[Record]:
    text = data.decode("utf-8", "surrogateescape")
    return [json.loads(line) for line in text.split("\n") if line]


def _lines(records: list[Record]) -> bytes:
    lines = "".join(json.dumps(r, separators=(",", ":"), ensure_ascii=False) + "\n" for r in records)
    return lines.encode("utf-8", "surrogateescape")
