"""Speed of scoring beside a source extraction of the same frames, and stage by stage, in pairs.

    python benchmarks/bench_throughput.py [--frames 16] [--repeat 3] [--others]

Every repetition runs each competitor once, in turn, on the same frames; quoted are medians of the
repetitions, and medians of the ratios within them. A stored object holds the maps of 8 frames (16 in long
archives). ``--others`` adds the plain loop that a user would write, astroscrappy and deepCR
(`pip install astroscrappy deepCR joblib tensorboard`), on one frame. See README.md here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import sep
import torch
import zarr
from astropy.io import fits

import aqdask as aq
from aqdask.execution import config, tasks
from aqdask.execution.clusters import connect
from aqdask.execution.reporter import Silent
from aqdask.methods.noise_aware import feature_extractor
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.paper.network import ConvAutoencoder
from aqdask.methods.tensors import native_precision
from aqdask.stats import patches
from aqdask.store import layout
from aqdask.store.quality_store import QualityStore

MEMORY = 700  # MiB a worker
Times = dict[str, list[float]]  # milliseconds a frame, one a repetition


def extract_sources(sources: Sequence[str]) -> None:
    """Read frames, fit their background and extract their sources at 3 sigma."""
    for path in sources:
        image = fits.getdata(path).astype(np.float32)
        background = sep.Background(image)
        sep.extract(image - background, 3.0, err=background.globalrms)


def write_zarr(sources: Sequence[str], place: Path, size: int) -> None:
    """Read frames with astropy and store them with zarr, in the chunks and shards of an archive."""
    array = zarr.create_array(
        place, shape=(len(sources), size, size), dtype="uint16", chunks=(1, 512, 512), shards=(1, size, size),
        compressors=layout.compressors("lz4", "uint16"), overwrite=True,
    )  # fmt: skip
    for row, path in enumerate(sources):
        array[row] = fits.getdata(path)


def measure(times: Times, name: str, frames: int, work: Callable[[], object]) -> None:
    """Add the wall time of a piece of work a frame; what others wrote is brought to disk before."""
    os.sync()
    started = time.perf_counter()
    work()
    times[name].append(1000 * (time.perf_counter() - started) / frames)


def unscored(archive: Path) -> Path:
    """Make an archive again from its copy without maps."""
    shutil.rmtree(archive, ignore_errors=True)
    shutil.copytree(archive.with_suffix(".copy"), archive)
    return archive


def score(archive: Path, model: aq.Bundle, precision: str, cluster: Any = "serial", **options: Any) -> None:
    """Score all frames of an archive."""
    with config.changed({"aqdask.precision": precision}):
        aq.score(archive, model, cluster=cluster, **options)


class Stages(Silent):
    """Wall seconds of the stages of a command, between their first and last frame."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def start(self, stage: str, total: int, unit: str = "frames") -> None:
        """Begin a stage."""
        self.stage, self.started = stage, time.perf_counter()

    def finish(self) -> None:
        """End the stage."""
        self.seconds[self.stage] = time.perf_counter() - self.started


