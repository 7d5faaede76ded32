"""Header-data units (HDUs) of a FITS stream: positions, shapes and the choice of images, from headers alone.

Standard: FITS 4.0, sections 3 to 4.4. `docs/decisions/hdu-walk.md` compares `astropy.io.fits.open`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from aqdask.errors import FrameError
from aqdask.io.cards import CARD, StructuralCards
from aqdask.io.compression import PLAUSIBLE_RATIO, TAIL_LIMIT
from aqdask.io.mask_bits import MaskSelection
from aqdask.io.streams import Stream, non_fits_reason
from aqdask.specs import ReadSpec
from aqdask.text import printable, shortened

BLOCK = 2880
MAX_HEADER_SIZE = 4096 * BLOCK  # no real header is near 11 MiB; a damaged one would be read to the file's end
MAX_HEADERS_SIZE = 8 * MAX_HEADER_SIZE  # of all headers: small compressed files can hold very many
MAX_PIXELS = 2**34  # of a compressed image, whose size its file does not limit
BLANK_SIZE = 2**30  # bytes of an image of one value, however well it is compressed
BITPIX = (8, 16, 32, 64, -32, -64)
END = re.compile(rb"(?:.{80})*?END[ \0]{5}", re.DOTALL)
# Look-up tables of distortions (WCS paper IV) are 2-D images, but never observations.
LOOKUP_TABLES = ("WCSDVARR", "D2IMARR")
# Names that pipelines give to images which accompany another one of their file.
COMPANIONS = re.compile(
    r"(ERR|ERROR|DQ|MASK|MSK|FLAGS?|VAR|VARIANCE|IVAR|WHT|WEIGHT|WTMAP|CTX|CON|SAMP|TIME|EXPMAP|SIGMA|UNC|BKG|BACKGROUND)"
    r"[_ -]?\d*"
)
LOOK_AHEAD = 64  # HDUs after the frame that are searched for further images
# Largest number of pixel bytes a byte of the compressed table, by algorithm: 32 values in 3 to 5 bits, limit
# of deflate, runs of 4095 pixels of 4 bytes in 2 bytes; HCOMPRESS needs 30 bytes for a blank tile.
TILE_RATIO = {"RICE": 1024, "GZIP": 2064, "PLIO": 8192, "HCOM": 2**20, "NOCO": 2}


@dataclass(frozen=True)
class Hdu:
    """One header-data unit.

    Parameters
    ----------
    index : int
        Number in the file, from 0.
    name, version : str, int
        EXTNAME (empty if absent) and EXTVER (1 if absent).
    text, cards
        The header, as text and parsed.
    offset, size : int
        Start and length of the data in bytes.
    compressed : bool
        A tile-compressed image, with ``bitpix`` and ``axes`` of the image, not of its table.
    bitpix : int
        FITS pixel type.
    axes : tuple of int
        Axis lengths, slowest first.
    shape : tuple of int, or None
        ``(y, x)`` of a 2-D image; None for any other HDU.
    kind : str
        Description of an HDU that is not a 2-D image, for messages; empty for an image.
    """

    index: int
    name: str
    version: int
    text: str
    cards: StructuralCards
    offset: int
    size: int
    compressed: bool
    bitpix: int
    axes: tuple[int, ...]
    shape: tuple[int, int] | None
    kind: str


class LazyHdus:
    """HDUs of a stream, read as far as they are iterated; ``read`` lists those so far."""

    def __init__(self, stream: Stream) -> None:
        self.read: list[Hdu] = []
        self._rest = read_hdus(stream)

    def __iter__(self) -> Iterator[Hdu]:
        index = 0
        while True:
            if index == len(self.read):
                hdu = next(self._rest, None)
                if hdu is None:
                    return
                self.read.append(hdu)
            yield self.read[index]
            index += 1


def read_hdus(stream: Stream) -> Iterator[Hdu]:
    """Yield the HDUs of a stream; bytes after the last one are ignored, as the standard asks.

    Raises
    ------
    FrameError
        Not FITS, a header without END, or structural keywords that are unreadable or make no sense.
    """
    offset = index = length = 0
    while text := _read_header(stream, offset, index):
        start = offset + -(-(len(text) + CARD) // BLOCK) * BLOCK
        hdu = _interpret(text, index, start)
        yield hdu
        length += len(text)
        if length > MAX_HEADERS_SIZE:
            raise FrameError(
                f"the headers of the first {index + 1} HDUs are longer than {MAX_HEADERS_SIZE} bytes"
            )
        # at least one block further, as no size is negative
        offset, index = start + -(-hdu.size // BLOCK) * BLOCK, index + 1


def select_images(hdus: Iterable[Hdu], read: ReadSpec) -> list[Hdu]:
    """Return the images that ``read.hdu`` selects; with 'first', no HDU after the image is read.

    ``read.hdu`` is 'first', 'all', an index, ``EXTNAME`` (its first HDU) or ``EXTNAME,EXTVER``.

    Raises
    ------
    FrameError
        For no such image, or a named HDU that is not a 2-D image; the message lists the HDUs.
    """
    seen: list[Hdu] = []
    images: list[Hdu] = []
    by_rank = read.hdu in ("first", "all")
    for hdu in hdus:
        seen.append(hdu)
        if _is_image(hdu, read) if by_rank else matches(hdu, read.hdu):
            images.append(hdu)
            if read.hdu != "all":
                break
    if not images:
        raise FrameError(_no_image(seen) if by_rank else f"no HDU {read.hdu!r}; {_listing(seen)}")
    if images[0].shape is None:
        raise FrameError(f"HDU {read.hdu!r} is not a 2-D image: {images[0].kind}")
    return images


def matches(hdu: Hdu, wanted: str) -> bool:
    """Return True if an index, ``EXTNAME`` or ``EXTNAME,EXTVER`` (in any case) names this HDU."""
    wanted = wanted.strip().upper()
    if wanted.isdecimal():
        return hdu.index == int(wanted)
    return bool(hdu.name) and wanted in (hdu.name.upper(), f"{hdu.name.upper()},{hdu.version}")


def frame_suffixes(hdus: list[Hdu]) -> list[str]:
    """Return suffixes of frame ids for the images of one file, unique within the file.

    Empty for a single image; else ``[EXTNAME]``, ``[EXTNAME,EXTVER]`` for a repeated name, or ``[index]``.
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


