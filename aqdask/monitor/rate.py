"""Rate of a stage, and durations in words."""

from __future__ import annotations

import time
from collections import deque

SECONDS, STEPS = 60.0, 10  # the rate is that of so many seconds, or of so many steps where they take longer


class Rate:
    """Finished units a second, over the last minute or the last steps."""

    def __init__(self) -> None:
        self._done = 0
        self._steps = deque([(time.monotonic(), 0)])

    def add(self, done: int) -> Rate:
        """Count ``done`` more units."""
        now = time.monotonic()
        self._done += done
        self._steps.append((now, self._done))
        if len(self._steps) == 5 and not self._steps[0][1]:
            self._steps.popleft()  # the first step took longer: workers were started
        while len(self._steps) > STEPS + 1 and self._steps[1][0] < now - SECONDS:
            self._steps.popleft()
        return self

    def per_second(self) -> float:
        """Return the rate until now; 0 before anything is done."""
        since, before = self._steps[0]
        return (self._done - before) / max(time.monotonic() - since, 1e-6)


def duration(seconds: float) -> str:
    """Return a time in words: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
