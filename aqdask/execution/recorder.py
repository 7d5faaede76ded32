"""Storage of the records that workers return: frame-level values, coordinates, and finally the ledger."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from aqdask.execution.coverage import OutOfReferenceCounter
from aqdask.execution.open_archive import OpenArchive
from aqdask.execution.reporter import Reporter
from aqdask.execution.tasks import STORED
from aqdask.store import layout
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, UNREACHABLE, Record
from aqdask.store.quality_store import QualityStore
from aqdask.text import printable

SHOWN = 20  # different notes that are reported one by one

# Fields of a record that the ledger does not store.
PASSING = ("notes", "coordinates", "is_about_path", "worker", "row", "facts")


class Recorder:
    """Writer of the records of one stage of a run over an archive.

    Parameters
    ----------
    archive : OpenArchive
        Held for writing.
    quality : QualityStore or None
        Group that receives frame-level values.
    """

    def __init__(self, archive: OpenArchive, quality: QualityStore | None) -> None:
        self.archive, self.quality = archive, quality
        self.notes, self.outside = defaultdict[str, set[str]](set), OutOfReferenceCounter()
        self._unreachable: dict[str, Record] = {}
        self._reached = 0
        self.worked = np.zeros(archive.ledger.row_count, bool)  # rows that this stage finished
        self._values: dict[int, dict[str, float]] = {}  # to be written before the records that name them

    @classmethod
    @contextlib.contextmanager
    def of(cls, archive: OpenArchive, quality: QualityStore | None) -> Iterator[Recorder]:
        """Make a recorder that writes frame-level values whenever the ledger writes its records."""
        recorder = cls(archive, quality)
        archive.ledger.before_flush.append(recorder._write_values)
        try:
            yield recorder
        finally:
            with layout.storing(archive.path):
                archive.ledger.flush()
            archive.ledger.before_flush.remove(recorder._write_values)

    def _write_values(self) -> None:
        if self.quality and self._values:
            self.quality.write_frame_values(self._values)
            self._values = {}

    def keep(self, records: list[Record]) -> dict[str, str]:
        """Write records; return the state of every frame that is finished, by id."""
        self.archive.lease.check()
        values = {record["row"]: record.get("values", {}) for record in records if "row" in record}
        with layout.storing(self.archive.path):
            for record in records:
                if "coordinates" in record:
                    row = self.archive.ledger.row_of(record["frame_id"])
                    self.archive.frames.write_columns(row, [record["coordinates"]])
            if self.quality and values:
                self._values.update(values)
                self.outside.count(values.values())
            known = [record for record in records if record["event"] != "unreachable"]
            for record in known:
                if record["event"] == "ingest" and record["state"] == QUARANTINED:
                    self._erase(record["frame_id"])
            self.archive.ledger.append(
                {name: value for name, value in record.items() if name not in PASSING} for record in known
            )
        for record in records:
            for note in record.get("notes", ()):
                self.notes[note].add(record["frame_id"])
            if record["event"] == "unreachable":
                self._unreachable[record["frame_id"]] = record
        states = {r["frame_id"]: r.get("state", DONE) for r in known if r["event"] != "kept"}
        finished = (name for name, state in states.items() if state != PENDING)
        self.worked[[self.archive.ledger.row_of(name) for name in finished]] = True
        self._reached += any(record["event"] == "ingest" for record in known)
        return {r["frame_id"]: r.get("state", DONE) for r in known if r["frame_id"] not in self._unreachable}

    def _erase(self, frame_id: str) -> None:
        """Delete what workers stored of a frame before they died on it; its record follows."""
        row = self.archive.ledger.row_of(frame_id)
        if self.archive.frames.has_pixels(row):
            self.archive.frames.erase(row)

    def conclude(self) -> list[str]:
        """Settle the frames whose source could not be reached, and return their ids.

        Stored frames stay as they are. Others are quarantined where the path itself is at fault (missing or
        forbidden), until the next ingest checks it again. They stay pending where a disk failed, no source of
        the run could be reached, or a killed writer has stored their pixels.
        """
        all_at_once = not self._reached and len(self._unreachable) > 1
        records: list[Record] = []
        for frame_id, found in self._unreachable.items():
            about = {"frame_id": frame_id, "reason": UNREACHABLE + found["reason"]}
            if self.archive.ledger.entries[frame_id].state == DONE:
                records.append({"event": "kept", **about})
                continue
            state = QUARANTINED if found["is_about_path"] and not all_at_once else PENDING
            if self.archive.frames.has_pixels(self.archive.ledger.row_of(frame_id)):  # by a killed writer
                state, about["reason"] = PENDING, f"{about['reason']}; {STORED}"
            records.append({"event": "ingest", "state": state, "size": -1, "mtime_ns": -1, **about})
        with layout.storing(self.archive.path):
            self.archive.ledger.append(records)
        return list(self._unreachable)

    def tell(self, reporter: Reporter) -> None:
        """Report notes on the frames of this stage, each in one line, the most frequent first."""
        ordered = sorted(self.notes.items(), key=lambda item: (-len(item[1]), item[0]))
        for note, frames in ordered[:SHOWN]:
            first, number = printable(min(frames)), len(frames)
            where = first if number == 1 else f"{number} frames, such as {first}"
            reporter.say(f"note: {printable(note)} ({where})")
        if len(ordered) > SHOWN:
            reporter.say(f"note: and {len(ordered) - SHOWN} more kinds of notes")
        self.outside.tell(reporter)
