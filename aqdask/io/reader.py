"""Frames of FITS files: metadata from headers (`probe`), and pixels of one image (`read_frame`)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from aqdask.errors import FrameError, SourceUnreachable
from aqdask.io.cards import quiet
from aqdask.io.fill import find_fill
from aqdask.io.hdus import Hdu, LazyHdus, check_sizes, frame_suffixes, has_more_images, select_images
from aqdask.io.input_masks import apply_masks, read_masks
from aqdask.io.metadata import distinguish_detectors, read_metadata
from aqdask.io.pixels import read_pixels, read_scaling
from aqdask.io.sections import Sections, read_sections
from aqdask.io.streams import Stream, as_frame_errors, load_bytes, load_file, memory_stream, open_stream
from aqdask.io.tile_compression import image_header
from aqdask.specs import FrameInfo, ReadSpec

__all__ = ["Frame", "is_reachable", "load_bytes", "load_file", "probe", "read_frame"]

MORE_IMAGES = (
    "several images of the same shape in one file: only the first was taken (--hdu all takes them all)"
)
HASHED_AT_ONCE = 2**18  # bytes; a thread takes longer to start


@dataclass(frozen=True)
class Frame:
    """Pixels of one image, as read.

    Parameters
    ----------
    image : ndarray, (y, x)
        Native byte order, C-contiguous, of the type of ``info.dtype``.
    invalid : ndarray of bool, (y, x), or None
        True for pixels without data: NaN, BLANK, masked, outside the exposed sections, or constant fill; None
        where all are valid.
    sha256 : str
        Hex digest of the file as it is on disk, compressed or not.
    size, mtime_ns : int
        Size of the file on disk in bytes and its modification time, of the descriptor that was read.
    info : FrameInfo
        Metadata from the same bytes as the pixels.
    """

    image: np.ndarray
    invalid: np.ndarray | None
    sha256: str
    size: int
    mtime_ns: int
    info: FrameInfo


def probe(path: str | os.PathLike[str], read: ReadSpec) -> tuple[FrameInfo, ...]:
    """Describe the frames of a file from its headers alone; at least one.

    Raises
    ------
    FrameError
        Not FITS, no usable 2-D image, or headers that claim more data than there can be; the message is the
        reason for quarantine.
    SourceUnreachable
        The file is absent, forbidden, or cannot be read.
    OSError, MemoryError
        The machine failed, not the file.
    """
    with quiet(), open_stream(path) as stream:
        hdus = LazyHdus(stream)
        images = _select(hdus, stream, read)
        # a compressed file would be decompressed for its notes
        notes = () if stream.is_compressed else _file_notes(hdus, images, read, stream)
        return _infos(hdus, images, read, notes)


def read_frame(path: str | os.PathLike[str], info_hdu: int, read: ReadSpec) -> Frame:
    """Read the image in HDU ``info_hdu`` (an index from `probe`) with its masks; one read of the file.

    Raises
    ------
    FrameError
        Truncated or undecodable, no valid pixel, no longer selected by ``read``, or a mask that the file
        lacks or of another shape.
    SourceUnreachable
        The file, its mask or the bad-pixel map is absent, forbidden, or cannot be read.
    OSError, MemoryError
        The machine failed, not the file.
    """
    file = load_file(path)
    with as_frame_errors(), _hashing(file.raw) as digest:
        stream = memory_stream(file.raw)
        hdus = LazyHdus(stream)
        with quiet():
            images = _select(hdus, stream, read)
        suffixes = {hdu.index: suffix for hdu, suffix in zip(images, frame_suffixes(images), strict=True)}
        if info_hdu not in suffixes:
            raise FrameError(f"HDU {info_hdu} is no longer one of the images that are taken from this file")
        hdu = next(hdu for hdu in images if hdu.index == info_hdu)
        image, invalid = read_pixels(stream, hdu)
        invalid, about = _without_sky(image, invalid, _sections(hdus, hdu, read), read)
        masks = read_masks(path, stream, hdus, hdu, suffixes[info_hdu], read)
        invalid = apply_masks(invalid, image.shape, masks)
        with quiet():
            notes = _file_notes(hdus, images, read, stream)
            stream.read_to_end()
            infos = _infos(hdus, images, read, tuple(dict.fromkeys((*notes, *stream.notes))))
        info = next(info for info in infos if info.hdu == info_hdu)
        info = replace(info, notes=(*info.notes, *about))
        return Frame(image, invalid, digest(), file.size, file.mtime_ns, info)


@contextmanager
def _hashing(raw: bytes) -> Iterator[Callable[[], str]]:
    """Compute the sha256 of a file's bytes, of a large file in a thread: hashlib releases the GIL."""
    if len(raw) < HASHED_AT_ONCE:
        digest = hashlib.sha256(raw).hexdigest()
        yield lambda: digest
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit(lambda: hashlib.sha256(raw).hexdigest()).result


