"""Spans of time of calibrations, and the choice of the calibration of a frame by its time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from aqdask.errors import UsageError

OPEN = ".."  # an open end, as in ISO 8601-2
OF_FRAMES = "frames"  # in place of a span: from the first to the last reference frame
SEPARATOR = "@"  # between filter and span in the key of a calibration
_FIRST, _LAST = -(2**63), 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class TimeSpan:
    """Span of time, half open: a frame of the time ``stop`` is outside.

    Parameters
    ----------
    start, stop : int
        Microseconds since 1970-01-01 UTC; the smallest and largest int64 for an open end.
    """

    start: int = _FIRST
    stop: int = _LAST

    @classmethod
    def parse(cls, text: str) -> TimeSpan:
        """Read an ISO 8601 interval such as ``2024-06-01/2024-09-01`` or ``2024-06-01T20:00:00/..``.

        Raises
        ------
        UsageError
            For other text, a span without any end, or one that ends before it begins.
        """
        parts = text.split("/")
        try:
            if len(parts) != 2 or parts == [OPEN, OPEN]:
                raise ValueError("no interval")
            start, stop = (None if part == OPEN else _microseconds(part) for part in parts)
        except (ValueError, OverflowError) as error:
            raise _refused(text) from error
        found = cls(_FIRST if start is None else start, _LAST if stop is None else stop)
        if found.start >= found.stop:
            raise _refused(text)
        return found

    @classmethod
    def between(cls, start: str | None, stop: str | None) -> TimeSpan:
        """Read a span from two ISO 8601 times, None for an open end; errors as `parse`."""
        return cls.parse(f"{start or OPEN}/{stop or OPEN}")

    def __str__(self) -> str:
        start = OPEN if self.start == _FIRST else iso(self.start)
        return f"{start}/{OPEN if self.stop == _LAST else iso(self.stop)}"

    def __contains__(self, time: object) -> bool:
        return isinstance(time, int) and self.start <= time < self.stop

    def distance(self, time: int) -> int:
        """Return the microseconds from a time to the span; 0 inside."""
        return max(self.start - time, time - self.stop + 1, 0)


def iso(time: int) -> str:
    """Write microseconds since 1970-01-01 UTC as ISO 8601, without a zone."""
    return (_EPOCH + timedelta(microseconds=time)).replace(tzinfo=None).isoformat()


def _microseconds(text: str) -> int:
    """Read an ISO 8601 date or time, in UTC where it names no zone."""
    time = datetime.fromisoformat(text)
    known = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (known - _EPOCH) // timedelta(microseconds=1)


def _refused(text: str) -> UsageError:
    return UsageError(
        f"the span of time {text!r}",
        expected="two ISO 8601 times (UTC), the second one later, as in 2024-06-01/2024-09-01T12:00:00; '..' "
        "for an open end",
        consequence="Nothing was calibrated",
        remedy="check the times (`--from`, `--until`)",
    )


def times_of(times: Iterable[int | None]) -> list[str]:
    """Return the first time, and the first whole second after the last one, as ISO 8601; empty for none."""
    known = [time for time in times if time is not None]
    return [iso(min(known)), iso((max(known) // 1_000_000 + 1) * 1_000_000)] if known else []


class CalibrationSpans:
    """Calibrations with a span of time, by camera and filter.

    Parameters
    ----------
    spans : mapping of str to str
        Span of each key of a bundle, which is ``camera|filter@span``; empty for a calibration without.
    """

    def __init__(self, spans: Mapping[str, str]) -> None:
        self._keys = frozenset(spans)
        self._found: dict[str, list[tuple[TimeSpan, str]]] = {}
        for key, text in sorted(spans.items()):
            if text:
                base = key.removesuffix(f"{SEPARATOR}{text}")
                self._found.setdefault(base, []).append((TimeSpan.parse(text), text))

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, key: object) -> bool:
        """Return True if a ``camera|filter`` has a calibration with a span."""
        return key in self._found

    def filter_at(self, camera: str, filter: str, time: int | None) -> str:
        """Return the filter under which a scorer finds the calibration of a frame.

        That is the calibration whose span holds the time, the one that begins last where there are several;
        else the one without a span; else the nearest in time, or for an unknown time the one that begins
        last. Without calibrations with a span it is the filter itself.
        """
        key = f"{camera}|{filter}"
        if key not in self._found:
            return filter
        spans = self._found[key]
        holding = [one for one in spans if time in one[0]]
        if not holding and key in self._keys:
            return filter
        if not holding and time is not None:
            nearest = min(span.distance(time) for span, _ in spans)
            holding = [one for one in spans if one[0].distance(time) == nearest]
        return f"{filter}{SEPARATOR}{max(holding or spans)[1]}"

    def filters_at(self, cameras: Iterable[str], filters: Iterable[str], times: np.ndarray) -> list[str]:
        """Apply `filter_at` to frames with times ``(n,)``, int64 or datetime64[us], NaT where unknown."""
        if not self:
            return list(filters)
        numbers = times.astype(np.int64).tolist()
        known = (None if time == _FIRST else time for time in numbers)
        return [self.filter_at(*frame) for frame in zip(cameras, filters, known, strict=True)]

    def holds(self, camera: str, filter: str, time: int | None) -> bool:
        """Return True if a span holds the time, or a calibration without a span serves it."""
        key = f"{camera}|{filter}"
        return key in self._keys or any(time in span for span, _ in self._found.get(key, ()))
