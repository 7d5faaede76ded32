"""Frozen values that all layers share: patch geometry, frame metadata, and specifications.

Shapes are ``(y, x)`` = ``(NAXIS2, NAXIS1)`` in pixels throughout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from aqdask.errors import UsageError

PATCH = 64  # px; the model's input window unless a bundle says otherwise
MIN_VALID = 0.25  # fraction of a patch's pixels that must be data for it to have a score
LIGHT = "light"  # frame type; the others are bias, dark, flat, arc, focus and calibration


@dataclass(frozen=True)
class PatchGrid:
    """Tiling of one frame by square patches that covers every pixel and nothing beyond the frame.

    Patches are adjacent, from the origin on. If the frame is not a multiple of the patch, the last row and
    column of patches move inwards and *overlap* their neighbours; the overlap belongs to the earlier patch
    (see `owner_bounds`). A frame smaller than a patch has one patch, cut at the edge of the frame.

    Parameters
    ----------
    height, width : int
        Frame shape in pixels, at least 1.
    size : int
        Side of a patch in pixels, at least 1.

    Raises
    ------
    UsageError
        For a number below 1.
    """

    height: int
    width: int
    size: int = PATCH

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.size) < 1:
            raise UsageError(
                f"a frame of {self.height} x {self.width} px in patches of {self.size} px",
                expected="positive numbers",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of patches ``(patch_y, patch_x)``."""
        return math.ceil(self.height / self.size), math.ceil(self.width / self.size)

    def starts(self, axis: int) -> np.ndarray:
        """First pixel of each patch along ``axis`` (0 = y, 1 = x): int64, ``(n,)``."""
        length = (self.height, self.width)[axis]
        regular = np.arange(self.shape[axis], dtype=np.int64) * self.size
        return np.minimum(regular, max(length - self.size, 0))

    def stops(self, axis: int) -> np.ndarray:
        """One past the last pixel of each patch along ``axis``: int64, ``(n,)``."""
        return np.minimum(self.starts(axis) + self.size, (self.height, self.width)[axis])

    def owner_bounds(self, axis: int) -> np.ndarray:
        """Edges of the pixels of each patch, overlap in the earlier patch: int64, ``(n + 1,)``."""
        length = (self.height, self.width)[axis]
        return np.minimum(np.arange(self.shape[axis] + 1, dtype=np.int64) * self.size, length)


