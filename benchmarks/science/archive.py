"""Part 1, third experiment: photometry and false alarms on an archive of GWAC-like frames.

The arithmetic of photometry is `aqdask.sky.photometry`'s; here are the frames. Where that module is absent,
the part says so and nothing is claimed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from seeds import SEEDS

from aqdask.sky.defects import Background, Region
from aqdask.sky.scene import stream
from aqdask.sky.scenes import preset
from aqdask.sky.simulate import SimulatedFrame, simulate_frame

FRAMES = 24  # of 600 on a cluster
SIZE = 4096
LEVEL, SCALE = 0.3, 8  # complex background: rms fraction of the sky, px


def archive_frames(count: int, size: int) -> Iterator[tuple[int, SimulatedFrame]]:
    """Seed and frame; every second one has complex background in a random half of its area."""
    for number in range(count):
        seed = SEEDS["archive"] + number
        scene = replace(preset("gwac"), height=size, width=size)
        top, left = stream(seed, "region").uniform(0, 0.3, 2)
        region = Region(float(top), float(top) + 0.7, float(left), float(left) + 0.7)
        defects = [Background(LEVEL, scale=SCALE, region=region)] if number % 2 else []
        yield seed, simulate_frame(scene, defects, seed)


def photometry() -> dict[str, Any]:
    """The experiment's result, or why there is none."""
    if importlib.util.find_spec("aqdask.sky.photometry") is None:
        return {"missing": "aqdask.sky.photometry is not there"}
    return {"missing": "not connected yet: archive_frames gives the frames, Contest.score the masks"}
