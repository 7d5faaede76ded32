"""Telemetry of a command: counts, rates, the latest frames and failures, as the live page shows them."""

from __future__ import annotations

import base64
import math
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from aqdask.execution.reporter import FrameFacts, Reporter
from aqdask.monitor.rate import Rate

LATEST, PICTURES, BAD_PICTURES, FAILURES, MESSAGES, HISTORY = 20, 8, 4, 50, 20, 600
PARTS = ("read", "store", "statistics", "network", "decision", "write")


class Telemetry:
    """Reporter that keeps what the live page shows, and passes everything on to another reporter.

    Parameters
    ----------
    shown : Reporter
        Display on the terminal.
    command : str
        Name of the command, such as ``score``.
    """

    pictures = True

    def __init__(self, shown: Reporter, command: str = "") -> None:
        self.shown, self.command = shown, command
        self._lock = threading.Lock()
        self._started, self._state = _now(), "running"
        self._stages: list[dict[str, Any]] = []
        self._rate = Rate()
        self._began = time.monotonic()
        self._latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._pictures: deque[dict[str, Any]] = deque(maxlen=PICTURES)
        self._bad_pictures: deque[dict[str, Any]] = deque(maxlen=BAD_PICTURES)
        self._failures: deque[dict[str, Any]] = deque(maxlen=FAILURES)
        self._messages: deque[str] = deque(maxlen=MESSAGES)
        self._history: deque[tuple[float, float]] = deque(maxlen=HISTORY)
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._timed = self._failed = 0
        self._timed_stage = ""  # to which the times belong
        self.version = 0  # grows with every change

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """See `Reporter`."""
        with self._lock:
            self._end_stage()
            self._rate, self._began = Rate(), time.monotonic()
            self._history.clear()
            self._stages.append(_stage(stage, total, unit))
            self.version += 1
        self.shown.start(stage, total, unit)

    def advance(self, done: int, quarantined: int = 0) -> None:
        """See `Reporter`."""
        with self._lock:
            if self._stages:
                stage = self._stages[-1]
                stage["done"] += done
                stage["total"] = max(stage["total"], stage["done"])
                stage["quarantined"] += quarantined
                self._rate.add(done)
                self.version += 1
        self.shown.advance(done, quarantined)

    def finish(self) -> None:
        """See `Reporter`."""
        with self._lock:
            self._end_stage()
            self.version += 1
        self.shown.finish()

    def say(self, text: str) -> None:
        """See `Reporter`."""
        with self._lock:
            self._messages.append(text)
            self.version += 1
        self.shown.say(text)

    def frame_done(self, frame_id: str, facts: FrameFacts) -> None:
        """See `Reporter`."""
        row = {
            "frame_id": frame_id, "time": _now(), "score": _finite(facts.score),
            "masked": _finite(facts.masked), "reason": facts.reason,
            "seconds": {name: round(value, 4) for name, value in facts.seconds.items()},
        }  # fmt: skip
        with self._lock:
            if self._timed_stage != (stage := self._stages[-1]["stage"] if self._stages else ""):
                self._seconds, self._timed, self._timed_stage = dict.fromkeys(PARTS, 0.0), 0, stage
            for name, value in facts.seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + value
            self._timed += not math.isnan(facts.score) or self._is_ingest()
            if self._latest and self._latest[-1]["frame_id"] == frame_id:  # ingested, and scored now
                row["seconds"] = self._latest.pop()["seconds"] | row["seconds"]
            self._latest.append(row)
            if facts.picture:
                text = base64.b64encode(facts.picture).decode()
                shown = {"picture": f"data:image/jpeg;base64,{text}", "is_bad": facts.is_bad}
                (self._bad_pictures if facts.is_bad else self._pictures).append(row | shown)
            self.version += 1
        self.shown.frame_done(frame_id, facts)

    def frame_failed(self, frame_id: str, reason: str) -> None:
        """See `Reporter`."""
        with self._lock:
            self._failed += 1
            self._failures.append({"frame_id": frame_id, "time": _now(), "reason": reason})
            self.version += 1
        self.shown.frame_failed(frame_id, reason)

    def close(self, state: str = "finished") -> None:
        """State the end of the command: 'finished', 'interrupted' or 'failed'."""
        with self._lock:
            self._end_stage()
            self._state = state
            self.version += 1

    def snapshot(self) -> dict[str, Any]:
        """Return everything as plain values: what ``/aqdask.json`` gives of a run."""
        with self._lock:
            stage = self._stages[-1] if self._stages else _stage("", 0)
            speed = self._rate.per_second() if stage["seconds"] is None else 0.0
            left = self._rate.seconds_left(stage["total"] - stage["done"])
            if stage["seconds"] is None:
                self._history.append((time.time(), round(speed, 4)))
            frames = max(self._timed, 1)
            return {
                "command": self.command, "state": self._state, "started": self._started, "updated": _now(),
                **{name: stage[name] for name in ("stage", "unit", "done", "total")},
                "quarantined": max(self._failed, stage["quarantined"]),
                "per_second": round(speed, 4),
                "seconds_left": round(left, 1) if speed > 0 and left else None,
                "stages": [dict(entry) for entry in self._stages],
                "frames_timed": self._timed, "timed_stage": self._timed_stage,
                "seconds_a_frame": {name: round(value / frames, 5) for name, value in self._seconds.items()},
                "latest": list(reversed(self._latest)),
                "pictures": [*reversed(self._bad_pictures), *reversed(self._pictures)],
                "failures": list(reversed(self._failures)),
                "messages": list(reversed(self._messages)),
                "history": list(self._history),
            }  # fmt: skip

    def _is_ingest(self) -> bool:
        return bool(self._stages) and self._stages[-1]["stage"] == "ingest"

    def _end_stage(self) -> None:
        if self._stages and self._stages[-1]["seconds"] is None:
            self._stages[-1]["seconds"] = round(time.monotonic() - self._began, 2)


def _stage(stage: str, total: int, unit: str = "frames") -> dict[str, Any]:
    return {"stage": stage, "unit": unit, "total": total, "done": 0, "quarantined": 0, "seconds": None}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
