"""A command in a process and a session of its own, slowed down so that it can be killed in the middle."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

PRELOAD = [
    "aqdask.cli.main", "aqdask.measurements.light_curves", "aqdask.measurements.search",
    "aqdask.measurements.stack", "matplotlib.figure",
]  # fmt: skip


def run(words: Sequence[str], frames_per_part: int, ready: object) -> None:
    """Run a command; every file of a table takes 20 ms."""
    from aqdask.cli.main import aqdask
    from aqdask.measurements import frame_tables

    os.setsid()
    with open(os.devnull, "w") as nowhere:
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
    frame_tables.FRAMES_PER_PART = frames_per_part
    os.fsync = lambda descriptor: time.sleep(0.02)
    ready.set()
    aqdask(list(words), standalone_mode=True)