@contextlib.contextmanager
def waiting(archive: Path) -> Iterator[tuple[Callable[[], None], Callable[[], str]]]:
    """Start a process that scores an archive when it is told to; yields calls to tell it and to wait."""
    command = [sys.executable, __file__, "--child", str(archive)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()

        def go() -> None:
            process.stdin.write("go\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

        yield go, process.stdout.readline
    if process.returncode:
        raise SystemExit(f"the process of {archive} failed")


def child(archive: str) -> None:
    """Score the first frame of an archive beside it, say so, wait, and score the archive."""
    model, native = aq.load_model("wide-field"), native_precision()
    score(Path(archive).with_name(f"{Path(archive).stem}-warm.zarr"), model, native)
    print("ready", flush=True)
    sys.stdin.readline()
    score(Path(archive), model, native)
    print("done", flush=True)


def two_processes(places: Sequence[Path], times: Times, frames: int) -> None:
    """Time two serial processes that score an archive each at the same time, a frame of either."""
    for place in places:
        shutil.copytree(
            place.with_suffix(".copy"), place.with_name(f"{place.stem}-warm.zarr"), dirs_exist_ok=True
        )
        unscored(place)
    with contextlib.ExitStack() as stack:
        calls = [stack.enter_context(waiting(place)) for place in places]
        os.sync()
        started = time.perf_counter()
        for go, _ in calls:
            go()
        for _, wait in calls:
            assert wait() == "done\n"
        times["two processes"].append(1000 * (time.perf_counter() - started) / len(places) / frames)


def compete(
    sources: Sequence[str], folder: Path, model: aq.Bundle, repeat: int, size: int, clusters: dict[str, Any]
) -> Times:
    """Time all competitors in turn."""
    times: Times = defaultdict(list)
    archive, frames = folder / "night.zarr", len(sources)
    places = [folder / f"pair{number}.zarr" for number in range(2)]
    for place in (archive, *places):
        aq.ingest(sources, place.with_suffix(".copy"), cluster="serial", frames_per_shard=8)
    native = native_precision()
    for cluster in clusters.values():
        score(unscored(archive), model, native, cluster)
    for _ in range(repeat):
        measure(times, "extract", frames, lambda: extract_sources(sources))
        for precision in dict.fromkeys((native, "fp32")):
            clock = Stages()
            unscored(archive)
            measure(
                times,
                f"score {precision}",
                frames,
                lambda p=precision, r=clock: score(archive, model, p, reporter=r),
            )
            times[f"score {precision}, the stage"].append(1000 * clock.seconds["score"] / frames)
        for name, cluster in clusters.items():
            unscored(archive)
            measure(times, f"score, {name}", frames, lambda to=cluster: score(archive, model, native, to))
        two_processes(places, times, frames)
        measure(times, "read and zarr", frames, lambda: write_zarr(sources, folder / "plain.zarr", size))
        measure(times, "ingest", frames, lambda: aq.ingest(sources, folder / "new.zarr", cluster="serial"))
        clock = Stages()
        os.sync()
        aq.run(sources, folder / "fused.zarr", model, cluster="serial", reporter=clock)
        times["run, the stage"].append(1000 * clock.seconds["run"] / frames)
        for name in ("new.zarr", "fused.zarr"):
            shutil.rmtree(folder / name)
    return times


STAGES: dict[str, list[tuple[Any, str]]] = {
    "read, decode, checksum": [(tasks, "read_place")],
    "cut": [(patches, "gather")],
    "noise, sky, stabilise, statistics of the signal": [(feature_extractor, "measure")],
    "network": [(feature_extractor.FeatureExtractor, "reconstructed")],
    "statistics of the residual": [
        (feature_extractor, "residual_statistics"),
        (feature_extractor, "arranged"),
    ],
    "decision": [(NoiseAwareScorer, "score_features")],
    "write the maps, checksum": [(QualityStore, "write_shard"), (tasks, "maps_checksum")],
}


def stages(archive: Path, model: aq.Bundle, precision: str, frames: int, repeat: int) -> list[list[str]]:
    """Time the stages of `aqdask score` in this process, a frame."""
    times: Times = defaultdict(list)
    with contextlib.ExitStack() as stack:
        spent = {name: stack.enter_context(clocked(places)) for name, places in STAGES.items()}
        for _ in range(repeat + 1):
            for clock in spent.values():
                clock.clear()
            unscored(archive)
            started = time.perf_counter()
            score(archive, model, precision)
            whole = 1000 * (time.perf_counter() - started) / frames
            for name, clock in spent.items():
                times[name].append(1000 * sum(clock) / frames)
            times["ledger, metadata, what is left"].append(whole - sum(times[name][-1] for name in STAGES))
            times["all"].append(whole)
    times["all but the network"] = [a - n for a, n in zip(times["all"], times["network"], strict=True)]
    return [[name, helpers.spread(values[1:])] for name, values in times.items()]


@contextlib.contextmanager
def clocked(places: Sequence[tuple[Any, str]]) -> Iterator[list[float]]:
    """Replace functions by ones that add their wall seconds to a list."""
    spent: list[float] = []

    def clock(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent.append(time.perf_counter() - started)

        return call

    before = [(owner, name, getattr(owner, name)) for owner, name in places]
    for owner, name, function in before:
        setattr(owner, name, clock(function))
    try:
        yield spent
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def plain_loop(path: str) -> None:
    """Score a frame as a user would write it: the published network on all patches at once, MAE in numpy."""
    image = fits.getdata(path).astype(np.float32)
    n_y, n_x = (length // 64 for length in image.shape)
    cut = image.reshape(n_y, 64, n_x, 64).swapaxes(1, 2).reshape(-1, 1, 64, 64)
    low, high = (limit(cut, axis=(2, 3), keepdims=True) for limit in (np.min, np.max))
    cut = (cut - low) / np.maximum(high - low, 1)
    with torch.inference_mode():
        found = ConvAutoencoder()(torch.from_numpy(cut)).numpy()
    np.abs(found - cut).mean(axis=(1, 2, 3))


def others(path: str) -> dict[str, Callable[[], object]]:
    """Calls of other detectors on one frame, by name."""
    found: dict[str, Callable[[], object]] = {"plain loop (astropy, torch, numpy)": lambda: plain_loop(path)}
    with contextlib.suppress(ImportError):
        import astroscrappy

        found["astroscrappy"] = lambda: astroscrappy.detect_cosmics(fits.getdata(path).astype(np.float32))
    with contextlib.suppress(ImportError):
        from deepCR import deepCR

        detector = deepCR(mask="ACS-WFC", device="CPU")
        found["deepCR"] = lambda: detector.clean(
            fits.getdata(path).astype(np.float32), inpaint=False, segment=True
        )
    return found


def ratios(times: Times, size: int) -> None:
    """Print medians, and the medians of ratios within repetitions beside their targets."""
    helpers.print_table(
        "Milliseconds a frame, wall: median (smallest - largest)", ("", "ms"),
        [(name, helpers.spread(values)) for name, values in times.items()],
    )  # fmt: skip
    native = native_precision()
    wanted = {
        f"score {native} / extract": (1.0 if native == "bf16" else 1.8, f"score {native}", "extract"),
        "score fp32 / extract": (1.8, "score fp32", "extract"),
        "ingest / (astropy read + zarr write)": (1.3, "ingest", "read and zarr"),
        "run, the stage / score, the stage": (1.1, "run, the stage", f"score {native}, the stage"),
        "one Dask worker / serial": (1.05, "score, one worker", f"score {native}"),
        "two Dask workers / two processes": (1 / 0.95, "score, two workers", "two processes"),
        "two Dask workers / one": (1 / 1.8, "score, two workers", "score, one worker"),
    }
    rows, reached = [], {}
    for name, (most, above, below) in wanted.items():
        values = [a / b for a, b in zip(times[above], times[below], strict=True)]
        rows.append((name, helpers.spread(values, 2), f"{most:.2f}"))
        reached[name] = statistics.median(values) <= most
    helpers.print_table("Ratios", ("", "median (range)", "at most"), rows)
    helpers.print_targets(size, reached)


def main() -> None:
    """Run the competitors and print the tables."""
    parser = helpers.parser(__doc__, frames=16, long=1, repeat=3)
    parser.add_argument("--others", action="store_true", help="other detectors, too, on one frame")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child)
    helpers.print_header("bench_throughput: scoring beside a source extraction", options)
    sep.set_extract_pixstack(10_000_000)
    torch.set_num_threads(1)
    model = aq.load_model("wide-field")
    with helpers.scratch(options.folder) as folder, contextlib.ExitStack() as stack:
        sources = helpers.source_frames(folder, options.frames, options.size, options.seed)
        clusters = {
            f"{name} worker{'s' * (number > 1)}": stack.enter_context(connect(f"local:{number}"))
            for name, number in (("one", 1), ("two", 2))
        }
        times = compete(sources, folder, model, options.repeat, options.size, clusters)
        peak = helpers.peak_of_workers(clusters["two workers"])
        for precision in dict.fromkeys((native_precision(), "fp32")):
            rows = stages(folder / "night.zarr", model, precision, options.frames, options.repeat)
            helpers.print_table(f"Stages of `aqdask score`, {precision}, ms a frame", ("stage", "ms"), rows)
        ratios(times, options.size)
        print(f"\nLargest worker: {peak:.0f} MiB (at most {MEMORY})")
        if options.others:
            for name, call in others(sources[0]).items():
                measure(found := defaultdict(list), name, 1, call)
                print(f"{name}: {found[name][0] / 1000:.1f} s a frame")


if __name__ == "__main__":
    main()
