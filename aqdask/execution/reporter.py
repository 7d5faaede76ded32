"""What a run tells while it goes on; `aqdask.monitor.progress` shows it."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Listens to a run: stages with a known amount of work, and remarks."""

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """A stage begins, with ``total`` units of work."""
        ...

    def advance(self, done: int, quarantined: int = 0) -> None:
        """``done`` more units are finished, ``quarantined`` of them with a reason instead of a result."""
        ...

    def finish(self) -> None:
        """The stage is over."""
        ...

    def say(self, text: str) -> None:
        """One remark for the user."""
        ...


class Silent:
    """Listens to nothing."""

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""

    def finish(self) -> None:
        """See `Reporter`."""

    def say(self, text: str) -> None:
        """See `Reporter`."""
