"""A million frames: planning, opening, info, the table, verification, the ledger, each in its own process.

    python benchmarks/bench_million.py [--frames 1000000] [--folder DIR] [--json FILE]

The archive is synthetic. Its sources are empty files; its ledger and its 1-D arrays are written by the store
layer as a run would leave them, without one pixel and without one map. Nine frames of ten have a score, the
rest is to be scored. What depends on pixels (reading, scoring, masks) is not measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np

SIDE, SHARD, PER_FOLDER = 4096, 16, 4096
CARDS = "".join(f"KEY{n:<5}= {n:>20} / a card of a frame of the benchmark".ljust(80) for n in range(36))
GOALS = {  # seconds and MiB, for a million frames
    "plan a score": (30, 2048), "plan an ingest": (30, 2048), "open_frames": (5, 1024),
    "open_quality": (5, 1024), "info": (5, 1024), "export the table": (60, None),
}  # fmt: skip


class Fed(Exception):
    """The first tasks have been taken from the queue."""


class Planned:
    """Executor that takes the first tasks of a run and ends it."""

    dashboard, slots = "", 1000

    def run(self, function: Any, queue: Any, *, stage: str) -> Iterator[Any]:
        """End the run at the first stage with tasks."""
        if queue.take(3000):
            raise Fed
        yield from ()

    def provide(self, bundle: bytes, digest: str, precision: str = "fp32") -> None:
        """Do nothing: no worker needs the model."""

    def avoid(self, worker: str, why: str) -> None:
        """Do nothing."""


def source(folder: Path, row: int) -> Path:
    """Path of one source."""
    return folder / "sources" / f"{row // PER_FOLDER:05d}" / f"frame_{row:07d}.fits"


def make_sources(folder: Path, frames: int) -> None:
    """Create the empty files."""
    for row in range(frames):
        path = source(folder, row)
        if row % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.touch()


def registered(folder: Path, row: int, is_file: bool = True) -> dict[str, Any]:
    """Record of a source as `register` writes it."""
    path = source(folder, row)
    mtime_ns = path.stat().st_mtime_ns if is_file else 0
    return {
        "event": "register", "frame_id": str(path.relative_to(folder / "sources")), "path": str(path),
        "size": 0, "mtime_ns": mtime_ns, "hdu": 0, "row": row, "suffix": "",
        "state": "pending", "reason": "", "card": f"{row:08x}", "frame_type": "light",
    }  # fmt: skip


def ingested(frame_id: str, row: int) -> dict[str, Any]:
    """Record of stored pixels."""
    return {
        "event": "ingest", "frame_id": frame_id, "seconds": 0.5, "state": "done",
        "sha256": hashlib.sha256(frame_id.encode()).hexdigest(), "crc32c": f"{row * 7919 % 2**32:08x}",
        "card": f"{row:08x}", "frame_type": "light",
    }  # fmt: skip


def append(
    folder: Path, archive: Path, frames: int, scored: float = 0.9, are_files: bool = True
) -> dict[str, float]:
    """Write the ledger and the coordinates, a fraction ``scored``; return the seconds of the ledger alone."""
    from aqdask import api
    from aqdask.execution import quality_groups
    from aqdask.methods.shipped import SHIPPED
    from aqdask.specs import ArchiveSpec
    from aqdask.store import layout
    from aqdask.store.frame_store import FrameStore
    from aqdask.store.ledger import open_ledger
    from aqdask.store.quality_store import QualityStore

    bundle = api.load_model(SHIPPED)
    spec = ArchiveSpec((SIDE, SIDE), "uint16", frames_per_shard=SHARD)
    root = layout.create(archive, spec, created_by="bench_million")
    store = FrameStore.create(root)
    store.grow(frames)
    made = quality_groups.spec_of(bundle, spec)
    quality = QualityStore.create(root, made, bundle.contents)
    quality.grow(frames)
    quality_groups.record_versions(quality.group)
    whole = {name: quality.group[name].dtype.kind in "iu" for name in quality.frame_variables}
    ledger = open_ledger(root)
    ledger.append([made.record()])
    clock, random = helpers.Clock(), np.random.default_rng(1)
    for start in range(0, frames, layout.ROWS_PER_CHUNK):
        rows = range(start, min(frames, start + layout.ROWS_PER_CHUNK))
        records = [registered(folder, row, are_files) for row in rows]
        store.write_columns(start, [
            (r["frame_id"], r["path"], 0, 10**15 + row, 60.0, "L", "SIMCAM", CARDS, "")
            for row, r in zip(rows, records, strict=True)
        ])  # fmt: skip
        numbers = random.random((len(rows), len(whole))).astype("float32").tolist()
        values = {row: {name: int(2 * v) if whole[name] else v for name, v in zip(whole, line, strict=True)}
                  for row, line in zip(rows, numbers, strict=True) if row < frames * scored}  # fmt: skip
        if values:
            quality.write_frame_values(values)
        records += [ingested(r["frame_id"], row) for row, r in zip(rows, list(records), strict=True)]
        records += [
            {"event": "score", "frame_id": r["frame_id"], "quality": made.name, "state": "done",
             "source": f"{row * 7919 % 2**32:08x}", "crc32c": f"{row * 104729 % 2**32:08x}",
             "values": values[row]}
            for row, r in zip(rows, records[: len(rows)], strict=True) if row in values
        ]  # fmt: skip
        with clock:
            ledger.append(records)
    with clock:
        ledger.flush()
    layout.consolidate(root)
    return {"ledger seconds": clock.wall, "records": frames * (2 + scored)}


def read_segments(archive: Path) -> None:
    """Read a ledger that no one has merged."""
    from aqdask.store import layout
    from aqdask.store.ledger import open_ledger

    open_ledger(layout.open_root(archive)).counts()


def merge(archive: Path) -> dict[str, float]:
    """Merge the segments of the ledger."""
    from aqdask.store import layout
    from aqdask.store.ledger import open_ledger

    ledger = open_ledger(layout.open_root(archive, writable=True))
    clock = helpers.Clock()
    with clock:
        ledger.compact()
    return {"ledger seconds": clock.wall}


def plan_score(archive: Path) -> None:
    """`aqdask score` until its first tasks are handed to the executor."""
    from aqdask import api
    from aqdask.methods.shipped import SHIPPED

    with contextlib.suppress(Fed):
        api.score(archive, api.load_model(SHIPPED), cluster=Planned())


def plan_ingest(archive: Path) -> None:
    """`aqdask ingest` of the same sources: scan, comparison with the ledger, nothing to do."""
    from aqdask import api

    with contextlib.suppress(Fed):
        api.ingest(archive.parent / "sources", archive, cluster=Planned())


def open_frames(archive: Path) -> None:
    """`aqdask.open_frames`, and one look at a coordinate."""
    from aqdask import api

    frames = api.open_frames(archive)
    assert str(frames["state"][-1].values) == "done"


def open_quality(archive: Path) -> None:
    """`aqdask.open_quality`, and one look at a coordinate."""
    from aqdask import api

    quality = api.open_quality(archive)
    assert str(quality["state"][1].values) == "done"


def command(*words: str, code: int = 0) -> None:
    """Run a command in this process; another exit code than ``code`` is an error."""
    from aqdask.cli import aqdask

    with contextlib.redirect_stdout(io.StringIO()) as told:
        try:
            found = aqdask.main(args=list(words), standalone_mode=False)
        except SystemExit as end:
            found = end.code
    if (found or 0) != code:
        raise RuntimeError(f"exit code {found}: {told.getvalue()[-2000:]}")


PARTS: dict[str, Callable[[Path], Any]] = {
    "read unmerged segments": read_segments,
    "merge": merge,
    "info": lambda archive: command("info", str(archive)),
    "open_frames": open_frames,
    "open_quality": open_quality,
    "plan a score": plan_score,
    "plan an ingest": plan_ingest,
    "export the table": lambda archive: command(
        "export", str(archive), str(archive.parent / "products"), "--alpha", "0.01", "--table",
        "--cluster", "serial",
    ),
    "verify --sample 100": lambda archive: command(
        "verify", str(archive), "--sample", "100", "--cluster", "serial",
        code=3,  # every frame of the sample counts as damaged: none has pixels
    ),
}  # fmt: skip


def run_part(name: str, folder: Path, frames: int) -> dict[str, float]:
    """Run one part in this process."""
    archive, clock = folder / "night.zarr", helpers.Clock()
    with clock:
        found = append(folder, archive, frames) if name == "append" else PARTS[name](archive)
    return {"wall": clock.wall, "cpu": clock.cpu, "peak": helpers.peak_memory(), **(found or {})}


def in_its_own_process(name: str, folder: Path, frames: int) -> dict[str, float]:
    """Run one part in a fresh process, and add its whole wall time, with the start of Python."""
    words = ["--part", name, "--folder", str(folder), "--frames", str(frames)]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - start}


def main() -> int:
    """Build the archive, measure its parts, print a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--frames", type=int, default=1_000_000, help="frames of the archive (%(default)s)")
    options.add_argument("--folder", help="scratch space is made in this folder and removed afterwards")
    options.add_argument("--keep", help="use this folder, and keep it")
    options.add_argument("--only", help="parts, separated by commas; with --keep")
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    arguments = options.parse_args()
    if arguments.part:
        print(json.dumps(run_part(arguments.part, Path(arguments.folder), arguments.frames)))
        return 0
    environment = helpers.print_header("bench_million: archives without pixels", arguments)
    place = (
        contextlib.nullcontext(Path(arguments.keep)) if arguments.keep else helpers.scratch(arguments.folder)
    )
    found = {}
    with place as folder:
        if not (folder / "night.zarr").exists():
            make_sources(folder, arguments.frames)
            found["append"] = in_its_own_process("append", folder, arguments.frames)
            show(found)
        for name in arguments.only.split(",") if arguments.only else PARTS:
            found[name] = in_its_own_process(name, folder, arguments.frames)
            show({name: found[name]})
    print()
    for name, numbers in found.items():
        show({name: numbers}, arguments.frames)
    helpers.write_json(arguments.json, environment, arguments, found)
    return 0


def show(found: dict[str, dict[str, float]], frames: int = 0) -> None:
    """Print one line a part; with the goals where the archive has a million frames."""
    for name, about in found.items():
        seconds, memory = GOALS.get(name, (None, None)) if frames == 1_000_000 else (None, None)
        good = seconds is None or (about["wall"] <= seconds and (not memory or about["peak"] <= memory))
        goal = "" if seconds is None else f"  {'reached' if good else 'MISSED'} ({seconds} s, {memory} MiB)"
        more = f", ledger {about['ledger seconds']:.2f} s" if "ledger seconds" in about else ""
        times = f"cpu {about['cpu']:.2f} s, whole process {about['whole']:.2f} s{more}"
        print(f"{name:24} {about['wall']:8.2f} s {about['peak']:7.0f} MiB  ({times}){goal}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
