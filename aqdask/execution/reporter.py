"""Interface through which a run reports its progress; `aqdask.monitor.progress` displays it."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receiver of progress: stages with a known amount of work, and messages."""

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


class Silent:
    """Reporter that shows nothing."""

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""

    def finish(self) -> None:
        """See `Reporter`."""

    def say(self, text: str) -> None:
        """See `Reporter`."""
