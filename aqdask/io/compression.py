"""Compressed files as streams of FITS bytes, inflated only as far as somebody asks.

A small file can claim, and hold, any number of bytes: nothing here allocates what is claimed, only what was
inflated, piece by piece.
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
from typing import Any, BinaryIO

from aqdask.errors import FrameError
from aqdask.text import printable

PIECE = 1 << 16  # compressed bytes read at a time
GROWTH = 1 << 20  # inflated bytes made at a time
REST = 1 << 26  # inflated bytes behind what was needed that are read for the stream's checksum, and dropped
# A real image never packs so tightly: a claim beyond it is tried out before it is believed.
PLAUSIBLE_RATIO = 32
DEFLATE_RATIO = 1032  # no deflate stream holds more a byte (zlib, "Maximum Compression Factor")
LZMA_MEMORY = 1 << 28  # `xz -9` needs 65 MiB
ZIP_MEMBERS = 100  # members of a zip file that are looked into

Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Compression:
    """One compression: its name in messages, its magic bytes, and its reader of inflated bytes.

    ``open(file, name, notes)`` gives a function like ``file.read``; ``ratio`` bounds inflated bytes a byte.
    """

    name: str
    magic: bytes
    open: Callable[[BinaryIO, Compression, list[str]], Read]
    ratio: float = float("inf")


def compression(first: bytes) -> Compression | None:
    """The compression that bytes begin like; None for none."""
    return next((kind for kind in COMPRESSIONS if first.startswith(kind.magic)), None)


class Inflated:
    """A compressed file as a stream of FITS bytes, to be read forwards.

    Parameters
    ----------
    file : BinaryIO
        The compressed file at its start.
    size : int
        Its bytes.
    kind : Compression
        What `compression` said.
    keep : bool
        Keep all that was inflated in ``kept``; else drop what was passed.

    Attributes
    ----------
    most : float
        Bytes that a stream of this size can hold.
    """

    is_inflated = True

    def __init__(self, file: BinaryIO, size: int, kind: Compression, keep: bool) -> None:
        self.kind, self._keep = kind, keep
        self.most = size * kind.ratio
        self._plausible = size * PLAUSIBLE_RATIO
        self._notes: list[str] = []
        self.kept = bytearray()
        self._dropped = self._position = 0
        with self._errors():
            self._more = kind.open(file, kind, self._notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the stream for the user, so far as it was inflated."""
        return tuple(self._notes)

    def seek(self, offset: int) -> int:
        """Go to ``offset``, not before what was dropped; nothing is inflated yet."""
        assert offset >= self._dropped
        self._position = offset
        return offset

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes; fewer only at the end of the stream."""
        self._grow(self._position + count)
        start = self._position - self._dropped
        piece = bytes(self.kept[start : start + count])
        self._position += len(piece)
        return piece

    def reach(self, stop: int) -> int:
        """Bytes that there are, at most ``stop``; a plausible number is believed where none is kept."""
        if stop > self.most:
            return int(self.most)
        if not self._keep and stop <= self._plausible:
            return stop
        if not self._keep:
            self._position = max(self._position, stop - 1)  # what was passed is dropped
        self._grow(stop)
        return min(stop, self._dropped + len(self.kept))

    def finish(self) -> None:
        """Read on to the end of the stream, so that its checksum counts, unless that is far away."""
        rest = 0
        with self._errors():
            while rest < REST and (piece := self._more(GROWTH)):
                rest += len(piece)

    def _grow(self, stop: int) -> None:
        with self._errors():
            while (missing := stop - self._dropped - len(self.kept)) > 0:
                if not (piece := self._more(min(missing, GROWTH))):
                    return
                self.kept += piece
                if not self._keep:
                    passed = min(len(self.kept), self._position - self._dropped)
                    del self.kept[:passed]
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


class _Members:
    """Streams of one compression, one behind the other, read as one; bytes behind the last are noted."""

    def __init__(self, file: BinaryIO, kind: Compression, notes: list[str], new: Callable[[], Any]) -> None:
        self.file, self.kind, self.notes, self.new = file, kind, notes, new
        self.stream, self.input, self.ended = new(), b"", False

    def __call__(self, count: int) -> bytes:
        while not self.ended:
            given = (self.input or self.file.read(PIECE)) if self.stream.needs_input else b""
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
        while len(self.input) < len(self.kind.magic) and (piece := self.file.read(PIECE)):
            behind, self.input = piece, (self.input + piece).lstrip(b"\0")
        if self.input.startswith(self.kind.magic):
            self.stream = self.new()
            return
        self.ended = True
        if behind:
            self.notes.append(f"bytes behind the {self.kind.name} stream were ignored")


class _Deflate:
    """A gzip member with the interface of `bz2.BZ2Decompressor`; zlib compares its checksum and length."""

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


def _gzip(file: BinaryIO, kind: Compression, notes: list[str]) -> Read:
    return _Members(file, kind, notes, _Deflate)


def _bzip2(file: BinaryIO, kind: Compression, notes: list[str]) -> Read:
    return _Members(file, kind, notes, bz2.BZ2Decompressor)


def _xz(file: BinaryIO, kind: Compression, notes: list[str]) -> Read:
    return _Members(file, kind, notes, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY))


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
        # Its truncation warning is a guess from spare bits; the size of the image tells it for certain.
        return uncompresspy.LZWFile(file, warn_truncation=False).read


def _zip(file: BinaryIO, kind: Compression, notes: list[str]) -> Read:
    """The one member that is FITS."""
    archive = zipfile.ZipFile(file)
    members = [member for member in archive.infolist() if not member.is_dir()]
    if locked := [member for member in members if member.flag_bits & 1]:
        raise FrameError(f"a zip file with encrypted members: {_listed(locked)}")
    found = []
    for member in members[:ZIP_MEMBERS]:
        with archive.open(member) as content:
            if content.read(9) == b"SIMPLE  =":
                found.append(member)
    if len(found) != 1 or len(members) > ZIP_MEMBERS:
        told = _listed(found or members)
        raise FrameError(f"a zip file with {len(found) or 'no'} FITS members, not one: {told}")
    return archive.open(found[0]).read


def _listed(members: list[zipfile.ZipInfo]) -> str:
    names = [printable(member.filename) for member in members]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


COMPRESSIONS = (
    Compression("gzip", b"\x1f\x8b", _gzip, DEFLATE_RATIO),
    Compression("bzip2", b"BZh", _bzip2),
    Compression("xz", b"\xfd7zXZ\0", _xz),
    Compression("zip", b"PK\x03\x04", _zip),
    Compression("compress (.Z)", b"\x1f\x9d", _lzw),
)