def check_sizes(hdus: list[Hdu], stream: Stream) -> None:
    """Refuse a file whose headers claim more data than the file can hold, see `check_size`.

    A truncated image beside complete ones of its shape is left to be refused on its own.
    """
    failures: dict[int, FrameError] = {}
    for hdu in hdus:
        try:
            check_size(hdu, stream)
        except FrameError as error:
            failures[hdu.index] = error
    complete = {hdu.shape for hdu in hdus if hdu.index not in failures}
    for hdu in hdus:
        if hdu.index in failures and hdu.shape not in complete:
            raise failures[hdu.index]


def check_size(hdu: Hdu, stream: Stream) -> None:
    """Refuse an image whose header claims more data than there can be, before memory is allocated.

    Raises
    ------
    FrameError
        With the claimed and the possible numbers.
    """
    assert hdu.shape is not None
    pixels = hdu.shape[0] * hdu.shape[1]
    claim = f"HDU {hdu.index} claims {hdu.shape[0]} x {hdu.shape[1]} px"
    if pixels > MAX_PIXELS and (stream.is_compressed or hdu.compressed):
        raise FrameError(f"{claim}, more than the {MAX_PIXELS} px that an image may have")
    if hdu.offset + hdu.size > stream.max_size:
        raise FrameError(f"{claim}, but the compressed file can hold only {int(stream.max_size)} bytes")
    size = pixels * abs(hdu.bitpix) // 8
    plausible = min(stream.plausible_size, hdu.size * PLAUSIBLE_RATIO if hdu.compressed else math.inf)
    if size > max(plausible, BLANK_SIZE):
        raise FrameError(
            f"{claim}, {size} bytes that are compressed to less than 1/{PLAUSIBLE_RATIO}: no image"
        )
    there = max(stream.available(hdu.offset + hdu.size) - hdu.offset, 0)
    if there < hdu.size:
        raise FrameError(f"truncated: HDU {hdu.index} needs {hdu.size} bytes of data, {there} are there")
    if not hdu.compressed:
        return
    tiles = math.prod(-(-axis // side) for axis, side in zip(hdu.axes, tile_shape(hdu), strict=True))
    rows = hdu.cards.integer("NAXIS2")
    if rows < tiles:
        raise FrameError(f"{claim} in {tiles} tiles, but its table has {rows} rows")
    ratio = TILE_RATIO.get(str(hdu.cards.get("ZCMPTYPE"))[:4], 2**20)
    if size > hdu.size * ratio:
        raise FrameError(f"{claim}, which no tile compression packs into {hdu.size} bytes")


def tile_shape(hdu: Hdu) -> tuple[int, ...]:
    """Return the sides of the tiles of a compressed image, slowest axis first; one row by default."""
    sides = [
        hdu.cards.integer(f"ZTILE{n}", hdu.axes[-1] if n == 1 else 1) for n in range(len(hdu.axes), 0, -1)
    ]
    if min(sides) < 1:
        raise FrameError(f"{hdu.cards.header} has tiles of {sides} px")
    return tuple(sides)


def has_more_images(hdus: LazyHdus, frame: Hdu, read: ReadSpec, stream: Stream) -> bool:
    """Return True if another image of the same shape follows ``frame`` within `LOOK_AHEAD` HDUs.

    Damage after the frame is ignored. A compressed stream is not decompressed much further.
    """
    end = frame.offset + frame.size + TAIL_LIMIT if stream.is_compressed else math.inf
    try:
        for hdu in islice(hdus, frame.index + 1, frame.index + 1 + LOOK_AHEAD):
            is_companion = COMPANIONS.fullmatch(hdu.name.upper())
            if _is_image(hdu, read) and hdu.shape == frame.shape and not is_companion:
                return True
            if hdu.offset + hdu.size > end:
                return False
    except FrameError:
        pass
    return False


def _is_image(hdu: Hdu, read: ReadSpec) -> bool:
    """Return True if an HDU is a 2-D image, but neither a distortion table nor the input mask."""
    mask = MaskSelection.of(read)
    is_mask = bool(mask.hdu) and not mask.files and matches(hdu, mask.hdu)
    return hdu.shape is not None and hdu.name.upper() not in LOOKUP_TABLES and not is_mask


def _read_header(stream: Stream, offset: int, index: int) -> str:
    """Read cards up to END; an empty string where no further HDU starts."""
    if index and stream.available(offset + 1) <= offset:
        return ""
    stream.seek(offset)
    block = stream.read(BLOCK)
    if index and not block.startswith(b"XTENSION"):
        return ""
    if not index and not block.startswith(b"SIMPLE  ="):
        raise FrameError(non_fits_reason(block))
    blocks: list[bytes] = []
    while block and len(blocks) * BLOCK < MAX_HEADER_SIZE:
        end = END.match(block)
        if end:
            blocks.append(block[: end.end() - 8])
            # latin-1 keeps every byte, and the length, of damaged cards too
            return b"".join(blocks).decode("latin-1")
        blocks.append(block)
        block = stream.read(BLOCK)
    length = sum(map(len, blocks))
    raise FrameError(f"truncated header: no END card in the {length} bytes of the header of HDU {index}")


def _interpret(text: str, index: int, offset: int) -> Hdu:
    cards = StructuralCards(text, f"the header of HDU {index}")
    bitpix, axes = _geometry(cards, "")
    pixels = math.prod(axes) if axes else 0
    if cards.get("GROUPS") is True and axes and axes[-1] == 0:
        pixels = math.prod(axes[:-1]) if axes[:-1] else 0
    size = abs(bitpix) // 8 * _count(cards, "GCOUNT", 1) * (_count(cards, "PCOUNT", 0) + pixels)
    compressed = cards.get("ZIMAGE") is True and cards.get("XTENSION") in ("BINTABLE", "A3DTABLE")
    if compressed:
        bitpix, axes = _geometry(cards, "Z")
    name = cards.first("EXTNAME")
    version = cards.first("EXTVER")
    # fpack and astropy give COMPRESSED_IMAGE to every compressed image without a name
    unnamed = name is None or (compressed and name == "COMPRESSED_IMAGE")
    name = "" if unnamed else printable(str(name).strip())  # it becomes part of frame ids
    kind = _kind(cards, axes, compressed)
    shape = None if kind else (axes[-2], axes[-1])
    version = version if isinstance(version, int) else 1
    return Hdu(index, name, version, text, cards, offset, size, compressed, bitpix, axes, shape, kind)


def _geometry(cards: StructuralCards, prefix: str) -> tuple[int, tuple[int, ...]]:
    """Return BITPIX and the axis lengths, slowest first."""
    bitpix = cards.integer(f"{prefix}BITPIX")
    if bitpix not in BITPIX:
        raise FrameError(f"{cards.header} has {prefix}BITPIX = {bitpix}, which is not a FITS pixel type")
    count = cards.integer(f"{prefix}NAXIS")
    if not 0 <= count <= 999:
        raise FrameError(f"{cards.header} has {prefix}NAXIS = {count}")
    axes = tuple(cards.integer(f"{prefix}NAXIS{n}") for n in range(count, 0, -1))
    if any(axis < 0 for axis in axes):
        raise FrameError(f"{cards.header} has negative axis lengths: {axes}")
    return bitpix, axes


def _count(cards: StructuralCards, keyword: str, default: int) -> int:
    value = cards.integer(keyword, default)
    if value < 0:
        raise FrameError(f"{cards.header} has {keyword} = {value}")
    return value


def _kind(cards: StructuralCards, axes: tuple[int, ...], compressed: bool) -> str:
    """Describe an HDU that is not a 2-D image; empty for an image. Axes of length 1 are dropped."""
    extension = printable(str(cards.get("XTENSION") or "IMAGE").strip())
    if extension not in ("IMAGE", "IUEIMAGE") and not compressed:
        is_table = extension.endswith("TABLE")
        return f"a table ({extension})" if is_table else f"an unknown extension ({extension})"
    if cards.get("SIMPLE") is False:
        return "an HDU that declares itself not standard FITS (SIMPLE = F)"
    if cards.get("GROUPS") is True and axes and axes[-1] == 0:
        return "random groups"
    if not axes or 0 in axes:
        return "a header without data"
    if len(axes) == 1:
        return f"a 1-D image of {axes[0]} pixels"
    if math.prod(axes[:-2]) == 1:
        return ""
    return f"a {len(axes)}-D image (cube) of shape {axes}"


def _no_image(seen: list[Hdu]) -> str:
    kinds = [(hdu.kind or "a distortion or mask image", hdu.name) for hdu in seen]
    named = [f"{kind} '{name}'" if name else kind for kind, name in kinds if kind != "a header without data"]
    if not named:
        return f"no image data, headers only (number of HDUs: {len(seen)})"
    listed = shortened(list(dict.fromkeys(named)))
    if all(words.startswith("a table") for words in named):
        return f"tables only, no 2-D image: {listed}"
    return f"no 2-D image, only {listed}"


def _listing(seen: list[Hdu]) -> str:
    named = [f"{hdu.index} '{hdu.name}'" if hdu.name else str(hdu.index) for hdu in seen]
    return f"the file has the HDUs {shortened(named)}"
