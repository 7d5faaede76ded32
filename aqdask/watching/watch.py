"""Watch of inboxes: each frame that arrives is ingested, scored, reported, and handed to a command."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from aqdask import flags
from aqdask.errors import ArchiveError, FrameError, UsageError, place_failed
from aqdask.execution.coverage import UNCALIBRATED
from aqdask.execution.executors import Executor, WorkQueue
from aqdask.execution.ingest import IngestOptions, create_archive
from aqdask.execution.model_cache import default_precision
from aqdask.execution.open_archive import OpenArchive, writing
from aqdask.execution.pipeline import process
from aqdask.execution.planning import FRAMES_PER_SHARD
from aqdask.execution.quality_groups import group_name
from aqdask.execution.reporter import FrameFacts, Reporter, Silent
from aqdask.execution.source_registry import KnownSources, register
from aqdask.execution.tasks import new_run, opened_quality
from aqdask.io import places
from aqdask.io.inbox import Arrival, Inbox, Stamp
from aqdask.methods import dispatch
from aqdask.methods.bundle import Bundle
from aqdask.paths import check_local, is_object
from aqdask.products.dq import ExportJob, MaskResult, MaskTask, MaskWriter, write_dq
from aqdask.products.mask_summaries import MaskSummaries, read_masks
from aqdask.products.table import columns_of, frame_table, write_parquet
from aqdask.specs import PatchGrid
from aqdask.store import layout
from aqdask.store.entry_table import Entry, Rows
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, SKIPPED, open_ledger
from aqdask.text import printable
from aqdask.watching.arrivals import Arrivals
from aqdask.watching.condition import parse_condition
from aqdask.watching.hooks import HookResult, HookRunner, parse_command
from aqdask.watching.journal import FRAME, HOOK, KNOWN, Journal

GOOD, BAD = "good", "bad"  # verdicts; frames that are no lights have the verdict `SKIPPED`
DEFAULT_CONDITIONS = ("frame_flag == 1", "masked_fraction > 0.3")  # the first whose column the model has
RETRY_SECONDS = (5.0, 60.0)  # first and longest pause after the archive could not be written
GIVE_UP_SECONDS = 600.0  # of pauses without any success
REST_SHARE = 0.1  # of the time at most goes into tables, metadata and merged ledgers
HOOK_END_SECONDS = 10.0  # for the running command to end when the watch ends

Event = dict[str, Any]


@dataclass(frozen=True)
class WatchSettings:
    """Settings of a watch.

    Parameters
    ----------
    alpha : float
        False-mask rate on good patches, in (0, 1).
    bad_if : str or None
        Condition under which a scored frame is bad (`aqdask.watching.condition.parse_condition`); None: the
        model's own flag of the frame, or more than 30 % of its pixels masked where the model has none.
    on_bad, on_good : str or None
        Commands that are run on bad and good frames.
    hook_timeout : float
        Seconds after which such a command is killed.
    settle : float
        Seconds for which size and time of a file stay the same before it is read.
    patience : float
        Seconds for which an incomplete file is waited for after its last change.
    poll : float
        Seconds between two looks at an inbox.
    idle : float
        Seconds without arrivals after which the watch ends; None: never.
    all_types : bool
        Score frames that are no lights, too.
    """

    alpha: float = 0.01
    bad_if: str | None = None
    on_bad: str | None = None
    on_good: str | None = None
    hook_timeout: float = 60.0
    settle: float = 1.0
    patience: float = 60.0
    poll: float = 0.5
    idle: float | None = None
    all_types: bool = False


@dataclass
class WatchCounts:
    """Numbers of a watch: frames by verdict, commands that failed, and frames whose command did not run."""

    good: int = 0
    bad: int = 0
    skipped: int = 0
    hooks_failed: int = 0
    hooks_left: int = 0


class _Notes(Silent):
    """Reporter that passes on frames, and each kind of notes and warnings once, but no stages."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self.told, self.pictures = reporter, set[str](), reporter.pictures

    def frame_done(self, frame_id: str, facts: FrameFacts) -> None:
        """See `Reporter`."""
        self.reporter.frame_done(frame_id, facts)

    def frame_failed(self, frame_id: str, reason: str) -> None:
        """See `Reporter`."""
        self.reporter.frame_failed(frame_id, reason)

    def say(self, text: str) -> None:
        """See `Reporter`."""
        # counts and names of frames differ from round to round; that warning comes once a camera
        kind = text if UNCALIBRATED in text else re.sub(r"\d+", "", text)
        if text.startswith(("warning: ", "note: ")) and kind not in self.told:
            self.told.add(kind)
            self.reporter.say(text)


