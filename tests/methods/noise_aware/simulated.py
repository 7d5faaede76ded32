"""Small simulated frames as a source of references, and settings that train on them in a few steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from aqdask.methods.base import FrameSource
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec
from aqdask.specs import FrameMetadata

SIDE = 512
TINY = TrainSpec(method="aqdask", name="tiny", steps=6, batch=4, alpha=0.02)


@lru_cache(maxsize=64)
def image(seed: int, side: int = SIDE, **changes: float) -> np.ndarray:
    """A good frame of one camera; skies of 700 to 1300 electrons."""
    sky = 700 + 600 * ((seed * 0.618) % 1)
    spec = SceneSpec(
        height=side, width=side, structure=0.005, star_density=1 / 500, **({"sky": sky} | changes)
    )
    return simulate_frame(spec, seed=seed).image


class Frames(FrameSource):
    """``count`` frames; ``spoil(index, image)`` may give back other pixels, or pixels and a mask."""

    def __init__(
        self,
        count: int = 12,
        side: int = SIDE,
        first: int = 0,
        camera: str = "cam",
        gain: float = 1.5,
        spoil: Callable[[int, np.ndarray], object] | None = None,
    ) -> None:
        self.ids = [f"night/{index:03}.fits" for index in range(count)]
        self.metadata = [FrameMetadata(camera=camera, filter="L", gain=gain)] * count
        self.side, self.first, self.spoil = side, first, spoil

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        found = image(self.first + index, self.side).copy()
        spoiled = self.spoil(index, found) if self.spoil else found
        return spoiled if isinstance(spoiled, tuple) else (spoiled, None)
