"""Series of frames of one camera, filter and calibration in the order of time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aqdask import flags
from aqdask.io.frame_ids import select_frames
from aqdask.products.flagged import StoredModel
from aqdask.products.mask_summaries import CODES, WITHOUT_SCORE, read_masks, scored_rows
from aqdask.products.report.columns import frame_values
from aqdask.specs import PatchGrid
from aqdask.stats.change_points import lasting
from aqdask.store import layout
from aqdask.store.frame_store import NO_TIME, FrameStore
from aqdask.store.ledger import Ledger, open_ledger
from aqdask.store.quality_store import QualityStore

NIGHTS = 20  # from which the medians of nights are followed; of fewer nights frames
GAP = np.timedelta64(4, "h")  # without frames, between nights
DAY = np.timedelta64(24, "h")  # the longest night: where frames go on, a day
CHUNK = 10  # unflagged frames at least, in which repeats are counted
CHUNKS = 4000  # at most, of all series: their counts are in memory
AGAIN = 0.5  # of the frames of a chunk, in which a patch is masked
SPIKE = flags.code(flags.REASONS, "spike")


@dataclass(frozen=True, eq=False)
class FrameSeries:
    """Scored lights of one camera, filter and calibration with a time, in the order of time.

    Parameters
    ----------
    camera, filter : str
    calibration : str
        Key of the calibration that scores them.
    rows : ndarray (n,)
        Rows of the archive, int64.
    times : ndarray (n,)
        datetime64[us], UTC.
    is_flagged : ndarray (n,)
        bool.
    values : mapping of str to ndarray (n,)
        Frame-level variables, NaN where unknown.
    """

    camera: str
    filter: str
    calibration: str
    rows: np.ndarray
    times: np.ndarray
    is_flagged: np.ndarray
    values: Mapping[str, np.ndarray]

    @cached_property
    def nights(self) -> np.ndarray:
        """Number of the night of each frame, int64 ``(n,)``, from 0."""
        starts = np.r_[True, np.diff(self.times) > GAP][: len(self.times)]
        begun = self.times[np.flatnonzero(starts)][np.cumsum(starts) - 1]
        days = (self.times - begun) // DAY
        return np.cumsum(starts | (np.diff(days, prepend=days[:1]) > 0)) - 1

    @cached_property
    def is_by_night(self) -> bool:
        """True where there are `NIGHTS` nights: then a unit is a night, else a frame."""
        return bool(len(self.nights) and self.nights[-1] + 1 >= NIGHTS)

    @cached_property
    def is_good(self) -> np.ndarray:
        """True for frames that count, bool ``(n,)``: not flagged, or among frames of which most are."""
        if not self.is_by_night:
            return ~self.is_flagged | lasting(self.is_flagged)
        most = np.bincount(self.nights, self.is_flagged) > 0.5 * np.bincount(self.nights)
        return ~self.is_flagged | lasting(most)[self.nights]

    def units(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the medians of the units' good frames and the first frame of each, ``(m,)``."""
        known = np.flatnonzero(self.is_good & np.isfinite(values))
        if not self.is_by_night or not len(known):
            return values[known], known
        first = np.flatnonzero(np.diff(self.nights[known], prepend=-1))
        parts = np.split(values[known], first[1:])
        return np.array([np.median(part) for part in parts]), known[first]


@dataclass(frozen=True, eq=False)
class Repeats:
    """Patches that are masked again and again in chunks of unflagged frames of a series.

    Parameters
    ----------
    first : ndarray (m,)
        Position of the first frame of each chunk in the series.
    again : mapping of str to ndarray (m, patches)
        bool, by quantity: 'hot_pixels' (single bright pixels) and 'repeats' (other reasons).
    """

    first: np.ndarray
    again: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ArchiveSeries:
    """All series of an archive.

    Parameters
    ----------
    series : tuple of FrameSeries
    timeless : tuple of str
        Ids of the scored lights without a time.
    model : StoredModel
    store : QualityStore
    grid : PatchGrid
    """

    series: tuple[FrameSeries, ...]
    timeless: tuple[str, ...]
    model: StoredModel
    store: QualityStore
    grid: PatchGrid


def read_series(
    archive: str | os.PathLike[str],
    quality: str,
    patterns: Sequence[str] | None = None,
    band: str | None = None,
    ledger: Ledger | None = None,
) -> ArchiveSeries:
    """Read the frame-level values of a quality group; no map and no pixel is read.

    Ids or patterns, and a filter, choose frames; see `aqdask.io.frame_ids.select_frames`. ``ledger`` is
    that of the archive where it is open.

    Raises
    ------
    ArchiveError
        For a quality group that is damaged.
    """
    root = layout.open_root(archive)
    ledger, frames, store = (
        open_ledger(root) if ledger is None else ledger,
        FrameStore.at(root),
        QualityStore.open(archive, quality),
    )
    if lost := store.lost():
        raise layout.damaged(archive, lost)
    known = scored_rows(ledger.rows(), quality)
    known = known.take(known.are_lights())
    rows = known.column("row").astype(np.int64)
    order = np.argsort(rows)
    known, rows = known.take(order), rows[order]
    if patterns is not None or band is not None:
        filters = frames.coordinate("filter", rows.tolist()) if len(rows) else ()
        chosen = select_frames(known.texts("frame_id"), list(map(str, filters)), patterns, band)
        known, rows = known.take(chosen), rows[chosen]
    columns = {name: _codes(frames, rows, name) for name in ("camera", "filter")}
    times = np.asarray(frames.coordinate("time")[: ledger.row_count])[rows] if len(rows) else rows
    values = {name: column[rows] for name, column in frame_values(store, ledger.row_count).items()}
    model = StoredModel(store)
    has_time = times != NO_TIME
    timeless = known.take(~has_time).texts("frame_id") if not has_time.all() else []
    found: list[FrameSeries] = []
    for camera, band, members in _groups(columns, has_time):
        members = members[np.argsort(times[members], kind="stable")]
        found += _of_calibrations(camera, band, rows[members], times[members], values, members, model)
    patch: Any = store.group.attrs["patch"]
    grid = PatchGrid(*frames.spec.shape, int(patch))
    return ArchiveSeries(tuple(found), tuple(timeless), model, store, grid)


