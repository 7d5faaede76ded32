"""Scoring an archive, by part, and the fused run against its steps apart.

    python benchmarks/bench_score.py [--frames 8] [--repeat 3] [--size 4096] [--json FILE]

The model is the published method with its default architecture, trained for a few steps only: what it
scores is worth nothing, what it costs is what any bundle of that method costs. See README.md here.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import helpers
import numpy as np
import torch
from helpers import Clock, spread
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import aqdask as aq
from aqdask.execution.clusters import Cluster, connect
from aqdask.execution.model_cache import one_thread
from aqdask.io.wcs import sky_coordinates
from aqdask.methods.base import score_frame
from aqdask.methods.dispatch import load_scorer
from aqdask.methods.paper.network import ConvAutoencoder
from aqdask.specs import PatchGrid
from aqdask.store.frame_store import FrameStore
from aqdask.store.quality_store import QualityStore

TARGET_MEMORY = 1024  # MiB a worker
TRAIN_STEPS, TRAIN_FRAMES, TRAIN_SEED = 5, 4, 0
Times = dict[str, list[float]]  # milliseconds a frame, one a repetition


def both_ways(sources: list[str], folder: Path, model: aq.Bundle, cluster: Cluster, times: Times) -> None:
    """Ingest, score and export apart, then `aqdask.run`, each into an archive of its own."""
    apart, fused = folder / "apart.zarr", folder / "fused.zarr"
    clocks: dict[str, Clock] = defaultdict(Clock)
    with clocks["ingest"]:
        aq.ingest(sources, apart, cluster=cluster)
    with clocks["score"]:
        aq.score(apart, model, cluster=cluster)
    with clocks["export"]:
        aq.export(apart, folder / "apart-products", cluster=cluster)
    with clocks["run"]:
        aq.run(sources, fused, model, products=folder / "fused-products", cluster=cluster)
    for name, clock in clocks.items():
        times[name].append(clock.wall * 1000 / len(sources))
        times[f"{name}, cpu"].append(clock.cpu * 1000 / len(sources))
    for suffix in ("", ", cpu"):
        times["apart" + suffix].append(
            sum(times[name + suffix][-1] for name in ("ingest", "score", "export"))
        )
        times["ratio" + suffix].append(times["run" + suffix][-1] / times["apart" + suffix][-1])
    for place in (apart, fused, folder / "apart-products", folder / "fused-products"):
        shutil.rmtree(place)


@contextmanager
def network_clock() -> Iterator[Clock]:
    """Counts what is spent inside the network itself, whoever calls it."""
    clock = Clock()

    def enter(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, ConvAutoencoder):
            clock.__enter__()

    def leave(module: torch.nn.Module, _: object, __: object) -> None:
        if isinstance(module, ConvAutoencoder):
            clock.__exit__()

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield clock
    finally:
        for hook in hooks:
            hook.remove()


def parts(archive: Path, model: aq.Bundle, count: int, times: Times) -> None:
    """Processor time of the steps of a task on each of ``count`` frames, on one thread."""
    frames = FrameStore.open(archive)
    quality = QualityStore.open(archive, f"{model.name}-{model.digest[:8]}", writable=True)
    scorer = load_scorer(model, "cpu")
    grid = PatchGrid(*frames.spec.shape, model.patch)
    centres = np.meshgrid(*((grid.starts(a) + grid.stops(a) - 1) / 2 for a in (0, 1)), indexing="ij")
    headers = frames.coordinate("header")
    clocks: dict[str, Clock] = defaultdict(Clock)
    with one_thread():
        for row in range(count):
            with clocks["read from zarr"]:
                image, invalid = frames.read(row)
            with network_clock() as network, clocks["scorer"]:
                score_frame(scorer, image, invalid)
            clocks["network"].cpu += network.cpu
            with clocks["sky position of patches"]:
                sky_coordinates(str(headers[row]), "", *centres)
        rows = min(quality.frames_per_shard, count)
        block = quality.empty(rows)
        with clocks["write the maps"]:
            quality.write_shard(0, block)
        clocks["write the maps"].cpu *= count / rows
    clocks["cut, normalise, MAE, p-value"] = Clock(cpu=clocks.pop("scorer").cpu - clocks["network"].cpu)
    for name, clock in clocks.items():
        times[name].append(clock.cpu * 1000 / count)


def score_here(archive: str, model: str) -> None:
    """For a process of its own."""
    aq.score(archive, model, cluster="serial")


def make_model(archive: Path, sources: list[str], out: Path) -> aq.Bundle:
    """A bundle after a few steps, calibrated on one frame."""
    started = time.perf_counter()
    good = [Path(source).name for source in sources[:TRAIN_FRAMES]]
    model = aq.train(
        archive,
        frames=good,
        out=out,
        method="paper",
        device="cpu",
        steps=TRAIN_STEPS,
        seed=TRAIN_SEED,
        name="bench",
    )
    seconds = time.perf_counter() - started
    print(f"  model      {TRAIN_STEPS} steps, seed {TRAIN_SEED}, {len(good)} frames, {seconds:.0f} s")
    return model


def main() -> int:
    """Measure, print, and write JSON where asked."""
    arguments = helpers.parser(__doc__.splitlines()[0], frames=8, long=3, repeat=3).parse_args()
    environment = helpers.print_header("bench_score: patch scores of an archive", arguments)
    count = arguments.frames
    with helpers.scratch(arguments.folder) as folder:
        everything = helpers.source_frames(folder, arguments.long * count, arguments.size, arguments.seed)
        sources, model_path = everything[:count], folder / "model.safetensors"
        short, long = folder / "short.zarr", folder / "long.zarr"
        aq.ingest(sources, short, cluster="serial")
        aq.ingest(everything, long, cluster="serial")
        model = make_model(short, sources, model_path)
        with helpers.new_process() as call:
            alone = [call(helpers.peak_memory)]
            for archive in (short, long):
                call(score_here, str(archive), str(model_path))
                alone.append(call(helpers.peak_memory))
        shutil.rmtree(long)
        serial, local, steps = defaultdict(list), defaultdict(list), defaultdict(list)
        with connect(f"local:{arguments.workers}") as executor:
            workers = [helpers.peak_of_workers(executor)]
            both_ways(sources[:1], folder, model, executor, defaultdict(list))  # imports and warms everything
            for _ in range(arguments.repeat):
                both_ways(sources, folder, model, "serial", serial)
                parts(short, model, min(count, helpers.DISTINCT), steps)
                both_ways(sources, folder, model, executor, local)
            workers.append(helpers.peak_of_workers(executor))
            aq.run(everything, long, model, cluster=executor)
            workers.append(helpers.peak_of_workers(executor))
        patches = int(np.prod(PatchGrid(*FrameStore.open(short).spec.shape, model.patch).shape))
    peaks = {
        "score, serial": alone,
        f"ingest, score, export and run, local, the largest of {arguments.workers}": workers,
    }
    show_times(serial, local, steps, patches)
    columns = ("process", "started", f"after {count} frames", f"then {len(everything)} frames")
    table = [(where, *(f"{peak:.0f}" for peak in found)) for where, found in peaks.items()]
    helpers.print_table("Peak resident memory, MiB", columns, table)
    met = max(map(max, peaks.values())) <= TARGET_MEMORY
    helpers.print_targets(arguments.size, {f"a process at most {TARGET_MEMORY} MiB": met})
    results = {
        "serial": serial,
        "local": local,
        "parts": steps,
        "patches a frame": patches,
        "peak MiB": peaks,
    }
    helpers.write_json(arguments.json, environment, arguments, results)
    return 0


def show_times(serial: Times, local: Times, steps: Times, patches: int) -> None:
    """Tables of what was timed."""
    names = {
        "ingest": "ingest",
        "score": "score",
        "export": "export",
        "apart": "the three apart",
        "run": "run (fused)",
    }
    rows = [
        (label, spread(serial[name]), spread(serial[name + ", cpu"]), spread(local[name]))
        for name, label in names.items()
    ]
    rows.append(
        (
            "ratio run / apart",
            *(spread(t, 2) for t in (serial["ratio"], serial["ratio, cpu"], local["ratio"])),
        )
    )
    rates = (
        [1000 * patches / value for value in t]
        for t in (serial["score"], serial["score, cpu"], local["score"])
    )
    rows.append(("patches a second, score", *map(spread, rates)))
    columns = ("ms a frame", "serial, wall", "serial, cpu", "local, wall")
    helpers.print_table("Median (min - max) of the repetitions", columns, rows)

    order = (
        "read from zarr",
        "network",
        *(name for name in steps if name not in ("read from zarr", "network")),
    )
    table = [(name, spread(steps[name], 1)) for name in order]
    rest = statistics.median(serial["score, cpu"]) - sum(statistics.median(steps[name]) for name in order)
    table.append(("checksums, ledger, metadata (what is left)", f"{rest:.1f}"))
    rates = [1000 * patches / value for value in steps["network"]]
    table.append(("patches a second, network alone", spread(rates)))
    helpers.print_table(
        "Where a frame's processor time goes when scoring, one thread", ("stage", "ms a frame, cpu"), table
    )


if __name__ == "__main__":
    sys.exit(main())