def is_reachable(path: str | os.PathLike[str]) -> bool:
    """Return True if this process can read the first byte of a file."""
    try:
        with open_stream(path) as stream:
            stream.read(1)
    except SourceUnreachable:
        return False
    except (FrameError, OSError):
        pass  # present, whatever its content
    return True


def _select(hdus: LazyHdus, stream: Stream, read: ReadSpec) -> list[Hdu]:
    images = select_images(hdus, read)
    check_sizes(images, stream)
    return images


def _sections(hdus: LazyHdus, hdu: Hdu, read: ReadSpec) -> Sections:
    """Return the sections of an image that are believed; none where they are not asked for."""
    if not read.sections:
        return Sections()
    assert hdu.shape is not None  # of an image
    text = image_header(hdu) if hdu.compressed else hdu.text
    with quiet():
        return read_sections(text, hdus.read[0].text if hdu.index else "", hdu.shape)


def _without_sky(
    image: np.ndarray, invalid: np.ndarray | None, sections: Sections, read: ReadSpec
) -> tuple[np.ndarray | None, list[str]]:
    """Add the pixels of an image that show no sky to the invalid ones, with a note on each kind."""
    unexposed, cards = sections.unexposed(image.shape)
    fill = find_fill(image) if read.fill else None
    notes = []
    for places, what in ((unexposed, cards), (fill, "a constant fill")):
        if places is not None:
            notes.append(f"{places.mean():.0%} of the pixels are {what}: no data")
            invalid = places if invalid is None else invalid | places
    return invalid, notes


def _file_notes(hdus: LazyHdus, images: list[Hdu], read: ReadSpec, stream: Stream) -> tuple[str, ...]:
    """Return notes on the file as a whole."""
    has_more = read.hdu == "first" and has_more_images(hdus, images[0], read, stream)
    return (MORE_IMAGES, *stream.notes) if has_more else stream.notes


def _infos(
    hdus: LazyHdus, images: list[Hdu], read: ReadSpec, notes: tuple[str, ...]
) -> tuple[FrameInfo, ...]:
    infos = tuple(
        _info(hdus, hdu, suffix, read, notes)
        for hdu, suffix in zip(images, frame_suffixes(images), strict=True)
    )
    return distinguish_detectors(infos, read.keywords)


def _info(hdus: LazyHdus, hdu: Hdu, suffix: str, read: ReadSpec, notes: tuple[str, ...]) -> FrameInfo:
    assert hdu.shape is not None  # select_images() returns images only
    text = image_header(hdu) if hdu.compressed else hdu.text
    primary = hdus.read[0].text if hdu.index else ""
    scaling = read_scaling(hdu)
    metadata = read_metadata(text, primary, read.keywords)
    notes = (*metadata.notes, *notes, *scaling.notes, *_sections(hdus, hdu, read).notes)
    return FrameInfo(hdu.index, suffix, hdu.shape, scaling.dtype.name, text, primary, metadata, notes)
