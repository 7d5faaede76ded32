"""Lock of an archive for one writing client: a lease in the archive itself, and flock where that works.

The lease is the small object ``lock.json``, made only if there is none, and renewed by its holder. It is
stale once its process is dead, as far as this machine can tell, or once it has stayed the same for a while by
the clock of the one who watches it; clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from aqdask.errors import ArchiveError
from aqdask.io import places
from aqdask.paths import is_object

NAME = "lock.json"
SECONDS = 60.0
BEATS = 6  # renewals within the time after which a lease is stale
SETTLE = 0.5  # seconds after which two that took a file over at once see who won
log = logging.getLogger(__name__)


class Lease:
    """Lease on an archive.

    Parameters
    ----------
    archive : path or URL
        Of the archive.
    seconds : float
        Time without a renewal after which others may take it over.
    """

    def __init__(self, archive: places.Place, seconds: float = SECONDS) -> None:
        self.archive, self.seconds = archive, seconds
        self.place = places.join(archive, NAME)
        self.lost = self.took_over = False  # from a holder that was killed
        self._about = _about_this_process() | {"token": uuid.uuid4().hex, "seconds": seconds}
        self._beat, self._tag = 0, ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="aqdask lease", daemon=True)

    def acquire(self) -> None:
        """Take the lease, and renew it from now on.

        Raises
        ------
        ArchiveError
            If another process holds it; the message names it.
        """
        self._tag = places.create(self.place, self._contents()) or self._take_over()
        self._thread.start()

    def check(self) -> None:
        """Raise `ArchiveError` if another process has taken the lease over."""
        if self.lost:
            raise held_by(self.archive, _read(places.fetch(self.place)), lost=True)

    def release(self) -> None:
        """End the lease, unless it is another's by now."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._is_mine(places.fetch(self.place)):
                places.delete(self.place)
        except OSError:
            log.warning("the lock %s could not be removed; it is stale in %.0f s", self.place, self.seconds)

    def _contents(self) -> bytes:
        self._beat += 1
        return json.dumps({**self._about, "beat": self._beat}, indent=1).encode()

    def _is_mine(self, found: tuple[bytes, str] | None) -> bool:
        return _read(found).get("token") == self._about["token"]

    def _take_over(self) -> str:
        """Return the tag of the lease once that of a dead or silent holder has been replaced."""
        watched: str | None = None
        since = time.monotonic()
        while True:
            found = places.fetch(self.place)
            if found is None:
                if tag := places.create(self.place, self._contents()):
                    return tag
                continue
            holder, tag = _read(found), found[1]
            if self._is_mine(found):  # the answer to the first request was lost
                return tag
            running = _is_running_here(holder)
            if running or (watched is not None and tag != watched):
                raise held_by(self.archive, holder)
            if running is None and watched is None:
                watched, since = tag, time.monotonic()
                log.warning("%s is locked by %s; waiting %.0f s for a sign of life",
                            self.archive, _named(holder), self.seconds)  # fmt: skip
            if running is False or time.monotonic() - since > self.seconds:
                if new := places.replace(self.place, self._contents(), tag):
                    self.took_over = True
                    return self._settled(new)
            else:
                time.sleep(min(1.0, self.seconds / 10))

    def _settled(self, tag: str) -> str:
        """Return the tag if the lease is still this process's: replacing a file is not exact."""
        if not is_object(self.place):
            time.sleep(SETTLE)
            if not self._is_mine(found := places.fetch(self.place)):
                raise held_by(self.archive, _read(found))
        return tag

    def _renew(self) -> None:
        while not self._stopped.wait(self.seconds / BEATS):
            try:
                tag = places.replace(self.place, self._contents(), self._tag)
                if tag is None:
                    found = places.fetch(self.place)
                    if not self._is_mine(found):
                        self.lost = True
                        return
                    tag = found[1]  # type: ignore[index]  # written, but the answer was lost
                self._tag = tag
            except OSError as error:
                log.warning("the lock %s could not be renewed: %s", self.place, error)


@contextlib.contextmanager
def sole_writer(path: places.Place, seconds: float = SECONDS) -> Iterator[Lease]:
    """Lock an archive for one writing client.

    Raises
    ------
    ArchiveError
        If another process holds the lock, on this machine or another one.
    """
    with contextlib.nullcontext() if is_object(path) else _flock(path):
        lease = Lease(path, seconds)
        lease.acquire()
        try:
            yield lease
        finally:
            lease.release()


@contextlib.contextmanager
def _flock(path: places.Place) -> Iterator[None]:
    """Lock a folder; the lock ends with the process. A file system without locks has the lease only."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise held_by(path, _read(places.fetch(places.join(path, NAME)))) from error
        yield
    finally:
        os.close(descriptor)


def held_by(archive: object, holder: dict[str, Any], *, lost: bool = False) -> ArchiveError:
    """Make the error for an archive that another process is writing to."""
    name = _named(holder)
    if lost:
        return ArchiveError(
            f"the lock of {archive} was not renewed in time and was taken over by {name}",
            expected="one writing client an archive",
            consequence="This run stops; what it finished is kept",
            remedy="find out why this process or its storage stood still; go on when the other run has ended",
        )
    return ArchiveError(
        f"another aqdask process is writing to {archive}: {name}",
        expected="one writing client an archive",
        consequence="Nothing was changed, since two ledgers would contradict each other",
        remedy="wait for it to finish, or stop it, and run the same command again",
    )


def _named(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "one that has just begun"
    user, host, since = (holder.get(name, "?") for name in ("user", "host", "since"))
    return f"process {holder['pid']} of {user} on {host}, since {since}"


def _read(found: tuple[bytes, str] | None) -> dict[str, Any]:
    """Return what a lease says; empty for none, and for one that is being written."""
    with contextlib.suppress(ValueError):
        known = json.loads(found[0]) if found else {}
        return known if isinstance(known, dict) else {}
    return {}


def user_name() -> str:
    """Return the name of the account that runs this process, or its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return str(os.getuid())


def _about_this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(), "user": user_name(), "pid": os.getpid(), "machine": _machine(),
        "began": psutil.Process().create_time(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _machine() -> str:
    """Return a name of this boot of this machine and of its process numbers (a container has its own)."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _is_running_here(holder: dict[str, Any]) -> bool | None:
    """Return True if the holder runs on this machine, False if it is dead; None where that is unknown."""
    if holder.get("machine") != _machine():
        return None
    try:
        process = psutil.Process(int(holder["pid"]))
        same = abs(process.create_time() - float(holder["began"])) < 5
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None
