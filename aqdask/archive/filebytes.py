"""The bytes of one file: read once, decompressed by what they are, with errors as quarantine reasons.

A file that is damaged, foreign or out of reach is the *frame's* fault and becomes `FrameError`. A machine
that fails (``EIO``, ``ENOSPC``, too many open files, no memory) is not: those errors pass through, so that
the task can be tried again elsewhere.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from aqdask.errors import FrameError

GZIP, BZIP2, LZW = b"\x1f\x8b", b"BZh", b"\x1f\x9d"
LFS = b"version https://git-lfs"

# What the operating system says about this one path; every other errno is about the machine.
ABOUT_THE_FILE = {
    errno.ENOENT: "the file is not there (moved or deleted, or a broken link)",
    errno.EACCES: "the file cannot be read: permission denied",
    errno.EPERM: "the file cannot be read: operation not permitted",
    errno.EISDIR: "a folder, not a file",
    errno.ENOTDIR: "the file is not there (a part of its path is no folder)",
    errno.ELOOP: "the file cannot be read: its symbolic links go in a circle",
    errno.ENAMETOOLONG: "the file cannot be read: its name is too long",
}


@contextmanager
def frame_errors() -> Iterator[None]:
    """Turn whatever a damaged file causes into `FrameError`; let failures of the machine pass.

    Raises
    ------
    FrameError
        For everything but ``MemoryError`` and an ``OSError`` whose errno is not about the file.
    """
    try:
        yield
    except (FrameError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:  # gzip, bz2 and astropy use OSError for bad content
            raise FrameError(f"could not be decoded: {_words(error)}") from error
        if error.errno in ABOUT_THE_FILE:
            raise FrameError(ABOUT_THE_FILE[error.errno]) from error
        raise
    except Exception as error:
        raise FrameError(f"could not be decoded: {_words(error)}") from error


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{text} ({type(error).__name__})" if text else type(error).__name__


def load_bytes(path: str | os.PathLike[str]) -> bytes:
    """The file as it is on disk, read once; see `decompress`.

    Raises
    ------
    FrameError
        Not there, not readable, not a regular file, empty.
    OSError
        The machine failed, not the file.
    """
    with frame_errors(), _open_regular(path) as file:
        return file.read()


def decompress(raw: bytes) -> bytes:
    """``raw`` itself, or what its gzip, bzip2 or LZW (``.Z``) stream holds; told by magic bytes, not by name.

    Raises
    ------
    FrameError
        Truncated or damaged stream; ``.Z`` without `uncompresspy`.
    """
    if not raw.startswith((GZIP, BZIP2, LZW)):
        return raw
    with _stream_errors(raw[:3]):
        if raw.startswith(GZIP):
            return gzip.decompress(raw)
        if raw.startswith(BZIP2):
            return bz2.decompress(raw)
        return _lzw(io.BytesIO(raw)).read()


@contextmanager
def open_stream(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file as a seekable stream of FITS bytes, decompressed only as far as it is read.

    Raises
    ------
    FrameError
        As `load_bytes` and `decompress`, also while the stream is read within the context.
    """
    with frame_errors(), _open_regular(path) as file:
        magic = file.read(3)
        file.seek(0)
        with _stream_errors(magic):
            if magic.startswith(GZIP):
                yield gzip.GzipFile(fileobj=file)  # type: ignore[misc]
            elif magic.startswith(BZIP2):
                yield bz2.BZ2File(file)  # type: ignore[misc]
            elif magic.startswith(LZW):
                yield _lzw(file)
            else:
                yield file


def starting_with(first: bytes) -> str:
    """Why bytes that do not start like FITS are no FITS, in words."""
    if not first:
        return "an empty file"
    if not first.strip(b"\0"):
        return "not a FITS file (starts with zero bytes)"
    if first.startswith(LFS):
        return "a Git LFS pointer, the file itself was not fetched"
    shown = first[:24].decode("ascii", "backslashreplace").split("\n")[0].rstrip()
    return f"not a FITS file (starts with {shown!r})"


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    # Opening a named pipe would wait for a writer for ever.
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise FrameError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
    return open(path, "rb")


@contextmanager
def _stream_errors(magic: bytes) -> Iterator[None]:
    names = {GZIP: "gzip", BZIP2[:2]: "bzip2", LZW: "compress (.Z)"}
    try:
        yield
    except EOFError as error:
        raise FrameError(f"truncated: the {names[magic[:2]]} stream ends too early") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise FrameError(f"damaged gzip stream: {error}") from error
    except (OSError, ValueError) as error:
        if magic[:2] not in names or getattr(error, "errno", None) is not None:
            raise
        raise FrameError(f"damaged {names[magic[:2]]} stream: {error}") from error


def _lzw(file: BinaryIO) -> BinaryIO:
    try:
        import uncompresspy
    except ImportError as error:
        raise FrameError(
            "compressed with compress (.Z), which needs a package that is not installed: "
            "pip install uncompresspy (or aqdask[lzw])"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Its truncation warning is a guess from spare bits; the size of the image tells it for certain.
        return uncompresspy.LZWFile(file, warn_truncation=False)