class Watch:
    """Watch of inboxes, scored with one model into one archive.

    Parameters
    ----------
    inboxes : sequence of str
        Absolute paths of folders.
    archive : str
        Made for the first frames where it does not exist.
    bundle : Bundle
        The model.
    products : Path
        Folder of journal, table and masks.
    settings : WatchSettings
        Settings.
    options : IngestOptions
        Options of the ingest.
    executor : Executor
        Runs the tasks.
    reporter : Reporter
        Receives messages.
    on_event : callable
        Called with the record of each frame and each command, as the journal has it.

    Raises
    ------
    UsageError
        For a condition or command that cannot be used, or options that contradict the archive.
    """

    def __init__(
        self,
        inboxes: Sequence[str],
        archive: str,
        bundle: Bundle,
        products: Path,
        settings: WatchSettings,
        options: IngestOptions,
        executor: Executor,
        reporter: Reporter,
        on_event: Callable[[Event], None],
    ) -> None:
        self.archive, self.bundle, self.products = archive, bundle, products
        self.settings, self.options, self.executor = settings, options, executor
        self.reporter, self.notes, self.on_event = reporter, _Notes(reporter), on_event
        self.quality, self.counts = group_name(bundle), WatchCounts()
        columns = columns_of(dispatch.variables(bundle))
        conditions = DEFAULT_CONDITIONS if "frame_flag" in columns else DEFAULT_CONDITIONS[1:]
        self._is_bad = parse_condition(settings.bad_if or conditions[0], columns)
        given = {BAD: ("--on-bad", settings.on_bad), GOOD: ("--on-good", settings.on_good)}
        self._commands = {v: parse_command(o, text) for v, (o, text) in given.items() if text is not None}
        read, known = options.read(), {}
        if layout.is_archive(archive):
            root = layout.open_root(archive)
            spec = layout.read_spec(root)
            options.check(spec, archive)
            read, known = spec.read, _taken(open_ledger(root, damaged=True).table.all(), inboxes)
        self.journal = Journal(products)
        self.journal_is_new = self.journal.is_new
        excluded = (archive, str(products))
        boxes = [Inbox(box, settings.settle, settings.patience, known, excluded) for box in inboxes]
        self.arrivals = Arrivals(boxes, read, settings.poll)
        self._inboxes = tuple(f"{box.rstrip('/')}/" for box in inboxes)
        self._hooks = HookRunner(settings.hook_timeout)
        self._running: list[tuple[Event, Future[HookResult]]] = []
        self._uncalibrated = set[str]()  # cameras and filters of which the user has been warned
        self._told: dict[str, str] = {}  # frames of this process, whose command may still run
        self._masks: dict[int, MaskResult] = {
            record["row"]: MaskResult(record["row"], record["masked_fraction"], _dq(record["mask"]))
            for record in self.journal.frames.values()
            if record["row"] >= 0
        }
        self._masked: dict[int, np.ndarray] = {}  # by row: number of masked patches by reason
        self._rested, self._rest_seconds, self._is_dirty = 0.0, 0.0, True

    def run(self, stop: threading.Event) -> WatchCounts:
        """Watch until ``stop`` is set, or for as long as frames arrive (``idle``).

        An archive that could not be written, such as on a full disk, is tried again for ten minutes.

        Raises
        ------
        ArchiveError
            If the archive cannot be written at the start, or for ten minutes.
        ClusterError
            If the cluster is lost.
        """
        if not layout.is_archive(self.archive):  # else the precision is that of the maps
            self.executor.provide(self.bundle.contents, self.bundle.digest, default_precision(self.bundle))
            self._load_model()
        self.reporter.say(f"watching {' '.join(self._inboxes)}")
        self.reporter.start("watch", 0)
        self.arrivals.active = time.monotonic()
        pause, failing, was_open = RETRY_SECONDS[0], 0.0, False
        try:
            with self.arrivals:
                while not self._is_over(stop):
                    try:
                        if not self._make_archive():
                            continue
                        with writing(self.archive) as held:
                            self._resume(held)
                            self.arrivals.active = time.monotonic()
                            pause, failing, was_open = RETRY_SECONDS[0], 0.0, True
                            while not self._is_over(stop):
                                self._step(held)
                            self._rest(held, force=True)
                    except ArchiveError as error:
                        if not was_open or failing > GIVE_UP_SECONDS:
                            raise
                        self.reporter.say(f"warning: {error} It is tried again in {pause:.0f} s")
                        stop.wait(pause)
                        failing, pause = failing + pause, min(2 * pause, RETRY_SECONDS[1])
        finally:
            self._end_hooks()
        return self.counts

    def _load_model(self) -> None:
        """Load the model before a frame arrives."""
        for _ in self.executor.run(nothing, WorkQueue([0]), stage="start"):
            pass

    def _is_over(self, stop: threading.Event) -> bool:
        idle = math.inf if self.settings.idle is None else self.settings.idle
        busy = self.arrivals.queue or self._running
        return stop.is_set() or (not busy and time.monotonic() - self.arrivals.active > idle)

    def _make_archive(self) -> bool:
        """Make the archive for the first readable frames; False where there are none yet."""
        if layout.is_archive(self.archive):
            return True
        self._receive(self.settings.poll)
        found = {arrival.source.path: arrival.found for arrival in self.arrivals.queue}
        for path, frames in found.items():
            if isinstance(frames, FrameError):
                self.notes.say(f"warning: {path} holds no frame: {frames}; there is no archive yet")
        options = replace(self.options, frames_per_shard=self.options.frames_per_shard or FRAMES_PER_SHARD)
        return bool(found) and create_archive(self.archive, found, options, len(found))

    def _receive(self, seconds: float) -> None:
        for note in self.arrivals.receive(seconds):
            self.reporter.say(note)
        for about, future in [hook for hook in self._running if hook[1].done()]:
            self._running.remove((about, future))
            self._hook_ended(about, future.result())

    def _step(self, held: OpenArchive) -> None:
        """Take in what has arrived, or wait for it."""
        waiting = self.arrivals.queue
        self._receive(0.0 if waiting else min(0.1, self.settings.poll))
        if not waiting:
            self._rest(held)
            return
        # one at a time, since a frame has a score when its shard is written; whole shards of a backlog
        per_shard, slots = held.spec.frames_per_shard, self.executor.slots
        number = slots if len(waiting) < 2 * per_shard else per_shard * slots
        taken = [waiting.popleft() for _ in range(min(number, len(waiting)))]
        try:
            self._take(held, taken)
        except ArchiveError:
            waiting.extendleft(reversed(taken))
            raise
        self.arrivals.active = time.monotonic()

    def _take(self, held: OpenArchive, taken: Sequence[Arrival]) -> None:
        found = {arrival.source.path: arrival.found for arrival in taken}
        register(held, [a.source for a in taken], self.executor, self.notes, probed=found)
        self._score(held)
        self._is_dirty = True
        known = KnownSources(held.ledger)
        now = time.monotonic()
        finished: list[tuple[Entry, float | None]] = []
        for arrival in taken:
            entries = known.get(arrival.source.path, ())
            is_out_of_reach = any(entry.size < 0 or entry.state == PENDING for entry in entries)
            if is_out_of_reach and now - arrival.arrived < self.settings.patience:
                self.arrivals.retry(arrival)
                continue
            finished += [(entry, arrival.arrived) for entry in entries]
        self._report(held, finished)

    def _score(self, held: OpenArchive) -> None:
        process(
            held, self.executor, self.notes, ingest=True, bundle=self.bundle,
            all_types=self.settings.all_types, told=self._uncalibrated,
        )  # fmt: skip

    def _resume(self, held: OpenArchive) -> None:
        """Finish what was begun before, and report frames of the inboxes that nobody has been told of.

        A new journal begins with the frames that the archive has scored by then; these are not reported.
        """
        if self.journal_is_new:
            entries = [entry for entry in held.ledger.table.all() if entry.standing(self.quality)[0] == DONE]
            self.journal.append(
                *({"event": KNOWN, "frame_id": e.frame_id, "version": self._version(e)} for e in entries)
            )
            self.journal_is_new = False
        self._score(held)
        self._count_masked(held, held.ledger.rows(), new_run())
        self._load_model()
        self._report(held, ((entry, None) for entry in held.ledger.table.all() if self._is_mine(entry)))

    def _is_mine(self, entry: Entry) -> bool:
        """Return True for a frame of the inboxes about which something can be told."""
        return entry.path.startswith(self._inboxes) and entry.size >= 0 and entry.state != PENDING

    def _version(self, entry: Entry) -> str:
        """Identify what is to be told of a frame: the same file with the same result is told once."""
        if entry.problem:
            return f"kept {entry.problem}"
        state = entry.standing(self.quality)[0]
        return f"{state} {entry.crc32c or f'{entry.size} {entry.mtime_ns}'}"

    def _report(self, held: OpenArchive, entries: Iterable[tuple[Entry, float | None]]) -> None:
        """Report frames, with the times of their arrival, unless they were reported as they are now."""
        fresh = []
        for entry, arrived in entries:
            version = self._version(entry)
            if self._told.get(entry.frame_id) != version and not self.journal.is_reported(
                entry.frame_id, version
            ):
                fresh.append((entry, arrived))
        if not fresh:
            return
        run = new_run()
        masks = {entry.row: mask for entry, _ in fresh if (mask := self._mask(entry, run))}
        ids = [entry.frame_id for entry, _ in fresh]
        self._count_masked(held, [entry for entry, _ in fresh], run)
        table = frame_table(self.archive, self.quality, masks, self._summaries(held), held.ledger, ids)
        for (entry, arrived), row in zip(fresh, table.to_pylist(), strict=True):
            record = self._record(entry, row, masks.get(entry.row), run)
            record["seconds"] = None if arrived is None else round(time.monotonic() - arrived, 3)
            self.journal.append(record)
            self._told[entry.frame_id] = record["version"]
            verdict = record["verdict"]
            setattr(self.counts, verdict, getattr(self.counts, verdict) + 1)
            self.reporter.advance(1, record["state"] == QUARANTINED)
            if entry.row < 0:  # a file without frames, which no task has told of
                self.reporter.frame_failed(entry.frame_id, record["reason"])
            self.on_event(record)
            if record["command"]:
                score = record.get("frame_score")
                number = "nan" if score is None else f"{score:.6g}"
                words = (*self._commands[verdict], entry.frame_id, number, record["reason"], record["mask"])
                self._running.append((record, self._hooks.submit(words)))

    def _record(self, entry: Entry, row: Event, mask: MaskResult | None, run: str) -> Event:
        """Return the row of a frame in the table with its verdict, and write the mask for a command."""
        if entry.problem:
            row["reason"] = f"kept as stored: {entry.problem}"
        if row["state"] == SKIPPED:
            verdict = SKIPPED
        elif row["state"] != DONE or entry.problem:
            verdict = BAD
        else:
            verdict = BAD if self._is_bad(row) else GOOD
            row["reason"] = row["flag_reason"] or row["main_reason"] or ""
        command = verdict in self._commands
        if command and mask and not mask.problem:
            mask = self._mask(entry, run, {"dq": write_dq})
        if mask:
            self._masks[mask.row] = mask
        file = mask.files.get("dq") if mask else None
        about = {"event": FRAME, "at": _now(), "verdict": verdict, "version": self._version(entry)}
        row["time"] = row["time"].isoformat() if row["time"] else None
        del row["dq_file"]  # `mask` has its path
        named = {"mask": str(self.products / "dq" / file) if file else ""}
        return {**about, **row, **named, "command": f"on_{verdict}" if command else ""}

    def _mask(
        self, entry: Entry, run: str, writers: Mapping[str, MaskWriter] | None = None
    ) -> MaskResult | None:
        """Mask a scored frame, and write the mask; None for a frame without scores."""
        score = entry.scores.get(self.quality)
        if entry.standing(self.quality)[0] != DONE or score is None:
            return None
        for name in writers or {}:
            try:
                (self.products / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise place_failed(self.products / name, error) from error
        archive = places.absolute(self.archive)
        job = ExportJob(archive, self.quality, self.settings.alpha, str(self.products), writers or {}, run)
        return job([MaskTask(entry.row, score.crc32c, entry.invalid_pixels)])[0]

    def _count_masked(self, held: OpenArchive, frames: Iterable[Entry], run: str) -> None:
        """Count the masked patches of scored frames by reason."""
        scored = [(e.row, e.frame_id) for e in frames if e.standing(self.quality)[0] == DONE]
        if not scored:
            return
        places_of = np.array([held.ledger.table.find(frame_id) for _, frame_id in sorted(scored)])
        store = opened_quality(places.absolute(self.archive), self.quality, run)
        rows = Rows(held.ledger.table, places_of)
        for block in read_masks(store, rows, self.quality, self.settings.alpha):
            sound = zip(block.rows.tolist(), block.counts, block.damaged.tolist(), strict=True)
            self._masked |= {row: counts for row, counts, is_damaged in sound if not is_damaged}

    def _summaries(self, held: OpenArchive) -> MaskSummaries:
        """Return the masked patches of all frames by reason."""
        total = held.ledger.row_count
        counts, known = np.zeros((total, len(flags.REASONS)), np.int64), np.zeros(total, bool)
        for row, found in self._masked.items():
            counts[row], known[row] = found, True
        patch, shape = self.bundle.patch, held.spec.shape
        patches = int(np.prod(PatchGrid(*shape, patch).shape))
        return MaskSummaries(counts, patches, known, np.zeros(total, bool))

    def _hook_ended(self, about: Event, result: HookResult) -> None:
        names = ("frame_id", "version", "command")
        record: Event = {"event": HOOK, "at": _now(), **{name: about[name] for name in names}}
        record |= {"exit_code": result.exit_code, "seconds": round(result.seconds, 3)}
        record["problem"] = result.problem
        self.counts.hooks_failed += bool(result.problem)
        if result.problem:
            option = about["command"].replace("_", "-")
            self.reporter.say(f"warning: --{option} on {printable(about['frame_id'])} {result.problem}")
        self.journal.append(record)
        self.on_event(record)

    def _end_hooks(self) -> None:
        self._hooks.close(HOOK_END_SECONDS)
        for about, future in self._running:
            if future.cancelled() or future.result().is_cut_short:
                self.counts.hooks_left += 1
            else:
                self._hook_ended(about, future.result())
        self._running = []

    def _rest(self, held: OpenArchive, *, force: bool = False) -> None:
        """Bring table, consolidated metadata and ledger up to date, at a bounded share of the time."""
        now = time.monotonic()
        if not self._is_dirty or not (force or now - self._rested > self._rest_seconds / REST_SHARE):
            return
        with layout.storing(self.archive):
            held.ledger.close()
            layout.consolidate(held.root)
        table = frame_table(self.archive, self.quality, self._masks, self._summaries(held), held.ledger)
        partial = self.products / ".partial"
        try:
            partial.mkdir(exist_ok=True)
            write_parquet(table, partial)
            os.replace(partial / "frames.parquet", self.products / "frames.parquet")
            partial.rmdir()
        except OSError as error:
            raise place_failed(self.products, error) from error
        self._is_dirty, self._rested = False, time.monotonic()
        self._rest_seconds = self._rested - now


def inbox_folders(inboxes: Sequence[str]) -> list[str]:
    """Return the absolute paths of inboxes; `UsageError` for none, a file, a URL or one inside another."""

    def refused(what: str, remedy: str) -> UsageError:
        return UsageError(
            what,
            expected="folders of this machine, none inside another: sub-folders belong to an inbox",
            consequence="Nothing was started",
            remedy=remedy,
        )

    if not inboxes:
        raise refused("no inbox", "name at least one folder")
    if urls := [inbox for inbox in inboxes if is_object(inbox)]:
        again = f"aqdask run {urls[0]} ARCHIVE --model MODEL"
        raise refused(
            f"the inbox {urls[0]}, a bucket, which tells of no new objects",
            f"repeat `{again}` (cron): it takes new frames only; or mount the bucket as a folder",
        )
    check_local(*inboxes)
    folders = [os.path.abspath(os.path.expanduser(inbox)) for inbox in inboxes]
    for number, folder in enumerate(folders):
        if os.path.isfile(folder):
            raise refused(f"the inbox {folder} is a file", "name its folder")
        for other in folders[:number] + folders[number + 1 :]:
            if f"{folder}/".startswith(f"{other.rstrip('/')}/"):
                raise refused(f"the inbox {folder} is inside {other}", "name the upper folder only, once")
    return folders


def nothing(item: int) -> int:
    """Return the item: a task that only makes the executor load its models."""
    return item


def _taken(entries: Iterable[Entry], inboxes: Sequence[str]) -> dict[str, Stamp]:
    """Return size and time with which the files of inboxes were taken; those out of reach are left out."""
    below = tuple(f"{box.rstrip('/')}/" for box in inboxes)
    found: dict[str, set[Stamp]] = {}
    for entry in entries:
        if entry.path.startswith(below):
            found.setdefault(entry.path, set()).add(entry.tried or (entry.size, entry.mtime_ns))
    return {path: next(iter(stamps)) for path, stamps in found.items() if len(stamps) == 1}


def _dq(path: str) -> dict[str, str]:
    return {"dq": Path(path).name} if path else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
