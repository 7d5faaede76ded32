"""Reference frames of an archive: measured, proposed, and read for training and calibration."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from aqdask.errors import FrameError, OutlierFramesError, UsageError
from aqdask.execution import planning
from aqdask.execution.coverage import not_lights
from aqdask.execution.executors import Executor
from aqdask.execution.model_cache import one_thread
from aqdask.execution.pipeline import blame, collect, raised
from aqdask.execution.reporter import Reporter
from aqdask.execution.tasks import IS_MOSAIC, SPLIT, new_run, opened_frames
from aqdask.execution.work_estimate import seconds
from aqdask.execution.worker import address, at_work
from aqdask.io.frame_ids import match_frames
from aqdask.io.places import absolute
from aqdask.methods.base import FrameFunction, FrameSource
from aqdask.methods.bundle import Bundle
from aqdask.methods.calibration_spans import TimeSpan
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.references.image_statistics import ImageStatistics, measure
from aqdask.references.propose import Proposal, line_notes, propose, shortfalls
from aqdask.specs import is_light
from aqdask.stats.mosaic import shows_mosaic
from aqdask.store import labels, layout
from aqdask.store.frame_store import NO_TIME, ChosenFrames, FrameStore, Place, read_place
from aqdask.store.ledger import DONE, Entry, open_ledger
from aqdask.text import plural, printable

R = TypeVar("R")
PathLike = str | os.PathLike[str]
NOT_A_LIGHT = "not a light"  # start of a reason
MOST_OUTLIERS = 0.25  # of the proposed reference frames: so many may be left out without asking


@dataclass(frozen=True)
class _MapJob:
    """Task that applies a function to frames; its items are a position and one frame each."""

    function: FrameFunction
    window: int

    def __call__(self, items: Sequence[tuple[int, ChosenFrames]]) -> list[Any]:
        answers = []
        for _, frame in items:
            with at_work(frame.ids[0]), one_thread() if address() else nullcontext():
                answers.append(self.function(*frame.read(0, self.window), frame.metadata[0]))
        return answers


@dataclass(frozen=True)
class _PixelJob(Generic[R]):
    """Task that applies a function to the pixels of stored frames."""

    archive: str
    function: Callable[[np.ndarray, np.ndarray | None], R]
    damaged: R
    run: str = field(default_factory=new_run)

    def __call__(self, places: Sequence[Place]) -> list[R]:
        """Return one answer a frame, ``damaged`` where its pixels are damaged or out of reach."""
        frames = opened_frames(self.archive, self.run)
        return [self._one(frames, place) for place in places]

    def _one(self, frames: FrameStore, place: Place) -> R:
        with at_work(str(place)):
            try:
                return self.function(*read_place(frames, place))
            except FrameError:
                return self.damaged


class ArchiveFrames(FrameSource):
    """Frames of an archive, to which functions are applied on the workers of an executor.

    Parameters
    ----------
    chosen : ChosenFrames
    executor : Executor
    left_out : sequence of str
        Ids that are not among them because a person has labelled them bad.
    """

    def __init__(self, chosen: ChosenFrames, executor: Executor, left_out: Sequence[str] = ()) -> None:
        self.chosen, self.executor, self.left_out = chosen, executor, tuple(left_out)
        self.ids, self.metadata = chosen.ids, chosen.metadata

    def labels(self) -> dict[str, Any]:
        """Return what labels have changed, as plain JSON for the provenance; empty for nothing."""
        boxes = {frame_id: [list(box) for box in found] for frame_id, found in self.chosen.boxes.items()}
        found = {"frames_left_out": sorted(self.left_out), "boxes_left_out": dict(sorted(boxes.items()))}
        return {name: value for name, value in found.items() if value}

    def read(self, index: int, /) -> tuple[np.ndarray, np.ndarray | None]:
        """Read one frame in this process; errors as `ChosenFrames.read`."""
        return self.chosen.read(index)

    def map(self, function: FrameFunction[R], members: Sequence[int], *, window: int = 0) -> Iterator[R]:
        """Apply a function to frames on the workers; results in the order of ``members``."""
        job = _MapJob(function, window)
        parts = ([(number, self.chosen.only([member]))] for number, member in enumerate(members))
        waiting: dict[int, R] = {}
        following = 0
        work = seconds("calibrate", len(members), self.chosen.store.spec.shape)
        for part, answers in collect(self.executor, job, parts, stage="calibrate", failed=raised, work=work):
            waiting[part[0][0]] = answers[0]
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def without(self, ids: Sequence[str]) -> ArchiveFrames:
        """Return the frames that are not named."""
        return ArchiveFrames(self.chosen.without(ids), self.executor, self.left_out)


def propose_frames(
    archive: PathLike,
    keep: Sequence[str],
    drop: Sequence[str],
    executor: Executor,
    reporter: Reporter,
    within: TimeSpan | None = None,
) -> list[Proposal]:
    """Measure the lights of an archive on the workers, and propose reference frames: `aqdask.select`.

    ``within`` is the span of time of the frames; None for all.
    """
    root = layout.open_root(archive)
    ledger, store = open_ledger(root), FrameStore.open(archive)
    given = labels.valid(root, ledger)
    entries = [entry for entry in ledger.rows() if entry.state == DONE]
    entries = _within(entries, store, within, reporter)
    chosen = ChosenFrames.of(store, [entry.place for entry in entries])
    kept, dropped = (match_frames(chosen.ids, patterns) for patterns in (keep, drop))
    if told := not_lights(ledger.not_lights()):
        reporter.say(f"note: {told}: no references")
    unfit = {
        frame_id: f"{NOT_A_LIGHT}: {entry.frame_type}"
        for frame_id, entry in zip(chosen.ids, entries, strict=True)
        if not is_light(entry.frame_type)
    }
    unfit |= {frame_id: one.told() for frame_id, one in labels.of_frames(given, labels.BAD).items()}
    mosaics = _mosaics(archive, chosen.without(unfit), executor, reporter)
    unfit |= {frame_id: f"{card}: {IS_MOSAIC}" for frame_id, card in mosaics.items()}
    if refused := [name for name in kept if name in unfit]:
        reporter.say(f"note: {len(refused)} to keep cannot serve, such as {refused[0]}: {unfit[refused[0]]}")
    fit = chosen.without(unfit)
    measured = partial(measure, lines=True)
    measures = _apply(archive, measured, ImageStatistics(), fit.places, executor, reporter)
    groups = [(card.camera, card.filter) for card in fit.metadata]
    keep, drop = ([name for name in named if name not in unfit] for named in (kept, dropped))
    found = propose(fit.ids, measures, groups, keep, drop, labels.of_frames(given, labels.GOOD))
    times = [card.time for card in fit.metadata]
    for line in (*line_notes(found, groups, times), *shortfalls(found, groups)):
        reporter.say(f"note: {line}")
    proposals = {proposal.id: proposal for proposal in found}
    return [proposals.get(name) or Proposal.of_unfit(name, unfit[name]) for name in chosen.ids]


def _mosaics(
    archive: PathLike, chosen: ChosenFrames, executor: Executor, reporter: Reporter
) -> dict[str, str]:
    """Return the frames whose header and pixels show a colour mosaic: the header's card by id."""
    stated = chosen.only([k for k, card in enumerate(chosen.metadata) if card.mosaic])
    answers = _apply(archive, shows_mosaic, False, stated.places, executor, reporter)
    shown = zip(stated.ids, stated.metadata, answers, strict=True)
    return {frame_id: known.mosaic for frame_id, known, is_one in shown if is_one}


