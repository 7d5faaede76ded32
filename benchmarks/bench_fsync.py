"""Time that `aqdask.fsync: auto` costs: ingest and score with and without, in pairs.

    python benchmarks/bench_fsync.py [--frames 8] [--repeat 5] [--size 4096] [--folder DIR] [--out FILE]

The disk that matters is that of ``--folder``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import dask
import helpers
from helpers import Clock, spread

import aqdask as aq

MODEL = "wide-field"
SETTINGS = ("auto", "off")


def once(sources: list[str], archive: Path, setting: str, *, score: bool) -> dict[str, float]:
    """Milliseconds a frame of ingest, and of score, in this process."""
    found = {}
    scale = 1000 / len(sources)
    with dask.config.set({"aqdask.fsync": setting}):
        with Clock() as clock:
            aq.ingest(sources, archive, cluster="serial")
        found["ingest"] = clock.wall * scale
        if score:
            with Clock() as clock:
                aq.score(archive, MODEL, cluster="serial")
            found["score"] = clock.wall * scale
    shutil.rmtree(archive)
    return found


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8, help="frames in an archive (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs (%(default)s)")
    parser.add_argument("--scored", type=int, default=3, help="of them with a score (%(default)s)")
    parser.add_argument("--size", type=int, default=4096, help="side of a frame in px (%(default)s)")
    parser.add_argument("--folder", help="on the disk that is measured")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here, as Markdown")
    arguments = parser.parse_args()
    about = helpers.environment()
    times: dict[str, dict[str, list[float]]] = {
        name: {s: [] for s in SETTINGS} for name in ("ingest", "score")
    }
    with helpers.scratch(arguments.folder) as folder:
        sources = helpers.source_frames(folder, arguments.frames, arguments.size, helpers.SEED)
        once(sources[:1], folder / "warm.zarr", "auto", score=True)
        for number in range(arguments.repeat):
            for setting in SETTINGS if number % 2 else SETTINGS[::-1]:
                found = once(sources, folder / "a.zarr", setting, score=number < arguments.scored)
                for name, value in found.items():
                    times[name][setting].append(value)
    lines = [
        "# fsync",
        "",
        f"`python benchmarks/bench_fsync.py --frames {arguments.frames} --repeat {arguments.repeat} --scored "
        f"{arguments.scored} --size {arguments.size}`: frames of {arguments.size} x {arguments.size} px, in "
        "paired turns, serial. Medians, with the smallest and the largest.",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        "",
        "| ms a frame, wall | auto | off | ratio in pairs |",
        "|---|---:|---:|---:|",
    ]
    for name, by_setting in times.items():
        on, off = (by_setting[setting] for setting in SETTINGS)
        if not on:
            continue
        ratios = [a / b for a, b in zip(on, off, strict=True)]
        lines.append(f"| {name} | {spread(on)} | {spread(off)} | {spread(ratios, 2)} |")
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
