"""Shared parts of the benchmarks: simulated frames, clocks, peak memory of processes, plain tables."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from aqdask.execution.executors import DaskExecutor
from aqdask.simulate.demo import demo_plan, write_demo_frame

SEED = 20240507
DISTINCT = 4  # different frames that are drawn; further names are hard links to them
PACKAGES = ("numpy", "astropy", "zarr", "numcodecs", "dask", "distributed", "torch")
MEBIBYTE = 2**20


def parser(description: str, *, frames: int, long: int, repeat: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--frames", type=int, default=frames, help="frames in an archive (%(default)s)")
    result.add_argument(
        "--long", type=int, default=long, help="length of the long archive, in times the frames (%(default)s)"
    )
    result.add_argument("--repeat", type=int, default=repeat, help="repetitions (%(default)s)")
    result.add_argument("--size", type=int, default=4096, help="side of a frame in px (%(default)s)")
    result.add_argument("--workers", type=int, default=2, help="processes of the local cluster (%(default)s)")
    result.add_argument("--seed", type=int, default=SEED, help="draws the frames (%(default)s)")
    result.add_argument("--folder", help="scratch space is made in this folder and removed afterwards")
    result.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    return result


def environment() -> dict[str, str]:
    """Date, machine and versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "load": f"{os.getloadavg()[0]:.1f} tasks were running before the start",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in ("aqdask", *PACKAGES)),
    }


def source_frames(folder: Path, count: int, size: int, seed: int) -> list[str]:
    """``count`` uint16 FITS files of ``size`` x ``size`` px below ``folder``; at most `DISTINCT` differ."""
    plan = demo_plan(2 * DISTINCT, size, seed)[: min(DISTINCT, count)]
    drawn = [write_demo_frame(folder / "drawn", frame) for frame in plan]
    names = [folder / "frames" / f"frame_{number:04d}.fits" for number in range(count)]
    names[0].parent.mkdir(parents=True)
    for number, name in enumerate(names):
        os.link(drawn[number % len(drawn)], name)
    return [str(name) for name in names]


@contextlib.contextmanager
def scratch(folder: str | None) -> Iterator[Path]:
    """A folder that vanishes afterwards."""
    with tempfile.TemporaryDirectory(prefix="aqdask-bench-", dir=folder) as name:
        yield Path(name)


@dataclass
class Clock:
    """Wall and processor seconds of the blocks ``with clock:``, summed; all threads of this process."""

    wall: float = 0.0
    cpu: float = 0.0
    _start: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """Every thread of this process, also those that start meanwhile, on ``count`` of its cores."""
    before = os.sched_getaffinity(0)
    _pin(set(sorted(before)[-count:]))
    try:
        yield
    finally:
        _pin(before)


def _pin(allowed: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), allowed)


def peak_memory(pid: int | str = "self") -> float:
    """Largest resident memory of a living process since it started, MiB, as the kernel kept it (Linux).

    Exact where sampling would miss a short peak; ``ru_maxrss`` would include the parent's before ``exec``.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kibibytes) * 1024 / MEBIBYTE


def peak_of_workers(executor: DaskExecutor) -> float:
    """Largest peak of the worker processes of a local cluster, MiB."""
    return max(peak_memory(pid) for pid in executor.client.run(os.getpid).values())


@contextlib.contextmanager
def new_process() -> Iterator[Callable[..., Any]]:
    """Give ``call(function, *arguments)``, which runs in one fresh process and returns the result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median with the smallest and the largest."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} - {most:.{digits}f})"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A plain table: first column to the left, the others to the right."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def print_targets(size: int, reached: dict[str, bool]) -> None:
    """Print the targets reached; they are stated for frames of 4096 x 4096 px."""
    if size == 4096:
        rows = [(name, "reached" if met else "MISSED") for name, met in reached.items()]
        print_table("Targets", ("for frames of 4096 x 4096 px", ""), rows)
    else:
        print(f"\nTargets are for frames of 4096 x 4096 px: none is compared at {size} x {size}.")


def print_header(title: str, arguments: argparse.Namespace) -> dict[str, str]:
    """Environment and settings; returns the environment."""
    found = environment()
    settings = ", ".join(
        f"{name} {value}" for name, value in vars(arguments).items() if name not in ("json", "folder")
    )
    print(title)
    for name, value in (*found.items(), ("settings", settings)):
        print(f"  {name:10} {value}")
    return found


def write_json(
    path: Path | None, environment: dict[str, str], arguments: argparse.Namespace, results: Any
) -> None:
    """The numbers for a program, where a file was asked for."""
    if path is not None:
        settings = {name: value for name, value in vars(arguments).items() if name not in ("json", "folder")}
        content = {"environment": environment, "settings": settings, "results": results}
        path.write_text(json.dumps(content, indent=1) + "\n")
