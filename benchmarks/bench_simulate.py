"""Seconds that a simulated frame takes: every preset, each defect on top of the default, and peak memory.

    python benchmarks/bench_simulate.py [--frames 2] [--repeat 3] [--size 4096] [--json FILE]

Every kind of frame is drawn with ``frames`` seeds, ``repeat`` times, in one fresh process on one core.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import defaultdict
from dataclasses import replace

import helpers
from helpers import Clock, spread

from aqdask.simulate import defects as d
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.presets import PRESETS, preset
from aqdask.simulate.scene import SceneSpec

TARGET, TARGET_CROWDED = 5.0, 15.0  # seconds a frame of 4096 x 4096 px; crowded: from 1e5 stars
CROWDED_STARS = 100_000
ON_DEFAULT: tuple[d.Defect, ...] = (
    d.Defocus(5.0), d.Background(0.3, scale=8), d.Background(0.3, scale=128), d.Cloud(0.5), d.Gradient(0.3),
    d.Ghost(0.1), d.Trail(300), d.CosmicRays(1000), d.HotColumn(200), d.Banding(15), d.ReadNoise(14),
    d.Elongation(2.5), d.SaturatedStars(1e8), d.DeadColumn(0.5), d.Vignetting(0.3), d.GainError(0.1),
)  # fmt: skip


def kinds(size: int) -> dict[str, tuple[SceneSpec, tuple[d.Defect, ...]]]:
    """Scenes by name."""
    scenes = {name: replace(preset(name), height=size, width=size) for name in PRESETS}
    drawn: dict[str, tuple[SceneSpec, tuple[d.Defect, ...]]] = {
        f"preset {name}": (spec, ()) for name, spec in scenes.items()
    }
    for defect in ON_DEFAULT:
        scale = f" {defect.scale:.0f} px" if isinstance(defect, d.Background) else ""
        drawn[f"default + {defect.kind}{scale}"] = scenes["default"], (defect,)
    return drawn


def measure(size: int, frames: int, repeat: int, seed: int) -> dict[str, tuple[list[float], int]]:
    """Seconds of each frame, and the most stars in one, by kind."""
    times: dict[str, list[float]] = defaultdict(list)
    stars: dict[str, int] = defaultdict(int)
    simulate_frame(replace(preset("wide_psf"), height=64, width=64))  # imports and cached profiles
    for _ in range(repeat):
        for name, (spec, defects) in kinds(size).items():
            for number in range(frames):
                clock = Clock()
                with clock:
                    frame = simulate_frame(spec, defects, seed + number)
                times[name].append(clock.wall)
                stars[name] = max(stars[name], len(frame.stars))
    return {name: (times[name], stars[name]) for name in times}


def alone(size: int, frames: int, repeat: int, seed: int) -> tuple[dict[str, tuple[list[float], int]], float]:
    """Result of `measure` on one core, and the peak memory of this process in MiB."""
    with helpers.cores(1):
        return measure(size, frames, repeat, seed), helpers.peak_memory()


def main() -> int:
    """Measure, print, and write JSON where asked (``--long`` and ``--workers`` mean nothing here)."""
    arguments = helpers.parser(__doc__.splitlines()[0], frames=2, long=1, repeat=3).parse_args()
    environment = helpers.print_header("bench_simulate: seconds that a simulated frame takes", arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the process that measures
    with helpers.new_process() as call:
        found, memory = call(alone, arguments.size, arguments.frames, arguments.repeat, arguments.seed)
    rows = [(name, stars, spread(seconds, 2)) for name, (seconds, stars) in found.items()]
    helpers.print_table("Seconds a frame: median (least - most)", ("frame", "stars", "seconds"), rows)
    print(f"\npeak memory of the process: {memory:.0f} MiB")
    slowest = {crowded: [0.0] for crowded in (False, True)}
    for seconds, stars in found.values():
        slowest[stars >= CROWDED_STARS].append(statistics.median(seconds))
    reached = {
        f"every frame within {TARGET:.0f} s": max(slowest[False]) <= TARGET,
        f"crowded frames within {TARGET_CROWDED:.0f} s": max(slowest[True]) <= TARGET_CROWDED,
    }
    helpers.print_targets(arguments.size, reached)
    results = {name: {"seconds": seconds, "stars": stars} for name, (seconds, stars) in found.items()}
    helpers.write_json(arguments.json, environment, arguments, {"frames": results, "memory": memory})
    return 0


if __name__ == "__main__":
    sys.exit(main())
