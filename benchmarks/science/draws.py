"""Frames of the benchmark: the prior of good scenes, frames in memory for training, frames to test on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from seeds import SEEDS

from aqdask.methods.base import FrameSource
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.simulate.scene import SceneSpec, stream
from aqdask.simulate.truth import AFFECTED_FRACTION, NARROW_FRACTIONS, patch_fraction
from aqdask.specs import FrameMetadata, PatchGrid

CAMERA, FILTER = "SIMCAM", "L"
REFERENCE_FWHM = 2.4  # px, middle of the prior

MakeDefect = Callable[[np.random.Generator], Defect]
"""A defect at a place that is drawn."""


def good_scene(seed: int, size: int, **changes: float) -> SceneSpec:
    """A scene of the prior: ``size`` px a side, gain 1 e-/ADU, read noise 8 e-, 1/800 stars a pixel.

    Uniform: FWHM 2.2 to 2.6 px, sky 800 to 1200 e-, natural structure 1 to 3 % rms (512 px); a tenth of the
    light is lost in the corners. ``changes`` are set afterwards.
    """
    rng = stream(seed, "prior")
    scene = SceneSpec(
        height=size, width=size, gain=1.0, read_noise=8.0, vignetting=0.1, camera=CAMERA, filter=FILTER,
        fwhm=rng.uniform(2.2, 2.6), sky=rng.uniform(800, 1200), structure=rng.uniform(0.01, 0.03),
    )  # fmt: skip
    return replace(scene, **changes)


def good_frames(purpose: str, count: int, size: int) -> Iterable[SimulatedFrame]:
    """``count`` frames without defects, one at a time."""
    for number in range(count):
        seed = SEEDS[purpose] + number
        yield simulate_frame(good_scene(seed, size), seed=seed)


def spoilt_frame(make: MakeDefect, seed: int, size: int) -> SimulatedFrame:
    """A frame of the prior with one defect."""
    return simulate_frame(good_scene(seed, size), [make(stream(seed, "defect"))], seed)


class MemoryFrames(FrameSource):
    """Frames in memory.

    Parameters
    ----------
    images : sequence of ndarray (y, x)
    ids : sequence of str
    card : FrameMetadata
        Of all frames.
    """

    def __init__(self, images: Sequence[np.ndarray], ids: Sequence[str], card: FrameMetadata) -> None:
        self.images, self.ids, self.metadata = list(images), list(ids), [card] * len(ids)

    def read(self, index: int, /) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels; all are data."""
        return self.images[index], None

    def part(self, members: Sequence[int]) -> MemoryFrames:
        """These frames only."""
        chosen = [self.images[index] for index in members], [self.ids[index] for index in members]
        return MemoryFrames(*chosen, self.metadata[0])


def reference_frames(count: int, size: int) -> MemoryFrames:
    """Frames of the prior that train and calibrate."""
    images = [frame.image for frame in good_frames("reference", count, size)]
    card = FrameMetadata(camera=CAMERA, filter=FILTER, gain=1.0)
    return MemoryFrames(images, [f"reference/{k:03}" for k in range(count)], card)


@dataclass(frozen=True)
class Patches:
    """Patches of a frame that a defect affects, and those that it touches at all: bool ``(n_y, n_x)``."""

    affected: np.ndarray
    touched: np.ndarray

    @classmethod
    def of(cls, frame: SimulatedFrame) -> Patches:
        """Apply the rule of `aqdask.simulate.truth`."""
        grid = PatchGrid(*frame.image.shape)
        affected, touched = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
        for kind, pixels in frame.truth.items():
            fraction = patch_fraction(pixels, grid)
            affected |= fraction >= NARROW_FRACTIONS.get(kind, AFFECTED_FRACTION)
            touched |= fraction > 0
        return cls(affected, touched)
