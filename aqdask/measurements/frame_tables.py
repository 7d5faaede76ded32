"""Parquet tables of what is measured on every scored frame, written on the workers in parts that are kept.

A part is a file of `FRAMES_PER_PART` consecutive frames, a row group each. Its footer has a key of all that
it depends on, by which a part that is already there is not made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from aqdask.errors import ArchiveError, FrameError, place_failed
from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.pipeline import blame, collect
from aqdask.execution.reporter import Reporter
from aqdask.execution.tasks import opened_frames
from aqdask.execution.work_estimate import seconds
from aqdask.execution.worker import at_work
from aqdask.io.places import PARTIAL, absolute
from aqdask.measurements.scored_frame import ScoredFrame, ScoredFrames, ScoredPlace, scored_places
from aqdask.products.columns import described, nulls_for_nan
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.text import plural, printable
from aqdask.version import __version__

FRAMES_PER_PART = 16
PART = "part-{:08d}.parquet"  # with the row of its first frame
ABOUT = b"aqdask"  # key of the footer's entry
FRAME_COLUMNS = pa.schema(
    [
        described("row", pa.int64(), "position along `frame` in the archive"),
        described("frame_id", pa.string(), "id of the frame in the archive"),
        described("time", pa.timestamp("us", tz="UTC"), "start of the exposure"),
        described("filter", pa.string(), "filter, empty where unknown"),
    ]
)


@contextlib.contextmanager
def replacing_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Open a writer of a Parquet file that takes its place whole, once it is on disk, or not at all.

    Raises
    ------
    ArchiveError
        If it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            yield writer
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise place_failed(path.parent, error) from error
    finally:
        partial.unlink(missing_ok=True)


class Measurement(Protocol):
    """Function of one frame that gives a table; it runs on the workers.

    Attributes
    ----------
    schema : pyarrow.Schema
        Columns of the table, without `FRAME_COLUMNS`.
    settings : mapping
        All that its result depends on beside the frame, as JSON takes it.

    One that writes files beside the table also has ``has_files(frame_id)``; where that is False, the frame is
    measured again.
    """

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that its result depends on."""

    def __call__(self, frame: ScoredFrame) -> pa.Table:
        """Measure a frame; `FrameError` where it cannot be measured."""


class FrameRows(NamedTuple):
    """Number of rows that a frame gave and the file that holds them, or a problem."""

    row: int
    rows: int = 0
    file: str = ""
    problem: str = ""


