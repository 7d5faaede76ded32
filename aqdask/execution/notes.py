"""Notes on frames that can be used all the same: counted over a run, and each said once."""

from __future__ import annotations

from collections.abc import Iterable

from aqdask.execution.reporter import Reporter
from aqdask.text import printable

SHOWN = 20  # different notes that are told one by one


class Notes:
    """Counts notes by their words, with the first frame of each."""

    def __init__(self) -> None:
        self.frames: dict[str, set[str]] = {}

    def add(self, frame_id: str, notes: Iterable[str]) -> None:
        """Count the notes on one frame; the same note on the same frame counts once."""
        for note in notes:
            self.frames.setdefault(note, set()).add(frame_id)

    def tell(self, reporter: Reporter) -> None:
        """One line a note, the most frequent first."""
        ordered = sorted(self.frames.items(), key=lambda item: (-len(item[1]), item[0]))
        for note, frames in ordered[:SHOWN]:
            first, number = printable(min(frames)), len(frames)
            where = first if number == 1 else f"{number} frames, such as {first}"
            reporter.say(f"note: {printable(note)} ({where})")
        if len(ordered) > SHOWN:
            reporter.say(f"note: and {len(ordered) - SHOWN} more kinds of notes")
