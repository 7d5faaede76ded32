"""What a worker does to choose reference frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aqdask.archive.frames import ChosenFrames, FrameStore
from aqdask.kernels.measures import FrameMeasures, measure
from aqdask.sky.demo import DemoFrame, write_demo_frame


@dataclass(frozen=True)
class MeasureJob:
    """Classical measures of stored frames."""

    archive: str

    def __call__(self, rows: Sequence[int]) -> list[FrameMeasures]:
        """One `FrameMeasures` a row."""
        chosen = ChosenFrames.of(FrameStore.open(self.archive), rows)
        return [measure(*chosen.read(position)) for position in range(len(rows))]


@dataclass(frozen=True)
class SimulateJob:
    """Simulated frames as FITS files, with their truth beside them."""

    folder: str

    def __call__(self, frames: Sequence[DemoFrame]) -> list[str]:
        """Paths of the frames."""
        return [str(write_demo_frame(self.folder, frame)) for frame in frames]