def middle(shape: Sequence[int], window: int) -> tuple[slice, ...]:
    """Return the middle ``window`` pixels of each axis; all of a shorter one, or where ``window`` is 0."""
    if not window:
        return tuple(slice(0, length) for length in shape)
    starts = [max((length - window) // 2, 0) for length in shape]
    return tuple(slice(start, start + window) for start in starts)


@dataclass(frozen=True)
class FrameMetadata:
    """Metadata of a frame from its headers; None, NaN or empty where unknown.

    Parameters
    ----------
    time : int or None
        Start of the exposure, UTC, microseconds since 1970-01-01.
    exptime : float
        Seconds; NaN where unknown.
    filter, camera : str
        Camera = instrument, detector, and binning where it is not 1 x 1.
    gain : float
        Electrons per count; NaN where unknown. Not a coordinate of the archive: read from the stored header.
    saturate : float
        Saturation level in counts; NaN where unknown. Like ``gain``.
    unit : str
        Unit of the pixels, BUNIT; empty where unknown. Like ``gain``.
    notes : tuple of str
        Remarks on unreadable or contradictory cards; see `FrameInfo`.
    frame_type : str
        'light', 'bias', 'dark', 'flat', 'arc' or 'focus'; empty where unknown, which counts as a light.
    mosaic : str
        Card that states a colour mosaic, as in ``BAYERPAT = 'RGGB'``. Like ``gain``.
    """

    time: int | None = None
    exptime: float = math.nan
    filter: str = ""
    camera: str = ""
    gain: float = math.nan
    saturate: float = math.nan
    unit: str = ""
    notes: tuple[str, ...] = ()
    frame_type: str = ""
    mosaic: str = ""


def is_light(frame_type: str | None) -> bool:
    """Return True for a light, and where the type of the frame is unknown."""
    return not frame_type or frame_type == LIGHT


@dataclass(frozen=True)
class Source:
    """File on disk, as found by a scan.

    Parameters
    ----------
    path : str
        Absolute path.
    root : str
        Folder from which the file was found.
    relative : str
        Path below ``root`` with posix separators, from which frame ids are made.
    size, mtime_ns : int
        Bytes, -1 for anything but a regular file, and modification time.
    """

    path: str
    root: str
    relative: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class FrameInfo:
    """Description of one 2-D image HDU of a file, from headers alone (no pixel read).

    Parameters
    ----------
    hdu : int
        Index in the file.
    suffix : str
        Part of the frame id: empty if the file has one frame, else ``[EXTNAME]`` or ``[n]``.
    shape : tuple of int
        ``(y, x)``.
    dtype : str
        Type of the pixels after reading ('uint16', 'float32', ...), native byte order.
    header, primary_header : str
        Cards verbatim, 80 characters each without END; ``primary_header`` is empty if the image is in the
        primary HDU.
    metadata : FrameMetadata
        Metadata from the headers.
    notes : tuple of str
        Remarks for the user on a usable frame, one clause each. The same words are used for every frame of
        its kind, so that a run can count them and report each once.
    """

    hdu: int
    suffix: str
    shape: tuple[int, int]
    dtype: str
    header: str
    primary_header: str
    metadata: FrameMetadata
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadSpec:
    """Specification of reading: images, masks and keywords to take from files. It defines the stored frames.

    Parameters
    ----------
    hdu : str
        'first' (the first 2-D image), 'all', an index, or an EXTNAME.
    mask_hdu : str
        EXTNAME or index of a mask extension with non-zero bad pixels; empty for none. In a file with several
        images, the mask with the EXTVER of the image. With ``:BITS`` appended, only these bits are bad: names
        from the mask's header, bit numbers, or values with 0x (``MASK:BAD,SAT,3,0x10``).
    bad_pixel_map : str
        Path of a FITS image of the frame's shape with non-zero bad pixels, for all frames; empty for none.
    keywords : tuple of (str, str)
        Keywords to use instead of the usual ones: ``(coordinate, keyword)`` with coordinate one of 'time',
        'exptime', 'filter', 'camera', 'type'.
    mask_files : str
        Path of the mask file of each frame, relative to the frame's folder; empty for none. ``{name}`` stands
        for the frame's file name without FITS and compression suffixes, ``{folder}`` for its folder.
        ``mask_hdu`` then selects HDU and bits in that file; if empty, the first image, or the image of the
        same name.
    sections : bool
        Pixels outside DATASEC and TRIMSEC and those inside BIASSEC are no data (`aqdask.io.sections`).
    fill : bool
        Large areas of exactly one value are no data (`aqdask.io.fill`).

    Raises
    ------
    UsageError
        For an incomplete ``mask_hdu`` or ``mask_files``.
    """

    hdu: str = "first"
    mask_hdu: str = ""
    bad_pixel_map: str = ""
    keywords: tuple[tuple[str, str], ...] = ()
    mask_files: str = ""
    sections: bool = True
    fill: bool = True

    def __post_init__(self) -> None:
        hdu, colon, bits = self.mask_hdu.partition(":")
        if colon and not all(bit.strip() for bit in bits.split(",")):
            raise _refused(
                "mask_hdu", self.mask_hdu, "bits after the colon, as in MASK:BAD,SAT or DQ:0,3 or DQ:0x9"
            )
        if colon and not hdu.strip() and not self.mask_files:
            raise _refused("mask_hdu", self.mask_hdu, "an HDU before the colon, as in MASK:BAD,SAT")
        unknown = set(re.findall(r"\{[^{}]*\}", self.mask_files)) - {"{name}", "{folder}"}
        if self.mask_files and ("{name}" not in self.mask_files or unknown):
            raise _refused(
                "mask_files", self.mask_files, "a pattern with {name}, as in masks/{name}_mask.fits"
            )


def _refused(name: str, value: str, expected: str) -> UsageError:
    option = "--" + name.replace("_", "-")
    return UsageError(
        f"{option} {value}", expected=expected, consequence="Nothing was done", remedy=f"check {option}"
    )


@dataclass(frozen=True)
class Variable:
    """Output variable of a scorer: a map ``(patch_y, patch_x)``, or one number with ``per_frame``.

    ``fill`` marks missing data and is the zarr fill value; ``attributes`` are CF attributes.
    """

    name: str
    dtype: str
    fill: float
    attributes: dict[str, object] = field(default_factory=dict, hash=False)
    per_frame: bool = False


@dataclass(frozen=True)
class ArchiveSpec:
    """Shape, data type and layout of an archive, fixed when it is created.

    Parameters
    ----------
    shape : tuple of int
        ``(y, x)`` of every frame.
    dtype : str
        Type of every frame.
    chunk : int
        Side of the inner chunk in pixels.
    codec : str
        Name in `aqdask.store.codecs.CODECS`; a name that is none is refused when the archive is made.
    frames_per_shard : int
        Number of frames in one stored object (shard) of a quality variable.
    pixels : bool
        Store pixels; else quality only (``--no-pixels``).
    read : ReadSpec
        Specification of reading the frames from their files.

    Raises
    ------
    UsageError
        For a setting out of its range.
    """

    shape: tuple[int, int]
    dtype: str
    chunk: int = 512
    codec: str = "lz4"
    frames_per_shard: int = 16
    pixels: bool = True
    read: ReadSpec = field(default_factory=ReadSpec)

    def __post_init__(self) -> None:
        sound = {
            "chunk": self.chunk >= 16,
            "frames_per_shard": self.frames_per_shard >= 1,
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise UsageError(
                    f"the archive's setting {name} is {getattr(self, name)!r}",
                    expected="chunk of 16 px or more, frames_per_shard of 1 or more",
                    consequence="No archive was made",
                    remedy=f"leave {name} out for its default",
                )

    @cached_property
    def chunk_shape(self) -> tuple[int, int, int]:
        """Inner chunk ``(1, y, x)``; never larger than the frame."""
        return (1, min(self.chunk, self.shape[0]), min(self.chunk, self.shape[1]))

    @cached_property
    def shard_shape(self) -> tuple[int, int, int]:
        """One frame rounded up to whole inner chunks: one frame = one shard = one writer."""
        _, cy, cx = self.chunk_shape
        return (1, math.ceil(self.shape[0] / cy) * cy, math.ceil(self.shape[1] / cx) * cx)
