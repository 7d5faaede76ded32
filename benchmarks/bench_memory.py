"""Memory of a worker stage by stage, and of measurements by the number of frames.

    python benchmarks/bench_memory.py [--frames 16] [--size 4096] [--repeat 2]
    python benchmarks/bench_memory.py --part measurements --frames 8 --long 4 --size 1024 --repeat 3

The first takes a worker of `local:1` that scores and takes in frames, in MiB: what is resident after each
stage (pages of files, such as libraries, and others), and the largest so far as the kernel kept it. The
second runs `detect`, `photometry` and `transients` on an archive of few frames and one of many, each in a new
client with new workers: the largest of the client and of any worker, as the kernel kept it. All frames are
good and of one field.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import helpers

import aqdask as aq
from aqdask.execution import config
from aqdask.execution.clusters import connect
from aqdask.execution.executors import DaskExecutor
from aqdask.methods.tensors import native_precision
from aqdask.simulate.demo import demo_plan, write_demo_frame

MEASUREMENTS = {"detect": aq.detect, "photometry": aq.light_curves, "transients": aq.transients}


def resident() -> dict[str, float]:
    """Memory of this process in MiB."""
    known = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(known[name].split()[0]) / 1024 for name in ("RssFile", "RssAnon", "VmRSS", "VmHWM")}


def arguments() -> argparse.Namespace:
    """Options of the command line."""
    options = helpers.parser(__doc__.splitlines()[0], frames=16, long=4, repeat=2)
    options.add_argument("--part", choices=("worker", "measurements"), default="worker")
    options.add_argument("--precision", default=native_precision(), help="of the network (%(default)s)")
    return options.parse_args()


def main() -> None:
    """Print the memory of one of the parts."""
    options = arguments()
    helpers.print_header(f"bench_memory: {options.part}", options)
    {"worker": worker, "measurements": measurements}[options.part](options)


def worker(options: argparse.Namespace) -> None:
    """Score and run with one worker, and print its memory."""
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


def measurements(options: argparse.Namespace) -> None:
    """Run each measurement on few and on many frames, in turns, and print the largest memory."""
    counts = (options.frames, options.frames * options.long)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with helpers.scratch(options.folder) as folder:
        plan = [frame for frame in demo_plan(2 * counts[1], options.size, options.seed) if frame.good]
        sources = [str(write_demo_frame(folder / "frames", frame)) for frame in plan[: counts[1]]]
        for count in counts:
            with helpers.new_process() as call:
                call(score, sources[:count], folder / f"{count}.zarr", options.workers)
        for repetition, name, count in itertools.product(range(options.repeat), MEASUREMENTS, counts):
            out = folder / f"{name}-{count}-{repetition}"
            with helpers.new_process() as call:
                peaks = call(measured, name, folder / f"{count}.zarr", out, options.workers)
            found.setdefault((name, count), []).append(peaks)
    rows = [
        (name, who, *(helpers.spread([peaks[n] for peaks in found[name, count]]) for count in counts))
        for name in MEASUREMENTS
        for n, who in enumerate(("client", "worker"))
    ]
    helpers.print_table(
        "largest, MiB: median (least - most)",
        ("command", "process", *(f"{count} frames" for count in counts)),
        rows,
    )


def score(sources: list[str], archive: Path, workers: int) -> None:
    """Store and score frames."""
    with connect(f"local:{workers}") as executor:
        aq.ingest(sources, archive, cluster=executor)
        aq.score(archive, "wide-field", cluster=executor)


def measured(name: str, archive: Path, out: Path, workers: int) -> tuple[float, float]:
    """Run a measurement; return the largest memory of this client and of its workers, MiB."""
    with connect(f"local:{workers}") as executor:
        assert not MEASUREMENTS[name](archive, out, cluster=executor).problems
        assert isinstance(executor, DaskExecutor)
        return helpers.peak_memory(), helpers.peak_of_workers(executor)


def ingest(sources: list[str], archive: Path) -> None:
    """Store frames."""
    aq.ingest(sources, archive, cluster="serial", frames_per_shard=8)


if __name__ == "__main__":
    main()
