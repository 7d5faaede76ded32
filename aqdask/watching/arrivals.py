"""Arrivals of several inboxes, each looked at by a thread of its own, while frames are scored."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

from aqdask.io.inbox import Arrival, Inbox, Look
from aqdask.specs import ReadSpec

SILENT_SECONDS = 60.0  # without an answer of a file system, until it is told


class Arrivals:
    """Queue of the files that arrive in some inboxes.

    Parameters
    ----------
    inboxes : sequence of Inbox
        Inboxes; only their own threads touch them.
    read : ReadSpec
        Settings for reading frames.
    poll : float
        Seconds between two looks.

    Attributes
    ----------
    queue : deque of Arrival
        Files that are ready to be taken, in the order of their arrival.
    active : float
        Last time at which a file was waited for or became ready.
    """

    def __init__(self, inboxes: Sequence[Inbox], read: ReadSpec, poll: float) -> None:
        self.read, self.poll = read, poll
        self.queue: deque[Arrival] = deque()
        self.active = time.monotonic()
        self._looks: queue.SimpleQueue[Look | BaseException] = queue.SimpleQueue()
        self._retries: dict[str, queue.SimpleQueue[str]] = {
            box.folder: queue.SimpleQueue() for box in inboxes
        }
        self._answered = dict.fromkeys(self._retries, time.monotonic())
        self._silent: set[str] = set()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(box,), name=f"aqdask inbox {n}", daemon=True)
            for n, box in enumerate(inboxes)
        ]

    def __enter__(self) -> Arrivals:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()  # a thread in which a file system hangs ends with the process
        for thread in self._threads:
            thread.join(1.0)

    def receive(self, seconds: float) -> list[str]:
        """Move what the threads have found to `queue`, waiting so long for something; return messages."""
        notes: list[str] = []
        while True:
            try:
                look = self._looks.get(timeout=seconds)
            except queue.Empty:
                return notes + self._silence()
            if isinstance(look, BaseException):
                raise look
            seconds = 0.0
            self.queue.extend(look.arrivals)
            notes += look.notes
            if look.arrivals or look.waiting:
                self.active = time.monotonic()

    def retry(self, arrival: Arrival) -> None:
        """Take a file once more, for as long as its inbox has patience."""
        self._retries[arrival.source.root].put(arrival.source.path)

    def _watch(self, inbox: Inbox) -> None:
        retries = self._retries[inbox.folder]
        try:
            while not self._stopped.is_set():
                now = time.monotonic()
                while not retries.empty():
                    inbox.retry(retries.get(), now)
                look = inbox.look(now, self.read)
                if look.arrivals or look.notes or look.waiting:
                    self._looks.put(look)
                self._answered[inbox.folder] = time.monotonic()
                self._stopped.wait(self.poll)
        except BaseException as error:
            self._looks.put(error)

    def _silence(self) -> list[str]:
        """Tell of inboxes whose file system does not answer, once each."""
        now = time.monotonic()
        silent = {box for box, since in self._answered.items() if now - since > SILENT_SECONDS}
        fresh, back, self._silent = silent - self._silent, self._silent - silent, silent
        notes = [f"warning: the folder {box} does not answer; the other inboxes go on" for box in fresh]
        return notes + [f"the folder {box} answers again" for box in back]
