"""Where the HDUs of a FITS stream lie, from headers alone, and which of them are frames.

astropy reads headers well but is built to open files leniently; here every file needs one definite answer,
lazily and with a reason, and the byte offset of its pixels. The FITS standard 4.0, sections 3 to 4.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from aqdask.errors import FrameError
from aqdask.io.cards import CARD, Structure
from aqdask.io.compression import Stream, starting_with
from aqdask.io.decompression import REST
from aqdask.io.input_masks import Mask
from aqdask.specs import ReadSpec
from aqdask.text import printable

BLOCK = 2880
LONGEST_HEADER = 4096 * BLOCK  # no real header is near 11 MiB; a damaged one would be read to the file's end
LONGEST_HEADERS = 8 * LONGEST_HEADER  # all headers of a file: small files can hold very many of them
MOST_PIXELS = 2**34  # of one image; a larger claim is refused
BITPIX = (8, 16, 32, 64, -32, -64)
END = re.compile(rb"(?:.{80})*?END[ \0]{5}", re.DOTALL)
# Look-up tables of distortions (WCS paper IV) are 2-D images, but never observations.
LOOKUP_TABLES = ("WCSDVARR", "D2IMARR")
# Images that go with another of their file and are no frames of their own, by the names that pipelines give.
COMPANIONS = re.compile(
    r"(ERR|ERROR|DQ|MASK|MSK|FLAGS?|VAR|VARIANCE|IVAR|WHT|WEIGHT|WTMAP|CTX|CON|SAMP|TIME|EXPMAP|SIGMA|UNC|BKG|BACKGROUND)"
    r"[_ -]?\d*"
)
LOOK_AHEAD = 64  # HDUs behind the frame that are looked at for further images
# Most pixel bytes a byte of a compressed table, by algorithm: 32 values in 3 to 5 bits, deflate's limit,
# runs of 4095 in 2 bytes of 4-byte pixels; a blank tile of any size takes HCOMPRESS some 30 bytes.
TILE_RATIO = {"RICE": 1024, "GZIP": 2064, "PLIO": 8192, "HCOM": 2**20, "NOCO": 2}


@dataclass(frozen=True)
class Hdu:
    """One header-data unit: ``text`` and ``cards`` are its header, ``offset`` and ``size`` its data in bytes.

    ``shape`` is ``(y, x)`` of a 2-D image, else None and ``what`` says in words what it is instead.
    ``compressed`` marks a tile-compressed image; ``bitpix`` and ``axes`` (slowest first) are then those of
    the image, not of its table.
    """

    index: int
    name: str
    version: int
    text: str
    cards: Structure
    offset: int
    size: int
    compressed: bool
    bitpix: int
    axes: tuple[int, ...]
    shape: tuple[int, int] | None
    what: str


class Hdus:
    """The HDUs of a stream, read as far as somebody asks, in any number of passes."""

    def __init__(self, stream: Stream) -> None:
        self.seen: list[Hdu] = []
        self._rest = walk(stream)

    def __iter__(self) -> Iterator[Hdu]:
        index = 0
        while index < len(self.seen) or self._read_one():
            yield self.seen[index]
            index += 1

    def _read_one(self) -> bool:
        hdu = next(self._rest, None)
        if hdu is not None:
            self.seen.append(hdu)
        return hdu is not None


def walk(stream: Stream) -> Iterator[Hdu]:
    """The HDUs of a stream one by one; bytes after the last one are ignored, as the standard asks.

    Raises
    ------
    FrameError
        Not FITS, a header without END, or structural keywords that cannot be read or make no sense.
    """
    offset = index = length = 0
    while text := _read_header(stream, offset, index):
        start = offset + -(-(len(text) + CARD) // BLOCK) * BLOCK
        hdu = _interpret(text, index, start)
        yield hdu
        length += len(text)
        if length > LONGEST_HEADERS:
            raise FrameError(
                f"the headers of the first {index + 1} HDU are longer than {LONGEST_HEADERS} bytes"
            )
        # at least one block further, as no size is negative
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


def check_claims(hdus: list[Hdu], stream: Stream) -> None:
    """Refuse a file whose headers claim more data than the file can hold.

    An image that is cut short beside whole ones of its shape is left to be refused on its own.

    Raises
    ------
    FrameError
        With the numbers.
    """
    failures: dict[int, FrameError] = {}
    for hdu in hdus:
        try:
            check_claim(hdu, stream)
        except FrameError as error:
            failures[hdu.index] = error
    if not failures:
        return
    whole = {hdu.shape for hdu in hdus if hdu.index not in failures}
    for hdu in hdus:
        if hdu.index in failures and hdu.shape not in whole:
            raise failures[hdu.index]


def check_claim(hdu: Hdu, stream: Stream) -> None:
    """Raise `FrameError` where an image claims more than there can be, before anything is allocated."""
    assert hdu.shape is not None
    pixels = hdu.shape[0] * hdu.shape[1]
    claim = f"HDU {hdu.index} claims {hdu.shape[0]} x {hdu.shape[1]} px"
    # an uncompressed image is as large as its file
    if pixels > MOST_PIXELS and (stream.is_inflated or hdu.compressed):
        raise FrameError(f"{claim}, more than the {MOST_PIXELS} px that an image may have")
    if hdu.offset + hdu.size > stream.most:
        raise FrameError(f"{claim}, the compressed file can hold {int(stream.most)} bytes")
    there = max(stream.reach(hdu.offset + hdu.size) - hdu.offset, 0)
    if there < hdu.size:
        raise FrameError(f"truncated: HDU {hdu.index} needs {hdu.size} bytes of data, {there} are there")
    if not hdu.compressed:
        return
    tiles = math.prod(-(-axis // side) for axis, side in zip(hdu.axes, tile_shape(hdu), strict=True))
    rows = _integer(hdu.cards, "NAXIS2", hdu.cards.where)
    if rows < tiles:
        raise FrameError(f"{claim} in {tiles} tiles, the table has {rows}")
    ratio = TILE_RATIO.get(str(hdu.cards.get("ZCMPTYPE"))[:4], 2**20)
    if pixels * abs(hdu.bitpix) // 8 > hdu.size * ratio:
        raise FrameError(f"{claim}, which no tile compression packs into {hdu.size} bytes")


def tile_shape(hdu: Hdu) -> tuple[int, ...]:
    """Sides of the tiles of a compressed image, slowest axis first; rows where the header does not say."""
    default = {1: hdu.axes[-1]}
    sides = [
        _integer(hdu.cards, f"ZTILE{n}", hdu.cards.where, default.get(n, 1))
        for n in range(len(hdu.axes), 0, -1)
    ]
    if min(sides) < 1:
        raise FrameError(f"{hdu.cards.where} says tiles of {sides} px")
    return tuple(sides)


def has_more_images(hdus: Hdus, frame: Hdu, read: ReadSpec, stream: Stream) -> bool:
    """Tell if a further frame of the same shape stands behind ``frame``, among the next HDUs.

    Damage there is none of the frame's. A compressed stream is not inflated much further for it.
    """
    end = frame.offset + frame.size + REST if stream.is_inflated else math.inf
    try:
        for hdu in islice(hdus, frame.index + 1, frame.index + 1 + LOOK_AHEAD):
            is_companion = COMPANIONS.fullmatch(hdu.name.upper())
            if _is_frame(hdu, read) and hdu.shape == frame.shape and not is_companion:
                return True
            if hdu.offset + hdu.size > end:
                return False
    except FrameError:
        pass
    return False


def _is_frame(hdu: Hdu, read: ReadSpec) -> bool:
    mask = Mask.of(read)
    is_mask = bool(mask.hdu) and not mask.files and matches(hdu, mask.hdu)
    return hdu.shape is not None and hdu.name.upper() not in LOOKUP_TABLES and not is_mask


def _read_header(stream: Stream, offset: int, index: int) -> str:
    """Cards up to END as text; empty where no further HDU starts."""
    if index and stream.reach(offset + 1) <= offset:
        return ""
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
    where = f"the header of HDU {index}"
    cards = Structure(text, where)
    bitpix, axes = _geometry(cards, "", where)
    pixels = _product(axes)
    if cards.get("GROUPS") is True and axes and axes[-1] == 0:
        pixels = _product(axes[:-1])
    group = _count(cards, "PCOUNT", where, 0) + pixels
    size = abs(bitpix) // 8 * _count(cards, "GCOUNT", where, 1) * group
    compressed = cards.get("ZIMAGE") is True and cards.get("XTENSION") in ("BINTABLE", "A3DTABLE")
    if compressed:
        bitpix, axes = _geometry(cards, "Z", where)
    name = cards.first("EXTNAME")
    version = cards.first("EXTVER")
    # the name that fpack and astropy give to every compressed image says nothing
    unnamed = name is None or (compressed and name == "COMPRESSED_IMAGE")
    name = "" if unnamed else printable(str(name).strip())  # it becomes part of frame ids
    what = _what(cards, axes, compressed)
    shape = None if what else (axes[-2], axes[-1])
    version = version if isinstance(version, int) else 1
    return Hdu(index, name, version, text, cards, offset, size, compressed, bitpix, axes, shape, what)


def _geometry(cards: Structure, prefix: str, where: str) -> tuple[int, tuple[int, ...]]:
    """BITPIX and the axes, slowest first, as numpy has them."""
    bitpix = _integer(cards, f"{prefix}BITPIX", where)
    if bitpix not in BITPIX:
        raise FrameError(f"{where} says {prefix}BITPIX = {bitpix}, which is no FITS pixel type")
    count = _integer(cards, f"{prefix}NAXIS", where)
    if not 0 <= count <= 999:
        raise FrameError(f"{where} says {prefix}NAXIS = {count}")
    axes = tuple(_integer(cards, f"{prefix}NAXIS{n}", where) for n in range(count, 0, -1))
    if any(axis < 0 for axis in axes):
        raise FrameError(f"{where} says negative axis lengths: {axes}")
    return bitpix, axes


def _integer(cards: Structure, key: str, where: str, default: int | None = None) -> int:
    value = cards.get(key)
    if value is None and default is not None:
        return default
    if value is None:
        raise FrameError(f"{where} has no readable {key}")
    # not value // 1: of an infinite value that is NaN
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        raise FrameError(f"{where} says {key} = {printable(repr(value))}, which is no integer")
    return int(value)


def _count(cards: Structure, key: str, where: str, default: int) -> int:
    value = _integer(cards, key, where, default)
    if value < 0:
        raise FrameError(f"{where} says {key} = {value}")
    return value


def _product(axes: tuple[int, ...]) -> int:
    result = 1 if axes else 0
    for axis in axes:
        result *= axis
    return result


def _what(cards: Structure, axes: tuple[int, ...], compressed: bool) -> str:
    """What the HDU is where it is no 2-D image; empty where it is one. Axes of length 1 do not count."""
    kind = printable(str(cards.get("XTENSION") or "IMAGE").strip())
    if kind not in ("IMAGE", "IUEIMAGE") and not compressed:
        return f"a table ({kind})" if kind.endswith("TABLE") else f"an unknown extension ({kind})"
    if cards.get("SIMPLE") is False:
        return "an HDU that says it is not standard FITS (SIMPLE = F)"
    if cards.get("GROUPS") is True and axes and axes[-1] == 0:
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
        f"{hdu.what or 'a distortion or mask image'} '{hdu.name}'" if hdu.name else hdu.what for hdu in seen
    ]
    with_data = [words for hdu, words in zip(seen, named, strict=True) if not hdu.what.startswith("a header")]
    if not with_data:
        return f"no image data, headers only ({len(seen)} HDU)"
    if all(words.startswith("a table") for words in with_data):
        return f"tables only, no 2-D image: {_join(with_data)}"
    return f"no 2-D image, only {_join(with_data)}"


def _listing(seen: list[Hdu]) -> str:
    return "the file has HDU " + _join(
        [f"{hdu.index} '{hdu.name}'" if hdu.name else str(hdu.index) for hdu in seen]
    )


def _join(words: list[str]) -> str:
    shown = list(dict.fromkeys(words))
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