def _apply(
    archive: PathLike,
    function: Callable[[np.ndarray, np.ndarray | None], R],
    damaged: R,
    places: Sequence[Place],
    executor: Executor,
    reporter: Reporter,
) -> list[R]:
    """Apply a function to the pixels of stored frames on the workers; answers in the order of ``places``.

    A frame that cannot be read gives ``damaged``, with a warning where its task failed.
    """
    if not places:
        return []
    found: dict[Place, R] = {}

    def failed(place: Place, error: Exception) -> R:
        reporter.say(f"warning: {printable(place.path)} could not be measured: {blame(error)}")
        return damaged

    reporter.start("select", len(places))
    job = _PixelJob(absolute(archive), function, damaged)
    work = seconds("select", len(places), layout.read_spec(layout.open_root(archive)).shape)
    parts = planning.slices(places, 1)
    for part, answers in collect(executor, job, parts, stage="select", failed=failed, work=work):
        found |= dict(zip(part, answers, strict=True))
        reporter.advance(len(part))
    reporter.finish()
    return [found[place] for place in places]


def choose_frames(
    archive: PathLike,
    patterns: Sequence[str] | None,
    executor: Executor,
    reporter: Reporter,
    within: TimeSpan | None = None,
) -> ArchiveFrames:
    """Return the frames that are named, or that `propose_frames` proposes, in the order of their rows.

    Named frames that are no lights, or labelled bad, and with ``within`` those of other times, are left out,
    with a note. Boxes that are labelled bad are no data.

    Raises
    ------
    UsageError
        For a pattern without a frame; where none is proposed, or none that is named is a light and not
        labelled bad; and for a named colour mosaic.
    """
    archive = absolute(archive)  # workers may run in another folder
    root = layout.open_root(archive)
    store, ledger = FrameStore.at(root), open_ledger(root)
    given = labels.valid(root, ledger)
    bad = labels.of_frames(given, labels.BAD)
    done = {entry.frame_id: entry for entry in ledger.rows() if entry.state == DONE}
    if patterns is not None:
        named = [done[frame_id] for frame_id in match_frames(list(done), patterns)]
        named = _within(named, store, within, reporter)
        fit = _without_bad(_lights(named, reporter), bad, reporter)
        chosen = _with_boxes(ChosenFrames.of(store, [entry.place for entry in fit]), given, reporter)
        _refuse_mosaics(_mosaics(archive, chosen, executor, reporter))
        return ArchiveFrames(chosen, executor, [e.frame_id for e in named if e.frame_id in bad])
    proposals = propose_frames(archive, (), (), executor, reporter, within)
    places = sorted(done[proposal.id].place for proposal in proposals if proposal.proposed)
    if not places:
        first = min(proposals, key=lambda proposal: NOT_A_LIGHT in proposal.reason, default=None)
        why = f", such as {first.id}: {first.reason}" if first else ""
        raise UsageError(
            f"none of the {len(proposals)} frames of {archive} is proposed as a reference{why}",
            expected="lights of one colour whose sky, noise and stars can be measured",
            consequence="No frame was chosen as a reference",
            remedy="see `aqdask select` and `aqdask info`, or name good frames",
        )
    chosen = _with_boxes(ChosenFrames.of(store, places), given, reporter)
    return ArchiveFrames(chosen, executor, [name for name in bad if name in done])


