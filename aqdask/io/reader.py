"""One frame in: what a FITS file holds, from headers alone, and the pixels of one of its images.

Plain images are cut out of the file's bytes directly: one pass for byte order and, for unsigned integers,
one for the sign bit, where astropy would go through floating point or several copies. Tile-compressed
images are decoded by astropy. Both give what astropy gives by default, except that BLANK leaves an integer
image an integer.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np

from aqdask.errors import FrameError, SourceUnreachable
from aqdask.io.cards import quiet
from aqdask.io.compression import (
    OpenFile,
    Stream,
    decompress,
    frame_errors,
    in_memory,
    load_bytes,
    load_file,
    open_stream,
)
from aqdask.io.hdus import (
    Hdu,
    Hdus,
    check_claim,
    check_claims,
    choose,
    has_more_images,
    matches,
    suffixes,
)
from aqdask.io.input_masks import Mask, defects
from aqdask.io.metadata import describe, tell_apart
from aqdask.io.tile_compression import decode_tiles, image_cards
from aqdask.io.writer import frame_to_fits
from aqdask.specs import FrameInfo, ReadSpec
from aqdask.text import printable

__all__ = ["Frame", "decompress", "frame_to_fits", "load_bytes", "load_file", "probe", "read_frame"]

TYPES = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}
SIGN_FLIPPED: dict[tuple[int, float], str] = {
    (8, -128): "int8",
    (16, 2**15): "uint16",
    (32, 2**31): "uint32",
    (64, 2**63): "uint64",
}
HASHED_AT_ONCE = 2**18  # bytes; a thread takes longer to start
SEVERAL = "several images of the same shape in one file: only the first was taken (--hdu all takes them all)"
BLANK_BEYOND = "BLANK is beyond the range of the stored numbers and marks no pixel"


@dataclass(frozen=True)
class Frame:
    """The pixels of one image as read.

    Parameters
    ----------
    image : ndarray, (y, x)
        Native byte order, C-contiguous, of the type that `probe` said.
    invalid : ndarray of bool, (y, x), or None
        True where the pixel is no data; None where all are valid.
    sha256 : str
        Hex digest of the file as it is on disk (compressed where it is compressed).
    size, mtime_ns : int
        Bytes of the file on disk and its time of change, of the descriptor that was read.
    info : FrameInfo
        Made from the same bytes as the pixels.
    """

    image: np.ndarray
    invalid: np.ndarray | None
    sha256: str
    size: int
    mtime_ns: int
    info: FrameInfo


def probe(path: str | os.PathLike[str], read: ReadSpec) -> tuple[FrameInfo, ...]:
    """The frames that ``path`` gives under ``read``, from headers alone; never empty.

    Raises
    ------
    FrameError
        No FITS, or no usable 2-D image, or one that claims more data than there can be; the message is the
        reason.
    SourceUnreachable
        The file is not there, forbidden, or cannot be read.
    OSError, MemoryError
        The machine failed, not the file.
    """
    with quiet(), open_stream(path) as stream:
        hdus = Hdus(stream)
        frames = _choose(hdus, stream, read)
        # a compressed file would be inflated for it
        notes = () if stream.is_inflated else _notes(hdus, frames, read, stream)
        return _infos(hdus, frames, read, notes)


def read_frame(path: str | os.PathLike[str], info_hdu: int, read: ReadSpec) -> Frame:
    """The image in HDU ``info_hdu`` (an index that `probe` gave), reading the file once.

    Raises
    ------
    FrameError
        Truncated or undecodable, no valid pixel, no longer one of the images that ``read`` takes from the
        file, or a mask that the file lacks or of another shape.
    SourceUnreachable
        The file, its mask or the bad-pixel map is not there, forbidden, or cannot be read.
    OSError, MemoryError
        The machine failed, not the file.
    """
    file = load_file(path)
    with frame_errors(), _hashing(file.raw) as digest:
        stream = in_memory(file.raw)
        hdus = Hdus(stream)
        with quiet():
            frames = _choose(hdus, stream, read)
        found = {hdu.index: (hdu, suffix) for hdu, suffix in _named(frames)}
        if info_hdu not in found:
            raise FrameError(f"HDU {info_hdu} is no longer one of the images that this file gives")
        hdu, suffix = found[info_hdu]
        image, invalid = _pixels(stream, hdu)
        invalid = _masked(invalid, image.shape, _masks(path, stream, hdus, hdu, suffix, read))
        with quiet():
            notes = _notes(hdus, frames, read, stream)
            stream.finish()
            infos = _infos(hdus, frames, read, tuple(dict.fromkeys((*notes, *stream.notes))))
            info = next(info for info in infos if info.hdu == info_hdu)
        return Frame(image, invalid, digest(), file.size, file.mtime_ns, info)


@contextmanager
def _hashing(raw: bytes) -> Iterator[Callable[[], str]]:
    """Compute the sha256 of a file's bytes; a large file's in a thread, which hashlib lets run meanwhile."""
    if len(raw) < HASHED_AT_ONCE:
        digest = hashlib.sha256(raw).hexdigest()
        yield lambda: digest
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit(lambda: hashlib.sha256(raw).hexdigest()).result


def is_reachable(path: str | os.PathLike[str]) -> bool:
    """Tell if the first byte of a file can be read by this process."""
    try:
        with open_stream(path) as stream:
            stream.read(1)
    except SourceUnreachable:
        return False
    except (FrameError, OSError):
        pass  # it is there, whatever it is
    return True


def _choose(hdus: Hdus, stream: Stream, read: ReadSpec) -> list[Hdu]:
    frames = choose(hdus, read)
    check_claims(frames, stream)
    return frames


def _infos(hdus: Hdus, frames: list[Hdu], read: ReadSpec, notes: tuple[str, ...]) -> tuple[FrameInfo, ...]:
    infos = tuple(_info(hdus, hdu, suffix, read, notes) for hdu, suffix in _named(frames))
    return tell_apart(infos, read.keywords)


def _named(frames: list[Hdu]) -> list[tuple[Hdu, str]]:
    return list(zip(frames, suffixes(frames), strict=True))


def _notes(hdus: Hdus, frames: list[Hdu], read: ReadSpec, stream: Stream) -> tuple[str, ...]:
    """Notes on the file as a whole."""
    several = read.hdu == "first" and has_more_images(hdus, frames[0], read, stream)
    return (SEVERAL, *stream.notes) if several else stream.notes


@dataclass(frozen=True)
class _Scaling:
    """How stored numbers become pixels: ``stored * scale + zero`` as ``dtype``; ``blank`` marks no data."""

    dtype: np.dtype
    scale: float
    zero: float
    blank: int | None
    notes: tuple[str, ...] = ()


def _info(hdus: Hdus, hdu: Hdu, suffix: str, read: ReadSpec, notes: tuple[str, ...]) -> FrameInfo:
    assert hdu.shape is not None  # choose() gives images only
    text = image_cards(hdu) if hdu.compressed else hdu.text
    primary = hdus.seen[0].text if hdu.index else ""
    scaling = _scaling(hdu)
    card = describe(text, primary, read.keywords)
    notes = (*card.notes, *notes, *scaling.notes)
    return FrameInfo(hdu.index, suffix, hdu.shape, scaling.dtype.name, text, primary, card, notes)


def _scaling(hdu: Hdu) -> _Scaling:
    scale, zero = _number(hdu, "BSCALE", 1), _number(hdu, "BZERO", 0)
    if scale == 0:
        raise FrameError(f"the header of HDU {hdu.index} says BSCALE = 0, which leaves no image")
    stored = np.dtype(TYPES[hdu.bitpix])
    blank, notes = _blank(hdu), tuple[str, ...]()
    if blank is not None and not np.iinfo(stored).min <= blank <= np.iinfo(stored).max:
        blank, notes = None, (BLANK_BEYOND,)
    dtype = stored
    if hdu.bitpix > 0 and (scale, zero) != (1, 0):
        unsigned = SIGN_FLIPPED.get((hdu.bitpix, zero)) if scale == 1 else None
        dtype = np.dtype(unsigned or ("f8" if hdu.bitpix > 16 else "f4"))
    return _Scaling(dtype, scale, zero, blank, notes)


def _blank(hdu: Hdu) -> int | None:
    """The stored number that marks no data; the standard knows it for integers only."""
    if hdu.bitpix < 0:
        return None
    values: list[int] = []
    for key in ("BLANK", "ZBLANK") if hdu.compressed else ("BLANK",):
        value = _number(hdu, key, None)
        if value is not None and not float(value).is_integer():
            raise FrameError(f"the header of HDU {hdu.index} says {key} = {value}, which is no integer")
        values += [] if value is None else [int(value)]
    if len(set(values)) > 1:
        raise FrameError(f"the header of HDU {hdu.index} says BLANK = {values[0]} and ZBLANK = {values[1]}")
    return values[0] if values else None


@overload
def _number(hdu: Hdu, key: str, default: float) -> float: ...
@overload
def _number(hdu: Hdu, key: str, default: None) -> float | None: ...
def _number(hdu: Hdu, key: str, default: float | None) -> float | None:
    value = hdu.cards.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        shown = printable(repr(value))
        raise FrameError(f"the header of HDU {hdu.index} says {key} = {shown}, which is no number")
    return value


def _pixels(stream: Stream, hdu: Hdu) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and invalid pixels of one HDU of a file in memory."""
    if hdu.shape is None:
        raise FrameError(f"HDU {hdu.index} is no 2-D image: {hdu.what}")
    check_claim(hdu, stream)
    scaling = _scaling(hdu)
    assert not isinstance(stream, OpenFile)
    if hdu.compressed:
        stored, blank = decode_tiles(hdu, bytes(stream.kept[hdu.offset : hdu.offset + hdu.size]))
        return _calibrate(stored.astype(TYPES[hdu.bitpix], copy=False), scaling, blank)
    big_endian = np.dtype(TYPES[hdu.bitpix]).newbyteorder(">")
    count = hdu.shape[0] * hdu.shape[1]
    return _calibrate(np.frombuffer(stream.kept, big_endian, count, hdu.offset).reshape(hdu.shape), scaling)


