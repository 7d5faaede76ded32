"""What a worker does: plain functions of picklable values, run by any executor.

A file that cannot be used comes back as a record with the state ``quarantined`` and never raises. What
raises is about the place (disk, archive, model), not about one frame.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from aqdask.archive import fits
from aqdask.archive.frames import FrameStore, check_fits, checksum
from aqdask.archive.headers import wcs_centres
from aqdask.archive.ledger import DONE, QUARANTINED, Record
from aqdask.archive.maps import QualityStore, row_checksum
from aqdask.engine.plan import Batch, FrameTask
from aqdask.engine.replicas import one_thread, replica
from aqdask.errors import FrameError, place_failed
from aqdask.models.scorer import Scorer, score_frame
from aqdask.specs import FrameInfo, ReadSpec

Pixels = tuple[np.ndarray, "np.ndarray | None"]
NO_FRAME = "the frame itself is quarantined"


@dataclass(frozen=True)
class ProbeJob:
    """Look into files: headers only."""

    read: ReadSpec

    def __call__(self, paths: Sequence[str]) -> list[tuple[str, tuple[FrameInfo, ...] | str]]:
        """For each path its frames, or the reason why there is none."""
        found: list[tuple[str, tuple[FrameInfo, ...] | str]] = []
        for path in paths:
            try:
                found.append((path, fits.probe(path, self.read)))
            except FrameError as error:
                found.append((path, str(error)))
        return found


def hash_sources(paths: Sequence[str]) -> list[tuple[str, str]]:
    """sha256 of each file's content; empty where it cannot be read."""
    return [(path, _digest(path)) for path in paths]


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(fits.load_bytes(path)).hexdigest()
    except FrameError:
        return ""


@dataclass(frozen=True)
class FrameJob:
    """Take frames in, score them, or both, reading each source once.

    Parameters
    ----------
    archive : str
        Path of the archive, as seen by the workers.
    read : ReadSpec
        How frames are taken out of files.
    quality, model : str
        Name of the quality group and sha256 of the bundle; empty when nothing is scored.
    """

    archive: str
    read: ReadSpec
    quality: str = ""
    model: str = ""

    def __call__(self, batch: Batch) -> list[Record]:
        """Do what ``batch`` says; one or two records a frame, everything written before they return."""
        frames = FrameStore.open(self.archive, writable=True)
        scoring = _Scoring.begin(self, batch) if self.quality else None
        records: list[Record] = []
        for task in batch.frames:
            if scoring and scoring.keeps(task):
                continue
            started = time.perf_counter()
            pixels, record = self._take_in(frames, task) if task.ingest else (None, None)
            if record:
                records.append({**record, "seconds": round(time.perf_counter() - started, 4)})
            if scoring:
                bad = record is not None and record["state"] == QUARANTINED
                found = pixels or (NO_FRAME if bad else self._stored(frames, task))
                records.append(scoring.score(frames, task, found))
        if scoring:
            scoring.finish(records)
        return records

    def _take_in(self, frames: FrameStore, task: FrameTask) -> tuple[Pixels | None, Record]:
        """Read one source, store its pixels; the record says how that went."""
        record: Record = {"event": "ingest", "frame_id": task.frame_id}
        try:
            frame = fits.read_frame(task.path, task.hdu, self.read)
            check_fits(frames.spec, frame.image.shape, frame.image.dtype)
        except FrameError as error:
            frames.erase(task.row)
            return None, {**record, "state": QUARANTINED, "reason": str(error)}
        try:
            frames.write(task.row, frame.image, frame.invalid)
        except OSError as error:
            raise place_failed(self.archive, error) from error
        record |= {"state": DONE, "sha256": frame.sha256, "crc32c": checksum(frame.image, frame.invalid)}
        if frame.invalid is not None:
            record["invalid_pixels"] = int(frame.invalid.sum())
        return (frame.image, frame.invalid), record

    def _stored(self, frames: FrameStore, task: FrameTask) -> Pixels | str:
        """A frame's pixels from the archive (or its source, where that keeps none), or why there are none."""
        if not task.score:
            return NO_FRAME
        if frames.spec.pixels:
            return frames.read(task.row)
        try:
            frame = fits.read_frame(task.path, task.hdu, self.read)
        except FrameError as error:
            return str(error)
        return frame.image, frame.invalid