def _within(
    entries: list[Entry], store: FrameStore, span: TimeSpan | None, reporter: Reporter
) -> list[Entry]:
    """Leave out, with a note, frames whose time is not in a span; `UsageError` where none is left."""
    if span is None or not entries:
        return entries
    times = store.coordinate("time", [entry.row for entry in entries]).tolist()
    found = [entry for entry, time in zip(entries, times, strict=True) if time in span]
    timeless = times.count(NO_TIME)
    outside = len(entries) - len(found)
    are = "is" if outside == 1 else "are"
    told = f"{outside} of {plural(len(entries), 'frame')} {are} not of the span {span}"
    told += f" ({timeless} have no time in their headers)" if timeless else ""
    if not found:
        raise UsageError(
            told,
            expected="reference frames of the time that the calibration is for",
            consequence="Nothing was calibrated",
            remedy="check --from and --until (UTC), and the times in `aqdask info ARCHIVE --frames`",
        )
    if len(found) < len(entries):
        reporter.say(f"note: {told}: left out of the references")
    return found


def _without_bad(
    entries: Sequence[Entry], bad: Mapping[str, labels.Label], reporter: Reporter
) -> list[Entry]:
    """Leave out, with a note, frames that a person has labelled bad; `UsageError` where none is left."""
    refused = [entry.frame_id for entry in entries if entry.frame_id in bad]
    if not refused:
        return list(entries)
    told = f"{len(refused)} of the named frames, such as {refused[0]} ({bad[refused[0]].told()})"
    if len(refused) == len(entries):
        raise UsageError(
            f"labelled bad: {told}",
            expected="frames that nobody has labelled bad",
            consequence="Nothing was learnt from them",
            remedy="name other frames, or take the label back: `aqdask label ARCHIVE FRAME --remove`",
        )
    reporter.say(f"note: {told}: left out of the references")
    return [entry for entry in entries if entry.frame_id not in bad]


def _with_boxes(chosen: ChosenFrames, given: Sequence[labels.Label], reporter: Reporter) -> ChosenFrames:
    """Return the frames without the pixels of boxes that a person has labelled bad."""
    boxes = {name: found for name, found in labels.bad_boxes(given).items() if name in set(chosen.ids)}
    if boxes:
        number = sum(map(len, boxes.values()))
        what = f"{plural(number, 'box', 'boxes')} labelled bad"
        reporter.say(f"note: {what} in {len(boxes)} of the references: left out as no data")
    return replace(chosen, boxes=boxes)


def _lights(entries: Sequence[Entry], reporter: Reporter) -> list[Entry]:
    """Leave out, with a note, named frames that are no lights; `UsageError` where none is left."""
    lights = [entry for entry in entries if is_light(entry.frame_type)]
    told = not_lights(Counter(str(e.frame_type) for e in entries if not is_light(e.frame_type)))
    if told and not lights:
        raise UsageError(
            f"of the named frames {told}",
            expected="lights",
            consequence="Nothing was learnt from them",
            remedy="name lights; where headers are wrong, ingest with --keyword type=CARD",
        )
    if told:
        reporter.say(f"note: {told}: left out of the references")
    return lights


def _refuse_mosaics(found: Mapping[str, str]) -> None:
    """Raise `UsageError` for named frames that are colour mosaics, given the cards that say so by id."""
    if found:
        frame_id, card = next(iter(found.items()))
        raise UsageError(
            f"colour mosaics among the named frames: {len(found)}, such as {frame_id} with {card}",
            expected="images whose pixels all see through one filter",
            consequence="Nothing was learnt from them",
            remedy=SPLIT,
        )


def without_outliers(
    frames: ArchiveFrames, calibrate: Callable[[ArchiveFrames], Bundle], report: Report
) -> Bundle:
    """Calibrate on proposed frames less those that turn out to be outliers, if those are few.

    Frames are proposed by statistics of the whole image; a cloud in a corner shows only when patches are
    compared.

    Raises
    ------
    OutlierFramesError
        Where more than `MOST_OUTLIERS` of the frames would be left out.
    """
    first = len(frames.ids)
    while True:
        try:
            return calibrate(frames)
        except OutlierFramesError as error:
            left = frames.without(error.frames)
            if len(left.ids) < (1 - MOST_OUTLIERS) * first:
                raise
            report(TrainProgress("note", note=f"{error.got}; left out of the references"))
            frames = left
