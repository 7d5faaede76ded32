"""Planning of tasks from the state of the frames, in plain Python: nothing is read, written or run.

Constraints: a quality shard has one writer, so a task that scores owns whole shards; a task has a bounded
number of frames; finished frames are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from aqdask.store.ledger import DONE, PENDING, QUARANTINED, Entry

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


def ingest_batches(rows: Sequence[Entry]) -> Iterator[Batch]:
    """Yield batches of the pending frames, a few in each, in row order."""
    pending = [entry for entry in rows if entry.state == PENDING or entry.changed]
    for number, start in enumerate(range(0, len(pending), INGEST_FRAMES)):
        part = pending[start : start + INGEST_FRAMES]
        tasks = tuple(_task(entry, ingest=True) for entry in part)
        yield Batch(number, part[0].row, part[-1].row + 1, tasks)


def score_batches(
    rows: Sequence[Entry],
    quality: str,
    per_shard: int,
    *,
    ingest: bool,
    redo: frozenset[int] = frozenset(),
    check: bool = False,
    all_types: bool = False,
) -> Iterator[Batch]:
    """Yield one batch for each quality shard with unfinished frames, in row order.

    Parameters
    ----------
    rows : sequence of Entry
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
    number = 0
    for start in range(0, len(rows), per_shard):
        shard = rows[start : start + per_shard]
        found = (_score_task(e, quality, ingest, e.row in redo, all_types) for e in shard)
        tasks = tuple(task for task in found if task)
        if any(check or not task.is_kept for task in tasks):
            yield Batch(number, start, start + len(shard), tasks, keep=len(tasks) < len(shard))
            number += 1


def with_score(
    rows: Sequence[Entry],
    quality: str,
    *,
    ingest: bool,
    redo: frozenset[int] = frozenset(),
    all_types: bool = False,
) -> list[int]:
    """Return the rows that have a score once the batches of `score_batches` are done."""
    tasks = (_score_task(entry, quality, ingest, entry.row in redo, all_types) for entry in rows)
    return [task.row for task in tasks if task and task.score]


def clear_batches(rows: Sequence[Entry], quality: str, per_shard: int) -> Iterator[Batch]:
    """Yield batches that clear the maps of given-up frames; other rows of their shards keep their maps."""
    for number, start in enumerate(range(0, len(rows), per_shard)):
        shard = rows[start : start + per_shard]
        tasks = tuple(_task(entry) for entry in shard if _is_stale(entry, quality))
        if tasks:
            yield Batch(number, start, start + len(shard), tasks, keep=True)


def _is_stale(entry: Entry, quality: str) -> bool:
    """Return True if a frame was scored once and its pixels have been given up since."""
    score = entry.scores.get(quality)
    return entry.state == QUARANTINED and score is not None and bool(score.crc32c)


def _score_task(entry: Entry, quality: str, ingest: bool, redo: bool, all_types: bool) -> FrameTask | None:
    if entry.is_skipped(quality) and not all_types:
        is_due = ingest and (entry.state == PENDING or entry.changed)
        return _task(entry, ingest=True) if is_due else None
    if entry.state == PENDING:
        return _task(entry, ingest=True, score=True) if ingest else None
    score = entry.scores.get(quality)
    if entry.state == DONE:
        take_in = ingest and entry.changed
        finished = score is not None and not redo and score.state != PENDING
        if not finished or _of_other_pixels(entry, quality):
            return _task(entry, ingest=take_in, score=True)
        assert score is not None
        if score.state == DONE:
            return _task(entry, ingest=take_in, score=True, stored=score.crc32c)
        return _task(entry, ingest=True, score=True) if take_in else None
    return _task(entry) if _is_stale(entry, quality) else None


def _of_other_pixels(entry: Entry, quality: str) -> bool:
    score = entry.scores[quality]
    return score.state == DONE and score.source != entry.crc32c


def _task(entry: Entry, *, ingest: bool = False, score: bool = False, stored: str = "") -> FrameTask:
    pixels = entry.crc32c if entry.state == DONE else ""
    return FrameTask(
        entry.row, entry.frame_id, entry.path, entry.hdu, ingest, score, stored, pixels, entry.suffix,
        entry.card,
    )  # fmt: skip


def objects(frames: int, per_shard: int, *, pixels: bool, variables: int) -> int:
    """Estimate the number of stored objects of a finished archive with one quality group.

    ``variables`` is the number of per-patch variables. Shards of ``invalid``, which most frames lack, are not
    counted.
    """
    return frames * pixels + math.ceil(frames / per_shard) * variables


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield consecutive slices of ``size`` items, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
