"""Ingest against the least it could cost: astropy's read and zarr's write of the same frames.

    python benchmarks/bench_ingest.py [--frames 16] [--repeat 5] [--size 4096] [--json FILE]

Both sides take turns within one run: pinned to one core, then on all cores. See README.md here.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import helpers
import zarr
from astropy.io import fits
from helpers import Clock, spread

import aqdask as aq
from aqdask.execution.clusters import connect
from aqdask.execution.executors import Executor
from aqdask.io.reader import load_bytes, read_frame
from aqdask.specs import ArchiveSpec, ReadSpec
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore, checksum

TARGET_RATIO, TARGET_MEMORY = 2.0, 1024  # ingest / (read + write); MiB a worker
Times = dict[str, list[float]]  # milliseconds a frame, one a repetition


def reference(sources: list[str], place: Path, spec: ArchiveSpec) -> tuple[Clock, Clock]:
    """Read every frame with astropy and write it with zarr, as ingest stores it."""
    read, write = Clock(), Clock()
    array = zarr.create_array(
        str(place), shape=(len(sources), *spec.shape), dtype=spec.dtype, chunks=spec.chunk_shape,
        shards=spec.shard_shape, compressors=layout.compressors(spec.codec, spec.dtype), fill_value=0,
    )  # fmt: skip
    for row, source in enumerate(sources):
        with read:
            image = fits.getdata(source)
        assert image.dtype.isnative
        assert str(image.dtype) == spec.dtype
        with write:
            array[row] = image
    return read, write


def compare(sources: list[str], folder: Path, spec: ArchiveSpec, times: Times) -> None:
    """One turn of the reference and of `aqdask.ingest` in this process."""
    read, write = reference(sources, folder / "reference.zarr", spec)
    ingest = Clock()
    with ingest:
        aq.ingest(sources, folder / "archive.zarr", cluster="serial")
    scale = 1000 / len(sources)
    for name, clock in (("astropy read", read), ("zarr write", write), ("ingest", ingest)):
        times[name].append(clock.wall * scale)
        times[f"{name}, cpu"].append(clock.cpu * scale)
    for suffix in ("", ", cpu"):
        both = times["astropy read" + suffix][-1] + times["zarr write" + suffix][-1]
        times["sum" + suffix].append(both)
        times["ratio" + suffix].append(times["ingest" + suffix][-1] / both)
    for name in ("reference.zarr", "archive.zarr"):
        shutil.rmtree(folder / name)


def stages(sources: list[str], archive: Path, times: Times) -> None:
    """Each step of taking one frame in, alone: processor time."""
    store = FrameStore.open(archive, writable=True)
    clocks: dict[str, Clock] = defaultdict(Clock)
    some = sources[: helpers.DISTINCT]
    for row, source in enumerate(some):
        with clocks["whole"]:
            frame = read_frame(source, 0, ReadSpec())
        raw = load_bytes(source)
        with clocks["sha256 of the file"]:
            hashlib.sha256(raw).hexdigest()
        with clocks["crc32c of the pixels"]:
            checksum(frame.image, frame.invalid)
        with clocks["write the shard"]:
            store.write(row, frame.image, frame.invalid)
    clocks["read and decode"] = Clock(cpu=clocks["whole"].cpu - clocks["sha256 of the file"].cpu)
    for name, clock in clocks.items():
        if name != "whole":
            times[name].append(clock.cpu * 1000 / len(some))


def ingest_there(sources: list[str], place: Path, executor: Executor) -> float:
    """Milliseconds a frame on a cluster that is up."""
    with Clock() as clock:
        aq.ingest(sources, place, cluster=executor)
    shutil.rmtree(place)
    return clock.wall * 1000 / len(sources)


def ingest_here(sources: list[str], place: str) -> None:
    """For a process of its own."""
    aq.ingest(sources, place, cluster="serial")


def memory(archives: list[list[str]], place: Path) -> list[float]:
    """Peak of one fresh process when started, and after it took in each of ``archives`` in turn, serial."""
    with helpers.new_process() as call:
        peaks = [call(helpers.peak_memory)]
        for sources in archives:
            call(ingest_here, sources, str(place))
            peaks.append(call(helpers.peak_memory))
            shutil.rmtree(place)
    return peaks


def main() -> int:
    """Measure, print, and write JSON where asked."""
    arguments = helpers.parser(__doc__.splitlines()[0], frames=16, long=4, repeat=5).parse_args()
    environment = helpers.print_header("bench_ingest: FITS to zarr", arguments)
    frames = arguments.frames
    with helpers.scratch(arguments.folder) as folder:
        everything = helpers.source_frames(folder, arguments.long * frames, arguments.size, arguments.seed)
        sources = everything[:frames]
        one, many, local = defaultdict(list), defaultdict(list), []
        kept = folder / "kept.zarr"
        aq.ingest(sources[: helpers.DISTINCT], kept, cluster="serial")  # also imports and warms everything
        spec = FrameStore.open(kept).spec
        with connect(f"local:{arguments.workers}") as executor:
            workers = [helpers.peak_of_workers(executor)]
            aq.ingest(sources[: helpers.DISTINCT], folder / "warm.zarr", cluster=executor)
            for _ in range(arguments.repeat):
                with helpers.cores(1):
                    compare(sources, folder, spec, one)
                    stages(sources, kept, one)
                compare(sources, folder, spec, many)
                local.append(ingest_there(sources, folder / "archive.zarr", executor))
            workers.append(helpers.peak_of_workers(executor))
            ingest_there(everything, folder / "archive.zarr", executor)
            workers.append(helpers.peak_of_workers(executor))
        peaks = {
            "serial": memory([sources, everything], folder / "archive.zarr"),
            f"local, the largest of {arguments.workers}": workers,
        }
    show(one, many, local, peaks, (frames, len(everything)), arguments.size)
    results = {"one core": one, "all cores": many, "local": local, "peak MiB": peaks}
    helpers.write_json(arguments.json, environment, arguments, results)
    return 0


def show(
    one: Times,
    many: Times,
    local: list[float],
    peaks: dict[str, list[float]],
    lengths: tuple[int, int],
    size: int,
) -> None:
    """Tables on stdout."""
    rows = []
    for name in ("astropy read", "zarr write", "sum", "ingest"):
        label = "ingest, serial" if name == "ingest" else name
        rows.append((label, *(spread(t[name + s]) for t in (one, many) for s in ("", ", cpu"))))
    cells = [spread(t["ratio" + s], 2) for t in (one, many) for s in ("", ", cpu")]
    rows.append(("ratio ingest / sum", *cells))
    columns = ("ms a frame", "one core, wall", "one core, cpu", "all cores, wall", "all cores, cpu")
    helpers.print_table("Median (min - max) of the repetitions", columns, rows)

    ratio = [there / here for there, here in zip(local, many["sum"], strict=True)]
    helpers.print_table(
        "Local cluster (already up), all cores, wall",
        ("", "ms a frame", "ratio to the sum"),
        [("ingest", spread(local), spread(ratio, 2))],
    )

    names = ("read and decode", "sha256 of the file", "crc32c of the pixels", "write the shard")
    parts = {name: statistics.median(one[name]) for name in names}
    rest = statistics.median(one["ingest, cpu"]) - sum(parts.values())
    table = [(name, f"{value:.1f}") for name, value in parts.items()]
    table.append(("headers, manifest, ledger, metadata (what is left)", f"{rest:.1f}"))
    helpers.print_table("Where a frame's processor time goes", ("stage", "ms a frame, cpu"), table)

    table = [(where, *(f"{peak:.0f}" for peak in found)) for where, found in peaks.items()]
    columns = ("process", "started", f"after {lengths[0]} frames", f"then {lengths[1]} frames")
    helpers.print_table("Peak resident memory, MiB", columns, table)

    ratios = {where: statistics.median(t["ratio"]) for where, t in (("one core", one), ("all cores", many))}
    reached = {
        f"ingest at most {TARGET_RATIO} x the sum, {where}": ratio <= TARGET_RATIO
        for where, ratio in ratios.items()
    }
    reached[f"a process at most {TARGET_MEMORY} MiB"] = max(map(max, peaks.values())) <= TARGET_MEMORY
    helpers.print_targets(size, reached)


if __name__ == "__main__":
    sys.exit(main())
