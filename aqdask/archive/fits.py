"""One frame in: what a FITS file holds, from headers alone, and the pixels of one of its images.

Plain images are cut out of the file's bytes directly: one pass for byte order and, for unsigned integers,
one for the sign bit, where astropy would go through floating point or several copies. Tile-compressed
images are decoded by astropy. Both give what astropy gives by default, except that BLANK leaves an integer
image an integer.
"""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from astropy.io import fits

from aqdask.archive.cards import lookup, quiet
from aqdask.archive.filebytes import decompress, frame_errors, load_bytes, open_stream
from aqdask.archive.fits_out import frame_to_fits
from aqdask.archive.hdus import BLOCK, Hdu, choose, matches, suffixes, walk
from aqdask.archive.headers import describe, tell_apart
from aqdask.errors import FrameError
from aqdask.specs import FrameInfo, ReadSpec

__all__ = ["Frame", "frame_to_fits", "load_bytes", "probe", "read_frame"]

TYPES = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}
SIGN_FLIPPED: dict[tuple[int, float], str] = {
    (8, -128): "int8",
    (16, 2**15): "uint16",
    (32, 2**31): "uint32",
    (64, 2**63): "uint64",
}
# A table extension alone is no FITS file: astropy gets each compressed image behind this primary HDU.
PRIMARY = fits.PrimaryHDU().header.tostring().encode()


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
    size : int
        Bytes of the file on disk.
    """

    image: np.ndarray
    invalid: np.ndarray | None
    sha256: str
    size: int


def probe(path: str | os.PathLike[str], read: ReadSpec) -> tuple[FrameInfo, ...]:
    """The frames that ``path`` gives under ``read``, from headers alone; never empty.

    Raises
    ------
    FrameError
        The file is unreadable, no FITS, or has no usable 2-D image; the message is the reason.
    OSError
        The machine failed, not the file.
    """
    with quiet(), open_stream(path) as stream:
        hdus = walk(stream)
        primary = next(hdus)
        frames = choose(chain([primary], hdus), read)
        infos = tuple(
            _info(hdu, suffix, primary.text if hdu.index else "", read)
            for hdu, suffix in zip(frames, suffixes(frames), strict=True)
        )
        return tell_apart(infos, read.keywords)


def read_frame(path: str | os.PathLike[str], info_hdu: int, read: ReadSpec) -> Frame:
    """The image in HDU ``info_hdu`` (an index that `probe` gave), reading the file once.

    Raises
    ------
    FrameError
        Truncated or undecodable, no valid pixel, or a mask that is missing or of another shape.
    OSError, MemoryError
        The machine failed, not the file.
    """
    raw = load_bytes(path)
    with frame_errors(), ThreadPoolExecutor(max_workers=1) as pool:
        digest = pool.submit(lambda: hashlib.sha256(raw).hexdigest())  # hashlib lets the decoder run
        image, invalid = _decode(decompress(raw), info_hdu, read)
        return Frame(image, invalid, digest.result(), len(raw))


@dataclass(frozen=True)
class _Scaling:
    """How stored numbers become pixels: ``stored * scale + zero`` as ``dtype``; ``blank`` marks no data."""

    dtype: np.dtype
    scale: float
    zero: float
    blank: int | None


def _info(hdu: Hdu, suffix: str, primary: str, read: ReadSpec) -> FrameInfo:
    assert hdu.shape is not None  # choose() gives images only
    text = _image_cards(hdu)
    card = describe(text, primary, read.keywords)
    return FrameInfo(hdu.index, suffix, hdu.shape, _scaling(hdu).dtype.name, text, primary, card)


def _image_cards(hdu: Hdu) -> str:
    """Cards verbatim; for a compressed image those of the image, not of the table that holds it."""
    if not hdu.compressed:
        return hdu.text
    with quiet(), fits.open(io.BytesIO(_alone(hdu, b""))) as file:
        return file[1].header.tostring(endcard=False, padding=False)


def _alone(hdu: Hdu, data: bytes) -> bytes:
    """A FITS file of this extension only."""
    cards = hdu.text.encode("latin-1") + b"END".ljust(80)
    return PRIMARY + cards + b" " * (-len(cards) % BLOCK) + data


def _scaling(hdu: Hdu) -> _Scaling:
    scale, zero = _number(hdu, "BSCALE", 1), _number(hdu, "BZERO", 0)
    blank = _blank(hdu)
    stored = np.dtype(TYPES[hdu.bitpix])
    if hdu.bitpix < 0 or (scale, zero) == (1, 0):
        return _Scaling(stored, scale, zero, blank)
    if scale == 1 and (hdu.bitpix, zero) in SIGN_FLIPPED:
        return _Scaling(np.dtype(SIGN_FLIPPED[hdu.bitpix, zero]), scale, zero, blank)
    return _Scaling(np.dtype("f8" if hdu.bitpix > 16 else "f4"), scale, zero, blank)


def _blank(hdu: Hdu) -> int | None:
    """The stored number that marks no data; the standard knows it for integers only."""
    for key in ("BLANK", "ZBLANK") if hdu.compressed else ("BLANK",):
        value = lookup(hdu.header, key)
        if isinstance(value, int) and hdu.bitpix > 0:
            return value
    return None


def _number(hdu: Hdu, key: str, default: float) -> float:
    value = lookup(hdu.header, key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FrameError(f"the header of HDU {hdu.index} says {key} = {value!r}, which is no number")
    return value


def _decode(data: bytes, index: int, read: ReadSpec) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and invalid pixels of one HDU of a file in memory."""
    hdus: dict[int, Hdu] = {}
    for hdu in walk(io.BytesIO(data)):
        hdus[hdu.index] = hdu
        if hdu.index >= index and not read.mask_hdu:
            break
    if index not in hdus:
        raise FrameError(f"no HDU {index}: the file has {len(hdus)}")
    image, invalid = _pixels(data, hdus[index])
    if read.mask_hdu:
        invalid = _join_masks(invalid, _mask_hdu(data, hdus, index, read.mask_hdu), image.shape)
    if read.bad_pixel_map:
        invalid = _join_masks(invalid, _bad_pixels(read.bad_pixel_map), image.shape)
    if invalid is not None and invalid.all():
        raise FrameError("no valid pixel: all are NaN, BLANK or masked")
    return image, invalid


