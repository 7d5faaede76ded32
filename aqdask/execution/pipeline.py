"""Processing of one archive: tasks go to the executor, and their records to the archive and its ledger."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import numpy as np
from distributed import KilledWorker

from aqdask.errors import AqdaskError, ClusterError, FrameTimeout, ModelError
from aqdask.execution import config, coverage, planning, preview, quality_groups, work_estimate
from aqdask.execution.executors import BatchGroups, Executor, WorkQueue
from aqdask.execution.model_cache import default_precision
from aqdask.execution.open_archive import OpenArchive
from aqdask.execution.planning import Batch, FrameTask, Plan
from aqdask.execution.quality_groups import group_name
from aqdask.execution.recorder import Recorder
from aqdask.execution.reporter import Reporter
from aqdask.execution.tasks import NO_FRAME, FrameJob
from aqdask.io import reader
from aqdask.methods.bundle import Bundle
from aqdask.specs import MIN_VALID
from aqdask.store import layout, quality_store
from aqdask.store.entry_table import CODE
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, Entry, Ledger, Record
from aqdask.store.quality_store import QualitySpec, QualityStore
from aqdask.text import plural, printable

T = TypeVar("T")
R = TypeVar("R")
HOPELESS = 5  # frames on which tasks fail while none is finished: then the machine is at fault
log = logging.getLogger(__name__)


@dataclass
class Summary:
    """State of an archive after a run.

    ``done``, ``quarantined`` and ``pending`` count frames, and ``worked`` those that this run finished.
    ``problems`` lists ``(frame_id, reason)`` of quarantined frames, whether pixels or scores failed;
    ``waiting`` of pending frames with a known reason; ``kept`` of stored frames whose changed source could
    not be read. ``left_out`` counts, by suffix, the files that an ingest skipped
    (`aqdask.io.sources.Scan`). ``not_lights`` counts stored frames by type: after an ingest all that are no
    lights, which are among ``done``; after a scoring those that were not scored for it, which are not.
    """

    archive: str
    done: int = 0
    quarantined: int = 0
    pending: int = 0
    worked: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    waiting: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    not_lights: dict[str, int] = field(default_factory=dict)

    def blame(self, problems: Sequence[tuple[str, str]]) -> None:
        """Count frames as quarantined that were counted as done."""
        self.problems = sorted([*self.problems, *problems])
        self.done -= len(problems)
        self.quarantined += len(problems)


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
    all_types: bool = False,
    told: set[str] | None = None,
) -> Summary:
    """Ingest the pending frames of an archive, score its frames with ``bundle``, or both.

    Each source is read once. Finished frames are skipped, except the rows of ``redo`` and, with ``retry``,
    frames whose score is quarantined. Frames that are no lights are scored with ``all_types``, or where they
    were scored before. Cameras and filters without a calibration are reported, but for those in ``told``, and
    recorded; with ``strict``, `UsageError` is raised before anything is written.
    """
    rows = archive.ledger.rows()
    name = group_name(bundle) if bundle else ""
    if retry:
        failed = (rows.column("state") == CODE[DONE]) & (rows.standing(name) == CODE[QUARANTINED])
        redo |= set(np.flatnonzero(failed).tolist())
    quality, job = None, FrameJob(archive.path, archive.spec.read)
    if bundle:
        how: dict[str, Any] = {"ingest": ingest, "redo": redo, "all_types": all_types}
        plan = planning.plan_score(rows, name, archive.spec.frames_per_shard, **how)
        scored = np.flatnonzero(plan.score)
        found = coverage.uncalibrated_rows(bundle, archive.frames, scored)
        coverage.warn(bundle, found, reporter, strict=strict, told=told)
        coverage.warn_spans(coverage.calibrations_used(bundle, archive.frames, scored), reporter)
        quality, precision, is_mended = open_quality_group(archive, bundle)
        _record_calibrations(archive, bundle, quality, (DONE, PENDING) if ingest else (DONE,), all_types)
        plan = replace(plan, per_shard=quality.frames_per_shard, check=is_mended)
        executor.provide(bundle.contents, bundle.digest, precision)
        job = replace(job, quality=name, model=bundle.digest, precision=precision)
    else:
        plan = planning.plan_ingest(rows)
    worked = _work(archive, executor, reporter, plan, quality, job)
    if bundle and quality:
        _record_calibrations(archive, bundle, quality, (DONE,), all_types)
    for other in quality_store.names(archive.root):
        if ingest and other != name and not QualityStore.open(archive.path, other).lost():
            clear_stale(archive, executor, other)
    return summarise(archive.path, archive.ledger, name, worked=worked)


def _work(
    archive: OpenArchive,
    executor: Executor,
    reporter: Reporter,
    plan: Plan,
    quality: QualityStore | None,
    job: FrameJob,
) -> int:
    """Run batches and store their records; return the number of finished frames."""
    # others are done only where their maps turn out to be damaged
    counted, ledger = plan.work, archive.ledger
    if counted.any():
        rows, variables = len(plan.rows), len(quality.variables) if quality else 0
        per_shard = quality.frames_per_shard if quality else 1
        number = planning.objects(rows, per_shard, pixels=archive.spec.pixels, variables=variables)
        reporter.say(f"{archive.path}: {plural(rows, 'frame')}, about {plural(number, 'stored object')}")
    is_ingest = bool((counted & plan.ingest).any())
    stage = "ingest" if not job.quality else "run" if is_ingest else "score"
    reporter.start(stage, int(np.count_nonzero(counted)))
    if reporter.pictures:
        job = replace(job, pictures=preview.interval(int(np.count_nonzero(counted))))
    with Recorder.of(archive, quality) as records:
        for answers in run_batches(executor, job, plan, stage=stage, work=_seconds(archive, counted, stage)):
            finished = records.keep(answers)
            known = [state for frame_id, state in finished.items() if counted[ledger.row_of(frame_id)]]
            _show(reporter, answers)
            reporter.advance(len(known), known.count(QUARANTINED))
        missed = records.conclude()
    entries = (ledger.entries[name] for name in missed)
    _show(reporter, [{"frame_id": e.frame_id, "state": e.state, "reason": e.reason} for e in entries])
    reporter.advance(len(missed), 0)
    reporter.finish()
    records.tell(reporter)
    return int(np.count_nonzero(records.worked))


def _seconds(archive: OpenArchive, counted: np.ndarray, stage: str) -> float:
    """Estimate the work of a stage; unknown where the last writer was killed, perhaps by one of the frames.

    Workers survive such a frame, and it is quarantined.
    """
    if archive.lease.took_over:
        return math.inf
    return work_estimate.seconds(stage, int(np.count_nonzero(counted)), archive.spec.shape)


def _show(reporter: Reporter, records: Iterable[Record]) -> None:
    """Show the frames of some records."""
    for record in records:
        if record.get("state") == QUARANTINED and record["reason"] != NO_FRAME:
            reporter.frame_failed(record["frame_id"], record["reason"])
        elif "facts" in record:
            reporter.frame_done(record["frame_id"], record["facts"])


def _record_calibrations(
    archive: OpenArchive, bundle: Bundle, quality: QualityStore, states: tuple[str, ...], all_types: bool
) -> None:
    """Record uncalibrated cameras and filters, and the frames of each calibration with a span of time.

    Of all frames in one of some states that are scored.
    """
    entries = archive.ledger.rows()
    wanted = np.isin(entries.column("state"), [CODE[state] for state in states])
    if not all_types:
        wanted &= ~entries.are_skipped(group_name(bundle))
    rows = entries.column("row")[wanted]
    found = coverage.uncalibrated_rows(bundle, archive.frames, rows)
    coverage.record(quality.group, found, coverage.calibrations_used(bundle, archive.frames, rows))


def clear_stale(archive: OpenArchive, executor: Executor, name: str) -> None:
    """Fill the maps of frames that were scored once and have been given up since with no data."""
    quality = QualityStore.open(archive.path, name, writable=True)
    plan = planning.plan_clear(archive.ledger.rows(), name, quality.frames_per_shard)
    job = FrameJob(archive.path, archive.spec.read, name)
    work = _seconds(archive, plan.tasks, "clear")
    with Recorder.of(archive, quality) as recorder:
        for records in run_batches(executor, job, plan, stage="clear", work=work):
            recorder.keep(records)


def run_batches(
    executor: Executor, job: FrameJob, batches: Iterable[Batch], *, stage: str, work: float = math.inf
) -> Iterator[list[Record]]:
    """Run batches and yield their records; halve a batch that fails repeatedly, down to one frame.

    Batches of one quality shard never run at the same time: a batch's ``rest`` follows when it is done. One
    task runs as many batches as last some seconds (`aqdask.execution.executors.BatchGroups`).
    Frames whose source a worker could not reach, although this process can, go to another worker. A frame
    whose workers died is tried once more alone, since workers also die for other reasons. ``work`` estimates
    the seconds that one core takes.

    Raises
    ------
    AqdaskError
        For a failure that is not about one frame: of the disk, the archive, the model, the cluster.
    """
    groups = BatchGroups(batches, executor)
    queue = WorkQueue(groups, work)
    tries: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    held: list[Record] | None = []  # of failed frames, until one is finished
    for group, result in executor.run(job, queue, stage=stage):
        if isinstance(result, (AqdaskError, ImportError)):
            raise result if isinstance(result, AqdaskError) else _cannot_import(result)
        if isinstance(result, Exception) and len(group) > 1:
            for batch in group:
                queue.put((batch,))
            continue
        if isinstance(result, Exception):
            log.debug("batch %d failed", group[0].number, exc_info=result)
            blamed, again = _blamed(group[0], job, result, deaths)
            if held is not None:
                held, blamed = [*held, *blamed], []
                if len(held) >= HOPELESS:
                    raise _hopeless(held)
            answers = [(blamed, again)]
        else:
            groups.measured(len(group), sum(seconds for seconds, _ in result))
            answers = [
                _unreachable_there_only(executor, batch, records, tries)
                for batch, (_, records) in zip(group, result, strict=True)
            ]
            held, before = None, held
            if before:
                yield before
        for batch, (records, again) in zip(group, answers, strict=True):
            if records:
                yield records
            waiting = (*again, *batch.rest)
            if waiting:
                queue.put((replace(waiting[0], rest=waiting[1:]),))
    if held:
        yield held


def _hopeless(failed: list[Record]) -> ClusterError:
    """Return the error of a run in which tasks fail on every frame."""
    return ClusterError(
        f"the first {len(failed)} frames failed, and none was finished: {failed[-1]['reason']}",
        expected="workers with enough memory, and storage that answers",
        consequence="No frame was quarantined for it",
        remedy="give the workers more memory (fewer of them, or larger jobs), and look at their logs and the "
        "storage; then run the same command again",
    )


def _blamed(
    batch: Batch, job: FrameJob, error: Exception, deaths: Counter[str]
) -> tuple[list[Record], tuple[Batch, ...]]:
    """Return records of the frame that made a task fail, where it is known, and the batches to retry.

    ``deaths`` counts, by frame id, the tasks whose workers died.
    """
    if isinstance(error, KilledWorker):
        deaths.update(task.frame_id for task in batch.frames)
        if len(batch.frames) == 1 and deaths[batch.frames[0].frame_id] == 1:
            return [], (replace(batch, rest=()),)
    if isinstance(error, FrameTimeout) and len(batch.frames) > 1:
        guilty = [task for task in batch.frames if task.frame_id == error.subject]
        others = [task for task in batch.frames if task.frame_id != error.subject]
        if guilty:
            return [_blame(guilty[0], job, error)], (batch.only(others),)
    if len(batch.frames) > 1:
        return [], batch.split()
    return [_blame(batch.frames[0], job, error)], ()


def _blame(task: FrameTask, job: FrameJob, error: Exception) -> Record:
    """Make the record of a frame whose task failed unexpectedly."""
    reason = blame(error)
    record: Record = {"frame_id": task.frame_id, "state": QUARANTINED, "reason": reason}
    if task.ingest and task.crc32c:
        return {"event": "kept", "frame_id": task.frame_id, "reason": reason}
    if task.ingest:
        return {**record, "event": "ingest"}
    return {**record, "event": "score", "quality": job.quality, "row": task.row}


def blame(error: Exception) -> str:
    """Return the reason for a frame or source whose task failed unexpectedly."""
    about = "; ".join(getattr(error, "__notes__", ())) or str(error)
    what = printable(" ".join(about.split())[:200])
    if isinstance(error, FrameTimeout):
        return f"the work on it did not end: {what}"
    return f"the task failed on this frame ({type(error).__name__}: {what})"


def _unreachable_there_only(
    executor: Executor, batch: Batch, records: list[Record], tries: Counter[str]
) -> tuple[list[Record], tuple[Batch, ...]]:
    """Separate final records from frames to retry on another worker, as this process reaches their source.

    The latter are returned as a batch, if there are any.
    """
    named = {record["frame_id"]: record for record in records if record["event"] == "unreachable"}
    again = []
    for task in batch.frames:
        record = named.get(task.frame_id)
        if record is None or not reader.is_reachable(task.path):
            continue
        record["is_about_path"] = False  # the worker is at fault, not the path
        if tries[task.frame_id] < int(config.get("retries")):
            tries[task.frame_id] += 1
            again.append(task)
            executor.avoid(record["worker"], f"cannot read {printable(task.path)}, which is there")
    ids = {task.frame_id for task in again}
    final = [record for record in records if record["frame_id"] not in ids]
    return final, (batch.only(again),) if again else ()


def _cannot_import(error: ImportError) -> ClusterError:
    return ClusterError(
        f"a worker cannot run the task: {error}",
        expected="the same aqdask, with what it needs, on every worker",
        consequence="No frame was quarantined for it",
        remedy="install aqdask in the workers' environment",
    )


def raised(thing: object, error: Exception) -> NoReturn:
    """Raise the error of an item: the ``failed`` of `collect` where every item is needed."""
    raise error


def collect(
    executor: Executor,
    function: Callable[[Sequence[T]], list[R]],
    items: Iterable[Sequence[T]],
    *,
    stage: str,
    failed: Callable[[T, Exception], R],
    work: float = math.inf,
) -> Iterator[tuple[Sequence[T], list[R]]]:
    """Run a function over lists of items (paths, rows), and yield ``(list, answers)``.

    A list on which the function fails is halved, down to the item at fault; ``failed`` gives the answer for
    that one. An `AqdaskError` ends the run, and so does a worker that cannot import the function. ``work``
    estimates the seconds that one core takes.
    """
    queue = WorkQueue(items, work)
    for part, result in executor.run(function, queue, stage=stage):
        if isinstance(result, (AqdaskError, ImportError)):
            raise result if isinstance(result, AqdaskError) else _cannot_import(result)
        if not isinstance(result, Exception):
            yield part, result
            continue
        log.debug("a part of %s failed", stage, exc_info=result)
        if len(part) == 1:
            yield part, [failed(part[0], result)]
            continue
        guilty = [n for n, thing in enumerate(part) if str(thing) == getattr(result, "subject", None)]
        middle = guilty[0] if guilty else len(part) // 2
        if guilty:
            yield part[middle : middle + 1], [failed(part[middle], result)]
        for rest in (part[:middle], part[middle + bool(guilty) :]):
            if rest:
                queue.put(rest)


def open_quality_group(archive: OpenArchive, bundle: Bundle) -> tuple[QualityStore, str, bool]:
    """Open the quality group of a bundle, with room for every row.

    Its precision comes second, and last whether a part of it had to be made.

    Its contents are recorded in the ledger first. An existing group keeps its stored maps, and lost parts are
    made again.
    """
    check_patch(bundle, archive.spec.shape)
    name = group_name(bundle)
    if name in archive.ledger.qualities:
        made = QualitySpec.of_record(archive.ledger.qualities[name])
    else:
        made = quality_groups.spec_of(bundle, archive.spec, default_precision(bundle))
        archive.ledger.append([made.record()])
        archive.ledger.flush()
    precision = quality_groups.precision_of(made, bundle)
    problems = QualityStore(layout.group(archive.root, f"quality/{name}")).problems(made)
    store = QualityStore.create(archive.root, made, bundle.contents)
    store.grow(len(archive.ledger.rows()))
    quality_groups.record_versions(store.group)
    return store, precision, bool(problems)


def check_patch(bundle: Bundle, shape: tuple[int, int]) -> None:
    """Raise `ModelError` for a model with patches so much larger than a frame that none has a score."""
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
    """Summarise the state of an archive: of the pixels, and of one quality group where one is named."""
    summary = Summary(path, worked=worked, not_lights=ledger.not_lights(quality))
    rows = ledger.table.all()
    states = rows.standing(quality)
    counted = np.bincount(states, minlength=len(CODE)).tolist()
    summary.done, summary.pending = counted[CODE[DONE]], counted[CODE[PENDING]]
    summary.quarantined = counted[CODE[QUARANTINED]]

    def listed(chosen: np.ndarray, reason: Callable[[Entry], str]) -> list[tuple[str, str]]:
        return sorted((entry.frame_id, reason(entry)) for entry in rows.take(chosen))

    def standing(entry: Entry) -> str:
        return entry.standing(quality)[1]

    summary.problems = listed(states == CODE[QUARANTINED], standing)
    summary.waiting = listed((states == CODE[PENDING]) & (rows.reasons(quality) != ""), standing)
    summary.kept = listed(rows.words("problem") != "", lambda entry: entry.problem)
    return summary
