"""Soak: two thousand frames are scored while a worker is killed every twenty seconds.

    python -W ignore benchmarks/bench_soak.py [--frames 2000] [--size 1024] [--every 20]

The command runs as a process of its own; its maps are compared with those of an undisturbed serial run.
Memory is the resident set of the command, and of its workers together, sampled every two seconds.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import helpers
import numpy as np
import psutil

import aqdask as aq

EVERY = 2.0  # seconds between samples
WARM = 30.0  # seconds after which memory should be flat


def workers_of(command: psutil.Process) -> list[psutil.Process]:
    """Worker processes of a command, those that have loaded a model first."""
    found = [p for p in command.children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    return sorted(found, key=lambda p: -p.memory_info().rss)


def disturbed(
    archive: Path, workers: int, every: float, seed: int
) -> tuple[list[tuple[float, float, float]], int]:
    """Score an archive and kill a worker every so often.

    Returns samples (seconds, MiB of the command, MiB of its workers), and the number of kills.
    """
    words = [sys.executable, "-W", "ignore", "-m", "aqdask", "score", str(archive), "--model", "wide-field"]
    process = subprocess.Popen([*words, "--cluster", f"local:{workers}", "--quiet"])
    command, draw, samples, kills = psutil.Process(process.pid), random.Random(seed), [], 0
    started = time.monotonic()
    while process.poll() is None:
        time.sleep(EVERY)
        now = time.monotonic() - started
        try:
            found = workers_of(command)
            total = sum(p.memory_info().rss for p in found) / helpers.MEBIBYTE
            samples.append((now, command.memory_info().rss / helpers.MEBIBYTE, total))
            if now > every * (kills + 1) and found:
                draw.choice(found[:workers]).kill()
                kills += 1
        except psutil.Error:  # it has ended meanwhile
            continue
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    return samples, kills


def main() -> None:
    """Score with and without kills, compare, and print a table."""
    parser = helpers.parser(__doc__, frames=2000, long=1, repeat=1)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills (%(default)s)")
    parser.set_defaults(size=1024)
    options = parser.parse_args()
    helpers.print_header("bench_soak: a worker killed every so often", options)
    with helpers.scratch(options.folder) as folder:
        sources = helpers.source_frames(folder, options.frames, options.size, options.seed)
        calm, shaken = folder / "calm.zarr", folder / "shaken.zarr"
        for place in (calm, shaken):
            aq.ingest(sources, place, cluster=f"local:{options.workers}")
        started = time.monotonic()
        aq.score(calm, "wide-field", cluster="serial")
        serial = time.monotonic() - started
        samples, kills = disturbed(shaken, options.workers, options.every, options.seed)
        wanted, found = (aq.open_quality(place) for place in (calm, shaken))
        differ = sum(
            not np.array_equal(
                wanted[name].values, found[name].values, equal_nan=wanted[name].dtype.kind == "f"
            )
            for name in wanted.data_vars
        )
        sound = aq.verify(shaken, cluster=f"local:{options.workers}").sound
        lost = int((found["state"].values != "done").sum())
        late = [sample for sample in samples if sample[0] > WARM]
        half = len(late) // 2
        rows: list[tuple[str, str]] = [
            ("frames lost", str(lost)),
            ("maps that differ from the serial run", str(differ)),
            ("verify finds the archive sound", str(sound)),
            ("workers killed", str(kills)),
            ("seconds, serial and undisturbed", f"{serial:.0f}"),
            (f"seconds, {options.workers} workers, disturbed", f"{samples[-1][0]:.0f}"),
        ]
        for name, place in (("command", 1), ("workers together", 2)):
            parts = [
                f"{statistics.median(s[place] for s in part):.0f}"
                for part in (late[:half], late[half:])
                if part
            ]
            rows.append((f"MiB of the {name}, first and second half", ", ".join(parts)))
        helpers.print_table(f"{options.frames} frames of {options.size} px", ("", ""), rows)
        if lost or differ or not sound:
            raise SystemExit("the disturbed run is not the undisturbed one")


if __name__ == "__main__":
    main()
