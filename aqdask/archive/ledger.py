"""``ledger/``: what happened to every frame, as append-only segments of JSON lines.

The client is the only writer. A segment is a 1-D uint8 array, so that the archive stays one zarr
hierarchy; the union of the segments in order is the state, the last record about a thing wins. A segment
that a kill cut short is void: the work it would have told of is done again, with the same bytes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

PENDING, DONE, QUARANTINED = "pending", "done", "quarantined"
FLUSH_SECONDS = 1.0  # at most this much recorded work is repeated after a kill of the client
FLUSH_RECORDS = 2000
COMPACT_SEGMENTS = 64

Record = dict[str, Any]
REGISTERED = ("path", "hdu", "row", "size", "mtime_ns", "suffix", "card", "state", "reason")


@dataclass(slots=True)
class Score:
    """What one model's scoring of a frame came to.

    ``source`` is the checksum of the pixels that were scored, ``crc32c`` that of the maps, ``values`` the
    frame-level variables.
    """

    state: str
    source: str = ""
    crc32c: str = ""
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """One frame (or a source that gave none): where it comes from and how far it is.

    ``row`` is -1 where the archive holds no row for it; ``suffix`` is the part of the id that names the HDU,
    ``card`` the checksum of the row's coordinates.
    ``crc32c`` is over the stored pixels and their
    invalid mask; ``sha256`` over the source file.
    """

    frame_id: str
    path: str
    hdu: int
    row: int
    size: int
    mtime_ns: int
    suffix: str = ""
    card: str = ""
    state: str = PENDING
    reason: str = ""
    sha256: str = ""
    crc32c: str = ""
    invalid_pixels: int = 0
    attempts: int = 0
    scores: dict[str, Score] = field(default_factory=dict)

    def score_pending(self, quality: str) -> bool:
        """Whether quality group ``quality`` lacks this frame, or holds it for other pixels."""
        score = self.scores.get(quality)
        if score is None or score.state == PENDING:
            return True
        return score.state == DONE and score.source != self.crc32c

    def worst(self, qualities: Sequence[str]) -> tuple[str, str]:
        """State and reason of the pixels, or the reason why one of ``qualities`` could not score them."""
        for quality in qualities:
            state, reason = self.standing(quality)
            if state == QUARANTINED:
                return state, reason if self.state == QUARANTINED else f"{quality}: {reason}"
        return self.state, self.reason

    def standing(self, quality: str = "") -> tuple[str, str]:
        """State and reason of the frame: of its pixels, or with ``quality`` of the frame as scored."""
        if self.state != DONE or not quality:
            return self.state, self.reason
        if self.score_pending(quality):
            return PENDING, ""
        score = self.scores[quality]
        return score.state, score.reason


class Ledger:
    """The state of every frame of an archive, and the only way to change it.

    Parameters
    ----------
    group : zarr.Group
        ``ledger/`` of the archive.
    """

    def __init__(self, group: zarr.Group) -> None:
        self._group = group
        self._buffer: list[Record] = []
        self._flushed = time.monotonic()
        self.entries: dict[str, Entry] = {}
        self.row_count = 0
        self._segments = sorted(int(name) for name in group.array_keys())
        for number in self._segments:
            for record in _read_segment(group[f"{number:06d}"]):  # type: ignore[arg-type]
                self._apply(record)

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self) -> list[Entry]:
        """Entries that own a row of the archive, in row order."""
        return sorted((e for e in self.entries.values() if e.row >= 0), key=lambda entry: entry.row)

    def rejected(self) -> list[Entry]:
        """Sources that own no row, by id."""
        return sorted((e for e in self.entries.values() if e.row < 0), key=lambda entry: entry.frame_id)

    def counts(self, qualities: Sequence[str] = ()) -> dict[str, int]:
        """How many entries are done, quarantined (in pixels or in one of ``qualities``), and pending."""
        counted = Counter(entry.worst(qualities)[0] for entry in self.entries.values())
        return {state: counted[state] for state in (DONE, QUARANTINED, PENDING)}

    def append(self, records: Iterable[Record]) -> None:
        """Apply records and write them out when enough have come together."""
        for record in records:
            self._apply(record)
            self._buffer.append(record)
        if len(self._buffer) >= FLUSH_RECORDS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet as one segment."""
        self._flushed = time.monotonic()
        if self._buffer:
            self._write_segment(self._buffer)
            self._buffer = []

    def close(self) -> None:
        """Flush, and merge the segments when there are many: written whole first, the old removed after."""
        self.flush()
        if len(self._segments) <= COMPACT_SEGMENTS:
            return
        old = list(self._segments)
        self._write_segment([record for entry in self.entries.values() for record in _records_of(entry)])
        for number in old:
            del self._group[f"{number:06d}"]
        self._segments = self._segments[len(old) :]

    def _write_segment(self, records: list[Record]) -> None:
        number = self._segments[-1] + 1 if self._segments else 1
        lines = "".join(json.dumps(r, separators=(",", ":"), ensure_ascii=False) + "\n" for r in records)
        data = np.frombuffer(lines.encode("utf-8", "surrogateescape"), dtype="uint8")
        array = self._group.create_array(
            f"{number:06d}", shape=data.shape, dtype="uint8", chunks=data.shape,
            compressors=[ZstdCodec(level=1), Crc32cCodec()], dimension_names=(f"byte_{number:06d}",),
            attributes={"long_name": "records of the ledger, one JSON object a line, UTF-8"},
            overwrite=True,  # of what this process could not finish, on a disk that was full
        )  # fmt: skip
        array[:] = data
        self._segments.append(number)

    def _apply(self, record: Record) -> None:
        event, frame_id = record["event"], record["frame_id"]
        if event == "register":
            former = self.entries.get(frame_id)
            self.row_count = max(self.row_count, record["row"] + 1)
            scores = former.scores if former else {}
            known = {name: record[name] for name in REGISTERED if name in record}
            self.entries[frame_id] = Entry(frame_id, **known, scores=scores)
            return
        entry = self.entries[frame_id]
        if event == "ingest":
            entry.state = record["state"]
            entry.reason = record.get("reason", "")
            entry.sha256 = record.get("sha256", entry.sha256)
            entry.crc32c = record.get("crc32c", "")
            entry.invalid_pixels = record.get("invalid_pixels", 0)
            entry.attempts = record.get("attempts", entry.attempts + 1)
            # other pixels may be scored after all
            entry.scores = {name: score for name, score in entry.scores.items() if score.state == DONE}
        elif event == "score":
            names = ("state", "source", "crc32c", "reason", "values")
            entry.scores[record["quality"]] = Score(**{n: record[n] for n in names if n in record})
        elif event == "touch":  # the same content under another time stamp, or (-1) other content
            entry.size, entry.mtime_ns = record["size"], record["mtime_ns"]
        else:
            raise ValueError(f"unknown ledger event {event!r}")


def _records_of(entry: Entry) -> Iterator[Record]:
    """The records that rebuild one entry."""
    yield {"event": "register", "frame_id": entry.frame_id, **{n: getattr(entry, n) for n in REGISTERED}}
    if entry.attempts:
        names = ("frame_id", "state", "reason", "sha256", "crc32c", "invalid_pixels", "attempts")
        yield {"event": "ingest", **{name: getattr(entry, name) for name in names}}
    for quality, score in entry.scores.items():
        yield {
            "event": "score", "frame_id": entry.frame_id, "quality": quality, "state": score.state,
            "source": score.source, "crc32c": score.crc32c, "reason": score.reason, "values": score.values,
        }  # fmt: skip


def _read_segment(array: zarr.Array) -> list[Record]:
    try:
        text = np.asarray(array[:]).tobytes().decode("utf-8", "surrogateescape")
        return [json.loads(line) for line in text.split("\n") if line]
    except ValueError:  # no chunk (zeros), or one that its checksum or JSON refuses: cut off by a kill
        return []
