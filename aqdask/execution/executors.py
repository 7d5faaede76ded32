"""Executors: the same tasks run one after the other in this process, or on a Dask cluster.

Both executors take items from a `WorkQueue` and yield ``(item, result)``. The result of a task
that raised is its exception. The serial executor is meant for debugging, too.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import operator
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from distributed import Client, Future, KilledWorker, WorkerPlugin, as_completed
from distributed.comm import CommClosedError

from aqdask.errors import AqdaskError, ClusterError, FrameTimeout
from aqdask.execution import config
from aqdask.execution.model_cache import ModelPlugin, load_cached
from aqdask.execution.versions import difference, read_versions, versions
from aqdask.execution.watchdog import Watchdog
from aqdask.execution.worker import WorkerSettings
from aqdask.text import plural

TASK_SECONDS = 5.0  # of a task of short batches
SHARES = 6  # tasks a slot, at least, that are left when batches are grouped
COUNT_SECONDS = 1.0  # for which the number of workers is remembered: asking a thousand takes milliseconds
log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
REGISTRATIONS = 10  # attempts to set up a plugin while workers die


class WorkQueue(Generic[T]):
    """Queue of items to be run: a lazy supply, and items put back in front of it.

    ``seconds`` estimates the time that one core takes for all of them; infinity where it is unknown.
    """

    def __init__(self, supply: Iterable[T], seconds: float = math.inf) -> None:
        self._supply, self.seconds = iter(supply), seconds
        self._front: deque[T] = deque()

    def put(self, item: T) -> None:
        """Put an item in front of the supply."""
        self._front.append(item)

    def __bool__(self) -> bool:
        """Return True if an item is available now."""
        if not self._front:
            self._front.extend(itertools.islice(self._supply, 1))
        return bool(self._front)

    def take(self, most: int) -> list[T]:
        """Take up to ``most`` items; fewer only where no more are available now."""
        front = [self._front.popleft() for _ in range(min(most, len(self._front)))]
        return front + list(itertools.islice(self._supply, most - len(front)))


class BatchGroups(Generic[T]):
    """Supply of a `WorkQueue`: groups of batches, each a task that should last `TASK_SECONDS`.

    A scheduler serves a few hundred tasks a second, so that short batches are grouped as soon as the first
    ones have been measured. Near the end groups become smaller, so that all workers end together. A batch
    owns a quality shard and is never divided for it.

    Parameters
    ----------
    batches : iterable
        Its length, where it has one, bounds the groups.
    executor : Executor
        Runs the groups.
    """

    def __init__(self, batches: Iterable[T], executor: Executor) -> None:
        self._batches, self._executor = iter(batches), executor
        self._left = operator.length_hint(batches, 0)
        self._seconds = 0.0  # a batch, smoothed

    def __iter__(self) -> Iterator[tuple[T, ...]]:
        while group := tuple(itertools.islice(self._batches, self._size())):
            self._left -= len(group)
            yield group

    def measured(self, batches: int, seconds: float) -> None:
        """Take in the seconds that some batches took together."""
        each = seconds / batches
        self._seconds = 0.8 * self._seconds + 0.2 * each if self._seconds else each

    def _size(self) -> int:
        if not self._seconds:
            return 1
        wanted = int(TASK_SECONDS / max(self._seconds, 1e-4))
        slots = self._executor.slots
        return max(1, min(wanted, self._left // (SHARES * slots if slots > 1 else 1)))


class Executor(Protocol):
    """Interface between a run and the machine that its tasks run on."""

    @property
    def dashboard(self) -> str:
        """Address of the Dask dashboard, empty where there is none."""
        ...

    @property
    def slots(self) -> int:
        """Number of tasks that run at the same time."""
        ...

    def run(
        self, function: Callable[[T], R], queue: WorkQueue[T], *, stage: str
    ) -> Iterator[tuple[T, R | Exception]]:
        """Run a function on every item of a queue; yield results in order of completion."""
        ...

    def provide(self, bundle: bytes, digest: str, precision: str = "fp32") -> None:
        """Send a model bundle to all workers, which load it in a precision."""
        ...

    def avoid(self, worker: str, why: str) -> None:
        """Stop giving tasks to the worker at an address."""
        ...


class SerialExecutor:
    """Executor of this process: one task after the other."""

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

    def provide(self, bundle: bytes, digest: str, precision: str = "fp32") -> None:
        """See `Executor`."""
        load_cached(bundle, digest, precision)

    def avoid(self, worker: str, why: str) -> None:
        """See `Executor`; does nothing, as there is only this process."""


class DaskExecutor:
    """Executor of a Dask cluster, with a bounded number of tasks on the scheduler at a time.

    Parameters
    ----------
    client : distributed.Client
        Connected; the caller closes it.
    no_more_workers : callable
        Returns True if no further worker can arrive; called when there has been none for
        ``aqdask.worker-timeout``.

    Raises
    ------
    ClusterError
        If a worker has another version of aqdask, numpy or torch than this process.
    """

    def __init__(self, client: Client, no_more_workers: Callable[[], bool] = lambda: True) -> None:
        self.client, self.no_more_workers = client, no_more_workers
        self._avoided: dict[str, str] = {}
        self._counted, self._slots = -math.inf, 0
        strangers = self._version_mismatches()
        if strangers:
            raise _other_versions(strangers)
        self._register(WorkerSettings())

    @property
    def dashboard(self) -> str:
        """See `Executor`."""
        return self.client.dashboard_link or ""

    @property
    def slots(self) -> int:
        """Number of threads of the connected workers that get tasks; at least 1."""
        if time.monotonic() - self._counted > COUNT_SECONDS:
            threads = self.client.nthreads()
            self._slots = sum(number for worker, number in threads.items() if worker not in self._avoided)
            self._counted = time.monotonic()
        return max(1, self._slots)

    def run(
        self, function: Callable[[T], R], queue: WorkQueue[T], *, stage: str
    ) -> Iterator[tuple[T, R | Exception]]:
        """See `Executor`; tasks are named ``<stage>-<number>-<run>``, one group a stage on the dashboard.

        Raises
        ------
        ClusterError
            If the scheduler is lost, no worker is left or comes in time, or none of them may get tasks.
        """
        run, numbers = uuid.uuid4().hex[:8], itertools.count()
        window = int(config.get("window"))
        items: dict[Future, T] = {}
        running = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
        watchdog = Watchdog(self.client, self.no_more_workers)
        try:
            while True:
                for item in queue.take(max(0, window * self.slots - len(items))):
                    future = self.client.submit(
                        run_task, function, item, versions(), key=f"{stage}-{next(numbers):06d}-{run}",
                        pure=False, retries=int(config.get("retries")), workers=self._allowed(),
                    )  # fmt: skip
                    items[future] = item
                    running.add(future)
                    watchdog.began(future)
                if not items:
                    return
                for future, result in _finished(running, watchdog):
                    if future not in items:  # given up by the watchdog, and came to an end after all
                        continue
                    if future.status in ("lost", "pending"):  # its worker died; it is computed again
                        running.add(future)
                        continue
                    item = items.pop(future)
                    watchdog.ended(future)
                    outcome = _outcome(future, result)
                    if isinstance(outcome, KilledWorker):
                        outcome.add_note(_cause_of_death(self.client, outcome))
                    if isinstance(outcome, Exception) and (
                        self._exclude_mismatched() or isinstance(outcome, OtherVersion)
                    ):
                        queue.put(item)
                    else:
                        yield item, outcome
        except (CommClosedError, ConnectionError, TimeoutError) as error:
            raise _lost(f"the connection to the Dask scheduler was lost ({type(error).__name__})") from error
        finally:
            if items:
                with contextlib.suppress(OSError, TimeoutError):
                    self.client.cancel(list(items), force=True)

    def provide(self, bundle: bytes, digest: str, precision: str = "fp32") -> None:
        """See `Executor`."""
        self._register(ModelPlugin(bundle, digest, precision))

    def _register(self, plugin: WorkerPlugin) -> None:
        """Set up a plugin on all workers; once more where one of them died meanwhile."""
        for left in reversed(range(REGISTRATIONS)):
            try:
                self.client.register_plugin(plugin)
                return
            except CommClosedError:
                if not left or self.client.status != "running":
                    raise
                time.sleep(1.0)

    def avoid(self, worker: str, why: str) -> None:
        """See `Executor`; logged once. The last remaining worker is never avoided."""
        others = self.client.nthreads().keys() - self._avoided.keys() - {worker}
        if worker and worker not in self._avoided and others:
            self._avoided[worker] = why
            self._counted = -math.inf
            log.warning("warning: the worker %s %s: it gets no further tasks", worker, why)

    def _allowed(self) -> list[str] | None:
        """Return the addresses of the workers that may get tasks; None for all."""
        if not self._avoided:
            return None
        there = self.client.nthreads()
        allowed = [worker for worker in there if worker not in self._avoided]
        if there and not allowed:
            why = "; ".join(f"{worker} {self._avoided[worker]}" for worker in there)
            raise ClusterError(
                f"no worker is left that can do this: {why}",
                expected="workers that see the same files and have the same versions as this process",
                consequence="What was finished is kept",
                remedy="repair the workers and run the same command again: it resumes",
            )
        return allowed

    def _version_mismatches(self) -> dict[str, str]:
        """Describe, by address, the workers whose versions differ from those of this process."""
        found = self.client.run(read_versions, on_error="return")
        return {
            worker: what
            for worker, there in found.items()
            if not isinstance(there, OSError)  # a worker that is just dying
            and (what := str(there) if isinstance(there, Exception) else difference(there, versions()))
        }

    def _exclude_mismatched(self) -> bool:
        """Exclude workers of other versions that have joined since; return True if there are any."""
        fresh = {
            worker: what for worker, what in self._version_mismatches().items() if worker not in self._avoided
        }
        for worker, what in fresh.items():
            self.avoid(worker, f"has {what}")
            self._avoided[worker] = f"has {what}"  # also the last one
            self._counted = -math.inf
        return bool(fresh)


class OtherVersion(Exception):
    """Result of a task on a worker whose versions differ from the client's: nothing was computed."""


