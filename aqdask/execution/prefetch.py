"""Reading ahead: what a task reads next is read while it computes."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def prefetched(function: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[Iterator[R]]:
    """Yield an iterator of ``function(item)``, computed in order by a thread, ``depth`` ahead at most.

    An exception of the function is raised where its result was asked for, and ends the iterator. The thread
    is a daemon: one that hangs outlives the context, not the process. It sees the Dask worker of its caller.
    """
    results: queue.SimpleQueue[tuple[R | None, BaseException | None]] = queue.SimpleQueue()
    free, stopped = threading.Semaphore(depth), threading.Event()
    pending = list(items)

    def work() -> None:
        for item in pending:
            free.acquire()
            if stopped.is_set():
                return
            try:
                results.put((function(item), None))
            except BaseException as error:
                results.put((None, error))
                return

    def taken() -> Iterator[R]:
        for _ in pending:
            result, error = results.get()
            free.release()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    try:
        yield taken()
    finally:
        stopped.set()
        free.release()