def _codes(frames: FrameStore, rows: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Read a coordinate of text as codes ``(n,)`` and the texts, a stored chunk at a time."""
    listed: dict[str, int] = {}
    codes = [np.zeros(0, np.int32)]
    for part in np.split(rows, np.flatnonzero(np.diff(rows // layout.ROWS_PER_CHUNK)) + 1):
        if len(part):
            texts = frames.coordinate(name, slice(int(part[0]), int(part[-1]) + 1))[part - part[0]].tolist()
            codes.append(np.array([listed.setdefault(str(text), len(listed)) for text in texts], np.int32))
    return np.concatenate(codes), list(listed)


def _groups(
    columns: Mapping[str, tuple[np.ndarray, list[str]]], wanted: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield camera, filter and the positions of their frames, sorted by name."""
    (cameras, camera_names), (filters, filter_names) = columns["camera"], columns["filter"]
    pairs = cameras.astype(np.int64) * max(len(filter_names), 1) + filters
    listed = [(camera_names[n // len(filter_names)], filter_names[n % len(filter_names)], n)
              for n in np.unique(pairs[wanted]).tolist()]  # fmt: skip
    for camera, band, number in sorted(listed):
        yield camera, band, np.flatnonzero(wanted & (pairs == number))


def _of_calibrations(
    camera: str,
    band: str,
    rows: np.ndarray,
    times: np.ndarray,
    values: Mapping[str, np.ndarray],
    members: np.ndarray,
    model: StoredModel,
) -> Iterator[FrameSeries]:
    """Split the frames of a camera and filter by the calibration that scores them."""
    bands = np.array(model.filters_at([camera] * len(rows), [band] * len(rows), times), object)
    for name in sorted(set(bands.tolist())):
        chosen = bands == name
        own = {key: column[members[chosen]] for key, column in values.items()}
        is_flagged = own["frame_flag"] == 1 if "frame_flag" in own else np.zeros(chosen.sum(), bool)
        stamps = times[chosen].astype("datetime64[us]")
        yield FrameSeries(camera, band, f"{camera}|{name}", rows[chosen], stamps, is_flagged, own)


def read_repeats(
    archive: str | os.PathLike[str], quality: str, found: ArchiveSeries, alpha: float
) -> tuple[tuple[Repeats, ...], int]:
    """Read the maps of all unflagged frames, and count the patches that are masked again and again.

    The last frames of a series that fill no chunk belong to the one before.

    Returns
    -------
    tuple of Repeats
        One a series.
    int
        Frames whose maps are missing or damaged, which are not counted.
    """
    good = [np.flatnonzero(~series.is_flagged) for series in found.series]
    size = max(CHUNK, -(-sum(map(len, good)) // CHUNKS))
    rows = open_ledger(layout.open_root(archive)).rows()
    chunk_of = np.full(int(rows.column("row").max(initial=0)) + 1, -1, np.int64)
    firsts, offset = [], 0
    for series, members in zip(found.series, good, strict=True):
        number = len(members) // size
        chunks = np.minimum(np.arange(len(members)) // size, number - 1)
        chunk_of[series.rows[members]] = offset + chunks if number else -1
        firsts.append(members[: number * size : size])
        offset += number
    counts = np.zeros((2, offset, int(np.prod(found.grid.shape))), np.int32)
    known = scored_rows(rows, quality)
    known = known.take(chunk_of[known.column("row")] >= 0)
    members_of, damaged = np.zeros(offset, np.int64), 0
    for block in read_masks(found.store, known, quality, alpha):
        members_of += np.bincount(chunk_of[block.rows[~block.damaged]], minlength=offset)
        damaged += int(block.damaged.sum())
        frame, patch, reason = block.masked
        codes = CODES[reason]
        chosen = ~block.damaged[frame] & ~np.isin(codes, WITHOUT_SCORE)
        places = (codes[chosen] != SPIKE).astype(int), chunk_of[block.rows[frame[chosen]]], patch[chosen]
        np.add.at(counts, places, 1)
    again = counts >= AGAIN * np.maximum(members_of, 1)[:, None]
    bounds = np.cumsum([0, *map(len, firsts)])
    repeats = (
        Repeats(first, {name: again[n, start:stop] for n, name in enumerate(("hot_pixels", "repeats"))})
        for first, start, stop in zip(firsts, bounds, bounds[1:], strict=False)
    )
    return tuple(repeats), damaged
