"""FITS DQ images: masks of frames at one alpha, written on the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from aqdask import flags
from aqdask.errors import FrameError, place_failed
from aqdask.execution.tasks import new_run, opened_frames, opened_quality
from aqdask.execution.worker import at_work
from aqdask.io.cards import quiet
from aqdask.io.frame_ids import safe_name
from aqdask.io.wcs import celestial_wcs
from aqdask.methods import dispatch
from aqdask.methods.bundle import Bundle
from aqdask.specs import PatchGrid
from aqdask.stats.masking import dq_image
from aqdask.store import layout
from aqdask.store.frame_store import DAMAGED, NO_TIME
from aqdask.store.quality_store import row_checksum
from aqdask.text import printable
from aqdask.version import __version__

TILE_ROWS = 64
WHOSE = ("camera", "filter")
ABOUT = (*WHOSE, "frame_id", "path", "header", "primary_header")
DAMAGED_MAPS = "the stored maps are missing or damaged: `aqdask verify --repair` makes them again"


class MaskTask(NamedTuple):
    """Frame to be masked: row, checksum of its maps (empty without maps), number of invalid pixels."""

    row: int
    crc32c: str
    invalid_pixels: int


class MaskResult(NamedTuple):
    """Masked fraction of the pixels of a frame and names of its files by format, or a problem."""

    row: int
    masked: float | None = None
    files: Mapping[str, str] = {}
    problem: str = ""


@dataclass(frozen=True, eq=False)
class FrameMask:
    """Mask of one frame with its provenance, the input of a writer of mask files.

    Parameters
    ----------
    dq : ndarray (y, x)
        uint8, bits of `aqdask.flags.DQ`; 0 = good.
    frame_id, path : str
        Id in the archive, and source file.
    header, primary_header : str
        Cards of the source as in `FrameInfo`.
    alpha : float
        False-mask rate, in (0, 1).
    quality, model_sha256 : str
        Quality group (model name and digest), and SHA-256 of the model bundle.
    patch : int
        Side of a patch in pixels.
    """

    dq: np.ndarray
    frame_id: str
    path: str
    header: str
    primary_header: str
    alpha: float
    quality: str
    model_sha256: str
    patch: int


MaskWriter = Callable[[FrameMask, Path], str]
"""Writes one mask into a folder and returns the name of the file; empty where the format has none of it."""


@dataclass(frozen=True)
class ExportJob:
    """Task that thresholds stored p-values and writes the masks; reads no pixels and runs no network.

    Parameters
    ----------
    archive, quality : str
        The archive and its quality group.
    alpha : float
        False-mask rate, in (0, 1).
    folder : str
        Parent of one existing folder for each of ``writers``.
    writers : mapping of str to callable
        Writers by the name of their folder; without any only masked fractions are computed.
    """

    archive: str
    quality: str
    alpha: float
    folder: str = ""
    writers: Mapping[str, MaskWriter] = field(default_factory=dict)
    run: str = field(default_factory=new_run)

    def __call__(self, items: Sequence[MaskTask]) -> list[MaskResult]:
        """Mask some frames; damaged maps give a problem instead of a mask."""
        frames = opened_frames(self.archive, self.run)
        rows = [item.row for item in items]
        # Read once for all of them: a stored chunk holds thousands of rows.
        columns = [frames.recent_coordinate(name, rows) for name in (ABOUT if self.writers else WHOSE)]
        results = []
        for item, *about in zip(items, *columns, strict=True):
            with at_work(str(item)):
                results.append(self._one(item, about))
        return results

    def _one(self, item: MaskTask, about: Sequence[str]) -> MaskResult:
        camera, filter, *rest = map(str, about)
        try:
            dq, grid = stored_dq(
                self.archive, self.quality, item, self.alpha, self.run, camera=camera, filter=filter
            )
        except FrameError as error:
            return MaskResult(item.row, problem=str(error))
        masked = np.count_nonzero(dq) / dq.size
        if not self.writers:
            return MaskResult(item.row, masked)
        model = str(opened_quality(self.archive, self.quality, self.run).group.attrs["model_sha256"])
        frame_id, path, header, primary = rest
        mask = FrameMask(dq, frame_id, path, header, primary, self.alpha, self.quality, model, grid.size)
        return MaskResult(item.row, masked, self._write(mask))

    def _write(self, mask: FrameMask) -> dict[str, str]:
        """Write the mask in every format; names of the files by format."""
        try:
            return {name: write(mask, Path(self.folder) / name) for name, write in self.writers.items()}
        except OSError as error:
            raise place_failed(self.folder, error) from error


def stored_dq(
    archive: str, quality: str, item: MaskTask, alpha: float, run: str, *, camera: str, filter: str
) -> tuple[np.ndarray, PatchGrid]:
    """Compute the DQ image of a frame from its stored p-values, uint8 ``(y, x)``, and return its patches.

    Raises
    ------
    FrameError
        If the stored maps or invalid pixels are missing or damaged.
    """
    frames, store, row = opened_frames(archive, run), opened_quality(archive, quality, run), item.row
    try:
        pvalue = store.read_map("pvalue", row)
        # inner chunks have checksums of their own; a shard that is gone reads as no data
        empty = item.crc32c and not np.isfinite(pvalue).any()
        if empty and row_checksum(store.read(row, row + 1), 0) != item.crc32c:
            raise FrameError(DAMAGED_MAPS)
    except layout.UNREADABLE as error:
        raise FrameError(DAMAGED_MAPS) from error
    try:
        invalid = frames.read_invalid(row)
    except layout.UNREADABLE as error:
        raise FrameError(DAMAGED) from error
    if item.crc32c and np.count_nonzero(invalid) != item.invalid_pixels:
        raise FrameError(DAMAGED)
    time = int(frames.recent_coordinate("time", [row])[0])
    dark = _no_sky(archive, quality, run, camera, filter, time)
    if dark is not None and dark.shape == invalid.shape:
        invalid = invalid | dark
    grid = PatchGrid(*frames.spec.shape, int(store.group.attrs["patch"]))  # type: ignore[arg-type]
    return dq_image(pvalue, invalid, alpha, grid), grid


def _no_sky(archive: str, quality: str, run: str, camera: str, filter: str, time: int) -> np.ndarray | None:
    """Load the pixels without sky that the calibration of a frame's maps found; None for none."""
    bundle = _bundle(archive, quality, run)
    if bundle is None:
        return None
    band = bundle.spans.filter_at(camera, filter, None if time == NO_TIME else time)
    return _dark(archive, quality, run, camera, band)


