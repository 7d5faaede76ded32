"""Compression formats of whole files (gzip, bzip2, xz, zip, compress): one row of `COMPRESSIONS` each.

A small file can claim, and hold, any number of bytes. Nothing here allocates what a header claims: memory
grows with the bytes that were decompressed, piece by piece, as far as a reader asks for them.
"""

from __future__ import annotations

import bz2
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from aqdask.errors import FrameError
from aqdask.text import printable, shortened

READ_SIZE = 1 << 16  # compressed bytes a read
OUTPUT_SIZE = 1 << 20  # decompressed bytes a step
TAIL_LIMIT = 1 << 26  # decompressed bytes after the data in use that are read for the checksum, and dropped
# Real images never compress so well: a larger size is tested by decompression before it is believed.
PLAUSIBLE_RATIO = 32
DEFLATE_RATIO = 1032  # largest of deflate (zlib technical details, "Maximum Compression Factor")
LZMA_MEMORY = 1 << 28  # `xz -9` needs 65 MiB
ZIP_MEMBERS = 100  # members of a zip file that are searched for FITS

Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Compression:
    """Compression format of a file.

    Parameters
    ----------
    name : str
        Name in messages.
    suffix : str
        Suffix of file names; upper and lower case are the same.
    magic : bytes
        First bytes of a file, which decide.
    open : callable
        ``open(file, compression, notes)`` returns a function like ``file.read`` for decompressed bytes.
    max_ratio : float
        Upper limit of decompressed bytes a compressed byte.
    """

    name: str
    suffix: str
    magic: bytes
    open: Callable[[BinaryIO, Compression, list[str]], Read]
    max_ratio: float = float("inf")


def detect_compression(first: bytes) -> Compression | None:
    """Return the compression format of a file by its first bytes; None for none."""
    return next((kind for kind in COMPRESSIONS if first.startswith(kind.magic)), None)


