"""From the state of the frames to tasks: pure integer arithmetic, no dask, no zarr.

Constraints, first of all: a quality shard has one writer, so a task that scores owns whole shards; a task
is a bounded number of frames; frames that are finished are not touched.
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
    """What is to be done with one frame: take it in from its source, score it, or clear stale scores.

    ``crc32c`` is the checksum of the pixels that are stored, empty where none are; they stay until others
    from the source can take their place. ``stored`` is the checksum of maps that are finished and to be kept;
    where the shard does not hold them any more, the frame is scored again. ``suffix`` and ``card`` are what
    was registered: the part of the id that names the HDU, and the checksum of the coordinates.
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
        """True if nothing is to be done as long as its maps are what they were."""
        return bool(self.stored) and not self.ingest


@dataclass(frozen=True)
class Batch:
    """The unit that travels: consecutive frames of one quality shard (or of none).

    ``start`` and ``stop`` bound the shard's rows. With ``keep``, rows of the shard that are not named in
    ``frames`` survive. ``rest`` are batches of the same shard that may only run after this one.
    """

    number: int
    start: int
    stop: int
    frames: tuple[FrameTask, ...]
    keep: bool = False
    rest: tuple[Batch, ...] = ()

    def split(self) -> tuple[Batch, ...]:
        """Two halves to be run one after the other; itself where it is a single frame."""
        if len(self.frames) < 2:
            return (self,)
        middle = len(self.frames) // 2
        return self.only(self.frames[:middle]), self.only(self.frames[middle:])

    def only(self, frames: Sequence[FrameTask]) -> Batch:
        """The same for some of its frames: the others' rows survive, and nothing waits for it."""
        return replace(self, frames=tuple(frames), keep=True, rest=())


def frames_per_shard(frames: int) -> int:
    """K for a new archive of ``frames`` frames: at most 16, fewer in a small one so that workers share it."""
    return max(1, min(FRAMES_PER_SHARD, frames // SHARDS_WANTED))


def ingest_batches(rows: Sequence[Entry]) -> Iterator[Batch]:
    """Batches of the frames that are pending, a few a task, in row order."""
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
) -> Iterator[Batch]:
    """One batch for each quality shard with something to do, in row order.

    Parameters
    ----------
    rows : sequence of Entry
        Every entry that owns a row, in row order (row i at position i).
    quality : str
        Name of the quality group.
    per_shard : int
        K: frames in one stored object.
    ingest : bool
        Take pending frames in from their sources too (the fused run), else leave them.
    redo : set of int
        Rows whose shard is to be made anew although their frames are known as scored (repair).
    check : bool
        Also shards in which everything is finished: their maps are compared with the ledger.
    """
    number = 0
    for start in range(0, len(rows), per_shard):
        shard = rows[start : start + per_shard]
        tasks = tuple(task for e in shard if (task := _score_task(e, quality, ingest, e.row in redo)))
        if any(check or not task.is_kept for task in tasks):
            yield Batch(number, start, start + len(shard), tasks, keep=len(tasks) < len(shard))
            number += 1


def with_score(
    rows: Sequence[Entry], quality: str, *, ingest: bool, redo: frozenset[int] = frozenset()
) -> list[int]:
    """Rows that have a score after `score_batches` with the same arguments: made now, or kept from before."""
    tasks = (_score_task(entry, quality, ingest, entry.row in redo) for entry in rows)
    return [task.row for task in tasks if task and task.score]


def clear_batches(rows: Sequence[Entry], quality: str, per_shard: int) -> Iterator[Batch]:
    """Batches that only clear maps of frames that have gone bad; everything else in their shards stays."""
    for number, start in enumerate(range(0, len(rows), per_shard)):
        shard = rows[start : start + per_shard]
        tasks = tuple(_task(entry) for entry in shard if _is_stale(entry, quality))
        if tasks:
            yield Batch(number, start, start + len(shard), tasks, keep=True)


def _is_stale(entry: Entry, quality: str) -> bool:
    """Tell if a frame was scored once and its pixels have since been given up."""
    score = entry.scores.get(quality)
    return entry.state == QUARANTINED and score is not None and bool(score.crc32c)


def _score_task(entry: Entry, quality: str, ingest: bool, redo: bool) -> FrameTask | None:
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
    """How many stored objects a finished archive holds under ``frames/`` and one quality group, about.

    ``variables`` counts the per-patch ones; ``invalid`` shards are not counted, most frames have none.
    """
    return frames * pixels + math.ceil(frames / per_shard) * variables


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of ``size``, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
