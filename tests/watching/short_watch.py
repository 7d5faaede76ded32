"""Numbers and helpers of the tests of the watch."""

from __future__ import annotations

from typing import Any

FRAMES = 6
TIMES: dict[str, Any] = {"settle": 0.05, "poll": 0.02, "patience": 0.4, "idle": 0.5}


def frames_of(events: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """Frame id and some fields of every frame, in order."""
    return [tuple(e[name] for name in ("frame_id", *names)) for e in events if e["event"] == "frame"]
