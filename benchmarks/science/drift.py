"""Change points of `aqdask drift`: false ones, recall of steps and trends, seconds and memory.

    python benchmarks/science/drift.py [--quick] [--parts series archives] [--folder DIR]

Series of numbers: stationary ones (independent, and correlated as an autoregressive process of the first
order), with steps in the middle, and with linear trends. Then synthetic archives, written by the store layer
as a run would leave them: 256 px a side (16 patches), 200 frames a night, a step of the size in the middle, a
hot pixel from a third on, and flagged frames. `PENALTY` and `CLIPPED` were chosen with other seeds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import helpers
import output

from aqdask.methods.bundle import Bundle
from aqdask.stats.change_points import TREND, change_points

SEED = 25_100_000
SIDE, SHARD = 256, 16
START = int(np.datetime64("2022-01-05T20:00:00", "us").astype(np.int64))
DAY, MINUTE = 86_400_000_000, 60_000_000
CLOSE = 5  # units from the true step that count as found
PER_NIGHT = 200
LENGTHS = (40, 100, 365, 1000)
MAPS = 100_000  # frames of the longest archive with maps
PARTS = ("series", "archives")


def write_scored(
    place: Path,
    bundle: Bundle,
    times: np.ndarray,
    values: Mapping[str, np.ndarray],
    masked: Callable[[int], Mapping[tuple[int, int], str]] | None = lambda row: {},
    camera: str = "SIMCAM",
) -> None:
    """Write an archive of frames that are scored, without pixels.

    Parameters
    ----------
    place : Path
        The archive.
    bundle : Bundle
        Its model, of the method 'aqdask'.
    times : ndarray (n,)
        int64, microseconds since 1970, the smallest one for none.
    values : mapping of str to ndarray (n,)
        Frame-level variables; others are usual ones.
    masked : callable
        Gives the masked patches of a row, ``(y, x)`` to the name of a reason; None writes no maps.
    camera : str
        Of all frames; their filter is L.
    """
    from aqdask import flags
    from aqdask.execution import quality_groups
    from aqdask.specs import ArchiveSpec
    from aqdask.store import layout
    from aqdask.store.frame_store import FrameStore
    from aqdask.store.ledger import open_ledger
    from aqdask.store.quality_store import QualityStore

    spec, frames = ArchiveSpec((SIDE, SIDE), "uint16", frames_per_shard=SHARD), len(times)
    root = layout.create(place, spec, created_by="drift")
    store, made = FrameStore.create(root), quality_groups.spec_of(bundle, spec)
    store.grow(frames)
    quality = QualityStore.create(root, made, bundle.contents)
    quality.grow(frames)
    ledger = open_ledger(root)
    ledger.append([made.record()])
    usual = dict.fromkeys(quality.frame_variables, 0.0) | {"frame_size_ratio": 1.0, "frame_noise_ratio": 1.0}
    for start in range(0, frames, layout.ROWS_PER_CHUNK):
        rows = range(start, min(frames, start + layout.ROWS_PER_CHUNK))
        names = [f"f{row:07d}.fits" for row in rows]
        store.write_columns(start, [
            (name, f"/{name}", 0, int(times[row]), 60.0, "L", camera, "", "")
            for row, name in zip(rows, names, strict=True)
        ])  # fmt: skip
        found = {row: usual | {name: float(column[row]) for name, column in values.items()} for row in rows}
        quality.write_frame_values(found)
        ledger.append([record for row, name in zip(rows, names, strict=True)
                       for record in _records(row, name, made.name, found[row])])  # fmt: skip
    ledger.close()
    if masked is None:
        layout.consolidate(root)
        return
    arrays = {name: quality.group[name] for name in ("pvalue", "reason")}
    shape = made.grid.shape
    for start in range(0, frames, SHARD):
        pvalue, reason = np.full((SHARD, *shape), 0.5, np.float32), np.ones((SHARD, *shape), np.uint8)
        for row in range(start, min(start + SHARD, frames)):
            for patch, why in masked(row).items():
                pvalue[(row - start, *patch)] = 1e-4
                reason[(row - start, *patch)] = flags.code(flags.REASONS, why)
        stop = min(SHARD, frames - start)
        block = {"pvalue": pvalue[:stop], "reason": reason[:stop]}
        layout.write_shards((start // SHARD, 0, 0), [(arrays[name], block[name]) for name in arrays])
    layout.consolidate(root)


def _records(row: int, name: str, quality: str, values: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Records of one frame in the ledger, as a run leaves them."""
    about = {"frame_id": name, "frame_type": "light", "card": f"{row:08x}"}
    yield {"event": "register", **about, "path": f"/{name}", "size": 0, "mtime_ns": 0, "hdu": 0, "row": row,
           "suffix": "", "state": "pending", "reason": ""}  # fmt: skip
    yield {
        "event": "ingest",
        **about,
        "state": "done",
        "sha256": "0" * 64,
        "crc32c": f"{row:08x}",
        "seconds": 0.0,
    }
    yield {"event": "score", "frame_id": name, "quality": quality, "state": "done", "source": f"{row:08x}",
           "crc32c": "0", "values": dict(values)}  # fmt: skip