def run_task(
    function: Callable[[T], R], item: T, expected: Mapping[str, str]
) -> R | AqdaskError | OtherVersion:
    """Run a task on a worker of the same versions as the client.

    An `AqdaskError` is returned as a value, so that Dask neither retries nor logs it.
    """
    if different := difference(versions(), expected):
        return OtherVersion(different)
    try:
        return function(item)
    except AqdaskError as error:
        return error


def _finished(running: as_completed, watchdog: Watchdog) -> list[tuple[Future, Any]]:
    """Wait until tasks finish or are given up by the watchdog, and return them with their results."""
    while True:
        found = running.next_batch(block=False)
        if found:
            return found
        given_up = watchdog.look()
        if given_up:
            return given_up
        with running.thread_condition:
            running.thread_condition.wait(timeout=0.1)


def _outcome(future: Future, result: Any) -> Any:
    """Return a task's result or its exception; raise `ClusterError` for a task that the scheduler lost."""
    if isinstance(result, FrameTimeout):
        return result
    if future.status == "error":
        return result[1]
    if future.status == "finished":
        return result
    raise _lost("the Dask scheduler dropped the tasks of this run (it was closed, restarted or lost)")


def _cause_of_death(client: Client, error: KilledWorker) -> str:
    """Describe how the last worker of a task ended, as far as its nanny told the scheduler."""
    last, held = error.last_worker, None
    died = f"{plural(error.allowed_failures + 1, 'worker')} died, the last"
    with contextlib.suppress(OSError, TimeoutError):
        for _, event in client.get_events("worker-restart-memory"):
            held = event["rss"] if event["worker"] == last.address else held
    limit = f"{last.memory_limit / 2**20:.0f} MiB"
    if held:
        return f"{died} for memory: it held {held / 2**20:.0f} MiB of {limit}"
    return (
        f"{died} crashed or was killed; Dask allowed it {limit} of memory, "
        "a batch job or container may allow less"
    )


def _lost(what: str) -> ClusterError:
    return ClusterError(
        what,
        expected="a scheduler that lives as long as the run",
        consequence="What was finished is kept",
        remedy="start the cluster again and run the same command: it resumes",
    )


def _other_versions(strangers: Mapping[str, str]) -> ClusterError:
    named = [f"{worker} has {what}" for worker, what in sorted(strangers.items())]
    more = f" and {len(named) - 5} more workers" if len(named) > 5 else ""
    return ClusterError(
        f"workers with other versions than this process: {'; '.join(named[:5])}{more}",
        expected="the same aqdask, numpy and torch everywhere, so that all maps of an archive are comparable",
        consequence="Nothing was done",
        remedy="install the same versions in the workers' environment and start them again",
    )
