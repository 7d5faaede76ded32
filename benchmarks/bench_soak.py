"""Soak: two thousand frames are scored while a worker is killed every twenty seconds.

    python -W ignore benchmarks/bench_soak.py [--frames 2000] [--size 1024] [--every 20]

The command runs as a process of its own; its maps are compared with those of an undisturbed serial run.
Memory is the resident set of the command, and of its other processes together, sampled every two seconds.
The live page tells which tasks a worker had when it was killed.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import helpers
import numpy as np
import psutil

import aqdask as aq

EVERY = 2.0  # seconds between samples
WARM = 30.0  # seconds after which memory should be flat


def page_of(process: subprocess.Popen[str]) -> str:
    """Wait for the address of the live page, and read what else the command says in a thread."""
    for line in process.stderr or ():
        if line.startswith("dashboard: "):
            threading.Thread(target=process.stderr.read, daemon=True).start()  # type: ignore[union-attr]
            return line.removeprefix("dashboard: ").strip()
    raise SystemExit("the command has no live page")


def workers_of(page: str) -> dict[int, int]:
    """Tasks of each worker by its port, from the live page."""
    with urllib.request.urlopen(f"{page}.json", timeout=10) as answer:
        return {int(w["address"].rpartition(":")[2]): w["tasks"] for w in json.load(answer)["workers"]}


def process_at(command: psutil.Process, port: int) -> psutil.Process:
    """Find the worker process that listens on a port."""
    for process in command.children(recursive=True):
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections()):
            return process
    raise psutil.NoSuchProcess(port)


def disturbed(
    archive: Path, workers: int, every: float, seed: int
) -> tuple[list[tuple[float, float, float]], list[list[str]]]:
    """Score an archive and kill a worker every so often.

    Returns samples (seconds, MiB of the command, MiB of its workers), and a row for each kill: second, tasks
    on the worker (they are tried again), seconds until another one serves in its place.
    """
    words = [sys.executable, "-W", "ignore", "-m", "aqdask", "score", str(archive), "--model", "wide-field"]
    process = subprocess.Popen(
        [*words, "--cluster", f"local:{workers}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    command, draw, samples, kills = psutil.Process(process.pid), random.Random(seed), [], list[list[str]]()
    started, page, killed, known = time.monotonic(), page_of(process), 0.0, set[int]()
    while process.poll() is None:
        time.sleep(EVERY if not killed else 0.2)
        now = time.monotonic() - started
        try:
            serving = workers_of(page)
            if killed and serving.keys() - known:
                kills[-1].append(f"{now - killed:.1f}")
                killed = 0.0
            found = command.children(recursive=True)
            total = sum(p.memory_info().rss for p in found) / helpers.MEBIBYTE
            samples.append((now, command.memory_info().rss / helpers.MEBIBYTE, total))
            if now > every * (len(kills) + 1) and len(serving) == workers and not killed:
                port, known = draw.choice(sorted(serving)), set(serving)
                process_at(command, port).kill()
                kills.append([f"{now:.0f}", str(serving[port])])
                killed = now
        except (psutil.Error, OSError):  # it has ended meanwhile
            continue
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    return samples, [[*kill, "-"][:3] for kill in kills]


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
            ("workers killed", str(len(kills))),
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
        columns = ("killed at, s", "tasks tried again", "another worker after, s")
        helpers.print_table("Workers killed", columns, kills)
        if lost or differ or not sound:
            raise SystemExit("the disturbed run is not the undisturbed one")


if __name__ == "__main__":
    main()
