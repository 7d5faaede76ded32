"""Interface through which a run reports its progress; `aqdask.monitor` displays it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aqdask.methods.training.progress import TrainProgress

NOTE = "note: "  # start of a message


@dataclass(frozen=True)
class FrameFacts:
    """Description of a finished frame, for display; nothing of it is stored.

    Parameters
    ----------
    score, masked : float
        Frame score, and masked fraction of the patches in 0 to 1; NaN where it was not scored.
    reason : str
        Reason of most masked patches; empty without any.
    seconds : mapping of str to float
        Time that parts of the work took: 'read', 'store', 'statistics', 'network', 'decision', 'write'.
    picture : bytes
        JPEG of the frame with its mask; empty for most frames.
    is_bad : bool
        The frame is flagged, or mostly masked where the method has no flag.
    """

    score: float = math.nan
    masked: float = math.nan
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    picture: bytes = b""
    is_bad: bool = False


class Reporter(Protocol):
    """Receiver of progress: stages with a known amount of work, frames, and messages.

    Attributes
    ----------
    pictures : bool
        True where pictures of frames are shown.
    """

    pictures: bool

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """Begin a stage with ``total`` units of work."""
        ...

    def advance(self, done: int, quarantined: int = 0) -> None:
        """Count ``done`` more finished units, ``quarantined`` of them with a reason instead of a result."""
        ...

    def finish(self) -> None:
        """End the stage."""
        ...

    def say(self, text: str) -> None:
        """Show a message to the user."""
        ...

    def frame_done(self, frame_id: str, facts: FrameFacts) -> None:
        """Show a finished frame; it is counted by `advance`."""
        ...

    def frame_failed(self, frame_id: str, reason: str) -> None:
        """Show a quarantined frame, or source, with its reason; it is counted by `advance`."""
        ...


class Silent:
    """Reporter that shows nothing."""

    pictures = False

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""

    def finish(self) -> None:
        """See `Reporter`."""

    def say(self, text: str) -> None:
        """See `Reporter`."""

    def frame_done(self, frame_id: str, facts: FrameFacts) -> None:
        """See `Reporter`."""

    def frame_failed(self, frame_id: str, reason: str) -> None:
        """See `Reporter`."""


class NoteKeeper:
    """Listener that keeps notes, and passes everything on.

    Parameters
    ----------
    reporter : Reporter
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self.notes = reporter, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)

    def say(self, text: str) -> None:
        """See `Reporter`."""
        if text.startswith(NOTE):
            self.notes.append(text.removeprefix(NOTE))
        self._reporter.say(text)


class TrainingReporter:
    """Listener that passes the progress of a training or calibration on to a reporter."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._stage, self._done = "", 0

    def __call__(self, progress: TrainProgress) -> None:
        if progress.stage == "note":
            self.reporter.say(f"{NOTE}{progress.note}")
            return
        if progress.stage != self._stage or progress.done < self._done:  # a stage may start over
            unit = "steps" if progress.stage == "train" else "frames"
            self.reporter.start(progress.stage, progress.total, unit)
            self._stage, self._done = progress.stage, 0
        self.reporter.advance(progress.done - self._done)
        self._done = progress.done
