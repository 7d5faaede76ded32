"""Inbox: a folder into which frames arrive, looked at again and again.

Only `os.scandir` and `os.stat` are used, since network file systems report no changes. Times are those of the
monotonic clock of this process: clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from aqdask.errors import FrameError, SourceUnreachable
from aqdask.io import reader
from aqdask.io.compression import COMPRESSED_SUFFIXES
from aqdask.io.sources import ENDINGS
from aqdask.specs import FrameInfo, ReadSpec, Source

RECHECK = 20  # looks at an inbox after which files that were taken are compared with their former state
GONE = (errno.ENOENT, errno.ENOTDIR)
Stamp = tuple[int, int]  # size and modification time


@dataclass(frozen=True)
class Arrival:
    """File of an inbox that is to be taken in.

    Parameters
    ----------
    source : Source
        The file.
    arrived : float
        Time at which it was first seen as it is now, by the clock of `Inbox.look`.
    found : tuple of FrameInfo, or FrameError
        Its frames, or the reason why there are none although it was waited for.
    """

    source: Source
    arrived: float
    found: tuple[FrameInfo, ...] | FrameError


@dataclass
class _File:
    stamp: Stamp
    since: float  # when it was first seen with this stamp
    is_taken: bool = False
    again: float = 0.0  # when it is to be read again
    problem: str = ""


@dataclass
class Look:
    """Result of one look at an inbox.

    Parameters
    ----------
    arrivals : list of Arrival
        Files that are complete, or were waited for in vain, in the order of their arrival.
    notes : list of str
        Messages for the user.
    waiting : int
        Number of files that are not settled or complete yet.
    """

    arrivals: list[Arrival] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    waiting: int = 0


class Inbox:
    """Folder into which frames arrive.

    Parameters
    ----------
    folder : str
        Absolute path. It may be absent for a while, such as a disk that is not mounted.
    settle : float
        Seconds for which size and modification time of a file stay the same before it is read.
    patience : float
        Seconds for which a file that does not read completely is waited for after its last change.
    known : mapping of str to Stamp
        Files that were taken in earlier, by path.
    excluded : collection of str
        Folders below that are no part of the inbox.
    """

    def __init__(
        self,
        folder: str,
        settle: float,
        patience: float,
        known: Mapping[str, Stamp] | None = None,
        excluded: Collection[str] = (),
    ) -> None:
        self.folder, self.settle, self.patience = folder, settle, patience
        self._excluded = frozenset(map(os.path.realpath, excluded))
        self._files = {path: _File(stamp, 0.0, is_taken=True) for path, stamp in (known or {}).items()}
        self._looks = 0
        self._is_there: bool | None = None
        self._unreadable: set[str] = set()

    def look(self, now: float, read: ReadSpec) -> Look:
        """Find the files that are ready to be taken; ``read`` says what a complete file holds."""
        result = Look()
        try:
            found = dict(self._walk(self.folder, result.notes))
        except OSError as error:
            if self._is_there is not False:
                result.notes.append(f"waiting for the folder {self.folder} ({error.strerror})")
            self._is_there = False
            return result
        if self._is_there is False:
            result.notes.append(f"the folder {self.folder} is there")
        self._is_there, self._looks = True, self._looks + 1
        for path in [path for path in self._files if path not in found]:
            if not self._files.pop(path).is_taken:
                result.notes.append(f"{path} is gone before it was read")
        for path, status in found.items():
            if status is not None:
                self._compare(path, status, now)
        for path in [path for path, file in self._files.items() if not file.is_taken]:
            self._check(path, self._files[path], now, read, result)
        result.waiting = sum(not file.is_taken for file in self._files.values())
        result.arrivals.sort(key=lambda arrival: (arrival.arrived, arrival.source.path))
        return result

    def retry(self, path: str, now: float) -> bool:
        """Take a file once more, if it has been waited for no longer than ``patience``."""
        file = self._files.get(path)
        if file is None or now - file.since >= self.patience:
            return False
        file.is_taken, file.again = False, now + self._pause(file, now)
        return True

    def _compare(self, path: str, status: os.stat_result, now: float) -> None:
        size = status.st_size if stat.S_ISREG(status.st_mode) else -1
        stamp = size, status.st_mtime_ns
        file = self._files.get(path)
        if file is None or file.stamp != stamp:
            self._files[path] = _File(stamp, now)

    def _check(self, path: str, file: _File, now: float, read: ReadSpec, result: Look) -> None:
        """Take a file that is settled and complete, or that has been waited for long enough."""
        if now < max(file.since + self.settle, file.again):
            return
        found = frames_of(path, read)
        if isinstance(found, SourceUnreachable) and found.number in GONE:
            return  # the next look no longer finds it
        if isinstance(found, FrameError) and now - file.since < self.patience:
            file.again = now + self._pause(file, now)
            if not file.problem:
                left = self.patience - (now - file.since)
                result.notes.append(f"waiting up to {left:.0f} s for {path} to be complete: {found}")
            file.problem = str(found)
            return
        file.is_taken = True
        source = Source(path, self.folder, path[len(self.folder.rstrip("/")) + 1 :], *file.stamp)
        result.arrivals.append(Arrival(source, file.since, found))

    def _pause(self, file: _File, now: float) -> float:
        """Return the seconds until a file is read again, in all about ten times within ``patience``."""
        return max(self.settle, (now - file.since) / 2)

    def _walk(
        self, folder: str, notes: list[str], above: tuple[tuple[int, int], ...] = ()
    ) -> Iterator[tuple[str, os.stat_result | None]]:
        """Yield FITS files below a folder with their status, None where that need not be asked for."""
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        with os.scandir(folder) as scanned:
            entries = list(scanned)
        if identity in above or any(entry.name == "zarr.json" for entry in entries):
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError):  # it is gone, or a link to itself
                if entry.is_dir():
                    if os.path.realpath(entry.path) not in self._excluded:
                        yield from self._below(entry.path, notes, (*above, identity))
                elif entry.name.lower().endswith(ENDINGS):
                    file = self._files.get(entry.path)
                    is_due = file is None or not file.is_taken or self._looks % RECHECK == 0
                    yield entry.path, entry.stat() if is_due else None

    def _below(
        self, folder: str, notes: list[str], above: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[str, os.stat_result | None]]:
        """Walk a folder below the inbox; one that cannot be read is told once, and its files are kept."""
        try:
            yield from self._walk(folder, notes, above)
            self._unreadable.discard(folder)
        except OSError as error:
            if folder not in self._unreadable:
                notes.append(f"warning: the folder {folder} cannot be read: {error.strerror}")
            self._unreadable.add(folder)
            yield from ((path, None) for path in self._files if path.startswith(f"{folder}/"))


def frames_of(path: str, read: ReadSpec) -> tuple[FrameInfo, ...] | FrameError:
    """Describe the frames of a complete file, or give the reason why there are none yet.

    A file that is compressed as a whole is read to its end, since its headers do not tell its length.
    """
    try:
        found = reader.probe(path, read)
        if path.lower().endswith(COMPRESSED_SUFFIXES):
            reader.read_frame(path, found[0].hdu, read)
        return found
    except FrameError as error:
        return error.with_traceback(None)
    except OSError as error:  # of the machine, not of the file
        return SourceUnreachable(str(error), error.errno or 0)
