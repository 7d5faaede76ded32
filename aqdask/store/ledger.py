"""Group ``ledger/`` of an archive: a log of records about every frame, in append-only segments of JSON lines.

The client is the only writer. A segment is a 1-D uint8 array, so that the archive stays one zarr hierarchy.
The state of a frame follows from all records in order, the last one of a kind wins. Segments are numbered
without gaps. The chunk of a segment is written before its metadata, each by a rename, so that a killed client
leaves a whole segment or none: a segment that is missing or does not decode is damage. A segment that begins
with a snapshot replaces all earlier ones.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numcodecs
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from aqdask.io.frame_type import header_type
from aqdask.specs import is_light
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore, Place

PENDING, DONE, QUARANTINED = "pending", "done", "quarantined"
SKIPPED = "skipped"  # of a model's scores only: the frame is no light and was not asked for
FLUSH_SECONDS = 1.0  # at most this much recorded work is repeated after a kill of the client
FLUSH_RECORDS = 2000
COMPACT_SEGMENTS = 64

Record = dict[str, Any]
REGISTERED = ("path", "hdu", "row", "size", "mtime_ns", "suffix", "card", "frame_type", "state", "reason")
UNREACHABLE = "source unreachable: "  # how the reason of a frame begins whose source could not be read at all


@dataclass(slots=True)
class Score:
    """Result of scoring a frame with one model.

    ``source`` is the checksum of the scored pixels, ``crc32c`` that of the maps, and ``values`` holds the
    frame-level variables.
    """

    state: str
    source: str = ""
    crc32c: str = ""
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """State of one frame, or of a source without frames.

    ``row`` is -1 for a source without frames; ``suffix`` is the part of the id that names the HDU, and
    ``card`` the checksum of the row's coordinates. ``frame_type`` is that of `FrameMetadata`, None where a
    layout before 3 did not record it.
    ``crc32c`` is over the stored pixels and their invalid mask; ``sha256`` over the source file.
    ``changed`` marks a stored frame whose source has new content, to be ingested again; ``problem`` is the
    reason why that failed, for the source as of ``tried`` (size and time; None where it could not be read).
    Stored pixels stay until they are replaced, whatever happens to the source.
    """

    frame_id: str
    path: str
    hdu: int
    row: int
    size: int
    mtime_ns: int
    suffix: str = ""
    card: str = ""
    frame_type: str | None = None
    state: str = PENDING
    reason: str = ""
    sha256: str = ""
    crc32c: str = ""
    invalid_pixels: int = 0
    attempts: int = 0
    changed: bool = False
    problem: str = ""
    tried: tuple[int, int] | None = None
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Row, source and checksum of the frame."""
        return Place(self.row, self.path, self.hdu, self.crc32c)

    def score_pending(self, quality: str) -> bool:
        """Return True if a quality group lacks this frame, or holds scores of other pixels."""
        score = self.scores.get(quality)
        if score is None or score.state == PENDING:
            return True
        return score.state == DONE and score.source != self.crc32c

    def is_skipped(self, quality: str) -> bool:
        """Return True if a quality group holds nothing of this frame because it is no light."""
        return quality not in self.scores and not is_light(self.frame_type)

    def worst(self, qualities: Sequence[str]) -> tuple[str, str]:
        """Return state and reason of the pixels, or of the first quality group that could not score them."""
        for quality in qualities:
            state, reason = self.standing(quality)
            if state == QUARANTINED:
                return state, reason if self.state == QUARANTINED else f"{quality}: {reason}"
        return self.standing()

    def standing(self, quality: str = "") -> tuple[str, str]:
        """Return state and reason of the pixels, or with ``quality`` of the scores."""
        if self.changed:
            return PENDING, "its source has changed"
        if self.state != DONE or not quality:
            return self.state, self.reason
        if self.is_skipped(quality):
            return SKIPPED, f"not a light: {self.frame_type}"
        if self.score_pending(quality):
            return PENDING, ""
        score = self.scores[quality]
        return score.state, score.reason


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
    entries : dict of str to Entry
        By frame id.
    qualities : dict of str to dict
        Contents of each quality group, by name; see `aqdask.store.quality_store.QualitySpec`.
    damage : list of str
        Segments that are missing or do not decode, so that records are lost.
    orphans : dict of str to None
        Frame ids, in order, of records about unregistered frames.
    """

    def __init__(self, group: zarr.Group, layout_version: int = layout.LAYOUT_VERSION) -> None:
        self._group, self._layout_version = group, layout_version
        self._buffer: list[Record] = []
        self._flushed = time.monotonic()
        self.entries: dict[str, Entry] = {}
        self.qualities: dict[str, Record] = {}
        self.damage: list[str] = []
        self.orphans: dict[str, None] = {}
        self.row_count = 0
        self._numbers = _numbers(group)
        self._superseded: list[int] = []
        for records in self._since_snapshot(layout_version):
            for record in records:
                self._apply(record)

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self) -> list[Entry]:
        """Return the entries that own a row of the archive, in row order."""
        return sorted((e for e in self.entries.values() if e.row >= 0), key=lambda entry: entry.row)

    def rejected(self) -> list[Entry]:
        """Return the entries of sources without frames, sorted by id."""
        return sorted((e for e in self.entries.values() if e.row < 0), key=lambda entry: entry.frame_id)

    def counts(self, qualities: Sequence[str] = ()) -> dict[str, int]:
        """Count entries by state; quarantined are also those that one of ``qualities`` could not score."""
        counted = Counter(entry.worst(qualities)[0] for entry in self.entries.values())
        return {state: counted[state] for state in (DONE, QUARANTINED, PENDING)}

    def not_lights(self, quality: str = "") -> dict[str, int]:
        """Count the stored frames that are no lights by type; with ``quality``, those that it skips."""
        found = (e for e in self.rows() if e.state == DONE and not is_light(e.frame_type))
        return dict(Counter(str(e.frame_type) for e in found if not quality or e.is_skipped(quality)))

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
        if self._buffer:
            self._write_segment(self._buffer)
            self._buffer = []

    def close(self) -> None:
        """Flush, and merge the segments when there are many."""
        self.flush()
        if len(self._numbers) > COMPACT_SEGMENTS:
            self.compact()
        self._remove_superseded()

    def compact(self) -> None:
        """Write the whole state as one snapshot, then remove the segments before it."""
        self.flush()
        before = list(self._numbers)
        self._write_segment(list(self._snapshot()))
        self._superseded = before
        self._remove_superseded()

    def _snapshot(self) -> Iterator[Record]:
        yield {"event": "snapshot"}
        yield from self.qualities.values()
        for entry in self.entries.values():
            yield from _records_of(entry)

    def _since_snapshot(self, layout_version: int) -> list[list[Record]]:
        """Read the segments from the last snapshot on, in order, and add lost ones to `damage`."""
        found: list[list[Record]] = []
        for number in range(self._numbers[-1] if self._numbers else 0, 0, -1):
            records = _read_segment(self._group, number)
            if records is None:
                if layout_version > 1 or _chunk(self._group, number) is not None:
                    self.damage.append(f"segment {number:06d} is missing or does not decode")
                continue
            found.append(records)
            if records and records[0]["event"] == "snapshot":
                self._superseded = [n for n in self._numbers if n < number]
                break
        self.damage.reverse()
        return found[::-1]

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

    def _write_segment(self, records: list[Record]) -> None:
        number = self._numbers[-1] + 1 if self._numbers else 1
        lines = "".join(json.dumps(r, separators=(",", ":"), ensure_ascii=False) + "\n" for r in records)
        data = lines.encode("utf-8", "surrogateescape")
        packed = bytes(_ZSTD.encode(data))
        chunk = packed + google_crc32c.value(packed).to_bytes(4, "little")
        layout.write_new(self._group.store_path / f"{number:06d}/c/0", chunk)
        self._write_metadata(number, len(data))
        self._numbers.append(number)

    def _write_metadata(self, number: int, length: int) -> None:
        self._group.create_array(
            f"{number:06d}", shape=(length,), dtype="uint8", chunks=(length,),
            compressors=[ZstdCodec(level=1), Crc32cCodec()], dimension_names=(f"byte_{number:06d}",),
            attributes={"long_name": "records of the ledger, one JSON object a line, UTF-8"},
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
            for entry in self.entries.values():
                entry.scores.pop(record["name"], None)
            return
        if event not in _EVENTS:
            raise ValueError(f"unknown ledger event {event!r}")
        frame_id = record["frame_id"]
        if event == "drop":  # a source that gave no frame, and gives some under other ids now
            self.entries.pop(frame_id, None)
        elif event == "register":
            former = self.entries.get(frame_id)
            if former and former.state == DONE and self._layout_version > 1:
                self.damage.append(f"{frame_id} is registered again, though it is stored")
                return
            self.row_count = max(self.row_count, record["row"] + 1)
            scores = former.scores if former else {}
            known = {name: record[name] for name in REGISTERED if name in record}
            self.entries[frame_id] = Entry(frame_id, **known, scores=scores)
            self.orphans.pop(frame_id, None)
        elif frame_id in self.entries:
            _EVENTS[event](self.entries[frame_id], record)
        else:  # what a compaction of layout 1 left behind when it was killed
            self.orphans[frame_id] = None


def open_ledger(root: zarr.Group, *, damaged: bool = False) -> Ledger:
    """Open the ledger of an archive, also where the metadata of its group are lost.

    Raises
    ------
    ArchiveError
        If records are lost, unless ``damaged``: the remaining ones describe an older state.
    """
    ledger = Ledger(layout.group(root, "ledger"), layout.version_of(root))
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
    missing = defaultdict[int, list[Entry]](list)
    for entry in ledger.rows():
        if entry.frame_type is None:
            missing[entry.row // layout.ROWS_PER_CHUNK].append(entry)
    if not missing:
        return
    frames = FrameStore.at(root)
    for chunk, entries in missing.items():
        start = chunk * layout.ROWS_PER_CHUNK
        rows = slice(start, start + layout.ROWS_PER_CHUNK)
        columns = [layout.read_values(frames.group, name, rows) for name in ("header", "primary_header")]
        headers = list(zip(*columns, strict=False)) if all(c is not None for c in columns) else []
        for entry in entries:
            if entry.row - start < len(headers):
                header, primary = map(str, headers[entry.row - start])
                entry.frame_type = header_type(header, primary, frames.spec.read.keywords)


def _ingested(entry: Entry, record: Record) -> None:
    entry.state = record["state"]
    entry.reason = record.get("reason", "")
    entry.sha256 = record.get("sha256", entry.sha256)
    entry.crc32c = record.get("crc32c", "")
    entry.card = record.get("card", entry.card)
    entry.frame_type = record.get("frame_type", entry.frame_type)
    entry.size, entry.mtime_ns = record.get("size", entry.size), record.get("mtime_ns", entry.mtime_ns)
    entry.invalid_pixels = record.get("invalid_pixels", 0)
    entry.attempts = record.get("attempts", entry.attempts + 1)
    entry.changed, entry.problem, entry.tried = False, "", None
    # other pixels may be scored after all
    entry.scores = {name: score for name, score in entry.scores.items() if score.state == DONE}


def _scored(entry: Entry, record: Record) -> None:
    names = ("state", "source", "crc32c", "reason", "values")
    entry.scores[record["quality"]] = Score(**{n: record[n] for n in names if n in record})


def _touched(entry: Entry, record: Record) -> None:
    """Store another time stamp of the same content, or -1 for other content."""
    entry.size, entry.mtime_ns = record["size"], record["mtime_ns"]
    entry.problem, entry.tried = "", None


def _changed(entry: Entry, record: Record) -> None:
    entry.changed, entry.hdu, entry.problem, entry.tried = True, record["hdu"], "", None


def _kept(entry: Entry, record: Record) -> None:
    entry.changed, entry.problem = False, record["reason"]
    entry.tried = (record["size"], record["mtime_ns"]) if "size" in record else None


_EVENTS: dict[str, Callable[[Entry, Record], None]] = {
    "register": lambda entry, record: None,
    "drop": lambda entry, record: None,
    "ingest": _ingested,
    "score": _scored,
    "touch": _touched,
    "changed": _changed,
    "kept": _kept,
}
_ZSTD = numcodecs.Zstd(level=1)


def _records_of(entry: Entry) -> Iterator[Record]:
    """Yield the records that restore one entry."""
    about = {"frame_id": entry.frame_id}
    yield {"event": "register", **about, **{n: getattr(entry, n) for n in REGISTERED}}
    if entry.attempts:
        names = ("state", "reason", "sha256", "crc32c", "invalid_pixels", "attempts")
        yield {"event": "ingest", **about, **{name: getattr(entry, name) for name in names}}
    if entry.changed:
        yield {"event": "changed", **about, "hdu": entry.hdu}
    if entry.problem:
        stamp = dict(zip(("size", "mtime_ns"), entry.tried, strict=True)) if entry.tried else {}
        yield {"event": "kept", **about, "reason": entry.problem, **stamp}
    for quality, score in entry.scores.items():
        yield {
            "event": "score", **about, "quality": quality, "state": score.state, "source": score.source,
            "crc32c": score.crc32c, "reason": score.reason, "values": score.values,
        }  # fmt: skip


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


def _read_segment(group: zarr.Group, number: int) -> list[Record] | None:
    """Read the records of a segment from its chunk, without its metadata; None where it is damaged."""
    chunk = _chunk(group, number)
    if chunk is None or google_crc32c.value(chunk[:-4]) != int.from_bytes(chunk[-4:], "little"):
        return None
    try:
        text = bytes(_ZSTD.decode(chunk[:-4])).decode("utf-8", "surrogateescape")
        return [json.loads(line) for line in text.split("\n") if line]
    except (ValueError, RuntimeError):
        return None
