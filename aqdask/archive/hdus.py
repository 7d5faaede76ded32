"""Where the HDUs of a FITS stream lie, from headers alone, and which of them are frames.

astropy reads headers well but is built to open files leniently; here every file needs one definite answer,
lazily and with a reason, and the byte offset of its pixels. The FITS standard 4.0, sections 3 to 4.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from astropy.io import fits

from aqdask.archive.cards import lookup, parse
from aqdask.archive.filebytes import starting_with
from aqdask.errors import FrameError
from aqdask.specs import ReadSpec

BLOCK, CARD = 2880, 80
LONGEST_HEADER = 4096 * BLOCK  # no real header is near 11 MiB; a damaged one would be read to the file's end
BITPIX = (8, 16, 32, 64, -32, -64)
END = re.compile(rb"(?:.{80})*?END[ \0]{5}", re.DOTALL)
# Look-up tables of distortions (WCS paper IV) are 2-D images, but never observations.
LOOKUP_TABLES = ("WCSDVARR", "D2IMARR")


@dataclass(frozen=True)
class Hdu:
    """One header-data unit: ``text`` and ``header`` are its cards, ``offset`` and ``size`` its data in bytes.

    ``shape`` is ``(y, x)`` of a 2-D image, else None and ``what`` says in words what it is instead.
    ``compressed`` marks a tile-compressed image; ``bitpix`` is then that of the image, not of its table.
    """

    index: int
    name: str
    version: int
    text: str
    header: fits.Header
    offset: int
    size: int
    compressed: bool
    bitpix: int
    shape: tuple[int, int] | None
    what: str


def walk(stream: BinaryIO) -> Iterator[Hdu]:
    """The HDUs of a stream one by one; bytes after the last one are ignored, as the standard asks.

    Raises
    ------
    FrameError
        Not FITS, a header without END, or structural keywords that make no sense.
    """
    offset = index = 0
    while text := _read_header(stream, offset, index):
        start = offset + -(-(len(text) + CARD) // BLOCK) * BLOCK
        hdu = _interpret(text, index, start)
        yield hdu
        offset, index = start + -(-hdu.size // BLOCK) * BLOCK, index + 1


def choose(hdus: Iterable[Hdu], read: ReadSpec) -> list[Hdu]:
    """The HDUs that ``read.hdu`` asks for; with 'first' nothing after it is looked at.

    ``read.hdu`` is 'first', 'all', an index, ``EXTNAME`` (its first HDU) or ``EXTNAME,EXTVER``.

    Raises
    ------
    FrameError
        Where there is none, or the one named is no 2-D image; the message lists what there is.
    """
    seen: list[Hdu] = []
    frames: list[Hdu] = []
    by_rank = read.hdu in ("first", "all")
    for hdu in hdus:
        seen.append(hdu)
        if matches(hdu, read.hdu) if not by_rank else _is_frame(hdu, read):
            frames.append(hdu)
            if read.hdu != "all":
                break
    if not frames:
        raise FrameError(_nothing_usable(seen) if by_rank else f"no HDU {read.hdu!r}; {_listing(seen)}")
    if frames[0].shape is None:
        raise FrameError(f"HDU {read.hdu!r} is no 2-D image: {frames[0].what}")
    return frames


def matches(hdu: Hdu, wanted: str) -> bool:
    """Whether ``wanted`` (an index, ``EXTNAME`` or ``EXTNAME,EXTVER``; any case) means this HDU."""
    wanted = wanted.strip().upper()
    if wanted.isdecimal():
        return hdu.index == int(wanted)
    return bool(hdu.name) and wanted in (hdu.name.upper(), f"{hdu.name.upper()},{hdu.version}")


def suffixes(hdus: list[Hdu]) -> list[str]:
    """What tells the images of one file apart: ``[EXTNAME]``, ``[EXTNAME,EXTVER]`` where it repeats, ``[n]``.

    Empty for a single image. Unique within the file, whatever its names.
    """
    if len(hdus) == 1:
        return [""]
    names = [hdu.name.upper() for hdu in hdus]
    keys = [(hdu.name.upper(), hdu.version) for hdu in hdus]
    result = []
    for hdu, name, key in zip(hdus, names, keys, strict=True):
        if not name or "," in name or name.isdecimal() or keys.count(key) > 1:
            result.append(f"[{hdu.index}]")
        else:
            result.append(f"[{hdu.name},{hdu.version}]" if names.count(name) > 1 else f"[{hdu.name}]")
    return result


def _is_frame(hdu: Hdu, read: ReadSpec) -> bool:
    is_mask = bool(read.mask_hdu) and matches(hdu, read.mask_hdu)
    return hdu.shape is not None and hdu.name.upper() not in LOOKUP_TABLES and not is_mask


def _read_header(stream: BinaryIO, offset: int, index: int) -> str:
    """Cards up to END as text; empty where no further HDU starts."""
    stream.seek(offset)
    block = stream.read(BLOCK)
    if index and not block.startswith(b"XTENSION"):
        return ""
    if not index and not block.startswith(b"SIMPLE  ="):
        raise FrameError(starting_with(block))
    blocks: list[bytes] = []
    while block and len(blocks) * BLOCK < LONGEST_HEADER:
        end = END.match(block)
        if end:
            blocks.append(block[: end.end() - 8])
            # latin-1 keeps every byte, and its length, whatever stands in the cards
            return b"".join(blocks).decode("latin-1")
        blocks.append(block)
        block = stream.read(BLOCK)
    length = sum(map(len, blocks))
    raise FrameError(f"truncated header: no END card in the {length} bytes of the header of HDU {index}")


def _interpret(text: str, index: int, offset: int) -> Hdu:
    header = parse(text)
    where = f"the header of HDU {index}"
    bitpix, axes = _geometry(header, "", where)
    pixels = _product(axes)
    if lookup(header, "GROUPS") is True and axes and axes[-1] == 0:
        pixels = _product(axes[:-1])
    group = _integer(header, "PCOUNT", where, 0) + pixels
    size = abs(bitpix) // 8 * _integer(header, "GCOUNT", where, 1) * group
    compressed = lookup(header, "ZIMAGE") is True and lookup(header, "XTENSION") in ("BINTABLE", "A3DTABLE")
    if compressed:
        bitpix, axes = _geometry(header, "Z", where)
    name = lookup(header, "EXTNAME")
    version = lookup(header, "EXTVER")
    # the name that fpack and astropy give to every compressed image says nothing
    name = "" if name is None or (compressed and name == "COMPRESSED_IMAGE") else str(name).strip()
    what = _what(header, axes, compressed)
    shape = None if what else (axes[-2], axes[-1])
    version = version if isinstance(version, int) else 1
    return Hdu(index, name, version, text, header, offset, size, compressed, bitpix, shape, what)


def _geometry(header: fits.Header, prefix: str, where: str) -> tuple[int, tuple[int, ...]]:
    """BITPIX and the axes, slowest first, as numpy has them."""
    bitpix = _integer(header, f"{prefix}BITPIX", where)
    if bitpix not in BITPIX:
        raise FrameError(f"{where} says {prefix}BITPIX = {bitpix}, which is no FITS pixel type")
    count = _integer(header, f"{prefix}NAXIS", where)
    if not 0 <= count <= 999:
        raise FrameError(f"{where} says {prefix}NAXIS = {count}")
    axes = tuple(_integer(header, f"{prefix}NAXIS{n}", where) for n in range(count, 0, -1))
    if any(axis < 0 for axis in axes):
        raise FrameError(f"{where} says negative axis lengths: {axes}")
    return bitpix, axes


def _integer(header: fits.Header, key: str, where: str, default: int | None = None) -> int:
    value = lookup(header, key)
    if value is None and default is not None:
        return default
    if value is None:
        raise FrameError(f"{where} has no readable {key}")
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise FrameError(f"{where} says {key} = {value!r}, which is no integer")
    return int(value)


def _product(axes: tuple[int, ...]) -> int:
    result = 1 if axes else 0
    for axis in axes:
        result *= axis
    return result


def _what(header: fits.Header, axes: tuple[int, ...], compressed: bool) -> str:
    """What the HDU is where it is no 2-D image; empty where it is one. Axes of length 1 do not count."""
    kind = str(lookup(header, "XTENSION") or "IMAGE").strip()
    if kind not in ("IMAGE", "IUEIMAGE") and not compressed:
        return f"a table ({kind})" if kind.endswith("TABLE") else f"an unknown extension ({kind})"
    if lookup(header, "SIMPLE") is False:
        return "an HDU that says it is not standard FITS (SIMPLE = F)"
    if lookup(header, "GROUPS") is True and axes and axes[-1] == 0:
        return "random groups"
    if not axes or 0 in axes:
        return "a header without data"
    if len(axes) == 1:
        return f"a 1-D image of {axes[0]} pixels"
    if _product(axes[:-2]) == 1 or len(axes) == 2:
        return ""
    return f"a {len(axes)}-D image (cube) of shape {axes}"


def _nothing_usable(seen: list[Hdu]) -> str:
    named = [
        f"{hdu.what or 'a distortion or mask image'} {hdu.name!r}" if hdu.name else hdu.what for hdu in seen
    ]
    with_data = [words for hdu, words in zip(seen, named, strict=True) if not hdu.what.startswith("a header")]
    if not with_data:
        return f"no image data, headers only ({len(seen)} HDU)"
    if all(words.startswith("a table") for words in with_data):
        return f"tables only, no 2-D image: {_join(with_data)}"
    return f"no 2-D image, only {_join(with_data)}"


def _listing(seen: list[Hdu]) -> str:
    return "the file has HDU " + _join(
        [f"{hdu.index} {hdu.name!r}" if hdu.name else str(hdu.index) for hdu in seen]
    )


def _join(words: list[str]) -> str:
    shown = list(dict.fromkeys(words))
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
