"""What leaves the archive: FITS DQ images named after their frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from aqdask import flags
from aqdask.errors import place_failed
from aqdask.execution.tasks import new_run, opened_frames, opened_quality
from aqdask.execution.worker import at_work
from aqdask.io.cards import quiet
from aqdask.io.sources import safe_name
from aqdask.io.wcs import celestial_wcs
from aqdask.specs import PatchGrid
from aqdask.stats.masking import dq_image
from aqdask.store import layout
from aqdask.store.frame_store import DAMAGED, FrameStore
from aqdask.store.quality_store import QualityStore, row_checksum
from aqdask.text import printable
from aqdask.version import __version__

TILE_ROWS = 64
ABOUT = ("frame_id", "path", "header", "primary_header")
DAMAGED_MAPS = "the stored maps are missing or damaged: `aqdask verify --repair` makes them again"


class Wanted(NamedTuple):
    """A frame to be cut: row, checksum of its maps (empty where it has none), number of invalid pixels."""

    row: int
    crc32c: str
    invalid_pixels: int


class Cut(NamedTuple):
    """The mask of one frame: masked fraction of its pixels and name of the file, or why there is none."""

    row: int
    masked: float | None = None
    name: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ExportJob:
    """Cut masks from stored p-values and write them as FITS; no network, and no pixel but the invalid ones.

    Parameters
    ----------
    archive, quality : str
        The archive and its quality group.
    folder : str
        Where the DQ images go; empty only counts what would be masked.
    alpha : float
        False-mask rate, in (0, 1).
    """

    archive: str
    quality: str
    folder: str
    alpha: float
    run: str = field(default_factory=new_run)

    def __call__(self, items: Sequence[Wanted]) -> list[Cut]:
        """Cut the masks of some frames; damaged maps give a problem instead of a mask."""
        frames = opened_frames(self.archive, self.run)
        store = opened_quality(self.archive, self.quality, self.run)
        columns = []
        if self.folder:  # read once for all of them: a stored chunk holds thousands of rows
            rows = [item.row for item in items]
            columns = [[str(text) for text in frames.coordinate(name, rows)] for name in ABOUT]
        cuts = []
        for item, *about in zip(items, *columns, strict=True):
            with at_work(str(item)):
                cuts.append(self._one(frames, store, item, about))
        return cuts

    def _one(self, frames: FrameStore, store: QualityStore, item: Wanted, about: list[str]) -> Cut:
        row = item.row
        try:
            pvalue = store.read_map("pvalue", row)
            # inner chunks have checksums of their own; a shard that is gone reads as no data
            if item.crc32c and not np.isfinite(pvalue).any():
                stored = store.read(row, row + 1)
                if row_checksum(stored, 0) != item.crc32c:
                    return Cut(row, problem=DAMAGED_MAPS)
        except layout.UNREADABLE:
            return Cut(row, problem=DAMAGED_MAPS)
        try:
            invalid = frames.read_invalid(row)
        except layout.UNREADABLE:
            return Cut(row, problem=DAMAGED)
        if item.crc32c and np.count_nonzero(invalid) != item.invalid_pixels:
            return Cut(row, problem=DAMAGED)
        grid = PatchGrid(*frames.spec.shape, int(store.group.attrs["patch"]))  # type: ignore[arg-type]
        dq = dq_image(pvalue, invalid, self.alpha, grid)
        masked = np.count_nonzero(dq) / dq.size
        if not self.folder:
            return Cut(row, masked)
        frame_id, path, header, primary = about
        hdus = dq_hdus(dq, header, primary)
        cards = hdus[0].header
        cards["FRAMEID"] = (_ascii(frame_id), "frame in the archive")
        cards["SRCFILE"] = (_ascii(path.rpartition("/")[2]), "source file")
        cards["ALPHA"] = (self.alpha, "false-mask rate on good patches")
        cards["MODEL"] = (_ascii(self.quality), "quality group: model name and digest")
        cards["MODELSHA"] = (str(store.group.attrs["model_sha256"]), "sha256 of the model bundle")
        cards["ORIGIN"] = (f"aqdask {__version__}", "program that cut the mask")
        name = safe_name(frame_id) + ".dq.fits"
        try:
            write_whole(Path(self.folder) / name, hdus)
        except OSError as error:
            raise place_failed(self.folder, error) from error
        return Cut(row, masked, name)


def dq_hdus(dq: np.ndarray, header: str, primary_header: str = "") -> fits.HDUList:
    """A DQ image as FITS: an empty primary HDU and the compressed extension ``DQ``.

    Parameters
    ----------
    dq : ndarray of uint8, (y, x)
        Bits of `aqdask.flags.DQ`; their values and names stand in the header (``DQBITn`` and its comment).
    header, primary_header : str
        Cards of the frame as in `FrameInfo`; its celestial WCS is kept, if it has one.
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
    """Write a FITS file with CHECKSUM and DATASUM, whole or not at all; an existing one is replaced."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with quiet():
            hdus.writeto(partial, checksum=True, overwrite=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _wcs_cards(header: str, primary_header: str) -> fits.Header:
    """The celestial WCS of a frame, with distortions as astropy can write them; empty without one."""
    found = celestial_wcs(header, primary_header)
    if found is None:
        return fits.Header()
    with quiet():
        try:
            cards = found.wcs.to_header(relax=True)
        except Exception:  # any damaged card may end here; a mask without WCS is still the mask
            return fits.Header()
    if found.is_partial:
        cards.add_comment("The source corrects its WCS by look-up tables that are not in this file.")
    return cards


def _ascii(text: str) -> str:
    r"""FITS takes printable ASCII only; other characters become ``\u00e9``, unlike the bytes ``\xe9``."""
    wide = (
        c if c.isascii() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text
    )
    return printable("".join(wide))
