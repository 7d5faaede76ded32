"""Cost of the live page, start of a command over few frames, and the estimates that choose where it runs.

    python benchmarks/bench_live.py [--frames 6] [--size 4096] [--repeat 5] [--small 12] [--out FILE]
    python benchmarks/bench_live.py --frames 16 --repeat 4 --small 0       # the cost of the page alone

CPU seconds of all processes are compared in paired turns, since other programs hardly change them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import helpers
import numpy as np
from helpers import spread

import aqdask as aq
from aqdask.execution import preview, work_estimate
from aqdask.execution.reporter import Silent
from aqdask.monitor.telemetry import Telemetry

MODEL = "wide-field"
ESTIMATES = f"""
Up to {work_estimate.IN_PROCESS_SECONDS:.0f} s of estimated work are done in the command itself:

| stage | estimated s a frame | CPU s a frame |
|---|---:|---:|"""
AQDASK = [sys.executable, "-m", "aqdask"]


def cost_in_process(archive: Path, reporter: Silent | Telemetry) -> tuple[float, float]:
    """CPU and wall seconds of scoring an archive again in this process."""
    shutil.rmtree(archive / "quality", ignore_errors=True)
    preview._next = 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    aq.score(archive, MODEL, cluster="serial", reporter=reporter)
    return time.process_time() - cpu, time.perf_counter() - wall


def cost_of_command(words: Sequence[object], **settings: str) -> tuple[float, float]:
    """CPU seconds of a command with all its workers, and wall seconds."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {f"DASK_AQDASK__{name}": value for name, value in settings.items()}
    subprocess.run([*AQDASK, *map(str, words)], env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - wall


def pairs(repeat: int, *sides: Callable[[], tuple[float, float]]) -> list[str]:
    """Cells of two sides in turns: CPU of both and their ratio, wall of both and theirs."""
    found: list[list[tuple[float, float]]] = [[], []]
    for number in range(repeat):
        for side in (0, 1) if number % 2 else (1, 0):
            found[side].append(sides[side]())
    cells = []
    for place in (0, 1):
        one, two = ([values[place] for values in side] for side in found)
        ratios = [a / b for a, b in zip(one, two, strict=True)]
        cells += [spread(one, 2), spread(two, 2), spread(ratios, 3)]
    return cells


@contextlib.contextmanager
def counted_pictures() -> Iterator[list[float]]:
    """Collect the CPU seconds of every picture that this process draws."""
    taken: list[float] = []
    draw = preview.preview

    def timed(*arguments: object) -> bytes:
        started = time.thread_time()
        made = draw(*arguments)  # type: ignore[arg-type]
        taken.append(time.thread_time() - started)
        return made

    preview.preview = timed  # type: ignore[assignment]
    try:
        yield taken
    finally:
        preview.preview = draw


def picture_seconds(size: int) -> float:
    """Median CPU seconds of one picture with a mask."""
    rng = np.random.default_rng(0)
    image, pvalue = rng.poisson(1000, (size, size)).astype(np.uint16), rng.random((size // 64, size // 64))
    times = []
    for _ in range(9):
        started = time.process_time()
        preview.preview(image, None, pvalue, 64)
        times.append(time.process_time() - started)
    return median(times)


def starts(folder: Path, frames: int, repeat: int) -> list[str]:
    """Rows of `run` over small frames: with and without the page, with and without workers."""
    helpers.source_frames(folder / "small", frames, 256, helpers.SEED)
    aq.load_model(MODEL).save(folder / "m.safetensors")

    def run(*more: str, **settings: str) -> tuple[float, float]:
        shutil.rmtree(folder / "s.zarr", ignore_errors=True)
        words = ("run", folder / "small" / "frames", folder / "s.zarr", "--model", folder / "m.safetensors")
        return cost_of_command([*words, "--products", folder / "p", *more], **settings)

    named = ("--cluster", "local")
    page = pairs(repeat, lambda: run(*named), lambda: run(*named, LIVE_PAGE="false"))
    auto = pairs(repeat, run, lambda: run(*named))
    return [
        f"| page, none; `run` on workers, {frames} small frames | {' | '.join(page)} |",
        f"| auto, local; `run`, {frames} small frames | {' | '.join(auto)} |",
    ]


def estimates(sources: list[str], folder: Path, size: int) -> list[str]:
    """Rows of estimated and measured CPU seconds a frame, by stage, in this process."""
    archive, frames, rows = folder / "e.zarr", len(sources), []
    calls: dict[str, Callable[[], object]] = {
        "ingest": lambda: aq.ingest(sources, archive, cluster="serial"),
        "score": lambda: aq.score(archive, MODEL, cluster="serial"),
        "select": lambda: aq.select(archive, cluster="serial"),
        "export": lambda: aq.export(archive, folder / "products", cluster="serial"),
        "verify": lambda: aq.verify(archive, cluster="serial"),
    }
    for stage, call in calls.items():
        started = time.process_time()
        call()
        taken = (time.process_time() - started) / frames
        rows.append(f"| {stage} | {work_estimate.seconds(stage, 1, (size, size)):.2f} | {taken:.2f} |")
    return rows


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=6, help="large frames (%(default)s)")
    parser.add_argument("--size", type=int, default=4096, help="their side in px (%(default)s)")
    parser.add_argument("--small", type=int, default=12, help="small frames, 256 px (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here, as Markdown")
    arguments = parser.parse_args()
    about, repeat, rows, stages = helpers.environment(), arguments.repeat, [], []
    with helpers.scratch(None) as folder:
        sources = helpers.source_frames(folder / "large", arguments.frames, arguments.size, helpers.SEED)
        archive = folder / "a.zarr"
        aq.ingest(sources, archive, cluster="serial", frames_per_shard=1)
        cost_in_process(archive, Telemetry(Silent(), "score"))
        spent: list[float] = []

        def with_page() -> tuple[float, float]:
            cost = cost_in_process(archive, Telemetry(Silent(), "score"))
            spent.append(cost[0])
            return cost

        with counted_pictures() as taken:
            cells = pairs(repeat, with_page, lambda: cost_in_process(archive, Silent()))
        share = f"{100 * sum(taken) / sum(spent):.2f} % of the CPU time went into {len(taken)} pictures"
        rows.append(f"| telemetry and pictures, none; in this process | {' | '.join(cells)} |")
        if arguments.small:
            rows += starts(folder, arguments.small, repeat)
            stages = estimates(sources[:3], folder, arguments.size)
    lines = [
        "# Live page, and start of a command",
        "",
        f"`python benchmarks/bench_live.py --frames {arguments.frames} --size {arguments.size} --small "
        f"{arguments.small} --repeat {repeat}`: {arguments.frames} frames of {arguments.size} x "
        f"{arguments.size} px are scored again and again. Medians, with the smallest and the largest.",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        f"- one picture of such a frame: {1000 * picture_seconds(arguments.size):.1f} ms of CPU; a process "
        f"spends at most {100 * preview.SHARE:.1f} % of its time on pictures after the first",
        f"- with telemetry and pictures, {share}",
        "",
        "| A, B | CPU s, A | CPU s, B | A / B in pairs | wall s, A | wall s, B | A / B in pairs |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
        *([ESTIMATES] if stages else []),
        *stages,
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
