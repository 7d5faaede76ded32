"""Publication of a command's telemetry on the scheduler, whose dashboard shows it."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from urllib.parse import urljoin

from distributed import Client

from aqdask.monitor.scheduler_page import OPERATION, PAGE, install
from aqdask.monitor.telemetry import Telemetry

EVERY = 1.0  # seconds between two snapshots
END_SECONDS = 3.0  # for the last snapshot: a lost scheduler must not hold the command up


class Publisher:
    """Sender of snapshots to the scheduler of a client, from a thread of its own.

    Parameters
    ----------
    client : distributed.Client
        Connected; must outlive the publisher.
    telemetry : Telemetry
        Of the command.
    """

    def __init__(self, client: Client, telemetry: Telemetry) -> None:
        self.client, self.telemetry = client, telemetry
        self._run = uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="aqdask telemetry", daemon=True)

    def start(self) -> str:
        """Set up the page and begin to publish; return its address, empty where Dask shows no dashboard.

        Raises
        ------
        PageError
            If the scheduler refuses the page, or parts of it.
        """
        try:
            problems = self.client.run_on_scheduler(install)
        except Exception as error:  # without aqdask, without pickle, of another release
            raise PageError(f"{type(error).__name__}: {error}") from error
        if OPERATION not in problems:
            self._thread.start()
        if problems:
            raise PageError("; ".join(f"{part}: {problem}" for part, problem in problems.items()))
        link = self.client.dashboard_link or ""
        return urljoin(link, PAGE.strip("/")) if link else ""

    def stop(self, state: str) -> None:
        """Publish the end of the command and stop."""
        self.telemetry.close(state)
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)

    def _publish(self) -> None:
        """Send a snapshot every second; a scheduler that is lost ends it, and the run itself reports that."""
        with contextlib.suppress(Exception):
            while True:
                is_last = self._ended.wait(EVERY)
                send = getattr(self.client.scheduler, OPERATION)
                self.client.sync(send, run=self._run, snapshot=self.telemetry.snapshot())
                if is_last:
                    return


class PageError(Exception):
    """Failure to show the page, or a part of it; no reason to end a run."""


@contextlib.contextmanager
def stopped_at_end(publishers: list[Publisher]) -> Iterator[None]:
    """Stop publishers at the end of the context, and publish how it ended."""
    state = "failed"
    try:
        yield
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        for publisher in publishers:
            publisher.stop(state)
