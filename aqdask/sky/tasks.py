"""What a worker does to choose reference frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aqdask.archive.frames import ChosenFrames, FrameStore, Place
from aqdask.engine.worker import at_work
from aqdask.errors import ArchiveError
from aqdask.kernels.measures import FrameMeasures, measure
from aqdask.sky.demo import DemoFrame, write_demo_frame


@dataclass(frozen=True)
class MeasureJob:
    """Classical measures of stored frames."""

    archive: str

    def __call__(self, places: Sequence[Place]) -> list[FrameMeasures]:
        """One `FrameMeasures` a frame; nothing measured where its pixels are damaged or out of reach."""
        chosen = ChosenFrames.of(FrameStore.open(self.archive), places)
        return [self._one(chosen, position) for position in range(len(places))]

    def _one(self, chosen: ChosenFrames, position: int) -> FrameMeasures:
        with at_work(str(chosen.places[position])):
            try:
                return measure(*chosen.read(position))
            except ArchiveError:
                return FrameMeasures()


@dataclass(frozen=True)
class SimulateJob:
    """Simulated frames as FITS files, with their truth beside them."""

    folder: str

    def __call__(self, frames: Sequence[DemoFrame]) -> list[str]:
        """Paths of the frames."""
        return [str(write_demo_frame(self.folder, frame)) for frame in frames]
