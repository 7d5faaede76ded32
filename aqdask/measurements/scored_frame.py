"""Stored frames with their masks and quality maps, the input of all that is measured on them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from aqdask import flags
from aqdask.errors import FrameError, UsageError
from aqdask.execution.tasks import new_run, opened_frames, opened_quality
from aqdask.io.frame_ids import select_frames
from aqdask.io.metadata import header_gain, header_saturate, header_unit
from aqdask.io.wcs import Celestial, celestial_wcs
from aqdask.products.dq import DAMAGED_MAPS, MaskTask, band_of, stored_dq
from aqdask.specs import PatchGrid
from aqdask.store import layout
from aqdask.store.frame_store import NO_TIME, FrameStore, Place, read_place
from aqdask.store.ledger import DONE, SKIPPED, open_ledger
from aqdask.text import printable


class ScoredPlace(NamedTuple):
    """Place of a scored frame, and the checksum of its maps.

    Parameters
    ----------
    frame : Place
        Row, source and checksum of the pixels.
    maps : str
        crc32c of the quality maps.
    invalid_pixels : int
        Number of pixels without data.
    values : dict of str to float
        Frame-level variables of the model.
    """

    frame: Place
    maps: str
    invalid_pixels: int
    values: dict[str, float]


def scored_places(
    archive: str | os.PathLike[str],
    quality: str,
    patterns: Sequence[str] | None = None,
    band: str | None = None,
) -> tuple[list[ScoredPlace], list[tuple[str, str]]]:
    """Return the scored frames of an archive in its order, and id and reason of those without a score.

    Frames that were not scored because they are no lights are in neither. Ids or patterns, and a filter,
    choose frames; see `aqdask.io.frame_ids.select_frames`.

    Raises
    ------
    UsageError
        If they choose nothing, or if there is no light among the frames.
    """
    known = open_ledger(layout.open_root(archive)).rows()
    if patterns is not None or band is not None:
        rows = known.column("row").tolist()
        filters = FrameStore.open(archive).coordinate("filter", rows) if rows else ()
        known = known.take(select_frames(known.texts("frame_id"), list(map(str, filters)), patterns, band))
    found, without = [], []
    for entry in known:
        state, reason = entry.standing(quality)
        if state == DONE:
            score = entry.scores[quality]
            found.append(ScoredPlace(entry.place, score.crc32c, entry.invalid_pixels, score.values))
        elif state != SKIPPED:
            without.append(
                (printable(entry.frame_id), f"{state}: {reason}" if reason else f"{state}: no score")
            )
    if not found and not without:
        is_choice = patterns is not None or band is not None
        raise UsageError(
            f"no light {'among the frames that are chosen' if is_choice else f'in {archive}'}",
            expected="frames with a score",
            consequence="Nothing was done",
            remedy="`aqdask score --all-types` scores other frames, too",
        )
    return found, without


def check_radius(radius: float, archive: str | os.PathLike[str]) -> None:
    """Raise `UsageError` for a radius of apertures that is not above 0, or beyond half of the frames."""
    limit = min(layout.read_spec(layout.open_root(archive)).shape) / 2
    if not 0 < radius <= limit:
        raise UsageError(
            f"apertures with a radius of {radius:g} px",
            expected=f"a number above 0, at most {limit:g} (half of the frame)",
            consequence="Nothing was measured",
        )


@dataclass(frozen=True, eq=False)
class ScoredFrame:
    """Frame with its mask and quality maps.

    Parameters
    ----------
    row : int
        Position along ``frame`` in the archive.
    frame_id : str
        Id in the archive.
    time : int or None
        Start of the exposure, UTC, microseconds since 1970-01-01.
    exptime : float
        Seconds; NaN where unknown.
    filter, camera : str
        Empty where unknown.
    header, primary_header : str
        Cards of the source as in `aqdask.specs.FrameInfo`.
    image : ndarray (y, x)
        Counts in the type of the archive.
    dq : ndarray (y, x)
        uint8, bits of `aqdask.flags.DQ` at the false-mask rate ``alpha``; 0 = good.
    maps : mapping of str to ndarray (patch_y, patch_x)
        Per-patch variables of the model, such as ``pvalue``, ``reason`` and ``size_ratio``.
    values : mapping of str to float
        Frame-level variables of the model, such as ``frame_size_ratio``.
    grid : PatchGrid
        Patches of the frame.
    alpha : float
        False-mask rate of ``dq``.
    band : str
        Filter under which the model has the calibration of the frame's time (`aqdask.products.dq.band_of`).
    """

    row: int
    frame_id: str
    time: int | None
    exptime: float
    filter: str
    camera: str
    header: str
    primary_header: str
    image: np.ndarray
    dq: np.ndarray
    maps: Mapping[str, np.ndarray]
    values: Mapping[str, float]
    grid: PatchGrid
    alpha: float
    band: str

    @property
    def invalid(self) -> np.ndarray:
        """Pixels that are not data, bool ``(y, x)``; they are a part of `masked`."""
        return (self.dq & flags.code(flags.DQ, "invalid")) != 0

    @property
    def masked(self) -> np.ndarray:
        """Masked pixels, bool ``(y, x)``."""
        return self.dq != 0

    @cached_property
    def wcs(self) -> Celestial | None:
        """Celestial WCS; None without one."""
        return celestial_wcs(self.header, self.primary_header)

    @property
    def gain(self) -> float:
        """Electrons per count from the header; NaN where unknown."""
        return header_gain(self.header, self.primary_header)

    @property
    def saturate(self) -> float:
        """Saturation level in counts from the header; NaN where unknown."""
        return header_saturate(self.header, self.primary_header)

    @property
    def saturation(self) -> float:
        """Counts from which pixels are saturated: SATURATE, else the largest integer of the type, or inf."""
        if math.isfinite(self.saturate):
            return self.saturate
        kind = self.image.dtype
        return float(np.iinfo(kind).max) if kind.kind in "iu" else math.inf

    @property
    def unit(self) -> str:
        """Unit of the pixels, BUNIT; empty where unknown."""
        return header_unit(self.header, self.primary_header)

    def patch_of(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the patches ``(patch_y, patch_x)`` that own positions; those outside belong to the nearest.

        Parameters
        ----------
        x, y : ndarray (n,)
            Pixels from 0, with integers at pixel centres.
        """
        column, row = (np.floor(np.asarray(v) + 0.5).astype(np.intp) // self.grid.size for v in (x, y))
        n_y, n_x = self.grid.shape
        return row.clip(0, n_y - 1), column.clip(0, n_x - 1)


@dataclass(frozen=True)
class ScoredFrames:
    """Scored frames of an archive, as tasks read them on the workers.

    Parameters
    ----------
    archive, quality : str
        The archive (an absolute path or a URL) and its quality group.
    alpha : float
        False-mask rate, in (0, 1).
    """

    archive: str
    quality: str
    alpha: float
    run: str = field(default_factory=new_run)

    def read(self, place: ScoredPlace) -> ScoredFrame:
        """Read a frame with its mask and maps; the pixels from its source where the archive keeps none.

        Raises
        ------
        FrameError
            If pixels or maps are missing, damaged, or other than those that were ingested.
        """
        frames, store = (
            opened_frames(self.archive, self.run),
            opened_quality(self.archive, self.quality, self.run),
        )
        row = place.frame.row
        about = {
            name: frames.recent_coordinate(name, [row])[0]
            for name in ("frame_id", "filter", "camera", "header", "primary_header", "time", "exptime")
        }
        time, exptime = int(about.pop("time")), float(about.pop("exptime"))
        task = MaskTask(row, place.maps, place.invalid_pixels)
        where = self.archive, self.quality, self.run
        band = band_of(*where, about["camera"], about["filter"], time)
        dq, grid = stored_dq(*where, task, self.alpha, about["camera"], band)
        image, _ = read_place(frames, place.frame)
        try:
            maps = {name: array[0] for name, array in store.read(row, row + 1).items()}
        except layout.UNREADABLE as error:
            raise FrameError(DAMAGED_MAPS) from error
        return ScoredFrame(
            row=row, time=None if time == NO_TIME else time, exptime=exptime, image=image, dq=dq,
            maps=maps, values=place.values, grid=grid, alpha=self.alpha, band=band, **about,
        )  # fmt: skip
