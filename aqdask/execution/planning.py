"""Planning of tasks from the state of the frames, on columns: nothing is read, written or run.

Constraints: a quality shard has one writer, so a task that scores owns whole shards; a task has a bounded
number of frames; finished frames are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from aqdask.store.entry_table import ABSENT, CODE, DONE, PENDING, QUARANTINED, Rows

T = TypeVar("T")

FRAMES_PER_SHARD = 16  # K at most
SHARDS_WANTED = 16  # in a small archive: enough tasks to keep a few workers busy
INGEST_FRAMES = 4  # frames a task when nothing is scored


@dataclass(frozen=True)
class FrameTask:
    """Work on one frame: ingest it from its source, score it, or clear stale scores.

    ``crc32c`` is the checksum of the stored pixels, empty where none are stored; they stay until the source
    replaces them. ``stored`` is the checksum of finished maps to be kept; where they are
    damaged, the frame is scored again. ``suffix`` and ``card`` were registered: the part of the id that names
    the HDU, and the checksum of the coordinates.
    """

    row: int
    frame_id: str
    path: str
    hdu: int
    ingest: bool = False
    score: bool = False
    stored: str = ""
    crc32c: str = ""
    suffix: str = ""
    card: str = ""

    @property
    def is_kept(self) -> bool:
        """True if only the maps are to be checked."""
        return bool(self.stored) and not self.ingest


@dataclass(frozen=True)
class Batch:
    """Frames of one task: consecutive frames of one quality shard (or of none).

    ``start`` and ``stop`` are the bounds of the shard's rows. With ``keep``, rows of the shard beside
    ``frames`` keep their maps. ``rest`` holds batches of the same shard that may only run after this one.
    """

    number: int
    start: int
    stop: int
    frames: tuple[FrameTask, ...]
    keep: bool = False
    rest: tuple[Batch, ...] = ()

    def split(self) -> tuple[Batch, ...]:
        """Split into two halves, to be run one after the other; a single frame stays whole."""
        if len(self.frames) < 2:
            return (self,)
        middle = len(self.frames) // 2
        return self.only(self.frames[:middle]), self.only(self.frames[middle:])

    def only(self, frames: Sequence[FrameTask]) -> Batch:
        """Return the batch of some of its frames: the other rows keep their maps, and ``rest`` is empty."""
        return replace(self, frames=tuple(frames), keep=True, rest=())


def frames_per_shard(frames: int) -> int:
    """Return K of a new archive: at most 16, fewer for few frames, so that several workers have tasks."""
    return max(1, min(FRAMES_PER_SHARD, frames // SHARDS_WANTED))


@dataclass(frozen=True)
class Plan:
    """Work on the frames of an archive; its batches are made when they are asked for.

    Parameters
    ----------
    rows : Rows
        All entries that own a row, in row order (row i at position i).
    ingest, score, clear : ndarray of bool
        Rows to be ingested, to have a score afterwards, and to lose their maps.
    finished : ndarray of bool
        Rows of ``score`` with maps of the stored pixels, which are kept where they match the ledger.
    quality : str
        Name of the quality group, empty where nothing is scored.
    per_shard : int
        K: frames in one stored object; where nothing is scored, frames in one batch.
    check : bool
        Include shards without work: their maps are compared with the ledger.
    """

    rows: Rows
    ingest: np.ndarray
    score: np.ndarray
    clear: np.ndarray
    finished: np.ndarray
    quality: str = ""
    per_shard: int = INGEST_FRAMES
    check: bool = False

    @cached_property
    def tasks(self) -> np.ndarray:
        """Rows that a task names, bool."""
        return self.ingest | self.score | self.clear

    @cached_property
    def work(self) -> np.ndarray:
        """Rows with work to do, bool: those of `tasks` without the ones that are kept."""
        return self.tasks & ~(self.finished & ~self.ingest)

    @cached_property
    def shards(self) -> np.ndarray:
        """Numbers of the quality shards with work to do, increasing."""
        return np.unique(np.flatnonzero(self.tasks if self.check else self.work) // self.per_shard)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.shards) if self.quality else math.ceil(np.count_nonzero(self.tasks) / self.per_shard)

    def __iter__(self) -> Iterator[Batch]:
        return self._shards() if self.quality else self._parts()

    def _parts(self) -> Iterator[Batch]:
        """Yield batches of some frames each, which belong to no quality shard."""
        rows = np.flatnonzero(self.tasks)
        for number, start in enumerate(range(0, len(rows), self.per_shard)):
            part = rows[start : start + self.per_shard]
            yield Batch(number, int(part[0]), int(part[-1]) + 1, self._tasks(part))

    def _shards(self) -> Iterator[Batch]:
        """Yield one batch for each quality shard with work to do."""
        for number, shard in enumerate(self.shards.tolist()):
            start, stop = shard * self.per_shard, min((shard + 1) * self.per_shard, len(self.rows))
            part = start + np.flatnonzero(self.tasks[start:stop])
            yield Batch(number, start, stop, self._tasks(part), keep=len(part) < stop - start)

    def _tasks(self, part: np.ndarray) -> tuple[FrameTask, ...]:
        rows = self.rows.take(part)
        maps = np.where(self.finished[part], rows.score(self.quality, "crc32c"), "")
        pixels = np.where(rows.column("state") == CODE[DONE], rows.column("crc32c"), "")
        columns = (
            rows.column("row").tolist(), rows.texts("frame_id"), rows.texts("path"),
            rows.column("hdu").tolist(), self.ingest[part].tolist(), self.score[part].tolist(),
            maps.tolist(), pixels.tolist(), rows.texts("suffix"), rows.texts("card"),
        )  # fmt: skip
        return tuple(FrameTask(*values) for values in zip(*columns, strict=True))


def plan_ingest(rows: Rows) -> Plan:
    """Plan the ingest of the pending frames, a few in each batch, in row order."""
    none = np.zeros(len(rows), bool)
    return Plan(rows, _is_due(rows), none, none, none)


def plan_score(
    rows: Rows,
    quality: str,
    per_shard: int,
    *,
    ingest: bool,
    redo: frozenset[int] = frozenset(),
    check: bool = False,
    all_types: bool = False,
) -> Plan:
    """Plan the scoring of an archive: one batch for each quality shard with unfinished frames, in row order.

    Parameters
    ----------
    rows : Rows
        All entries that own a row, in row order (row i at position i).
    quality : str
        Name of the quality group.
    per_shard : int
        K: frames in one stored object.
    ingest : bool
        Ingest pending frames, too (the fused run); otherwise they are skipped.
    redo : set of int
        Rows to be scored again although they have a score (repair).
    check : bool
        Include finished shards: their maps are compared with the ledger.
    all_types : bool
        Score frames that are no lights, too; otherwise they are only ingested.
    """
    state, changed, score = rows.column("state"), rows.column("changed"), rows.score(quality, "state")
    pending, done = state == CODE[PENDING], state == CODE[DONE]
    skipped = rows.are_skipped(quality) & (not all_types)
    again = np.isin(rows.column("row"), list(redo))
    settled = (score != ABSENT) & (score != CODE[PENDING]) & ~again & ~rows.of_other_pixels(quality)
    has_maps = settled & (score == CODE[DONE])
    take_in = (_is_due(rows) if ingest else np.zeros(len(rows), bool)) & (skipped | pending | done)
    wanted = (pending & ingest) | (done & (~settled | has_maps | (changed & ingest)))
    finished = done & has_maps & (rows.score(quality, "crc32c") != "") & ~skipped
    return Plan(
        rows, take_in, wanted & ~skipped, _is_stale(rows, quality) & ~skipped, finished, quality, per_shard,
        check,
    )  # fmt: skip


def plan_clear(rows: Rows, quality: str, per_shard: int) -> Plan:
    """Plan the clearing of the maps of given-up frames; other rows of their shards keep their maps."""
    none = np.zeros(len(rows), bool)
    return Plan(rows, none, none, _is_stale(rows, quality), none, quality, per_shard)


def _is_due(rows: Rows) -> np.ndarray:
    """Return True for each frame whose source is to be read."""
    return (rows.column("state") == CODE[PENDING]) | rows.column("changed")


def _is_stale(rows: Rows, quality: str) -> np.ndarray:
    """Return True for each frame that was scored once and whose pixels have been given up since."""
    has_maps = (rows.score(quality, "state") != ABSENT) & (rows.score(quality, "crc32c") != "")
    return has_maps & (rows.column("state") == CODE[QUARANTINED])


def objects(frames: int, per_shard: int, *, pixels: bool, variables: int) -> int:
    """Estimate the number of stored objects of a finished archive with one quality group.

    ``variables`` is the number of per-patch variables. Shards of ``invalid``, which most frames lack, are not
    counted.
    """
    return frames * pixels + math.ceil(frames / per_shard) * variables


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield consecutive slices of ``size`` items, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
