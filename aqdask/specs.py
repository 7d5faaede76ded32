"""The values that the layers hand to each other: frozen, hashable, free of behaviour that touches files.

Shapes are ``(y, x)`` = ``(NAXIS2, NAXIS1)`` in pixels throughout.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from aqdask.errors import UsageError

PATCH = 64  # px; the model's input window unless a bundle says otherwise
MIN_VALID = 0.25  # fraction of a patch's pixels that must be data for it to have a score


@dataclass(frozen=True)
class PatchGrid:
    """How one frame is covered by square patches: every pixel, none lost, none beyond the frame.

    Patches stand edge to edge from the origin. Where the frame is no multiple of the patch, the last row
    and column are moved inwards and *overlap* their neighbours; the overlap belongs to the earlier patch
    (see `owner_bounds`). A frame smaller than a patch has one patch there, cut short by the frame.

    Parameters
    ----------
    height, width : int
        Frame shape in pixels, at least 1.
    size : int
        Side of a patch in pixels, at least 1.

    Raises
    ------
    UsageError
        For a non-positive number.
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
        """First pixel of each patch along ``axis`` (0 = y, 1 = x), int64, ``(n,)``."""
        length = (self.height, self.width)[axis]
        regular = np.arange(self.shape[axis], dtype=np.int64) * self.size
        return np.minimum(regular, max(length - self.size, 0))

    def stops(self, axis: int) -> np.ndarray:
        """One past the last pixel of each patch along ``axis``, int64, ``(n,)``."""
        return np.minimum(self.starts(axis) + self.size, (self.height, self.width)[axis])

    def owner_bounds(self, axis: int) -> np.ndarray:
        """Edges of what each patch owns in a mask, int64, ``(n + 1,)``: overlap goes to the earlier patch."""
        length = (self.height, self.width)[axis]
        return np.minimum(np.arange(self.shape[axis] + 1, dtype=np.int64) * self.size, length)


@dataclass(frozen=True)
class Card:
    """What the headers of a frame say, mapped to the archive's coordinates; unknown is empty or NaN.

    Parameters
    ----------
    time : int or None
        Start of the exposure, UTC, microseconds since 1970-01-01.
    exptime : float
        Seconds; NaN where unknown.
    filter, camera : str
        Camera = instrument, detector, and binning where it is not 1 x 1.
    gain : float
        Electrons per count; NaN where unknown. Read again from the stored header, no coordinate of its own.
    saturate : float
        Counts at which the header says a pixel is full; NaN where unknown. Like ``gain``.
    notes : tuple of str
        What in the headers could not be understood or contradicts itself; see `FrameInfo`.
    """

    time: int | None = None
    exptime: float = math.nan
    filter: str = ""
    camera: str = ""
    gain: float = math.nan
    saturate: float = math.nan
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One file on disk, as found by a scan.

    ``relative`` is its path below its source ``root`` (posix separators), from which frame ids are made.
    """

    path: str
    root: str
    relative: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class FrameInfo:
    """One 2-D image HDU of a file, known from headers alone (no pixel read).

    Parameters
    ----------
    hdu : int
        Index in the file.
    suffix : str
        ``""`` where the file gives one frame, else ``[EXTNAME]`` or ``[n]``; part of the frame id.
    shape : tuple of int
        ``(y, x)``.
    dtype : str
        Type of the pixels as they will be read ('uint16', 'float32', ...), native byte order.
    header, primary_header : str
        Cards verbatim, 80 characters each without END; ``primary_header`` is empty where the image is
        the primary HDU.
    card : Card
        What the headers say, mapped.
    notes : tuple of str
        What the user should know of this frame though it can be used: one short clause each, the same words
        for every frame of its kind, so that a run can count them and say each once.
    """

    hdu: int
    suffix: str
    shape: tuple[int, int]
    dtype: str
    header: str
    primary_header: str
    card: Card
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadSpec:
    """How frames are taken out of files; part of what makes a stored frame what it is.

    Parameters
    ----------
    hdu : str
        'first' (the first 2-D image), 'all', an index, or an EXTNAME.
    mask_hdu : str
        EXTNAME or index of an extension whose non-zero pixels are bad; empty for none. For a file with
        several images, the mask with the same EXTVER. With ``:BITS`` behind it, only pixels with one of
        these bits: names from the mask's header, bit numbers, or values with 0x (``MASK:BAD,SAT,3,0x10``).
    bad_pixel_map : str
        Path of a FITS image of the frame's shape, non-zero = bad, for every frame; empty for none.
    keywords : tuple of (str, str)
        Overrides of the header table: ``(coordinate, keyword)`` with coordinate one of 'time',
        'exptime', 'filter', 'camera'.
    mask_files : str
        Path of each frame's own mask file, below the frame's folder unless absolute, with ``{name}`` for
        the frame's file name without its FITS and compression suffixes and ``{folder}`` for its folder;
        empty for none. ``mask_hdu`` then names the HDU (and the bits) of that file, and is its first image,
        or that named like the frame's, where it is empty.

    Raises
    ------
    UsageError
        For a ``mask_hdu`` or ``mask_files`` that says nothing definite.
    """

    hdu: str = "first"
    mask_hdu: str = ""
    bad_pixel_map: str = ""
    keywords: tuple[tuple[str, str], ...] = ()
    mask_files: str = ""

    def __post_init__(self) -> None:
        hdu, colon, bits = self.mask_hdu.partition(":")
        if colon and not all(bit.strip() for bit in bits.split(",")):
            raise _refused(
                "mask_hdu", self.mask_hdu, "bits behind the colon, as in MASK:BAD,SAT or DQ:0,3 or DQ:0x9"
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
    """One variable that a scorer gives: per patch ``(patch_y, patch_x)`` or, with ``per_frame``, one number.

    ``fill`` marks no data and is the zarr fill value; ``attributes`` are CF attributes.
    """

    name: str
    dtype: str
    fill: float
    attributes: dict[str, object] = field(default_factory=dict, hash=False)
    per_frame: bool = False


@dataclass(frozen=True)
class ArchiveSpec:
    """Shape, type and layout of an archive; fixed when it is created.

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
        K: how many frames share one stored object of a quality variable.
    pixels : bool
        False: keep quality only (``--no-pixels``).
    read : ReadSpec
        How frames are taken out of their files.

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
