"""Progress display: a bar on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from aqdask.execution.reporter import Reporter, Silent
from aqdask.monitor.rate import Rate, duration, rounded
from aqdask.monitor.strict_json import strict_json
from aqdask.text import plural, printable

LINE_SECONDS = 5.0  # shortest time between two lines of one stage
SHOWN = 10  # failures of one stage that are shown one by one


def reporter_for(*, quiet: bool, as_json: bool) -> Reporter:
    """Choose the reporter for the terminal and the options."""
    if quiet:
        return WarningsOnly(sys.stderr)
    if as_json:
        return JsonReporter(sys.stdout)
    return BarReporter() if sys.stderr.isatty() else LineReporter(sys.stderr)


class _Display(Silent):
    """Reporter that prints failures as they come."""

    _failures = 0

    def frame_failed(self, frame_id: str, reason: str) -> None:
        """See `Reporter`."""
        self._failures += 1
        if self._failures <= SHOWN:
            self.say(f"quarantined: {frame_id}: {reason}")
        elif self._failures == SHOWN + 1:
            self.say("further quarantined frames are listed at the end")


class MessagesOnly(Silent):
    """Passes messages on to another reporter."""

    def __init__(self, shown: Reporter) -> None:
        self.shown = shown

    def say(self, text: str) -> None:
        """See `Reporter`."""
        self.shown.say(text)


class WarningsOnly(Silent):
    """Prints warnings only."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def say(self, text: str) -> None:
        """Print a remark that begins with 'warning: '."""
        if text.startswith("warning: "):
            print(printable(text), file=self.stream, flush=True)


class BarReporter(_Display):
    """Shows a progress bar for each stage, on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._quarantined = self._total = self._done = 0
        self._unit, self._rate = "", Rate()

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""
        self.finish()
        self._quarantined, self._total, self._done, self._failures = 0, total, 0, 0
        self._unit, self._rate = unit, Rate()
        if total == 0:
            return
        columns = (
            TextColumn("{task.description:8}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn(unit.removesuffix("s") if total == 1 else unit), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._bar = Progress(*columns, console=self.console)
        self._task = self._bar.add_task(stage, total=total, note="")
        self._bar.start()

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""
        self._quarantined += quarantined
        if self._bar is not None and self._task is not None:
            self._done += done
            self._total = max(self._total, self._done)  # frames found damaged add to the work
            note = _pace(self._rate.add(done), self._total - self._done, self._unit, self._quarantined)
            self._bar.update(self._task, completed=self._done, total=self._total, note=note)

    def finish(self) -> None:
        """See `Reporter`."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def say(self, text: str) -> None:
        """See `Reporter`."""
        self.console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True)


class LineReporter(_Display):
    """Prints a line every few seconds and at the end of a stage."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._stage, self._unit = "", ""
        self._total = self._done = self._quarantined = self._reported = 0
        self._began = self._reported_at = 0.0
        self._rate = Rate()

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""
        self.finish()
        self._stage, self._total, self._unit = stage, total, unit
        self._done = self._quarantined = self._reported = self._failures = 0
        self._began = self._reported_at = time.monotonic()
        self._rate = Rate()

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""
        self._done += done
        self._total = max(self._total, self._done)
        self._quarantined += quarantined
        self._rate.add(done)
        if time.monotonic() - self._reported_at >= LINE_SECONDS:
            self._print_progress()

    def finish(self) -> None:
        """See `Reporter`."""
        if self._stage and self._done != self._reported:
            self._print_progress()
        self._stage = ""

    def say(self, text: str) -> None:
        """See `Reporter`."""
        print(printable(text), file=self.stream, flush=True)

    def _print_progress(self) -> None:
        self._reported_at, self._reported = time.monotonic(), self._done
        seconds = self._reported_at - self._began
        pace = _pace(self._rate, self._total - self._done, self._unit, self._quarantined)
        more = f", {pace}" if pace else ""
        amount = plural(self._total, self._unit.removesuffix("s"), self._unit)
        self.say(f"{self._stage}: {self._done} of {amount} in {seconds:.1f} s{more}")


def _pace(rate: Rate, left: int, unit: str, quarantined: int) -> str:
    """Describe rate, time left and failures of a stage."""
    parts = [f"{quarantined} quarantined"] if quarantined else []
    if (speed := rate.per_second() if left > 0 else rate.overall()) > 0:
        parts.append(f"{rounded(speed)} {unit}/s")
        if left > 0 and (rest := rate.seconds_left(left)) is not None:
            parts.append(f"about {duration(rest)} left")
    return ", ".join(parts)


class JsonReporter(Silent):
    """Prints one JSON object per line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._stage = ""
        self._total = self._done = self._quarantined = 0
        self._rate = Rate()

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""
        self._stage, self._total, self._done, self._quarantined = stage, total, 0, 0
        self._rate = Rate()
        self.emit(event="start", stage=stage, total=total, unit=unit)

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""
        self._done += done
        self._total = max(self._total, self._done)
        self._quarantined += quarantined
        counts = {"done": self._done, "total": self._total, "quarantined": self._quarantined}
        speed = self._rate.add(done).per_second()
        left = self._rate.seconds_left(self._total - self._done)
        self.emit(event="progress", stage=self._stage, **counts, per_second=speed, seconds_left=left)

    def frame_failed(self, frame_id: str, reason: str) -> None:
        """See `Reporter`."""
        self.emit(event="quarantined", stage=self._stage, frame_id=frame_id, reason=reason)

    def say(self, text: str) -> None:
        """See `Reporter`."""
        self.emit(event="note", text=text)

    def emit(self, **fields: Any) -> None:
        """Print one object."""
        print(strict_json(fields), file=self.stream, flush=True)
