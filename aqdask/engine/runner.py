"""A run over one archive: batches out, records in, the ledger kept by the one writing client."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import zarr

from aqdask.archive import layout, maps
from aqdask.archive.frames import FrameStore
from aqdask.archive.ledger import DONE, PENDING, QUARANTINED, Ledger, Record
from aqdask.archive.maps import QualityStore
from aqdask.engine import calibrated, plan
from aqdask.engine.executors import Executor, WorkQueue
from aqdask.engine.plan import Batch
from aqdask.engine.reporter import Reporter
from aqdask.engine.tasks import FrameJob
from aqdask.errors import AqdaskError, ClusterError, ModelError, place_failed
from aqdask.models.bundle import Bundle
from aqdask.models.scorer import load_scorer
from aqdask.specs import MIN_VALID, ArchiveSpec, PatchGrid

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)


@dataclass
class OpenArchive:
    """An archive held by this process for writing."""

    path: str
    root: zarr.Group
    spec: ArchiveSpec
    ledger: Ledger
    frames: FrameStore


@dataclass
class Summary:
    """How an archive stands after a run.

    ``problems`` are ``(frame_id, reason)`` of everything quarantined, in pixels or in a score; ``left_out``
    counts, by suffix, the files that an ingest found and did not take (`aqdask.archive.manifest.Scan`).
    """

    archive: str
    done: int = 0
    quarantined: int = 0
    pending: int = 0
    worked: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[OpenArchive]:
    """Hold an archive for writing: its lock, its ledger; consolidated metadata last, when all went well.

    Raises
    ------
    ArchiveError
        If another process holds it, or the place cannot be written.
    """
    root = layout.open_root(path, writable=True)
    with layout.sole_writer(path):
        try:
            layout.complete(root)
            if "primary_header" not in root["frames"]:  # type: ignore[operator]
                FrameStore.create(root)
            layout.sweep_partials(path)
            ledger = Ledger(root["ledger"])  # type: ignore[arg-type]
            frames = FrameStore.open(path, writable=True)
            try:
                yield OpenArchive(str(Path(path).absolute()), root, frames.spec, ledger, frames)
            finally:
                ledger.flush()
            ledger.close()
            layout.consolidate(path, root)
        except OSError as error:
            raise place_failed(path, error) from error


def process(
    archive: OpenArchive,
    executor: Executor,
    reporter: Reporter,
    *,
    ingest: bool,
    bundle: Bundle | None = None,
    redo: frozenset[int] = frozenset(),
    retry: bool = False,
    strict: bool = False,
) -> Summary:
    """Bring every frame of ``archive`` as far as asked: taken in, scored with ``bundle``, or both.

    Each source is read once. Frames that are finished are not touched, except the rows of ``redo`` and, with
    ``retry``, frames whose score is quarantined. Cameras and filters that ``bundle`` is not calibrated
    for are told and recorded, scored now or before; with ``strict``, `UsageError` is raised before anything
    is done.
    """
    rows = archive.ledger.rows()
    name = group_name(bundle) if bundle else ""
    if retry:
        redo |= {
            entry.row for entry in rows if entry.state == DONE and entry.standing(name)[0] == QUARANTINED
        }
    if bundle:
        about = plan.with_score(rows, name, ingest=ingest, redo=redo)
        found = calibrated.uncalibrated_rows(bundle, archive.frames, about)
        calibrated.warn(bundle, found, reporter, strict=strict)
    quality = quality_store(archive, bundle) if bundle else None
    if bundle and quality:
        _record_uncalibrated(archive, bundle, quality, (DONE, PENDING) if ingest else (DONE,))
        todo = list(plan.score_batches(rows, name, quality.frames_per_shard, ingest=ingest, redo=redo))
        executor.provide(bundle.contents, bundle.digest)
    else:
        todo = list(plan.ingest_batches(rows))
    tasks = [task for batch in todo for task in batch.frames if not task.stored]
    job = FrameJob(archive.path, archive.spec.read, name, bundle.digest if bundle else "")
    stage = "run" if ingest and bundle else "score" if bundle else "ingest"
    if tasks:
        variables = len(quality.variables) if quality else 0
        per_shard = quality.frames_per_shard if quality else 1
        number = plan.objects(len(rows), per_shard, pixels=archive.spec.pixels, variables=variables)
        reporter.say(f"{archive.path}: {len(rows)} frames, about {number} stored objects")
    reporter.start(stage, len(tasks))
    outside = calibrated.Outside()
    for records in run_batches(executor, job, todo, stage=stage):
        values = {record.pop("row"): record.get("values", {}) for record in records if "row" in record}
        if quality and values:
            quality.write_frame_values(values)
            outside.count(values.values())
        archive.ledger.append(records)
        frames = {record["frame_id"]: record["state"] for record in records}
        reporter.advance(len(frames), sum(state == QUARANTINED for state in frames.values()))
    reporter.finish()
    outside.tell(reporter)
    if bundle and quality:
        _record_uncalibrated(archive, bundle, quality, (DONE,))
    for other in maps.names(archive.root):
        if ingest and other != name:
            _clear_stale(archive, executor, other)
    return summarise(archive.path, archive.ledger, name, worked=len(tasks))


def _record_uncalibrated(
    archive: OpenArchive, bundle: Bundle, quality: QualityStore, states: tuple[str, ...]
) -> None:
    """Record what is not calibrated among all frames in one of ``states``, scored now or before."""
    rows = [entry.row for entry in archive.ledger.rows() if entry.state in states]
    calibrated.record(quality.group, calibrated.uncalibrated_rows(bundle, archive.frames, rows))


def _clear_stale(archive: OpenArchive, executor: Executor, name: str) -> None:
    """Turn maps of frames that were scored once and have since gone bad into no data."""
    quality = QualityStore.open(archive.path, name, writable=True)
    batches = list(plan.clear_batches(archive.ledger.rows(), name, quality.frames_per_shard))
    job = FrameJob(archive.path, archive.spec.read, name)
    for records in run_batches(executor, job, batches, stage="clear"):
        quality.write_frame_values({record.pop("row"): {} for record in records})
        archive.ledger.append(records)


def run_batches(
    executor: Executor, job: FrameJob, batches: Iterable[Batch], *, stage: str
) -> Iterator[list[Record]]:
    """Run ``batches`` and yield their records; a batch that fails is halved until one frame is to blame.

    Raises
    ------
    AqdaskError
        What is about the place and not about a frame: disk, model, cluster.
    """
    queue = WorkQueue(batches)
    for batch, result in executor.run(job, queue, stage=stage):
        following = batch.following()
        if isinstance(result, (AqdaskError, ImportError)):
            raise result if isinstance(result, AqdaskError) else _cannot_import(result)
        if isinstance(result, Exception):
            log.debug("batch %d failed", batch.number, exc_info=result)
            first, *others = batch.split()
            if others:
                queue.put(plan.chain(first, (*others, *batch.rest)))
                continue
            yield [_blame(batch, job, result)]
        else:
            yield result
        if following:
            queue.put(following)


def _blame(batch: Batch, job: FrameJob, error: Exception) -> Record:
    """The record of a single frame whose task failed in a way that no file should cause."""
    task = batch.frames[0]
    what = " ".join(str(error).split())[:200]
    record: Record = {"frame_id": task.frame_id, "state": QUARANTINED}
    record["reason"] = f"the task failed on this frame ({type(error).__name__}: {what})"
    if task.ingest:
        return {**record, "event": "ingest"}
    return {**record, "event": "score", "quality": job.quality, "row": task.row}


def _cannot_import(error: ImportError) -> ClusterError:
    return ClusterError(
        f"a worker cannot run the task: {error}",
        expected="the same aqdask, with what it needs, on every worker",
        consequence="No frame was blamed for it",
        remedy="install aqdask in the workers' environment",
    )


def collect(
    executor: Executor, function: Callable[[T], list[R]], items: Iterable[T], *, stage: str
) -> Iterator[tuple[T, list[R]]]:
    """Run a function that only reads, yield ``(item, result)``; an exception of any kind ends the run."""
    for item, result in executor.run(function, WorkQueue(items), stage=stage):
        if isinstance(result, ImportError):
            raise _cannot_import(result)
        if isinstance(result, Exception):
            raise result
        yield item, result


def group_name(bundle: Bundle) -> str:
    """Name of the quality group of a model: ``<name>-<digest8>``."""
    return f"{bundle.name}-{bundle.digest[:8]}"


def quality_store(archive: OpenArchive, bundle: Bundle) -> QualityStore:
    """The quality group of ``bundle``, made where it is new, with room for every row."""
    grid = PatchGrid(*archive.spec.shape, bundle.patch)
    check_patch(bundle, archive.spec.shape)
    variables = load_scorer(bundle, "cpu").variables
    attributes = {
        "model": bundle.name, "method": bundle.method, "model_sha256": bundle.digest,
        "patch": bundle.patch, "frame_shape": list(archive.spec.shape),
    }  # fmt: skip
    store = QualityStore.create(
        archive.root, group_name(bundle), variables, grid, attributes, bundle.contents
    )
    store.grow(len(archive.ledger.rows()))
    return store


def check_patch(bundle: Bundle, shape: tuple[int, int]) -> None:
    """Raise `ModelError` where the model's patches are so much larger than a frame that none has a score."""
    inside = min(shape[0], bundle.patch) * min(shape[1], bundle.patch)
    if inside < MIN_VALID * bundle.patch**2:
        raise ModelError(
            f"the model {bundle.name} looks at patches of {bundle.patch} x {bundle.patch} px, "
            f"the frames have {shape[0]} x {shape[1]} px",
            expected="frames that hold a patch",
            consequence="No patch of any frame could be scored",
            remedy=f"train a model with a smaller --patch for these frames (at most {min(shape)} px)",
        )


def summarise(path: str, ledger: Ledger, quality: str = "", *, worked: int = 0) -> Summary:
    """How an archive stands, for the pixels and for one quality group where one is named."""
    summary = Summary(path, worked=worked)
    for entry in ledger.entries.values():
        state, reason = entry.standing(quality)
        summary.done += state == DONE
        summary.pending += state == PENDING
        if state == QUARANTINED:
            summary.quarantined += 1
            summary.problems.append((entry.frame_id, reason))
    summary.problems.sort()
    return summary