def noise(rng: np.random.Generator, count: int, phi: float = 0.0) -> np.ndarray:
    """Stationary noise of unit variance; neighbours have the correlation ``phi``."""
    found = rng.standard_normal(count)
    for at in range(1, count if phi else 0):
        found[at] = phi * found[at - 1] + np.sqrt(1 - phi**2) * found[at]
    return found


def false_ones(values: int) -> list[list[Any]]:
    """Count changes of stationary series with so many values in all."""
    rows = []
    for phi in (0.0, 0.3, 0.6, 0.8):
        for count in LENGTHS:
            series = max(values // count, 10)
            rngs = (np.random.default_rng([SEED, 1, count, int(10 * phi), k]) for k in range(series))
            found = np.array([len(change_points(noise(rng, count, phi))) for rng in rngs])
            rate = 1000 * found.sum() / (count * series)
            rows.append([f"{phi:g}", count, series, f"{rate:.3f}", f"{(found > 0).mean():.3f}"])
    return rows


def recall(series: int) -> list[list[Any]]:
    """Fraction of steps found, with the median error of their place, and changes that are none."""
    rows = []
    for phi in (0.0, 0.3):
        for count in LENGTHS:
            for size in (1, 2, 3):
                errors, more = [], 0
                for k in range(series):
                    values = noise(
                        np.random.default_rng([SEED, 2, count, size, int(10 * phi), k]), count, phi
                    )
                    values[count // 2 :] += size
                    found = [abs(one.index - count // 2) for one in change_points(values)]
                    near = [error for error in found if error <= max(CLOSE, count // 20)]
                    errors += near[:1]
                    more += len(found) - len(near[:1])
                place = f"{np.median(errors):.1f}" if errors else "-"
                rows.append([f"{phi:g}", count, f"{size} sigma", f"{len(errors) / series:.2f}", place,
                             f"{more / series:.3f}"])  # fmt: skip
    return rows


def trends(series: int) -> list[list[Any]]:
    """Fraction of trends found at all, and as one trend."""
    rows = []
    for count in LENGTHS:
        for size in (1, 2, 3, 5):
            kinds = []
            for k in range(series):
                rng = np.random.default_rng([SEED, 3, count, size, k])
                kinds.append(
                    [one.kind for one in change_points(noise(rng, count) + size * np.linspace(0, 1, count))]
                )
            rows.append([count, f"{size} sigma", f"{np.mean([bool(found) for found in kinds]):.2f}",
                         f"{np.mean([found == [TREND] for found in kinds]):.2f}"])  # fmt: skip
    return rows


def outliers(series: int) -> list[list[Any]]:
    """Changes of stationary series with outliers of 10 sigma, single ones and in runs of four."""
    rows = []
    for name, run in (("single", 1), ("runs of 4", 4)):
        found = []
        for k in range(series):
            rng = np.random.default_rng([SEED, 4, run, k])
            values = noise(rng, 365)
            for at in rng.integers(0, 361, 36 // run):
                values[at : at + run] += 10
            found.append(len(change_points(values)))
        rows.append(
            [
                name,
                "10 %",
                f"{1000 * np.sum(found) / (365 * series):.3f}",
                f"{np.mean(np.array(found) > 0):.3f}",
            ]
        )
    return rows


def make(place: Path, frames: int) -> None:
    """Write an archive with a step of the size in the middle."""
    from aqdask import api

    rng, row = np.random.default_rng(SEED), np.arange(frames)
    night, within = np.divmod(row, PER_NIGHT)
    seeing = rng.normal(1, 0.05, night[-1] + 1)[night]
    values = {
        "frame_size_ratio": seeing + rng.normal(0, 0.03, frames) + 0.2 * (row >= frames // 2),
        "frame_noise_ratio": rng.normal(1, 0.01, frames), "frame_sky": rng.normal(1200, 60, frames),
        "frame_ellipticity": np.abs(rng.normal(0.03, 0.01, frames)),
        "frame_flag": (rng.random(frames) < 0.05).astype(float),
    }  # fmt: skip
    hot: dict[tuple[int, int], str] = {(1, 2): "spike"}
    masked = (lambda at: hot if at >= frames // 3 else {}) if frames <= MAPS else None
    write_scored(place, api.load_model("wide-field"), START + night * DAY + within * MINUTE, values, masked)


def measure(place: Path, maps: bool) -> dict[str, float]:
    """Find the changes of an archive: seconds, peak memory and the changes."""
    from aqdask import api

    started, cpu = time.perf_counter(), time.process_time()
    found = api.drift(place, maps=maps)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    told = "; ".join(f"{one.quantity} {one.time.astype('datetime64[D]')}" for one in found.changes)
    print(f"  {place.name}, maps {maps}: {told}", file=sys.stderr)
    return {"seconds": seconds, "cpu": cpu, "MiB": helpers.peak_memory(), "changes": len(found.changes)}


def archives(folder: Path, lengths: tuple[int, ...]) -> Iterator[list[Any]]:
    """Yield seconds and peak memory of a process that finds the changes of an archive.

    An archive that the folder holds already is taken as it is.
    """
    for frames in lengths:
        place = folder / f"{frames}.zarr"
        if not place.exists():
            make(place, frames)
        for maps in (False, True)[: 2 if frames <= MAPS else 1]:
            with helpers.new_process() as call:
                found = call(measure, place, maps)
            cost = f"{found['seconds']:.1f}", f"{found['cpu']:.1f}", f"{found['MiB']:.0f}"
            yield [f"{frames:,}", "yes" if maps else "no", *cost, found["changes"]]


def show_series(*, quick: bool) -> None:
    """Print the tables of series of numbers."""
    series = 20 if quick else 200
    columns = ("correlation", "length", "series", "false changes per 1000", "series with any")
    print(output.markdown("Stationary series", columns, false_ones(2000 if quick else 100_000)))
    columns = ("outliers", "share", "false changes per 1000", "series with any")
    print(output.markdown("Stationary series of 365 with outliers of 10 sigma", columns, outliers(series)))
    columns = ("correlation", "length", "step", "found", "median error of the place", "others a series")
    print(output.markdown("A step in the middle", columns, recall(series)))
    columns = ("length", "change", "found", "as one trend")
    print(output.markdown("A trend over the whole series", columns, trends(series)))


def main() -> int:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few series and short archives")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which tables")
    parser.add_argument("--folder", type=Path, help="archives are made and kept here, or taken from here")
    arguments = parser.parse_args()
    for name, value in helpers.environment().items():
        print(f"- {name}: {value}")
    if "series" in arguments.parts:
        show_series(quick=arguments.quick)
    if "archives" in arguments.parts:
        lengths = (2_000,) if arguments.quick else (100_000, 1_000_000)
        rows = []
        with helpers.scratch(None) as scratch:
            for row in archives(arguments.folder or scratch, lengths):
                print(*row, file=sys.stderr, flush=True)
                rows.append(row)
        columns = ("frames", "maps", "seconds", "of the processor", "peak MiB", "changes")
        print(output.markdown("Archives", columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
