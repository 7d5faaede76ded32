"""FITS files and objects as byte streams, on disk or in memory, decompressed on the fly.

Three kinds of failure are kept apart. Damaged or foreign content is a fault of the *frame*: `FrameError`. An
unreachable file (absent, forbidden, on a failing disk or network, changed while it is read) says nothing
about the frame: `SourceUnreachable`. A machine without memory or file descriptors is neither: its errors
pass through, so that the task can be repeated elsewhere.
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
from aqdask.io import places
from aqdask.io.compression import DecompressedStream, detect_compression
from aqdask.paths import is_object
from aqdask.text import printable

GIT_LFS = b"version https://git-lfs"
MACHINE_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Messages that say what to check, for the most frequent errors; else that of the operating system.
MESSAGES = {
    errno.ENOENT: "the file is not there (moved or deleted, or a broken link)",
    errno.EACCES: "the file cannot be read: permission denied",
    errno.EPERM: "the file cannot be read: operation not permitted",
    errno.ENOTDIR: "the file is not there (a part of its path is not a folder)",
    errno.ELOOP: "the file cannot be read: its symbolic links go in a circle",
    errno.ENAMETOOLONG: "the file cannot be read: its name is too long",
}


@dataclass(frozen=True)
class FileBytes:
    """Content of a file as it is on disk, with the size and mtime of the descriptor that it was read from."""

    raw: bytes
    size: int
    mtime_ns: int


class MemoryStream(io.BytesIO):
    """Stream of an uncompressed file in memory; attributes as of `DecompressedStream`."""

    notes: tuple[str, ...] = ()
    is_compressed = False
    max_size = plausible_size = float("inf")

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.buffer = raw

    def available(self, stop: int) -> int:
        """Return the smaller of ``stop`` and the number of bytes."""
        return min(stop, len(self.buffer))

    def read_to_end(self) -> None:
        """Do nothing: an uncompressed file has no checksum at its end."""


class FileStream(io.BufferedReader):
    """Stream of an uncompressed file on disk; attributes as of `DecompressedStream`."""

    notes: tuple[str, ...] = ()
    is_compressed = False
    max_size = plausible_size = float("inf")

    def available(self, stop: int) -> int:
        """Return the smaller of ``stop`` and the number of bytes."""
        return min(stop, os.fstat(self.fileno()).st_size)


class ObjectStream(io.BufferedReader):
    """Stream of an uncompressed object, read by ranges; attributes as of `DecompressedStream`."""

    notes: tuple[str, ...] = ()
    is_compressed = False
    max_size = plausible_size = float("inf")

    def __init__(self, reader: places.ObjectReader) -> None:
        super().__init__(reader, buffer_size=places.HEAD_BYTES)
        self.size = reader.size

    def available(self, stop: int) -> int:
        """Return the smaller of ``stop`` and the number of bytes."""
        return min(stop, self.size)


Stream = MemoryStream | FileStream | ObjectStream | DecompressedStream


@contextmanager
def as_frame_errors() -> Iterator[None]:
    """Turn every exception that a damaged file causes into `FrameError`.

    Raises
    ------
    SourceUnreachable
        For an ``OSError`` with an errno that is not about this machine.
    FrameError
        For every other exception but ``MemoryError`` and the watchdog's `FrameTimeout`.
    OSError, MemoryError, FrameTimeout
        Unchanged where the machine failed.
    """
    try:
        yield
    except (FrameError, FrameTimeout, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:  # bz2 and astropy use OSError for bad content
            raise FrameError(_undecodable(error)) from error
        if error.errno in MACHINE_ERRNOS:
            raise
        if is_object(error.filename):
            raise SourceUnreachable(f"the object cannot be read: {error.strerror}", error.errno) from error
        message = MESSAGES.get(error.errno, f"the file cannot be read: {os.strerror(error.errno)}")
        raise SourceUnreachable(message, error.errno) from error
    except Exception as error:
        raise FrameError(_undecodable(error)) from error


def _undecodable(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))[:200]
    name = type(error).__name__
    return "could not be decoded: " + (f"{text} ({name})" if text else name)


def load_file(path: str | os.PathLike[str]) -> FileBytes:
    """Read a file or an object once, as it is stored; see `memory_stream` for its decompressed content.

    Raises
    ------
    FrameError
        Not a regular file.
    SourceUnreachable
        Absent, not readable, or changed while it was read.
    OSError
        The machine failed, not the file.
    """
    if is_object(path):
        with as_frame_errors():
            raw, (size, stamp) = places.read_object(path)
            return FileBytes(raw, size, stamp)
    with as_frame_errors(), _open_regular(path) as (file, status):
        raw = file.read()
        if len(raw) != status.st_size:
            raise _changed()
        return FileBytes(raw, status.st_size, status.st_mtime_ns)


def load_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read the bytes of a file as they are on disk; errors as of `load_file`."""
    return load_file(path).raw


def memory_stream(raw: bytes) -> MemoryStream | DecompressedStream:
    """Open the bytes of a file, compressed or not, as a stream that keeps what it decompressed.

    Compressions are recognised by their magic bytes, not by file name.

    Raises
    ------
    FrameError
        Truncated or damaged stream, also while it is read; ``.Z`` without `uncompresspy`.
    """
    kind = detect_compression(raw[:8])
    return DecompressedStream(io.BytesIO(raw), len(raw), kind, keep=True) if kind else MemoryStream(raw)


def decompress(raw: bytes) -> bytes:
    """Return the whole decompressed content of a file, whatever its size; errors as of `memory_stream`."""
    stream = memory_stream(raw)
    stream.available(int(min(stream.max_size, sys.maxsize)))
    return bytes(stream.buffer)


@contextmanager
def open_stream(
    path: str | os.PathLike[str],
) -> Iterator[FileStream | ObjectStream | DecompressedStream]:
    """Open a file or an object as a stream to be read forwards, decompressed only as far as it is read.

    Raises
    ------
    FrameError, SourceUnreachable
        As `load_file` and `memory_stream`, also while the stream is read within the context.
    """
    with as_frame_errors(), _opened(path) as (file, size):
        kind = detect_compression(file.peek(8)[:8])
        yield DecompressedStream(file, size, kind, keep=False) if kind else file


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[FileStream | ObjectStream, int]]:
    if is_object(path):
        reader = places.ObjectReader(path)
        yield ObjectStream(reader), reader.size
        return
    with _open_regular(path) as (file, status):
        yield file, status.st_size


def non_fits_reason(first: bytes) -> str:
    """Return the reason why a file with these first bytes is not FITS."""
    if not first:
        return "an empty file"
    if not first.strip(b"\0"):
        return "not a FITS file (starts with zero bytes)"
    if first.startswith(GIT_LFS):
        return "a Git LFS pointer, the file itself was not fetched"
    shown = printable(first[:24].decode("ascii", "backslashreplace").split("\n")[0].rstrip())
    return f"not a FITS file (starts with '{shown}')"


@contextmanager
def _open_regular(path: str | os.PathLike[str]) -> Iterator[tuple[FileStream, os.stat_result]]:
    """Open a regular file, with its status; an error if the file changes before it is closed."""
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
            with FileStream(io.FileIO(descriptor, closefd=False)) as file:
                yield file, before
        finally:  # a fault in a mixture of two versions says nothing about either
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise _changed()
    finally:
        os.close(descriptor)


def _changed() -> SourceUnreachable:
    return SourceUnreachable("the file changed while it was read", errno.EAGAIN)