def _pixels(data: bytes, hdu: Hdu) -> tuple[np.ndarray, np.ndarray | None]:
    if hdu.shape is None:
        raise FrameError(f"HDU {hdu.index} is no 2-D image: {hdu.what}")
    if len(data) < hdu.offset + hdu.size:
        there = max(len(data) - hdu.offset, 0)
        raise FrameError(f"truncated: HDU {hdu.index} needs {hdu.size} bytes of data, {there} are there")
    return _calibrate(_stored(data, hdu), _scaling(hdu))


def _stored(data: bytes, hdu: Hdu) -> np.ndarray:
    """The numbers as stored, ``(y, x)``, big-endian or native; a view of ``data`` where not compressed."""
    big_endian = np.dtype(TYPES[hdu.bitpix]).newbyteorder(">")
    assert hdu.shape is not None
    if not hdu.compressed:
        count = hdu.shape[0] * hdu.shape[1]
        return np.frombuffer(data, big_endian, count, hdu.offset).reshape(hdu.shape)
    alone = io.BytesIO(_alone(hdu, data[hdu.offset : hdu.offset + hdu.size]))
    with quiet(), fits.open(alone, memmap=False, do_not_scale_image_data=True) as file:
        stored = file[1].data
    if stored is None:
        raise FrameError(f"HDU {hdu.index} is a compressed image without any compressed tile")
    return stored.astype(np.dtype(TYPES[hdu.bitpix]), copy=False).reshape(hdu.shape)


def _calibrate(stored: np.ndarray, scaling: _Scaling) -> tuple[np.ndarray, np.ndarray | None]:
    """Stored numbers as pixels of ``scaling.dtype``, native and C-contiguous, in memory of their own."""
    bits = 8 * stored.itemsize
    invalid = None if scaling.blank is None else stored == scaling.blank
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


def _mask_hdu(data: bytes, hdus: dict[int, Hdu], index: int, wanted: str) -> np.ndarray:
    """The input mask of HDU ``index``: of several with the name, the one with its EXTVER."""
    masks = [hdu for hdu in hdus.values() if hdu.index != index and matches(hdu, wanted)]
    same_version = [hdu for hdu in masks if hdu.version == hdus[index].version]
    if len(masks) > 1:
        masks = same_version
    if not masks:
        raise FrameError(f"no mask HDU {wanted!r} for HDU {index} among {len(hdus)} HDU")
    try:
        return _pixels(data, masks[0])[0] != 0
    except FrameError as error:
        raise FrameError(f"mask HDU {wanted!r}: {error}") from error


def _bad_pixels(path: str) -> np.ndarray:
    try:
        status = os.stat(path)
        return _bad_pixel_map(path, status.st_mtime_ns, status.st_size)
    except (FrameError, FileNotFoundError) as error:
        raise FrameError(f"bad-pixel map {path}: {error}") from error


@lru_cache(maxsize=1)  # every frame of a run has the same map
def _bad_pixel_map(path: str, mtime_ns: int, size: int) -> np.ndarray:
    data = decompress(load_bytes(path))
    bad = _pixels(data, choose(walk(io.BytesIO(data)), ReadSpec())[0])[0] != 0
    bad.flags.writeable = False
    return bad


def _join_masks(invalid: np.ndarray | None, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    if mask.shape != shape:
        raise FrameError(
            f"the mask is {mask.shape[0]} x {mask.shape[1]} px, the image {shape[0]} x {shape[1]} px"
        )
    if invalid is not None:
        return invalid | mask
    return mask.copy() if mask.any() else None