def _calibrate(
    stored: np.ndarray, scaling: _Scaling, blank: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Stored numbers as pixels of ``scaling.dtype``, native and C-contiguous, in memory of their own.

    ``blank`` marks stored numbers that are no data where no one number does.
    """
    bits = 8 * stored.itemsize
    invalid = blank
    if blank is None and scaling.blank is not None:
        invalid = stored == scaling.blank
    if (scaling.scale, scaling.zero) == (1, 0):
        image = np.array(stored, dtype=scaling.dtype, order="C")
    elif scaling.dtype.kind in "iu":
        # adding 2^(bits-1) is flipping the highest bit: no overflow, no wider type
        unsigned = stored.view(stored.dtype.str.replace("i", "u"))
        image = np.array(unsigned, dtype=f"u{stored.itemsize}", order="C")
        image ^= image.dtype.type(1 << (bits - 1))
        image = image.view(scaling.dtype)
    else:
        image = np.array(stored, dtype=scaling.dtype, order="C")
        with np.errstate(all="ignore"):
            image *= scaling.scale
            image += scaling.zero
        if invalid is not None:
            image[invalid] = np.nan
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        invalid = np.invert(finite, out=finite)
    return image, invalid if invalid is not None and invalid.any() else None


def _masks(
    path: str | os.PathLike[str], stream: Stream, hdus: Hdus, hdu: Hdu, suffix: str, read: ReadSpec
) -> Iterator[np.ndarray]:
    """Input masks of one image, True where it is no data."""
    mask = Mask.of(read)
    if mask.files:
        yield _mask_file(mask, mask.file_of(os.fspath(path)), hdu, suffix)
    elif mask.hdu:
        plane = _mask_hdu(hdus, hdu, mask.hdu)
        with _named_errors(f"mask HDU '{printable(mask.hdu)}'"):
            yield _defects(mask, stream, hdus, plane)
    if read.bad_pixel_map:
        yield _bad_pixels(read.bad_pixel_map)


def _mask_hdu(hdus: Hdus, image: Hdu, wanted: str) -> Hdu:
    """The mask of an image: of several with the name, the one with its EXTVER."""
    found: list[Hdu] = []
    for hdu in hdus:
        if hdu.index == image.index or not matches(hdu, wanted):
            continue
        if hdu.version == image.version or wanted.isdecimal():
            return hdu
        found.append(hdu)
    if len(found) != 1:
        number = len(hdus.seen)
        raise FrameError(f"no mask HDU '{printable(wanted)}' for HDU {image.index} among {number} HDU")
    return found[0]


def _mask_file(mask: Mask, place: Path, image: Hdu, suffix: str) -> np.ndarray:
    """The mask in a file of its own: its first image, or for one of several that of the same name."""
    with _named_errors(f"mask file {printable(place)}"):
        hdus = Hdus(stream := in_memory(load_bytes(place)))
        if mask.hdu:
            plane = _mask_hdu(hdus, replace(image, index=-1), mask.hdu)
        elif suffix:
            name = f"{image.name},{image.version}" if image.name else str(image.index)
            plane = choose(hdus, ReadSpec(hdu=name))[0]
        else:
            plane = choose(hdus, ReadSpec())[0]
        return _defects(mask, stream, hdus, plane)


def _defects(mask: Mask, stream: Stream, hdus: Hdus, plane: Hdu) -> np.ndarray:
    pixels, invalid = _pixels(stream, plane)
    bad = defects(pixels, mask, plane.text, hdus.seen[0].text)
    return bad if invalid is None else bad | invalid


def _bad_pixels(path: str) -> np.ndarray:
    with _named_errors(f"bad-pixel map {printable(path)}"), frame_errors():
        status = os.stat(path)
        return _bad_pixel_map(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)  # every frame of a run has the same map
def _bad_pixel_map(path: str, mtime_ns: int, size: int) -> np.ndarray:
    stream = in_memory(load_bytes(path))
    bad = _pixels(stream, choose(Hdus(stream), ReadSpec())[0])[0] != 0
    bad.flags.writeable = False
    return bad


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """Put the name of what is not the frame itself before the reason."""
    try:
        yield
    except SourceUnreachable as error:
        raise SourceUnreachable(f"{what}: {error.reason}", error.number) from error
    except FrameError as error:
        raise FrameError(f"{what}: {error}") from error


def _masked(
    invalid: np.ndarray | None, shape: tuple[int, ...], masks: Iterator[np.ndarray]
) -> np.ndarray | None:
    """Invalid pixels of an image with its input masks; None where there are none."""
    for mask in masks:
        if mask.shape != shape:
            raise FrameError(
                f"the mask is {mask.shape[0]} x {mask.shape[1]} px, the image {shape[0]} x {shape[1]} px"
            )
        if invalid is not None:
            invalid = invalid | mask
        elif mask.any():
            invalid = mask.copy()
    if invalid is not None and invalid.all():
        raise FrameError("no valid pixel: all are NaN, BLANK or masked")
    return invalid
