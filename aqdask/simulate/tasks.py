"""Task that draws simulated frames on the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aqdask.simulate.demo import DemoFrame, write_demo_frame


@dataclass(frozen=True)
class SimulateJob:
    """Simulated frames as FITS files, with their truth beside them."""

    folder: str

    def __call__(self, frames: Sequence[DemoFrame]) -> list[str]:
        """Paths of the frames."""
        return [str(write_demo_frame(self.folder, frame)) for frame in frames]