class DecompressedStream:
    """Decompressed bytes of a file, to be read forwards.

    Parameters
    ----------
    file : BinaryIO
        Compressed file at its start.
    size : int
        Compressed size in bytes.
    kind : Compression
        Result of `detect_compression`.
    keep : bool
        Keep all decompressed bytes in ``buffer``; else drop those before the position.

    Attributes
    ----------
    max_size : float
        Upper limit of the decompressed size in bytes.
    plausible_size : float
        Upper limit for real images.
    """

    is_compressed = True

    def __init__(self, file: BinaryIO, size: int, kind: Compression, keep: bool) -> None:
        self.kind, self._keep = kind, keep
        self.max_size = size * kind.max_ratio
        self.plausible_size = size * PLAUSIBLE_RATIO
        self._notes: list[str] = []
        self.buffer = bytearray()
        self._dropped = self._position = 0
        with self._errors():
            self._more = kind.open(file, kind, self._notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on the part of the stream that was decompressed."""
        return tuple(self._notes)

    def seek(self, offset: int) -> int:
        """Move to ``offset``, not before dropped bytes; nothing is decompressed yet."""
        assert offset >= self._dropped
        self._position = offset
        return offset

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes; fewer only at the end of the stream."""
        self._grow(self._position + count)
        start = self._position - self._dropped
        piece = bytes(self.buffer[start : start + count])
        self._position += len(piece)
        return piece

    def available(self, stop: int) -> int:
        """Return the smaller of ``stop`` and the number of bytes.

        Without ``keep``, a plausible ``stop`` is returned untested.
        """
        if stop > self.max_size:
            return int(self.max_size)
        if not self._keep and stop <= self.plausible_size:
            return stop
        if not self._keep:
            self._position = max(self._position, stop - 1)  # bytes before the position are dropped
        self._grow(stop)
        return min(stop, self._dropped + len(self.buffer))

    def read_to_end(self) -> None:
        """Decompress the rest, at most `TAIL_LIMIT`, so that the checksum at the end is verified."""
        rest = 0
        with self._errors():
            while rest < TAIL_LIMIT and (piece := self._more(OUTPUT_SIZE)):
                rest += len(piece)

    def _grow(self, stop: int) -> None:
        with self._errors():
            while (missing := stop - self._dropped - len(self.buffer)) > 0:
                if not (piece := self._more(min(missing, OUTPUT_SIZE))):
                    return
                self.buffer += piece
                if not self._keep:
                    passed = min(len(self.buffer), self._position - self._dropped)
                    del self.buffer[:passed]
                    self._dropped += passed

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise FrameError(f"truncated: the {self.kind.name} stream ends too early") from error
        except (OSError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise FrameError(f"damaged {self.kind.name} stream: {printable(str(error))}") from error


class _MultiMember:
    """Concatenated streams of one format, read as one; other bytes after the last stream are noted.

    The file classes of `gzip`, `bz2` and `lzma` drop such bytes without a word, or refuse the file.
    """

    def __init__(self, new: Callable[[], Any], file: BinaryIO, kind: Compression, notes: list[str]) -> None:
        self.file, self.kind, self.notes, self.new = file, kind, notes, new
        self.stream, self.input, self.ended = new(), b"", False

    def __call__(self, count: int) -> bytes:
        while not self.ended:
            given = (self.input or self.file.read(READ_SIZE)) if self.stream.needs_input else b""
            self.input = self.input if given is not self.input else b""
            piece = self.stream.decompress(given, count)
            if self.stream.eof:
                self._next_member()
            elif not piece and not given and self.stream.needs_input:
                raise EOFError
            if piece:
                return piece
        return b""

    def _next_member(self) -> None:
        behind = self.stream.unused_data
        self.input = behind.lstrip(b"\0")  # zeros pad tapes and xz streams
        while len(self.input) < len(self.kind.magic) and (piece := self.file.read(READ_SIZE)):
            behind, self.input = piece, (self.input + piece).lstrip(b"\0")
        if self.input.startswith(self.kind.magic):
            self.stream = self.new()
            return
        self.ended = True
        if behind:
            self.notes.append(f"bytes after the {self.kind.name} stream were ignored")


class _Deflate:
    """Decompressor of a gzip member, with the interface of `bz2.BZ2Decompressor`; verifies the checksum."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._input = b""

    def decompress(self, data: bytes, count: int) -> bytes:
        piece = self._stream.decompress(self._input + data, count)
        self._input = self._stream.unconsumed_tail
        return piece

    @property
    def needs_input(self) -> bool:
        return not self._input

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


def _lzw(file: BinaryIO, kind: Compression, notes: list[str]) -> Read:
    try:
        import uncompresspy
    except ImportError as error:
        raise FrameError(
            "compressed with compress (.Z), which needs a package that is not installed: "
            "pip install uncompresspy (or aqdask[lzw])"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Its truncation warning is a guess from spare bits; the size of the image is certain.
        return uncompresspy.LZWFile(file, warn_truncation=False).read


def _zip(file: BinaryIO, kind: Compression, notes: list[str]) -> Read:
    """Open the one member that is FITS."""
    archive = zipfile.ZipFile(file)
    members = [member for member in archive.infolist() if not member.is_dir()]
    if locked := [member for member in members if member.flag_bits & 1]:
        raise FrameError(f"a zip file with encrypted members: {_names(locked)}")
    found = []
    for member in members[:ZIP_MEMBERS]:
        with archive.open(member) as content:
            if content.read(9) == b"SIMPLE  =":
                found.append(member)
    if len(found) != 1 or len(members) > ZIP_MEMBERS:
        names = _names(found or members)
        raise FrameError(f"a zip file with {len(found) or 'no'} FITS members, not one: {names}")
    return archive.open(found[0]).read


def _names(members: list[zipfile.ZipInfo]) -> str:
    return shortened([printable(member.filename) for member in members])


_new_xz = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, LZMA_MEMORY)
COMPRESSIONS = (
    Compression("gzip", ".gz", b"\x1f\x8b", partial(_MultiMember, _Deflate), DEFLATE_RATIO),
    Compression("bzip2", ".bz2", b"BZh", partial(_MultiMember, bz2.BZ2Decompressor)),
    Compression("xz", ".xz", b"\xfd7zXZ\0", partial(_MultiMember, _new_xz)),
    Compression("zip", ".zip", b"PK\x03\x04", _zip),
    Compression("compress (.Z)", ".Z", b"\x1f\x9d", _lzw),
)
COMPRESSED_SUFFIXES = tuple(kind.suffix.lower() for kind in COMPRESSIONS)
