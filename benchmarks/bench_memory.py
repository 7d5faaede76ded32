"""Memory of a worker while it scores or takes in frames, stage by stage, and where it lies.

    python benchmarks/bench_memory.py [--frames 16] [--size 4096] [--repeat 2]

A worker of `local:1`, in MiB: what is resident after each stage (pages of files, such as libraries, and
others), and the largest so far as the kernel kept it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import helpers

import aqdask as aq
from aqdask.execution import config
from aqdask.execution.clusters import connect
from aqdask.methods.tensors import native_precision


def resident() -> dict[str, float]:
    """Memory of this process in MiB."""
    known = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(known[name].split()[0]) / 1024 for name in ("RssFile", "RssAnon", "VmRSS", "VmHWM")}


def arguments() -> argparse.Namespace:
    """Options of the command line."""
    options = helpers.parser(__doc__.splitlines()[0], frames=16, long=1, repeat=2)
    options.add_argument("--precision", default=native_precision(), help="of the network (%(default)s)")
    return options.parse_args()


def main() -> None:
    """Score and run with one worker, and print its memory."""
    options = arguments()
    helpers.print_header("bench_memory: memory of a worker", options)
    model, rows = aq.load_model("wide-field"), []
    with helpers.scratch(options.folder) as folder:
        sources = helpers.source_frames(folder, options.frames, options.size, options.seed)
        archives = [folder / f"stored{number}.zarr" for number in range(options.repeat)]
        with helpers.new_process() as call:  # the client stays small
            for archive in archives:
                call(ingest, sources, archive)
        with config.changed({"aqdask.precision": options.precision}), connect("local:1") as executor:

            def note(stage: str) -> None:
                (found,) = executor.client.run(resident).values()
                rows.append((stage, *(f"{value:.0f}" for value in found.values())))

            note("started, aqdask imported")
            executor.provide(model.contents, model.digest, options.precision)
            note("model loaded and warm")
            for archive in archives:
                aq.score(archive, model, cluster=executor)
                note(f"{options.frames} frames scored")
            aq.run(sources, folder / "run.zarr", model, cluster=executor, frames_per_shard=8)
            note(f"{options.frames} frames taken in and scored")
    helpers.print_table("MiB", ("after", "files", "other", "resident", "largest"), rows)


def ingest(sources: list[str], archive: Path) -> None:
    """Store frames."""
    aq.ingest(sources, archive, cluster="serial", frames_per_shard=8)


if __name__ == "__main__":
    main()
