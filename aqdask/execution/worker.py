"""Setup of Dask worker processes, and the record of the frame that each is working on."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import zarr
from distributed import Worker, WorkerPlugin, get_worker

from aqdask import compilation
from aqdask.errors import FrameTimeout
from aqdask.execution import config

NANNY_TRIM = "MALLOC_TRIM_THRESHOLD_"  # in the environment of every worker that a Dask nanny started
# From glibc's malloc.h: which free memory goes back to the kernel, and what is mapped by itself.
M_TRIM_THRESHOLD, KEPT_BYTES = -1, 256 * 2**20
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 2**30


def dask_setup(worker: object) -> None:
    """Ignore SIGINT in workers that this process starts, which name this module as a preload.

    A terminal sends Ctrl-C to the whole process group, but stopping the workers is up to the client.
    """
    with contextlib.suppress(ValueError):  # a worker in a thread of another process
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class WorkerSettings(WorkerPlugin):
    """Worker plugin that configures zarr and the memory allocator, and tells clients of compilations."""

    name = "aqdask-settings"
    idempotent = True

    def __init__(self) -> None:
        self.zarr = dict(config.get("zarr"))

    def setup(self, worker: Worker) -> None:
        """Give zarr few threads, since each worker has one event loop and workers are processes already."""
        zarr.config.set(self.zarr)
        keep_freed_memory()
        self._listener = compilation.Listener(functools.partial(worker.log_event, compilation.TOPIC))

    def teardown(self, worker: Worker) -> None:
        """Stop telling."""
        self._listener.close()


def keep_freed_memory() -> None:
    """Make the allocator of a Dask worker reuse the memory of one frame for the next.

    Nannies start workers with a trim threshold of 64 KiB (``distributed.nanny.pre-spawn-environ``), which
    also stops glibc from learning the sizes in use: the kernel then clears the pages of every buffer again,
    more system time than a frame takes to compress. A worker keeps about `KEPT_BYTES` at most. A process
    that no nanny started is left as it is.
    """
    if NANNY_TRIM in os.environ:
        with contextlib.suppress(AttributeError, OSError):  # not glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
            libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


_at_work: dict[int, tuple[str, str, float]] = {}  # by thread: key of the task, what it works on, since when


@contextlib.contextmanager
def at_work(subject: str) -> Iterator[None]:
    """Record the subject of the work within a context (a frame id, a path), for the watchdog.

    On a Dask worker the client asks for it (`current_work`). In a main thread without one, an alarm ends the
    work after ``aqdask.frame-timeout``, unless the process uses the alarm signal for something else.

    Raises
    ------
    FrameTimeout
        From the alarm.
    """
    thread = threading.get_ident()
    before = _at_work.get(thread)
    _at_work[thread] = (task_key(), subject, time.monotonic())
    try:
        with _alarm(subject):
            yield
    finally:
        if before is None:
            del _at_work[thread]
        else:
            _at_work[thread] = before


def current_work() -> list[tuple[str, str, float]]:
    """Return key of the task, subject and seconds so far of the work of this process."""
    now = time.monotonic()
    return [(key, subject, now - since) for key, subject, since in list(_at_work.values())]


def task_key() -> str:
    """Return the key of this thread's Dask task; empty where there is none."""
    try:
        return str(get_worker().get_current_task())
    except ValueError:
        return ""


def address() -> str:
    """Return the address of this thread's Dask worker; empty where there is none."""
    try:
        return str(get_worker().address)
    except ValueError:
        return ""


@contextlib.contextmanager
def _alarm(subject: str) -> Iterator[None]:
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, None):
        yield
        return
    limit = config.seconds("frame-timeout")

    def ring(number: int, frame: FrameType | None) -> None:
        raise FrameTimeout(subject, limit)

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
