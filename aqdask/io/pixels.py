"""Pixels of one image HDU: byte order, BSCALE, BZERO and BLANK (FITS 4.0, sections 4.4.2 and 5).

Values equal those of astropy by default, except that integer images with BLANK stay integers. Plain images
take one pass over the file's bytes for byte order and, for unsigned integers, one for the sign bit, where
astropy goes through floating point or several copies. Tile-compressed images are decoded by astropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqdask.errors import FrameError
from aqdask.io.compression import DecompressedStream
from aqdask.io.hdus import Hdu, check_size
from aqdask.io.streams import MemoryStream
from aqdask.io.tile_compression import decode_tiles

STORED_TYPES = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}  # by BITPIX
# Integers of the other sign: BITPIX and BZERO, with BSCALE = 1 (FITS 4.0, table 11)
SIGN_FLIPPED: dict[tuple[int, float], str] = {
    (8, -128): "int8",
    (16, 2**15): "uint16",
    (32, 2**31): "uint32",
    (64, 2**63): "uint64",
}
BLANK_BEYOND = "BLANK is beyond the range of the stored integers and marks no pixel"


@dataclass(frozen=True)
class Scaling:
    """Conversion of stored values to pixels: ``stored * scale + zero``, as ``dtype``.

    ``blank`` is the stored value of pixels without data, if any; ``notes`` are for the user.
    """

    dtype: np.dtype
    scale: float
    zero: float
    blank: int | None
    notes: tuple[str, ...] = ()


def read_scaling(hdu: Hdu) -> Scaling:
    """Return the scaling of an image; its ``dtype`` is that of the pixels as `read_pixels` returns them.

    Raises
    ------
    FrameError
        For unreadable, contradictory or senseless values of BSCALE, BZERO, BLANK or ZBLANK.
    """
    scale, zero = (hdu.cards.number(key) for key in ("BSCALE", "BZERO"))
    scale, zero = 1 if scale is None else scale, 0 if zero is None else zero
    if scale == 0:
        raise FrameError(f"{hdu.cards.header} has BSCALE = 0, which leaves no image")
    stored = np.dtype(STORED_TYPES[hdu.bitpix])
    blank, notes = _blank(hdu), tuple[str, ...]()
    if blank is not None and not np.iinfo(stored).min <= blank <= np.iinfo(stored).max:
        blank, notes = None, (BLANK_BEYOND,)
    dtype = stored
    if hdu.bitpix > 0 and (scale, zero) != (1, 0):
        unsigned = SIGN_FLIPPED.get((hdu.bitpix, zero)) if scale == 1 else None
        dtype = np.dtype(unsigned or ("f8" if hdu.bitpix > 16 else "f4"))
    return Scaling(dtype, scale, zero, blank, notes)


def read_pixels(stream: MemoryStream | DecompressedStream, hdu: Hdu) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the pixels of one HDU of a file in memory.

    Returns
    -------
    image : ndarray, (y, x)
        Native byte order, C-contiguous, of the type of `read_scaling`.
    invalid : ndarray of bool, (y, x), or None
        True for NaN, infinite and BLANK pixels; None where all are valid.

    Raises
    ------
    FrameError
        Not a 2-D image, truncated, or undecodable.
    """
    if hdu.shape is None:
        raise FrameError(f"HDU {hdu.index} is not a 2-D image: {hdu.kind}")
    check_size(hdu, stream)
    scaling = read_scaling(hdu)
    if hdu.compressed:
        stored, blank = decode_tiles(hdu, bytes(stream.buffer[hdu.offset : hdu.offset + hdu.size]))
        return _scaled(stored.astype(STORED_TYPES[hdu.bitpix], copy=False), scaling, blank)
    big_endian = np.dtype(STORED_TYPES[hdu.bitpix]).newbyteorder(">")
    count = hdu.shape[0] * hdu.shape[1]
    return _scaled(np.frombuffer(stream.buffer, big_endian, count, hdu.offset).reshape(hdu.shape), scaling)


def _blank(hdu: Hdu) -> int | None:
    """Return the stored value of pixels without data; the standard defines it for integers only."""
    if hdu.bitpix < 0:
        return None
    keywords = ("BLANK", "ZBLANK") if hdu.compressed else ("BLANK",)
    values = [hdu.cards.integer(keyword) for keyword in keywords if hdu.cards.get(keyword) is not None]
    if len(set(values)) > 1:
        raise FrameError(f"{hdu.cards.header} has BLANK = {values[0]} and ZBLANK = {values[1]}")
    return values[0] if values else None


def _scaled(
    stored: np.ndarray, scaling: Scaling, blank: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert stored values to pixels, native and C-contiguous, in memory of their own.

    ``blank`` marks pixels without data where no single stored value does.
    """
    invalid = blank
    if blank is None and scaling.blank is not None:
        invalid = stored == scaling.blank
    if (scaling.scale, scaling.zero) == (1, 0):
        image = np.array(stored, dtype=scaling.dtype, order="C")
    elif scaling.dtype.kind in "iu":
        # adding 2**(bits - 1) flips the highest bit: no overflow, no wider type
        unsigned = stored.view(stored.dtype.str.replace("i", "u"))
        image = np.array(unsigned, dtype=f"u{stored.itemsize}", order="C")
        image ^= image.dtype.type(1 << (8 * stored.itemsize - 1))
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
