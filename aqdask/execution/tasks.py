"""Tasks of the workers: picklable callables that take plain values and return plain values.

An unusable file gives a record with the state ``quarantined``. Exceptions are left to failures that are not
about one frame: of the disk, the archive or the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from aqdask.errors import FrameError, SourceUnreachable, place_failed
from aqdask.execution import config
from aqdask.execution.model_cache import cached_scorer, calibration_spans, one_thread
from aqdask.execution.planning import Batch, FrameTask
from aqdask.execution.prefetch import prefetched
from aqdask.execution.preview import ALPHA, preview_now
from aqdask.execution.quality_groups import RETIRED
from aqdask.execution.reporter import FrameFacts
from aqdask.execution.worker import address, at_work
from aqdask.flags import REASONS
from aqdask.io import places, reader
from aqdask.io.frame_type import header_mosaic
from aqdask.io.pointing import pointing
from aqdask.io.wcs import sky_coordinates
from aqdask.methods.base import Scorer, score_frame
from aqdask.specs import FrameInfo, PatchGrid, ReadSpec
from aqdask.stats.masking import bad_patches
from aqdask.stats.mosaic import shows_mosaic
from aqdask.store import layout
from aqdask.store.frame_store import (
    NO_TIME,
    FrameStore,
    Place,
    check_fits,
    checksum,
    coordinates_of,
    read_place,
    row_checksum,
)
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, Record
from aqdask.store.quality_store import QualityStore
from aqdask.store.quality_store import row_checksum as maps_checksum
from aqdask.text import printable
from aqdask.timing import stopwatch, timed

Pixels = tuple[np.ndarray, "np.ndarray | None"]
NO_FRAME = "the frame itself is quarantined"
SPLIT = "split the colour planes into four half-size frames first, and ingest those"
IS_MOSAIC = f"a colour mosaic; {SPLIT}"
STORED = "but its pixels are stored: `aqdask verify --repair` accepts them as they are"


@dataclass(frozen=True)
class LoadedFrame:
    """A frame in memory.

    Parameters
    ----------
    pixels : tuple of ndarray
        Image and invalid pixels.
    crc32c : str
        Their checksum.
    camera, filter : str
        Names under which the model is calibrated.
    time : int or None
        Microseconds since 1970-01-01 UTC, where the model has several calibrations for them.
    headers : tuple of str
        Cards of the image's HDU and of the primary one.
    seconds : float
        Time that it took to read, where that is not in the record of its ingest.
    """

    pixels: Pixels
    crc32c: str
    camera: str
    filter: str
    time: int | None
    headers: tuple[str, str]
    seconds: float = 0.0


@lru_cache(maxsize=4)
def opened_frames(archive: str, run: str, *, writable: bool = False, fsync: bool = True) -> FrameStore:
    """Open the frames of an archive, once a process for each ``run``: no array is resized during one."""
    return FrameStore.open(archive, writable=writable, fsync=fsync)


@lru_cache(maxsize=16)
def opened_quality(
    archive: str, name: str, run: str, *, writable: bool = False, fsync: bool = True
) -> QualityStore:
    """Open a quality group of an archive, once a process for each ``run``."""
    return QualityStore.open(archive, name, writable=writable, fsync=fsync)


def new_run() -> str:
    """Return an identifier for a pass over an archive: see `opened_frames`."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class ProbeJob:
    """Task that reads the headers of files."""

    read: ReadSpec

    def __call__(self, paths: Sequence[str]) -> list[tuple[str, tuple[FrameInfo, ...] | FrameError]]:
        """Return the frames of each path, or the reason why there is none."""
        found: list[tuple[str, tuple[FrameInfo, ...] | FrameError]] = []
        for path in paths:
            with at_work(path):
                try:
                    found.append((path, reader.probe(path, self.read)))
                except FrameError as error:
                    found.append((path, error.with_traceback(None)))
        return found


