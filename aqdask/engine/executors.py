"""Two ways to run the same tasks: one after the other in this process, or on a Dask cluster.

Both take items from a `WorkQueue` and yield ``(item, result)``, where a result that is an exception stands
for what the task raised. The serial one is short enough to debug everything with.
"""

from __future__ import annotations

import itertools
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from distributed import Client, Future, as_completed

from aqdask.engine import config
from aqdask.engine.replicas import ReplicaPlugin, warm
from aqdask.engine.worker import WorkerSettings
from aqdask.errors import AqdaskError, ClusterError

T = TypeVar("T")
R = TypeVar("R")


class WorkQueue(Generic[T]):
    """Items to be run: a lazy supply, and what is put back in front of it."""

    def __init__(self, supply: Iterable[T]) -> None:
        self._supply = iter(supply)
        self._front: deque[T] = deque()

    def put(self, item: T) -> None:
        """Run ``item`` before what the supply still holds."""
        self._front.append(item)

    def __bool__(self) -> bool:
        """Whether there is an item at hand now."""
        if not self._front:
            self._front.extend(itertools.islice(self._supply, 1))
        return bool(self._front)

    def take(self, most: int) -> list[T]:
        """Up to ``most`` items; fewer only where no more are at hand now."""
        front = [self._front.popleft() for _ in range(min(most, len(self._front)))]
        return front + list(itertools.islice(self._supply, most - len(front)))


class Executor(Protocol):
    """What the drivers of a run need of a machine."""

    @property
    def dashboard(self) -> str:
        """Address of the Dask dashboard, empty where there is none."""
        ...

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""
        ...

    def run(
        self, function: Callable[[T], R], queue: WorkQueue[T], *, stage: str
    ) -> Iterator[tuple[T, R | Exception]]:
        """Run ``function`` on every item of ``queue``; results in order of completion."""
        ...

    def provide(self, bundle: bytes, digest: str) -> None:
        """Make a model bundle known wherever tasks run."""
        ...


class SerialExecutor:
    """Everything here, one after the other."""

    dashboard = ""
    slots = 1

    def run(
        self, function: Callable[[T], R], queue: WorkQueue[T], *, stage: str
    ) -> Iterator[tuple[T, R | Exception]]:
        """See `Executor`."""
        while items := queue.take(1):
            try:
                result: R | Exception = function(items[0])
            except Exception as error:
                result = error
            yield items[0], result

    def provide(self, bundle: bytes, digest: str) -> None:
        """See `Executor`."""
        warm(bundle)


class DaskExecutor:
    """A bounded window of tasks on a Dask cluster: a million frames never exist as tasks at once.

    Parameters
    ----------
    client : distributed.Client
        Connected; it stays the caller's.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        client.register_plugin(WorkerSettings())

    @property
    def dashboard(self) -> str:
        """See `Executor`."""
        return self.client.dashboard_link or ""

    @property
    def slots(self) -> int:
        """Threads of the workers that are there now; at least 1."""
        return max(1, sum(self.client.nthreads().values()))

    def run(
        self, function: Callable[[T], R], queue: WorkQueue[T], *, stage: str
    ) -> Iterator[tuple[T, R | Exception]]:
        """See `Executor`; tasks are named ``<stage>-<number>-<run>``, one group a stage on the dashboard."""
        run, numbers = uuid.uuid4().hex[:8], itertools.count()
        window = int(config.get("window"))
        items: dict[Future, T] = {}
        running = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
        try:
            while True:
                for item in queue.take(max(0, window * self.slots - len(items))):
                    key = f"{stage}-{next(numbers):06d}-{run}"
                    future = self.client.submit(
                        _told, function, item, key=key, pure=False, retries=int(config.get("retries"))
                    )
                    items[future] = item
                    running.add(future)
                if not items:
                    return
                for future, result in running.next_batch():
                    yield items.pop(future), _outcome(future, result)
        finally:
            if items:
                self.client.cancel(list(items), force=True)

    def provide(self, bundle: bytes, digest: str) -> None:
        """See `Executor`."""
        self.client.register_plugin(ReplicaPlugin(bundle, digest))


def _told(function: Callable[[T], R], item: T) -> R | AqdaskError:
    """Run a task on a worker; an error of the place comes back as a value, neither retried nor logged."""
    try:
        return function(item)
    except AqdaskError as error:
        return error


def _outcome(future: Future, result: Any) -> Any:
    """A task's result or the exception it raised; a task that the scheduler lost ends the run."""
    if future.status == "error":
        return result[1]
    if future.status == "finished":
        return result
    raise ClusterError(
        "the Dask scheduler dropped the tasks of this run (it was closed, restarted or lost)",
        expected="a scheduler that lives as long as the run",
        consequence="What was finished is kept",
        remedy="start the cluster again and run the same command: it resumes",
    )
