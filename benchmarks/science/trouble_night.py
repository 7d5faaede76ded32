"""A night of 60 simulated frames with four kinds of trouble, for a reader who has only its report.

    python benchmarks/science/trouble_night.py FOLDER [--size 1024] [--seed 27300000] [--other]
    aqdask run FOLDER/night FOLDER/night.zarr --model wide-field

Prints what is wrong, with time and place, to be compared with what the reader says; ``--other`` takes other
kinds of trouble at other times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from aqdask.simulate.defect_base import Defect
from aqdask.simulate.defects import Cloud, Defocus, Elongation, Ghost, Gradient, Region, Trail
from aqdask.simulate.demo import DemoFrame, write_demo_frame
from aqdask.simulate.detector_defects import Banding, DeadColumn
from aqdask.simulate.scene import SceneSpec, stream

SEED = 27_300_000
FRAMES = 60
START = datetime(2026, 2, 11, 20, 30)
EVERY = timedelta(seconds=150)
TROUBLE: tuple[tuple[str, range, Defect], ...] = (
    ("clouds in the lower left", range(12, 16), Cloud(0.5, glow=0.25, region=Region(0.0, 0.6, 0.0, 0.5))),
    ("guiding error", range(25, 31), Elongation(4.0)),
    ("moonlight", range(38, 45), Gradient(0.25)),
    ("dead column at 0.62 of the width", range(20, FRAMES), DeadColumn(0.5, column=0.62)),
)
OTHER: tuple[tuple[str, range, Defect], ...] = (
    ("focus lost", range(7, 13), Defocus(4.2)),
    ("interference, 14 rows", range(19, 27), Banding(12.0)),
    ("satellite across the frame", range(33, 34), Trail(250.0, angle=25.0)),
    ("ghost in the upper right", range(41, 49), Ghost(0.12, centre=(0.72, 0.7), radius=0.15)),
)


def night(
    size: int, seed: int = SEED, trouble: Sequence[tuple[str, range, Defect]] = TROUBLE
) -> list[DemoFrame]:
    """Draw the frames."""
    rng, frames = stream(seed, "night"), []
    for number in range(FRAMES):
        scene = SceneSpec(
            height=size, width=size, sky=float(rng.uniform(850, 1100)), fwhm=float(rng.uniform(2.3, 2.6)),
            field_seed=seed, camera_seed=seed, dust=3, pixel_response=0.005, hot_pixels=1e-5,
            pointing=tuple(round(float(rng.uniform(-3, 3)) * 8) / 8 for _ in range(2)),
        )  # fmt: skip
        wrong = tuple(defect for _, when, defect in trouble if number in when)
        time = (START + number * EVERY).isoformat(timespec="milliseconds")
        frames.append(DemoFrame(f"n{number:03d}.fits", int(rng.integers(2**31)), time, scene, wrong))
    return frames


def main() -> int:
    """Write the frames and print the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=1024, help="side of a frame in px (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of field, camera and frames (%(default)s)")
    parser.add_argument("--other", action="store_true", help="other kinds of trouble")
    options = parser.parse_args()
    trouble = OTHER if options.other else TROUBLE
    place = options.folder / "night"
    place.mkdir(parents=True, exist_ok=True)
    for frame in night(options.size, options.seed, trouble):
        write_demo_frame(place, frame)
    for name, when, _ in trouble:
        first, last = (START + number * EVERY for number in (when[0], when[-1]))
        print(f"{name}: n{when[0]:03d} to n{when[-1]:03d}, {first:%H:%M} to {last:%H:%M}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
