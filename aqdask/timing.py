"""Time that parts of a frame's work take: `stopwatch` sums what `timed` measures within it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

_running = threading.local()


class Stopwatch:
    """Seconds by part. Parts do not overlap: an inner one interrupts the one around it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._part, self._since = "", time.perf_counter()

    def switch(self, part: str) -> str:
        """Count from now on for ``part``, for nothing where it is empty; return the part before."""
        now, before = time.perf_counter(), self._part
        if before:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before


@contextlib.contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Collect the seconds of the parts that this thread runs within the context, by name."""
    before = getattr(_running, "watch", None)
    _running.watch = watch = Stopwatch()
    try:
        yield watch.seconds
    finally:
        _running.watch = before


@contextlib.contextmanager
def timed(part: str) -> Iterator[None]:
    """Count the time within the context for a part; does nothing without a `stopwatch`."""
    watch: Stopwatch | None = getattr(_running, "watch", None)
    if watch is None:
        yield
        return
    before = watch.switch(part)
    try:
        yield
    finally:
        watch.switch(before)
