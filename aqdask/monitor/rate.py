"""Rate of a stage, time left of it, and durations in words."""

from __future__ import annotations

import time
from collections import deque

SECONDS, STEPS = 60.0, 10  # the rate is that of so many seconds, or of so many steps where they take longer
FEWEST = 3  # steps after which a time left is stated


class Rate:
    """Finished units a second, over the last minute or the last steps."""

    def __init__(self) -> None:
        self._done = self._count = 0
        self._began = time.monotonic()
        self._steps = deque([(self._began, 0)])

    def add(self, done: int) -> Rate:
        """Count ``done`` more units."""
        now = time.monotonic()
        self._done += done
        self._count += 1
        self._steps.append((now, self._done))
        if self._count == FEWEST:
            self._steps.popleft()  # the first step took longer: workers were started
        while len(self._steps) > STEPS + 1 and self._steps[1][0] < now - SECONDS:
            self._steps.popleft()
        return self

    def per_second(self) -> float:
        """Return the rate until now; 0 before anything is done."""
        since, before = self._steps[0]
        return (self._done - before) / max(time.monotonic() - since, 1e-6)

    def overall(self) -> float:
        """Return the rate from the beginning until now."""
        return self._done / max(time.monotonic() - self._began, 1e-6)

    def seconds_left(self, left: int) -> float | None:
        """Estimate the time for ``left`` more units; None after too few steps."""
        speed = self.per_second()
        return left / speed if self._count >= FEWEST and speed > 0 else None


def rounded(value: float) -> str:
    """Return three digits of a positive number, without an exponent where it is large: ``2,400``."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Return a time in words: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