def hash_sources(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return path and sha256 of each file, empty where the file cannot be read."""
    found = dict.fromkeys(paths, "")
    for path in paths:
        with at_work(path), contextlib.suppress(FrameError):
            found[path] = hashlib.sha256(reader.load_bytes(path)).hexdigest()
    return list(found.items())


@dataclass(frozen=True)
class FrameJob:
    """Task that ingests frames, scores them, or both, reading each source once.

    Parameters
    ----------
    archive : str
        Path of the archive, as seen by the workers.
    read : ReadSpec
        Settings for reading frames from files.
    quality, model, precision : str
        Name of the quality group, sha256 of the bundle and precision of its network; empty when nothing is
        scored.
    run : str
        Identifier under which worker processes keep the archive open.
    fsync : bool
        Shards are on disk before their records are returned.
    pictures : float
        Shortest time in seconds between two pictures of a worker process for display; infinity for none.
    """

    archive: str
    read: ReadSpec
    quality: str = ""
    model: str = ""
    precision: str = "fp32"
    run: str = field(default_factory=new_run)
    fsync: bool = field(default_factory=config.fsync)
    pictures: float = math.inf

    def __call__(self, group: Sequence[Batch]) -> list[tuple[float, list[Record]]]:
        """Process batches, one after the other; return seconds and records of each.

        The records are returned once everything is written. The frames that follow, of other batches too, are
        read ahead in a thread. Stored pixels stay until their replacement has been read and decoded. A source
        that could not be reached gives a record with the event 'unreachable', which the client settles.
        """
        frames = opened_frames(self.archive, self.run, writable=True, fsync=self.fsync)
        works = [(_Scoring if self.quality else _Ingest)(self, batch, frames) for batch in group]
        ahead = [(work, task) for work in works for task in work.batch.frames]
        answers = []
        with prefetched(_read, ahead, int(config.get("prefetch"))) as found:
            for work in works:
                started = time.perf_counter()
                records: list[Record] = []
                for task in work.batch.frames:
                    with at_work(task.frame_id):
                        records += work.process(task, next(found))
                work.finish(records)
                answers.append((time.perf_counter() - started, records))
        return answers

    def _load(
        self, frames: FrameStore, scoring: _Scoring, task: FrameTask
    ) -> tuple[LoadedFrame | FrameError | None, list[Record]]:
        """Read one frame, ingested where it is to be; return what is to be scored (or None), and records."""
        if not task.ingest:
            return None if scoring.keeps(task) else self._stored(scoring, task), []
        reading, record = self._store_frame(frames, task, self._read_frame(frames, task))
        if not task.score or reading is not None:
            return reading if task.score else None, [record]
        if not task.crc32c:  # nothing was stored before, and nothing is now
            return FrameError(NO_FRAME) if record["event"] == "ingest" else None, [record]
        return None if scoring.keeps(task) else self._stored(scoring, task), [record]

    def _read_frame(self, frames: FrameStore, task: FrameTask) -> tuple[float, reader.Frame | Record]:
        """Read one source; return seconds, and the frame or a record that says why there is none."""
        started = time.perf_counter()
        record: Record = {"event": "ingest", "frame_id": task.frame_id}
        found: reader.Frame | Record
        try:
            found = self._read(task)
            check_fits(frames.spec, found.image.shape, found.image.dtype)
        except SourceUnreachable as error:
            about = {"reason": str(error), "is_about_path": error.is_about_path, "worker": address()}
            found = {**record, "event": "unreachable", **about}
        except FrameError as error:
            if task.crc32c:
                found = {**record, "event": "kept", "reason": str(error), **_stamp(task.path)}
            elif frames.has_pixels(task.row):  # of a lost record, or a killed writer
                found = {**record, "state": PENDING, "reason": f"{error}; {STORED}"}
            else:
                found = {**record, "state": QUARANTINED, "reason": str(error)}
        return time.perf_counter() - started, found

    def _store_frame(
        self, frames: FrameStore, task: FrameTask, read: tuple[float, reader.Frame | Record]
    ) -> tuple[LoadedFrame | None, Record]:
        """Store the pixels that `_read_frame` found; return them, if there are any, and the record."""
        seconds, frame = read
        if isinstance(frame, dict):
            return None, {**frame, "seconds": round(seconds, 4)}
        started = time.perf_counter()
        try:
            frames.write(task.row, frame.image, frame.invalid)
        except OSError as error:
            raise place_failed(self.archive, error) from error
        crc32c = checksum(frame.image, frame.invalid)
        record: Record = {"event": "ingest", "frame_id": task.frame_id, "state": DONE, "sha256": frame.sha256}
        record |= {"crc32c": crc32c, "size": frame.size, "mtime_ns": frame.mtime_ns}
        if frame.invalid is not None:
            record["invalid_pixels"] = int(frame.invalid.sum())
        row = coordinates_of(task.frame_id, task.path, frame.info)
        record |= {"card": row_checksum(row), "frame_type": frame.info.metadata.frame_type}
        if record["card"] != task.card:  # other headers than the registered ones: the client stores these
            record["coordinates"] = row
        headers = frame.info.header, frame.info.primary_header
        record |= pointing(*headers, frame.image.shape, frame.info.metadata).known()
        if frame.info.notes:
            record["notes"] = list(frame.info.notes)
        stored = time.perf_counter() - started
        record["seconds"] = round(seconds + stored, 4)
        record["facts"] = FrameFacts(seconds={"read": seconds, "store": stored})
        known = frame.info.metadata
        names = known.camera, known.filter, known.time
        return LoadedFrame((frame.image, frame.invalid), crc32c, *names, headers), record

    def _pictured(self, loaded: LoadedFrame | None, record: Record) -> Record:
        """Return the record of an ingested frame, with a picture if one is due."""
        if loaded and (picture := preview_now(*loaded.pixels, None, 0, self.pictures)):
            record["facts"] = replace(record["facts"], picture=picture)
        return record

    def _read(self, task: FrameTask) -> reader.Frame:
        frame = reader.read_frame(task.path, task.hdu, self.read)
        suffix = printable(frame.info.suffix)
        if suffix != task.suffix:
            raise FrameError(
                f"the file was replaced after it was looked at: HDU {task.hdu} is now "
                f"{suffix or 'the only image'}"
            )
        return frame

    def _stored(self, scoring: _Scoring, task: FrameTask) -> LoadedFrame | FrameError:
        """Read an ingested frame, or return the reason why there is none."""
        if not task.score:
            return FrameError(NO_FRAME)
        started = time.perf_counter()
        try:
            pixels = read_place(scoring.frames, Place(task.row, task.path, task.hdu, task.crc32c))
        except FrameError as error:
            return error
        camera, band, stamp, header, primary = scoring.stored_headers[task.row]
        begun = None if int(stamp) == NO_TIME else int(stamp)
        seconds = time.perf_counter() - started
        return LoadedFrame(pixels, task.crc32c, camera, band, begun, (header, primary), seconds)


def _read(item: tuple[_Ingest | _Scoring, FrameTask]) -> Any:
    work, task = item
    return work.read(task)


def _stamp(path: str) -> dict[str, int]:
    """Return size and time of an unusable source; empty where it is missing."""
    with contextlib.suppress(OSError):
        size, stamp = places.status(path)
        return {"size": size, "mtime_ns": stamp}
    return {}


@dataclass(frozen=True)
class _Ingest:
    """Ingest of one batch that is not scored."""

    job: FrameJob
    batch: Batch
    frames: FrameStore

    def read(self, task: FrameTask) -> tuple[float, reader.Frame | Record]:
        """Read one source, in a thread."""
        return self.job._read_frame(self.frames, task)

    def process(self, task: FrameTask, read: tuple[float, reader.Frame | Record]) -> list[Record]:
        """Store one frame."""
        return [self.job._pictured(*self.job._store_frame(self.frames, task, read))]

    def finish(self, records: list[Record]) -> None:
        """Do nothing: each frame is stored by itself."""


class _Scoring:
    """Scoring of one batch: the maps of its shard, filled frame by frame and written once."""

    def __init__(self, job: FrameJob, batch: Batch, frames: FrameStore) -> None:
        self.job, self.batch, self.frames = job, batch, frames
        self.store = opened_quality(job.archive, job.quality, job.run, writable=True, fsync=job.fsync)
        self.block: dict[str, np.ndarray] = {}  # filled by `_begin`

    def read(self, task: FrameTask) -> tuple[LoadedFrame | FrameError | None, list[Record]]:
        """Read one frame, ingested where it is to be, in a thread, while frames before it are scored."""
        self._begin()
        return self.job._load(self.frames, self, task)

    def process(
        self, task: FrameTask, read: tuple[LoadedFrame | FrameError | None, list[Record]]
    ) -> list[Record]:
        """Score one frame, if there is one; return the records of its ingest and of its score."""
        found, records = read
        return records if found is None else [*records, self.score(task, found)]

    @cached_property
    def scorer(self) -> Scorer:
        """Scorer of the model, loaded on first use: a batch that only clears maps needs none."""
        return cached_scorer(self.job.model, self.job.precision)

    @cached_property
    def stored_headers(self) -> dict[int, tuple[str, str, str, str, str]]:
        """Camera, filter, time and both headers of the batch's frames as stored, by row; read once."""
        rows = [task.row for task in self.batch.frames]
        names = ("camera", "filter", "time", "header", "primary_header")
        columns = [self.frames.recent_coordinate(name, rows) for name in names]
        return dict(zip(rows, zip(*columns, strict=True), strict=True))

    @cached_property
    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Patch centres y and x in pixels, ``(n_y, n_x)`` each."""
        grid = PatchGrid(*self.frames.spec.shape, int(self.store.group.attrs["patch"]))  # type: ignore[arg-type]
        y, x = ((grid.starts(axis) + grid.stops(axis) - 1) / 2 for axis in (0, 1))
        return tuple(np.meshgrid(y, x, indexing="ij"))

    def _begin(self) -> None:
        """Make the maps: by the thread that reads, before the first frame is processed."""
        if self.block:
            return
        self.block = self.store.empty(self.batch.stop - self.batch.start)
        tasks = self.batch.frames
        if self.batch.keep or any(task.stored or (task.ingest and task.crc32c) for task in tasks):
            self._read_stored_maps()

    def _read_stored_maps(self) -> None:
        """Read the stored maps of the shard, frame by frame where a part of it is damaged.

        A disk that cannot be read is no damage, and ends the run.
        """
        start, stop = self.batch.start, self.batch.stop
        with layout.reading(self.job.archive):
            for name, values in self.block.items():
                try:
                    self.block[name] = self.store.read_map(name, slice(start, stop))
                    continue
                except layout.UNREADABLE:
                    pass
                for row in range(start, stop):
                    with contextlib.suppress(*layout.UNREADABLE):
                        values[row - start] = self.store.read_map(name, row)

    def keeps(self, task: FrameTask) -> bool:
        """Return True if the stored maps of a frame are finished and match the ledger."""
        return bool(task.stored) and maps_checksum(self.block, task.row - self.batch.start) == task.stored

    def score(self, task: FrameTask, found: LoadedFrame | FrameError) -> Record:
        """Fill the maps of one frame, with no data where it could not be read; see `finish`."""
        record: Record = {"event": "score", "frame_id": task.frame_id, "quality": self.job.quality}
        if isinstance(found, SourceUnreachable):  # its maps stay as they are
            about = {"reason": str(found), "is_about_path": found.is_about_path, "worker": address()}
            return {**record, "event": "unreachable", **about}
        position = task.row - self.batch.start
        for name, values in self.store.empty(1).items():
            self.block[name][position] = values[0]
        if isinstance(found, LoadedFrame) and (card := header_mosaic(*found.headers)):
            if shows_mosaic(*found.pixels):
                found = FrameError(f"{card}: {IS_MOSAIC}")
            else:
                record["notes"] = [f"{card}, but the pixels show no mosaic: scored as one image"]
        if isinstance(found, FrameError):
            return {**record, "state": QUARANTINED, "reason": str(found), "row": task.row}  # no values
        image, invalid = found.pixels
        started = time.perf_counter()
        scorer = self.scorer
        band = calibration_spans(self.job.model).filter_at(found.camera, found.filter, found.time)
        with one_thread(), stopwatch() as parts:
            maps = RETIRED | score_frame(scorer, image, invalid, found.camera, band)
        for name in self.block:
            if name in maps:
                self.block[name][position] = maps[name]
        self._locate(found.headers, position)
        numbers = {name: float(maps[name]) for name in self.store.frame_variables if name in maps}
        seconds = round(time.perf_counter() - started, 4)
        done: Record = {"state": DONE, "source": found.crc32c, "seconds": seconds}
        facts = self._facts(maps, found, {"read": found.seconds, **parts})
        return {**record, **done, "row": task.row, "values": numbers, "facts": facts}

    def _facts(
        self, maps: dict[str, np.ndarray], found: LoadedFrame, seconds: dict[str, float]
    ) -> FrameFacts:
        """Describe a scored frame for display."""
        bad = bad_patches(maps["pvalue"], ALPHA)
        reason = int(np.bincount(maps["reason"][bad].ravel()).argmax()) if bad.any() else -1
        name = next((flag.name for flag in REASONS if flag.value == reason), "")
        picture = preview_now(*found.pixels, maps["pvalue"], self.scorer.patch, self.job.pictures)
        return FrameFacts(float(maps["frame_score"]), float(bad.mean()), name, seconds, picture)

    def _locate(self, headers: tuple[str, str], position: int) -> None:
        """Fill in the sky positions of the patch centres, where the header has a celestial WCS."""
        found = sky_coordinates(*headers, *self.centres)
        if found is not None:
            self.block["ra"][position], self.block["dec"][position] = found

    def finish(self, records: list[Record]) -> None:
        """Write the shard, then complete the records, so that they exist for stored maps only.

        Damaged maps that could not be made again are recorded as pending.
        """
        self._begin()  # for a batch without frames
        scored = {record["frame_id"] for record in records if record["event"] == "score"}
        for task in self.batch.frames:
            if task.stored and task.frame_id not in scored and not self.keeps(task):
                about = {"quality": self.job.quality, "state": PENDING}
                records.append({"event": "score", "frame_id": task.frame_id, **about})
        try:
            with stopwatch() as seconds, timed("write"):
                self.store.write_shard(self.batch.start, self.block)
        except OSError as error:
            raise place_failed(self.job.archive, error) from error
        done = [record for record in records if "facts" in record and record["event"] == "score"]
        for record in done:
            share = {"write": seconds["write"] / len(done)}
            record["facts"] = replace(record["facts"], seconds={**record["facts"].seconds, **share})
        for record in records:
            if record["event"] == "score" and record["state"] == DONE:
                record["crc32c"] = maps_checksum(self.block, record["row"] - self.batch.start)


@dataclass(frozen=True)
class VerifyJob:
    """Task that reads stored frames and compares their checksums with those of the ledger."""

    archive: str
    qualities: tuple[str, ...]
    run: str = field(default_factory=new_run)

    def __call__(self, batch: Sequence[tuple[int, str, dict[str, str]]]) -> list[list[tuple[int, str, str]]]:
        """Return the damage ``(row, where, what)`` of each ``(row, checksum, {quality: checksum of maps})``.

        ``where`` is 'frames' or the name of a quality group; checksums that are empty are not compared.
        """
        with layout.reading(self.archive):
            return self._compare(batch)

    def _compare(self, batch: Sequence[tuple[int, str, dict[str, str]]]) -> list[list[tuple[int, str, str]]]:
        frames = opened_frames(self.archive, self.run)
        stores = {name: StoredMaps(opened_quality(self.archive, name, self.run)) for name in self.qualities}
        answers = []
        for row, expected, maps in batch:
            damage: list[tuple[int, str, str]] = []
            with at_work(str((row, expected, maps))):
                if expected and frames.spec.pixels:
                    what = _damage(partial(_pixel_checksum, frames, row), expected)
                    damage += [(row, "frames", what)] if what else []
                for name, wanted in maps.items():
                    what = _damage(partial(stores[name].checksum, row), wanted)
                    damage += [(row, name, what)] if what else []
            answers.append(damage)
        return answers


def _pixel_checksum(frames: FrameStore, row: int) -> str:
    return checksum(*frames.read(row))


class StoredMaps:
    """Maps of a quality group, read a whole shard at a time: from a bucket that is one request."""

    def __init__(self, store: QualityStore) -> None:
        self.store = store
        self._start, self._block = -1, dict[str, np.ndarray]()

    def checksum(self, row: int) -> str:
        """Return the checksum of the stored maps of a frame; `layout.UNREADABLE` where they do not decode."""
        per_shard = self.store.frames_per_shard
        start = row - row % per_shard
        if start != self._start:
            try:
                self._block = self.store.read(start, start + per_shard)
            except layout.UNREADABLE:  # of one frame, perhaps
                self._block = {}
            self._start = start
        if not self._block:
            return maps_checksum(self.store.read(row, row + 1), 0)
        return maps_checksum(self._block, row - start)


def _damage(read: Callable[[], str], expected: str) -> str:
    """Describe the damage of a stored object; empty for none."""
    try:
        found = read()
    except layout.UNREADABLE:
        return "damaged: the stored bytes do not decode or fail their own checksum"
    same = found == expected
    return "" if same else f"missing, emptied or replaced: checksum {found}, the ledger says {expected}"
