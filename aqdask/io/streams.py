"""The bytes of one file: read once, decompressed by what they are, with errors as quarantine reasons.

Three kinds of fault are told apart. Damaged or foreign content is the *frame's* and becomes `FrameError`. A
file out of reach (absent, forbidden, its disk or network failing, changing while it is read) says nothing of
the frame and becomes `SourceUnreachable`. A machine without memory or file descriptors is neither: those
errors pass through, so that the task can be tried again elsewhere.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aqdask.errors import FrameError, FrameTimeout, SourceUnreachable
from aqdask.io.decompression import Inflated, compression
from aqdask.text import printable

LFS = b"version https://git-lfs"
ABOUT_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# What the operating system says most often, in words that tell what to look at; else its own words.
WORDS = {
    errno.ENOENT: "the file is not there (moved or deleted, or a broken link)",
    errno.EACCES: "the file cannot be read: permission denied",
    errno.EPERM: "the file cannot be read: operation not permitted",
    errno.ENOTDIR: "the file is not there (a part of its path is no folder)",
    errno.ELOOP: "the file cannot be read: its symbolic links go in a circle",
    errno.ENAMETOOLONG: "the file cannot be read: its name is too long",
}


@dataclass(frozen=True)
class FileBytes:
    """A file as it is on disk: its bytes, and size and time of the descriptor that they were read from."""

    raw: bytes
    size: int
    mtime_ns: int


class Plain(io.BytesIO):
    """The bytes of an uncompressed file as a stream of FITS bytes; see `Inflated` for its attributes."""

    notes: tuple[str, ...] = ()
    is_inflated = False
    most = float("inf")

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.kept = raw

    def reach(self, stop: int) -> int:
        """Bytes that there are, at most ``stop``."""
        return min(stop, len(self.kept))

    def finish(self) -> None:
        """Nothing to check: the size of an uncompressed file is known."""


class OpenFile(io.BufferedReader):
    """An uncompressed file on disk as a stream of FITS bytes."""

    notes: tuple[str, ...] = ()
    is_inflated = False
    most = float("inf")

    def reach(self, stop: int) -> int:
        """Bytes that there are, at most ``stop``."""
        return min(stop, os.fstat(self.fileno()).st_size)


Stream = Plain | OpenFile | Inflated


@contextmanager
def frame_errors() -> Iterator[None]:
    """Turn whatever a damaged file causes into `FrameError`; let failures of the machine pass.

    Raises
    ------
    SourceUnreachable
        For an ``OSError`` with an errno, unless it is about this machine.
    FrameError
        For everything else but ``MemoryError`` and the watchdog's `FrameTimeout`.
    """
    try:
        yield
    except (FrameError, FrameTimeout, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:  # bz2 and astropy use OSError for bad content
            raise FrameError(f"could not be decoded: {_words(error)}") from error
        if error.errno in ABOUT_THE_MACHINE:
            raise
        told = WORDS.get(error.errno, f"the file cannot be read: {os.strerror(error.errno)}")
        raise SourceUnreachable(told, error.errno) from error
    except Exception as error:
        raise FrameError(f"could not be decoded: {_words(error)}") from error


def _words(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))[:200]
    return f"{text} ({type(error).__name__})" if text else type(error).__name__


def load_file(path: str | os.PathLike[str]) -> FileBytes:
    """The file as it is on disk, read once; see `in_memory`.

    Raises
    ------
    FrameError
        Not a regular file.
    SourceUnreachable
        Not there, not readable, or changed while it was read.
    OSError
        The machine failed, not the file.
    """
    with frame_errors(), _open_regular(path) as (file, status):
        raw = file.read()
        if len(raw) != status.st_size:
            raise _changed()
        return FileBytes(raw, status.st_size, status.st_mtime_ns)


def load_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file as they are on disk; errors as of `load_file`."""
    return load_file(path).raw


def in_memory(raw: bytes) -> Plain | Inflated:
    """Bytes of a file as a stream of FITS bytes, inflated as far as they are asked for and kept.

    Compressions are told by magic bytes, not by name.

    Raises
    ------
    FrameError
        Truncated or damaged stream, also while it is read; ``.Z`` without `uncompresspy`.
    """
    kind = compression(raw[:8])
    return Inflated(io.BytesIO(raw), len(raw), kind, keep=True) if kind else Plain(raw)


def decompress(raw: bytes) -> bytes:
    """All that the bytes of a file hold, however much it is; errors as of `in_memory`."""
    stream = in_memory(raw)
    stream.reach(int(min(stream.most, sys.maxsize)))
    return bytes(stream.kept)


@contextmanager
def open_stream(path: str | os.PathLike[str]) -> Iterator[OpenFile | Inflated]:
    """The file as a stream of FITS bytes to be read forwards, inflated only as far as it is read.

    Raises
    ------
    FrameError, SourceUnreachable
        As `load_file` and `in_memory`, also while the stream is read within the context.
    """
    with frame_errors(), _open_regular(path) as (file, status):
        kind = compression(file.peek(8)[:8])
        yield Inflated(file, status.st_size, kind, keep=False) if kind else file


def starting_with(first: bytes) -> str:
    """Why bytes that do not start like FITS are no FITS, in words."""
    if not first:
        return "an empty file"
    if not first.strip(b"\0"):
        return "not a FITS file (starts with zero bytes)"
    if first.startswith(LFS):
        return "a Git LFS pointer, the file itself was not fetched"
    shown = printable(first[:24].decode("ascii", "backslashreplace").split("\n")[0].rstrip())
    return f"not a FITS file (starts with '{shown}')"


@contextmanager
def _open_regular(path: str | os.PathLike[str]) -> Iterator[tuple[OpenFile, os.stat_result]]:
    """An open regular file and its status; the file may not change before it is closed."""
    # without O_NONBLOCK, opening a named pipe would wait for a writer for ever
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISSOCK(os.stat(path).st_mode):
            raise FrameError("not a regular file") from error
        raise
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise FrameError("a folder, not a file" if stat.S_ISDIR(before.st_mode) else "not a regular file")
        try:
            with OpenFile(io.FileIO(descriptor, closefd=False)) as file:
                yield file, before
        finally:  # whatever is wrong with bytes of two versions says nothing of either
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise _changed()
    finally:
        os.close(descriptor)


def _changed() -> SourceUnreachable:
    return SourceUnreachable("the file changed while it was read", errno.EAGAIN)
