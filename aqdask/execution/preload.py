"""Loaded by every worker that this process starts: Ctrl-C is for the client, which stops its workers.

A terminal sends SIGINT to the whole group; a worker that took it would end with a traceback of its own.
"""

from __future__ import annotations

import contextlib
import signal

from distributed import Worker


def dask_setup(worker: Worker) -> None:
    """Ignore SIGINT; Dask calls this when the worker starts."""
    with contextlib.suppress(ValueError):  # a worker in a thread of somebody's process has no say
        signal.signal(signal.SIGINT, signal.SIG_IGN)