class _Scoring:
    """The scoring half of one batch: the maps of its shard, filled frame by frame, written once."""

    def __init__(self, job: FrameJob, batch: Batch, store: QualityStore) -> None:
        self.job, self.batch, self.store = job, batch, store
        self.block = store.empty(batch.stop - batch.start)

    @cached_property
    def scorer(self) -> Scorer:
        """The model; a batch that only clears maps needs none."""
        return replica(self.job.model)

    @classmethod
    def begin(cls, job: FrameJob, batch: Batch) -> _Scoring:
        scoring = cls(job, batch, QualityStore.open(job.archive, job.quality, writable=True))
        if batch.keep or any(task.stored for task in batch.frames):
            scoring._recall()
        return scoring

    def _recall(self) -> None:
        """Take over what the shard holds; a shard that cannot be read holds nothing."""
        try:
            stored = self.store.read(self.batch.start, self.batch.stop)
        except (ValueError, RuntimeError, OSError):
            return
        replaced = {task.row for task in self.batch.frames if not task.stored}
        for row in range(self.batch.start, self.batch.stop):
            if row not in replaced:
                for name, values in stored.items():
                    self.block[name][row - self.batch.start] = values[row - self.batch.start]

    def keeps(self, task: FrameTask) -> bool:
        """Whether the maps of ``task`` are finished and still what the ledger says."""
        return bool(task.stored) and row_checksum(self.block, task.row - self.batch.start) == task.stored

    def score(self, frames: FrameStore, task: FrameTask, pixels: Pixels | str) -> Record:
        """Fill one frame's maps (no data, if instead of pixels there is a reason); `finish` completes it."""
        position = task.row - self.batch.start
        for name, values in self.store.empty(1).items():
            self.block[name][position] = values[0]
        record: Record = {"event": "score", "frame_id": task.frame_id, "quality": self.job.quality}
        if isinstance(pixels, str):
            return {**record, "state": QUARANTINED, "reason": pixels, "row": task.row}  # no values
        image, invalid = pixels
        started = time.perf_counter()
        at = slice(task.row, task.row + 1)
        about = {name: str(frames.coordinate(name, at)[0]) for name in ("camera", "filter")}
        with one_thread():
            maps = score_frame(self.scorer, image, invalid, **about)
        for name in self.block:
            if name in maps:
                self.block[name][position] = maps[name]
        self._locate(frames, at, position)
        numbers = {name: float(maps[name]) for name in self.store.frame_variables if name in maps}
        seconds = round(time.perf_counter() - started, 4)
        done: Record = {"state": DONE, "source": checksum(image, invalid), "seconds": seconds}
        return {**record, **done, "row": task.row, "values": numbers}

    def _locate(self, frames: FrameStore, at: slice, position: int) -> None:
        """Sky position of the patch centres, where the header has a celestial WCS."""
        centres = [
            (np.asarray(self.store.group[a + "0"][:]) + np.asarray(self.store.group[a + "1"][:]) - 1) / 2  # type: ignore[index]
            for a in "yx"
        ]
        y, x = np.meshgrid(*centres, indexing="ij")
        headers = [str(frames.coordinate(name, at)[0]) for name in ("header", "primary_header")]
        found = wcs_centres(headers[0], headers[1], y, x)
        if found is not None:
            self.block["ra"][position], self.block["dec"][position] = found

    def finish(self, records: list[Record]) -> None:
        """Write the shard and complete the records: they exist only for what is stored."""
        try:
            self.store.write_shard(self.batch.start, self.block)
        except OSError as error:
            raise place_failed(self.job.archive, error) from error
        for record in records:
            if record["event"] == "score" and record["state"] == DONE:
                record["crc32c"] = row_checksum(self.block, record["row"] - self.batch.start)


@dataclass(frozen=True)
class VerifyJob:
    """Read stored frames again and compare with the ledger's checksums."""

    archive: str
    qualities: tuple[str, ...]

    def __call__(self, batch: Sequence[tuple[int, str, dict[str, str]]]) -> list[tuple[int, str, str]]:
        """For ``(row, pixel checksum, {quality: maps' checksum})`` the damage ``(row, where, what)``.

        ``where`` is 'frames' or the name of a quality group; checksums that are empty are not compared.
        """
        damage: list[tuple[int, str, str]] = []
        frames = FrameStore.open(self.archive)
        stores = {name: QualityStore.open(self.archive, name) for name in self.qualities}
        for row, expected, maps in batch:
            if expected and frames.spec.pixels:
                what = _damage(partial(_pixel_checksum, frames, row), expected)
                damage += [(row, "frames", what)] if what else []
            for name, wanted in maps.items():
                what = _damage(partial(_map_checksum, stores[name], row), wanted)
                damage += [(row, name, what)] if what else []
        return damage


def _pixel_checksum(frames: FrameStore, row: int) -> str:
    return checksum(*frames.read(row))


def _map_checksum(store: QualityStore, row: int) -> str:
    return row_checksum(store.read(row, row + 1), 0)


def _damage(read: Callable[[], str], expected: str) -> str:
    """What is wrong with a stored piece; empty for nothing."""
    try:
        found = read()
    except (ValueError, RuntimeError, OSError):
        return "damaged: the stored bytes do not decode or fail their own checksum"
    same = found == expected
    return "" if same else f"missing, emptied or replaced: checksum {found}, the ledger says {expected}"
