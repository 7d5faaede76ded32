"""Journal of a watch: one line of JSON for each frame and each command, appended as they happen.

It tells which frames were reported before a restart. A line that a killed process left unfinished is ignored,
and its frame is reported again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aqdask.errors import place_failed
from aqdask.monitor.strict_json import strict_json

NAME = "watch.jsonl"
KNOWN, FRAME, HOOK = "known", "frame", "hook"  # events


class Journal:
    """Journal in a folder.

    Parameters
    ----------
    folder : Path
        Made if it is not there.

    Attributes
    ----------
    is_new : bool
        True if there was no journal.
    frames : dict of str to dict
        Last record of each frame, by id; the key ``version`` tells what was reported.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.frames: dict[str, dict[str, Any]] = {}
        self._reported: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.is_new = not self.path.exists()
            for record in self._records():
                self._apply(record)
            # a line that was not finished is ended
            self._start = "" if self.is_new or self._is_ended() else "\n"
        except OSError as error:
            raise place_failed(self.path, error) from error

    def is_reported(self, frame_id: str, version: str) -> bool:
        """Return True if a frame was reported in this version, and its command has ended."""
        return self._reported.get(frame_id) == version

    def append(self, *records: dict[str, Any]) -> None:
        """Write records, which are on disk afterwards."""
        lines = "".join(f"{strict_json(record)}\n" for record in records)
        try:
            with open(self.path, "ab") as stream:
                stream.write((self._start + lines).encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._start = "\n"
            raise place_failed(self.path, error) from error
        self._start = ""
        for record in records:
            self._apply(record)

    def _is_ended(self) -> bool:
        with open(self.path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            return stream.read() in (b"", b"\n")

    def _records(self) -> Iterator[dict[str, Any]]:
        if self.is_new:
            return
        with open(self.path, "rb") as stream:
            for line in stream:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and "frame_id" in record:
                    yield record

    def _apply(self, record: dict[str, Any]) -> None:
        frame_id = record["frame_id"]
        if record["event"] == FRAME:
            self.frames[frame_id] = record
        if record["event"] == HOOK or not record.get("command"):
            self._reported[frame_id] = record["version"]
