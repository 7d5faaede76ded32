"""Reference frames of an archive: measured, proposed, and read for training and calibration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aqdask.errors import FrameError, OutlierFramesError, UsageError
from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.model_cache import one_thread
from aqdask.execution.pipeline import blame, collect, raised
from aqdask.execution.reporter import Reporter
from aqdask.execution.tasks import new_run, opened_frames
from aqdask.execution.worker import address, at_work
from aqdask.io.frame_ids import match_frames
from aqdask.methods.base import FrameFunction, FrameSource
from aqdask.methods.bundle import Bundle
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.references.image_statistics import ImageStatistics, measure
from aqdask.references.propose import Proposal, propose
from aqdask.store import layout
from aqdask.store.frame_store import ChosenFrames, FrameStore, Place, read_place
from aqdask.store.ledger import DONE, open_ledger
from aqdask.text import printable

R = TypeVar("R")
PathLike = str | os.PathLike[str]
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
class _MeasureJob:
    """Measure statistics of the images of stored frames."""

    archive: str
    run: str = field(default_factory=new_run)

    def __call__(self, places: Sequence[Place]) -> list[ImageStatistics]:
        """Return one `ImageStatistics` a frame, all NaN where its pixels are damaged or out of reach."""
        frames = opened_frames(self.archive, self.run)
        return [self._one(frames, place) for place in places]

    def _one(self, frames: FrameStore, place: Place) -> ImageStatistics:
        with at_work(str(place)):
            try:
                return measure(*read_place(frames, place))
            except FrameError:
                return ImageStatistics()


class ArchiveFrames(FrameSource):
    """Frames of an archive, to which functions are applied on the workers of an executor.

    Parameters
    ----------
    chosen : ChosenFrames
    executor : Executor
    """

    def __init__(self, chosen: ChosenFrames, executor: Executor) -> None:
        self.chosen, self.executor = chosen, executor
        self.ids, self.metadata = chosen.ids, chosen.metadata

    def read(self, index: int, /) -> tuple[np.ndarray, np.ndarray | None]:
        """Read one frame in this process; errors as `ChosenFrames.read`."""
        return self.chosen.read(index)

    def map(self, function: FrameFunction[R], members: Sequence[int], *, window: int = 0) -> Iterator[R]:
        """Apply a function to frames on the workers; results in the order of ``members``."""
        job = _MapJob(function, window)
        parts = ([(number, self.chosen.only([member]))] for number, member in enumerate(members))
        waiting: dict[int, R] = {}
        following = 0
        for part, answers in collect(self.executor, job, parts, stage="calibrate", failed=raised):
            waiting[part[0][0]] = answers[0]
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def without(self, ids: Sequence[str]) -> ArchiveFrames:
        """Return the frames that are not named."""
        kept = [position for position, frame_id in enumerate(self.ids) if frame_id not in ids]
        return ArchiveFrames(self.chosen.only(kept), self.executor)


def propose_frames(
    archive: PathLike, keep: Sequence[str], drop: Sequence[str], executor: Executor, reporter: Reporter
) -> list[Proposal]:
    """Measure every frame of an archive on the workers, and propose reference frames: `aqdask.select`."""
    frames = FrameStore.open(archive)
    ledger = open_ledger(layout.open_root(archive))
    places = [entry.place for entry in ledger.rows() if entry.state == DONE]
    measures: dict[Place, ImageStatistics] = {}

    def failed(place: Place, error: Exception) -> ImageStatistics:
        reporter.say(f"warning: {printable(place.path)} could not be measured: {blame(error)}")
        return ImageStatistics()

    reporter.start("select", len(places))
    job = _MeasureJob(str(Path(archive).absolute()))
    for part, found in collect(executor, job, planning.slices(places, 1), stage="select", failed=failed):
        measures |= dict(zip(part, found, strict=True))
        reporter.advance(len(part))
    reporter.finish()
    chosen = ChosenFrames.of(frames, places)
    groups = [(card.camera, card.filter) for card in chosen.metadata]
    kept, dropped = (match_frames(chosen.ids, patterns) for patterns in (keep, drop))
    return propose(chosen.ids, [measures[place] for place in places], groups, kept, dropped)


def choose_frames(
    archive: PathLike, patterns: Sequence[str] | None, executor: Executor, reporter: Reporter
) -> ArchiveFrames:
    """Return the frames that are named, or that `propose_frames` proposes, in the order of their rows.

    Raises
    ------
    UsageError
        For a pattern without a frame, or where none is proposed.
    """
    archive = Path(archive).absolute()  # workers may run in another folder
    store = FrameStore.open(archive)
    ledger = open_ledger(layout.open_root(archive))
    done = {entry.frame_id: entry.place for entry in ledger.rows() if entry.state == DONE}
    if patterns is not None:
        ids = match_frames(list(done), patterns)
    else:
        proposals = propose_frames(archive, (), (), executor, reporter)
        ids = [proposal.id for proposal in proposals if proposal.proposed]
        if not ids:
            why = f", such as {proposals[0].id}: {proposals[0].reason}" if proposals else ""
            raise UsageError(
                f"none of the {len(proposals)} frames of {archive} is proposed as a reference{why}",
                expected="frames whose sky, noise and stars can be measured",
                consequence="No frame was chosen as a reference",
                remedy="see `aqdask select` and `aqdask info`, or name good frames",
            )
    places = sorted(done[frame_id] for frame_id in ids)
    return ArchiveFrames(ChosenFrames.of(store, places), executor)


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
