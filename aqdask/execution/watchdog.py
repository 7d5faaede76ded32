"""Watchdog of a run: detects the loss of all workers, and workers that hang on a frame."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from distributed import Client, Future

from aqdask.errors import ClusterError, FrameTimeout
from aqdask.execution import config
from aqdask.execution.worker import current_work

ALONE_SECONDS = 30.0  # without a worker, after which the user is told
ANSWER_SECONDS = 10.0  # for a worker to say what it works on, or to be restarted
log = logging.getLogger(__name__)


class Watchdog:
    """Watchdog of the tasks that the client waits for.

    Parameters
    ----------
    client : distributed.Client
        The client of the run.
    no_more_workers : callable
        Returns True if no further worker can arrive.
    """

    def __init__(self, client: Client, no_more_workers: Callable[[], bool]) -> None:
        self.client, self.no_more_workers = client, no_more_workers
        self.worker_timeout = config.seconds("worker-timeout")
        self.frame_timeout = config.seconds("frame-timeout")
        self.every = min(5.0, self.worker_timeout / 4, self.frame_timeout / 4)
        self._since: dict[Future, float] = {}
        self._alone_since: float | None = None
        self._told_alone = False
        self._looked = self._progress = time.monotonic()

    def began(self, future: Future) -> None:
        """Register a task that was submitted."""
        self._since[future] = time.monotonic()

    def ended(self, future: Future) -> None:
        """Remove a finished task, so that the scheduler may forget its result."""
        self._since.pop(future, None)
        self._progress = time.monotonic()

    def look(self) -> list[tuple[Future, FrameTimeout]]:
        """End the work on frames that take longer than ``aqdask.frame-timeout``; checked every few seconds.

        Returns
        -------
        list of (Future, FrameTimeout)
            Tasks that were given up, and the frame or path of each.

        Raises
        ------
        ClusterError
            If there has been no worker for ``aqdask.worker-timeout`` and none can arrive, or all have been
            paused for so long.
        """
        now = time.monotonic()
        if now - self._looked < self.every:
            return []
        self._looked = now
        self._check_workers(now)
        if not any(now - since > self.frame_timeout for since in self._since.values()):
            return []
        by_key = {str(future.key): future for future in self._since}
        given_up = []
        work = self.client.sync(_work_of, self.client, list(self.client.nthreads()))
        for worker, key, subject, seconds in work:
            if seconds > self.frame_timeout and key in by_key:
                future = by_key[key]
                # first the task, then the worker: the other way round another worker would get the task
                self.client.cancel([future], force=True)
                self._since.pop(future, None)
                self._free(worker)
                given_up.append((future, FrameTimeout(subject, seconds)))
        return given_up

    def _check_workers(self, now: float) -> None:
        if self.client.nthreads():
            self._alone_since, self._told_alone = None, False
            if now - self._progress > self.worker_timeout:
                self._check_paused()
            return
        self._alone_since = self._alone_since or now
        alone, most = now - self._alone_since, config.get("worker-timeout")
        if not self._told_alone and alone > min(ALONE_SECONDS, self.worker_timeout / 2):
            self._told_alone = True
            what = "all workers are gone; the run waits for others, longer than %s only while jobs are queued"
            log.warning(f"warning: {what}", most)
        if alone > self.worker_timeout and self.no_more_workers():
            raise ClusterError(
                f"all workers are gone, and for {most} none has come",
                expected="at least one worker",
                consequence="What was finished is kept",
                remedy="start workers and run the same command again: it resumes. "
                "aqdask.worker-timeout is how long to wait",
            )

    def _check_paused(self) -> None:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers or any(worker["status"] != "paused" for worker in workers):
            return
        held = max(worker["metrics"]["memory"] / 2**20 for worker in workers)
        limit = max(worker["memory_limit"] / 2**20 for worker in workers)
        raise ClusterError(
            f"all workers are paused: they hold up to {held:.0f} MiB of at most {limit:.0f} MiB of memory",
            expected="workers with memory for a frame",
            consequence="What was finished is kept",
            remedy="give them more memory (fewer of them, or larger jobs), then run the same command again",
        )

    def _free(self, worker: str) -> None:
        """Restart a worker that hangs; without a nanny, remove it from the scheduler."""
        try:
            self.client.restart_workers([worker], timeout=ANSWER_SECONDS, raise_for_error=True)
        except Exception as error:  # no nanny, or one that does not answer
            log.debug("%s was not restarted", worker, exc_info=error)
            with contextlib.suppress(Exception):
                self.client.retire_workers([worker], close_workers=True, remove=True)


async def _work_of(client: Client, workers: list[str]) -> list[tuple[str, str, str, float]]:
    """Ask workers for their work; return address, key of the task, subject and seconds of each answer."""

    async def of_one(worker: str) -> list[Any]:
        with contextlib.suppress(Exception):
            answer = client.run(current_work, workers=[worker])
            return (await asyncio.wait_for(answer, ANSWER_SECONDS))[worker]
        return []

    answers = await asyncio.gather(*map(of_one, workers))
    return [(worker, *work) for worker, works in zip(workers, answers, strict=True) for work in works]