@lru_cache(maxsize=4)
def _bundle(archive: str, quality: str, run: str) -> Bundle | None:
    contents = opened_quality(archive, quality, run).bundle()
    return Bundle.from_bytes(contents) if contents else None


@lru_cache(maxsize=64)
def _dark(archive: str, quality: str, run: str, camera: str, filter: str) -> np.ndarray | None:
    bundle = _bundle(archive, quality, run)
    return dispatch.no_sky(bundle, camera, filter) if bundle else None


def write_dq(mask: FrameMask, folder: Path) -> str:
    """Write ``<frame>.dq.fits``, the DQ image with its provenance in the primary header."""
    hdus = dq_hdus(mask.dq, mask.header, mask.primary_header)
    cards = hdus[0].header
    cards["FRAMEID"] = (_ascii(mask.frame_id), "frame in the archive")
    cards["SRCFILE"] = (_ascii(mask.path.rpartition("/")[2]), "source file")
    cards["ALPHA"] = (mask.alpha, "false-mask rate on good patches")
    cards["MODEL"] = (_ascii(mask.quality), "quality group: model name and digest")
    cards["MODELSHA"] = (mask.model_sha256, "sha256 of the model bundle")
    cards["ORIGIN"] = (f"aqdask {__version__}", "program that cut the mask")
    name = safe_name(mask.frame_id) + ".dq.fits"
    write_whole(folder / name, hdus)
    return name


def dq_hdus(dq: np.ndarray, header: str, primary_header: str = "") -> fits.HDUList:
    """Build a DQ image as FITS: an empty primary HDU and the compressed extension ``DQ``.

    Parameters
    ----------
    dq : ndarray (y, x)
        uint8, bits of `aqdask.flags.DQ`. The header states their values and names (``DQBITn`` and its
        comment).
    header, primary_header : str
        Cards of the frame as in `FrameInfo`; the celestial WCS is kept, if there is one.
    """
    cards = _wcs_cards(header, primary_header)
    for flag in flags.DQ:
        bit = flag.value.bit_length() - 1
        cards[f"DQBIT{bit}"] = (flag.value, flag.name)
        cards.add_comment(f"DQ {flag.value} = {flag.name}: {flag.meaning}")
    # bands of 64 rows: a mask of patches packs seven times smaller, and faster, than row by row
    tiles = (min(TILE_ROWS, dq.shape[0]), dq.shape[1])
    extension = fits.CompImageHDU(dq, cards, name="DQ", compression_type="GZIP_1", tile_shape=tiles)
    return fits.HDUList([fits.PrimaryHDU(), extension])


def write_whole(path: Path, hdus: fits.HDUList) -> None:
    """Write a FITS file with CHECKSUM and DATASUM, atomically; an existing file is replaced."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with quiet():
            hdus.writeto(partial, checksum=True, overwrite=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _wcs_cards(header: str, primary_header: str) -> fits.Header:
    """Celestial WCS of a frame, with the distortions that astropy can write; empty without a WCS."""
    found = celestial_wcs(header, primary_header)
    if found is None:
        return fits.Header()
    with quiet():
        try:
            cards = found.wcs.to_header(relax=True)
        except Exception:  # wcslib may fail on any damaged card; a mask without WCS is still useful
            return fits.Header()
    if found.is_partial:
        cards.add_comment("The source corrects its WCS by look-up tables that are not in this file.")
    return cards


def _ascii(text: str) -> str:
    r"""Escape all but printable ASCII, as FITS requires: ``\u00e9`` for a character, ``\xe9`` for a byte."""
    wide = (
        c if c.isascii() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text
    )
    return printable("".join(wide))
