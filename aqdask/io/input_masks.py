"""Input masks of an image: a mask HDU of its file or a mask file of its own, and a common bad-pixel map."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np

from aqdask.errors import FrameError, SourceUnreachable
from aqdask.io import places
from aqdask.io.compression import COMPRESSED_SUFFIXES, DecompressedStream
from aqdask.io.hdus import Hdu, LazyHdus, matches, select_images
from aqdask.io.mask_bits import MaskSelection, defects
from aqdask.io.pixels import read_pixels
from aqdask.io.streams import MemoryStream, as_frame_errors, load_bytes, memory_stream
from aqdask.paths import is_object
from aqdask.specs import ReadSpec
from aqdask.text import printable

COMPRESSED = "|".join(map(re.escape, COMPRESSED_SUFFIXES))
COMPRESSION_SUFFIX = re.compile(rf"({COMPRESSED}|\.fz)$", re.IGNORECASE)
FITS_SUFFIX = re.compile(r"\.(fits?|fts|ftz|fits?\.fz)$", re.IGNORECASE)

BytesStream = MemoryStream | DecompressedStream


def mask_path(frame: str | os.PathLike[str], pattern: str) -> str:
    """Return the mask file of a frame's file by the pattern ``ReadSpec.mask_files``."""
    folder, name = places.parent(os.fspath(frame)), os.path.basename(frame)
    stem = FITS_SUFFIX.sub("", COMPRESSION_SUFFIX.sub("", name)) or name
    found = pattern.replace("{name}", stem).replace("{folder}", folder)
    return found if is_object(found) or os.path.isabs(found) else places.join(folder, found)


def apply_masks(
    invalid: np.ndarray | None, shape: tuple[int, ...], masks: Iterator[np.ndarray]
) -> np.ndarray | None:
    """Combine the invalid pixels of an image with its masks.

    Parameters
    ----------
    invalid : ndarray of bool, (y, x), or None
        Invalid pixels of the image itself.
    shape : tuple of int
        ``(y, x)`` of the image.
    masks : iterator of ndarray of bool
        Masks of `read_masks`, True for pixels without data.

    Returns
    -------
    ndarray of bool, (y, x), or None
        None where all pixels are valid.

    Raises
    ------
    FrameError
        For a mask of another shape, or an image without any valid pixel.
    """
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


def read_masks(
    path: str | os.PathLike[str], stream: BytesStream, hdus: LazyHdus, image: Hdu, suffix: str, read: ReadSpec
) -> Iterator[np.ndarray]:
    """Yield the masks of one image, bool ``(y, x)``, True for pixels without data.

    Parameters
    ----------
    path : str or path
        File of the image, with its ``stream`` and ``hdus``.
    image : Hdu
        The image.
    suffix : str
        Suffix of the image's frame id; empty for the only image of a file.
    read : ReadSpec
        Selection of masks.

    Raises
    ------
    FrameError
        For a mask that is absent from its file, or damaged; the message names the mask.
    SourceUnreachable
        For a mask file or bad-pixel map that cannot be read.
    """
    mask = MaskSelection.of(read)
    if mask.files:
        yield _mask_of_file(mask, mask_path(os.fspath(path), mask.files), image, suffix)
    elif mask.hdu:
        plane = _mask_hdu(hdus, image, mask.hdu)
        with _named_errors(f"mask HDU '{printable(mask.hdu)}'"):
            yield _defects(mask, stream, hdus, plane)
    if read.bad_pixel_map:
        with _named_errors(f"bad-pixel map {printable(read.bad_pixel_map)}"), as_frame_errors():
            yield _bad_pixel_map(read.bad_pixel_map, places.status(read.bad_pixel_map))


def _mask_hdu(hdus: LazyHdus, image: Hdu, wanted: str) -> Hdu:
    """Find the mask HDU of an image; of several with the name, the one with the EXTVER of the image."""
    found: list[Hdu] = []
    for hdu in hdus:
        if hdu.index == image.index or not matches(hdu, wanted):
            continue
        if hdu.version == image.version or wanted.isdecimal():
            return hdu
        found.append(hdu)
    if len(found) != 1:
        number = len(hdus.read)
        raise FrameError(f"no mask HDU '{printable(wanted)}' for HDU {image.index} among {number} HDUs")
    return found[0]


def _mask_of_file(mask: MaskSelection, place: str, image: Hdu, suffix: str) -> np.ndarray:
    """Read the first image of a mask file, or for one of several images the mask of the same name."""
    with _named_errors(f"mask file {printable(place)}"):
        hdus = LazyHdus(stream := memory_stream(load_bytes(place)))
        if mask.hdu:
            plane = _mask_hdu(hdus, replace(image, index=-1), mask.hdu)
        elif suffix:
            name = f"{image.name},{image.version}" if image.name else str(image.index)
            plane = select_images(hdus, ReadSpec(hdu=name))[0]
        else:
            plane = select_images(hdus, ReadSpec())[0]
        return _defects(mask, stream, hdus, plane)


def _defects(mask: MaskSelection, stream: BytesStream, hdus: LazyHdus, plane: Hdu) -> np.ndarray:
    pixels, invalid = read_pixels(stream, plane)
    bad = defects(pixels, mask, plane.text, hdus.read[0].text)
    return bad if invalid is None else bad | invalid


@lru_cache(maxsize=1)  # every frame of a run has the same map
def _bad_pixel_map(path: str, status: places.Status) -> np.ndarray:
    stream = memory_stream(load_bytes(path))
    bad = read_pixels(stream, select_images(LazyHdus(stream), ReadSpec())[0])[0] != 0
    bad.flags.writeable = False
    return bad


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Prefix error messages with the name of the mask."""
    try:
        yield
    except SourceUnreachable as error:
        raise SourceUnreachable(f"{name}: {error.reason}", error.number) from error
    except FrameError as error:
        raise FrameError(f"{name}: {error}") from error