@dataclass(frozen=True)
class TableJob:
    """Task that measures the frames of one part and writes their tables to its file.

    Parameters
    ----------
    frames : ScoredFrames
        Reads the frames.
    measurement : Measurement
        Measures them.
    folder : str
        An existing folder.
    """

    frames: ScoredFrames
    measurement: Measurement
    folder: str

    def __call__(self, places: Sequence[ScoredPlace]) -> list[FrameRows]:
        """Measure frames one after the other, or find them measured."""
        path = Path(self.folder) / PART.format(places[0].frame.row)
        key = self.key(places)
        if (kept := _kept(path, key)) is not None and self._has_files(places):
            return [FrameRows(place.frame.row, kept[str(place.frame.row)], path.name) for place in places]
        columns = pa.unify_schemas([FRAME_COLUMNS, self.measurement.schema])
        results = []
        with replacing_writer(path, columns) as writer:
            for place in places:
                with at_work(str(place)):
                    results.append(self._one(place, writer, path.name))
            counts = {str(result.row): result.rows for result in results}
            complete = not any(result.problem for result in results)
            about = {
                "key": key if complete else "",
                "rows": counts,
                "settings": dict(self.measurement.settings),
            }
            writer.add_key_value_metadata({ABOUT: json.dumps(about, sort_keys=True).encode()})
        return results

    def key(self, places: Sequence[ScoredPlace]) -> str:
        """Hash all that the file of these frames depends on."""
        frames, measurement = self.frames, self.measurement
        known = [
            __version__, frames.quality, frames.alpha, type(measurement).__name__, dict(measurement.settings),
            str(measurement.schema), [(p.frame.row, p.frame.crc32c, p.maps) for p in places],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def _has_files(self, places: Sequence[ScoredPlace]) -> bool:
        """Return True if the files that the measurement writes beside the table are there."""
        has_files = getattr(self.measurement, "has_files", None)
        if has_files is None:
            return True
        frames = opened_frames(self.frames.archive, self.frames.run)
        return all(map(has_files, frames.recent_coordinate("frame_id", [p.frame.row for p in places])))

    def _one(self, place: ScoredPlace, writer: pq.ParquetWriter, file: str) -> FrameRows:
        row = place.frame.row
        try:
            frame = self.frames.read(place)
            table = nulls_for_nan(self.measurement(frame))
        except FrameError as error:
            return FrameRows(row, problem=str(error))
        common = (frame.row, printable(frame.frame_id), frame.time, printable(frame.filter))
        known = [
            pa.repeat(pa.scalar(value, field.type), table.num_rows)
            for field, value in zip(FRAME_COLUMNS, common, strict=True)
        ]
        writer.write_table(pa.table([*known, *table.columns], schema=writer.schema))
        return FrameRows(row, table.num_rows, file)


def _kept(path: Path, key: str) -> dict[str, int] | None:
    """Return the number of rows by frame of a file that is there with this key; None without one."""
    try:
        about = json.loads((pq.read_metadata(path).metadata or {})[ABOUT])
    except (FileNotFoundError, KeyError, pa.ArrowInvalid):
        return None
    return about["rows"] if about["key"] == key else None


def measure_frames(
    archive: str | os.PathLike[str],
    quality: str,
    alpha: float,
    measurement: Measurement,
    folder: str | os.PathLike[str],
    executor: Executor,
    reporter: Reporter,
    *,
    stage: str,
    places: Sequence[ScoredPlace] | None = None,
) -> tuple[list[FrameRows], list[tuple[str, str]]]:
    """Measure all scored frames of an archive, and write a Parquet dataset that `dask.dataframe` opens.

    Run again, it makes only what is missing or depends on something that has changed; files of frames that
    are no longer scored are removed at the end.

    Parameters
    ----------
    archive : path
        A scored archive.
    quality : str
        Name of its quality group.
    alpha : float
        False-mask rate, in (0, 1).
    measurement : Measurement
        Measures one frame.
    folder : path
        Folder of the dataset.
    executor, reporter
        Where the tasks run, and who is told of the progress.
    stage : str
        Name of the tasks, a row of `aqdask.execution.work_estimate.COSTS`.
    places : sequence of ScoredPlace, optional
        The frames; None: all of `scored_places`.

    Returns
    -------
    tuple of list
        The frames with their numbers of rows, in the order of the archive; and id and reason of each frame
        that was not measured.

    Raises
    ------
    ArchiveError
        If ``folder`` holds anything but such a dataset, or one of frames that are not among ``places``, or
        cannot be written.
    """
    check_folder(folder)
    scored, without = scored_places(archive, quality)
    chosen = scored if places is None else list(places)
    if places is not None:
        _check_frames(folder, {place.frame.row for place in chosen})
    job = TableJob(ScoredFrames(absolute(archive), quality, alpha), measurement, absolute(folder))
    reporter.start(stage, len(chosen))

    def failed(place: ScoredPlace, error: Exception) -> FrameRows:
        return FrameRows(place.frame.row, problem=blame(error))

    found: list[FrameRows] = []
    work = seconds(stage, len(chosen), layout.read_spec(layout.open_root(archive)).shape)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_failed(folder, error) from error
    parts = planning.slices(chosen, FRAMES_PER_PART)
    for part, results in collect(executor, job, parts, stage=stage, failed=failed, work=work):
        found += results
        reporter.advance(len(part), sum(bool(result.problem) for result in results))
    reporter.finish()
    found.sort()
    files = {result.file for result in found}
    for path in Path(folder).glob("part-*.parquet*"):
        if path.name not in files:
            path.unlink(missing_ok=True)
    problems = [result for result in found if result.problem]
    ids = FrameStore.open(archive).coordinate("frame_id", [result.row for result in problems])
    named = [(printable(str(name)), result.problem) for name, result in zip(ids, problems, strict=True)]
    return found, named + (without if places is None else [])


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Check that `measure_frames` may write to a folder.

    Raises
    ------
    ArchiveError
        For a path that holds anything but files of `TableJob`.
    """
    path = Path(folder)
    if not path.exists():
        return
    listed = sorted(path.iterdir()) if path.is_dir() else [path]
    strangers = [found for found in listed if not _is_part(found)]
    if strangers:
        raise ArchiveError(
            f"{strangers[0]} is no part of a table that aqdask wrote",
            expected="a new folder, or one of an earlier run, which is continued",
            consequence="Nothing was written",
            remedy="choose another --out",
        )


def _check_frames(folder: str | os.PathLike[str], rows: set[int]) -> None:
    """Raise `ArchiveError` for a dataset of other frames, too, which would be lost."""
    others = 0
    for path in sorted(Path(folder).glob("part-*.parquet")):
        try:
            about = json.loads((pq.read_metadata(path).metadata or {})[ABOUT])
        except (KeyError, pa.ArrowInvalid):
            continue
        others += sum(int(row) not in rows for row in about["rows"])
    if others:
        raise ArchiveError(
            f"{folder} holds {plural(others, 'frame')} that this call does not choose",
            expected="a new folder, or one of the same frames",
            consequence="Nothing was written",
            remedy="choose another --out, or measure all frames",
        )


def _is_part(path: Path) -> bool:
    """Return True for a file that `TableJob` wrote, whole or not, or that is damaged under such a name."""
    if not path.match("part-*.parquet*"):
        return False
    try:
        return path.name.endswith(PARTIAL) or ABOUT in (pq.read_metadata(path).metadata or {})
    except pa.ArrowInvalid:
        return True
