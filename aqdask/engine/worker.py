"""How a Dask worker process is set up: the settings of libraries, and memory that it keeps."""

from __future__ import annotations

import contextlib
import ctypes
import os

import zarr
from distributed import WorkerPlugin

from aqdask.engine import config

NANNY_TRIM = "MALLOC_TRIM_THRESHOLD_"  # in the environment of every worker that a Dask nanny started
# From glibc's malloc.h: which free memory goes back to the kernel, and what is mapped by itself.
M_TRIM_THRESHOLD, KEPT_BYTES = -1, 256 * 2**20
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 2**30


class WorkerSettings(WorkerPlugin):
    """Settings of the libraries in a worker process."""

    name = "aqdask-settings"
    idempotent = True

    def __init__(self) -> None:
        self.zarr = dict(config.get("zarr"))

    def setup(self, worker: object) -> None:
        """One event loop a process: few threads, since workers are processes already."""
        zarr.config.set(self.zarr)
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let a Dask worker keep the memory of one frame for the next.

    Nannies start workers with a trim threshold of 64 KiB (``distributed.nanny.pre-spawn-environ``), which
    also stops glibc from learning the sizes in use: the kernel then clears the pages of every buffer anew,
    more system time than a frame takes to compress. A worker keeps about `KEPT_BYTES` at most. A process
    that no nanny started is left as it is.
    """
    if NANNY_TRIM in os.environ:
        with contextlib.suppress(AttributeError, OSError):  # not glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
            libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
