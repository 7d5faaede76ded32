"""The paper's archive, 600 GWAC-like frames of which half are spoilt, once through the command.

    python benchmarks/science/whole_archive.py [--frames 600] [--photometry 60] [--workers 2] [--size 4096]

Frames are drawn in parts (`archive.gwac_frame`) and removed once they are ingested, so that the disk holds
the archive alone. `wide-field` is calibrated on 20 good frames of other seeds; then all frames are scored and
exported. Photometry, detections and difference images behind the masks are measured on the first frames.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from archive import NOTHING, ORACLE, _scatter, _together, gwac_frame, gwac_scene
from astropy.io import fits
from draws import Patches
from seeds import SEEDS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import helpers

import aqdask as aq
from aqdask.execution.clusters import connect
from aqdask.photometry.false_alarms import DetectionCounts, find_candidates, find_detections
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_pixels
from aqdask.stats.patches import stitch

PART, REFERENCES, ALPHA = 40, 20, 0.01
MASK = "aqdask"
COLUMNS = (
    "mask", "rms [mag]", "of the true mask's", "untouched masked", "spurious left", "real left",
    "spurious candidates left", "transients left",
)  # fmt: skip


def write(path: Path, frame: SimulatedFrame) -> str:
    """Write a frame as FITS."""
    hdu = fits.PrimaryHDU(frame.image)
    for name, value in frame.header.items():
        hdu.header[name] = value
    hdu.writeto(path)
    return str(path)


def write_reference(folder: Path, size: int, number: int) -> str:
    """Draw a good frame of other seeds."""
    frame = simulate_frame(gwac_scene(size), seed=SEEDS["archive_reference"] + number)
    return write(folder / f"reference_{number:03d}.fits", frame)


def write_numbered(folder: Path, size: int, number: int) -> str:
    """Draw and write one frame of the archive."""
    return write(folder / f"frame_{number:04d}.fits", gwac_frame(number, size).frame)


def behind_masks(archive: Path, model: aq.Bundle, size: int, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Compare the mask of the archive with none and with the true one, on some of its frames."""
    quality = aq.open_quality(archive)
    rows = {str(frame): row for row, frame in enumerate(quality["frame_id"].values)}
    scatter: dict[str, list[tuple[int, float]]] = {name: [] for name in (NOTHING, MASK, ORACLE)}
    found = {name: DetectionCounts() for name in scatter}
    differences = {name: DetectionCounts() for name in scatter}
    lost, before = [], None
    for number in numbers:
        one = gwac_frame(number, size)
        frame, grid, patches = one.frame, PatchGrid(*one.frame.image.shape), Patches.of(one.frame)
        pvalues = quality["pvalue"].values[rows[f"frame_{number:04d}.fits"]]
        masks = {
            NOTHING: np.zeros(frame.image.shape, bool),
            MASK: bad_pixels(pvalues, ALPHA, grid),
            ORACLE: stitch(patches.affected, grid),
        }
        lost.append((~(pvalues > ALPHA))[~patches.touched])
        seen = find_detections(frame.image, frame.stars)
        for name, mask in masks.items():
            scatter[name].append(_scatter(one.scene, frame, mask))
            found[name] += seen.counts(mask)
        if before is not None and number % 2:
            first, masks_first = before
            images = first.frame.image, frame.image
            about = {"gain": one.scene.gain, "saturation": one.scene.saturation}
            candidates = find_candidates(*images, first.frame.stars, one.transients, **about)
            for name, mask in masks.items():
                differences[name] += candidates.counts(masks_first[name], mask)
        before = one, masks
    best = _together(scatter[ORACLE])
    return [
        [
            name, f"{_together(scatter[name]):.4f}", f"{_together(scatter[name]) / best:.2f}",
            f"{np.concatenate(lost).mean():.4f}" if name == MASK else "",
            found[name].spurious_kept, found[name].real_kept,
            differences[name].spurious_kept, differences[name].real_kept,
        ]
        for name in scatter
    ]  # fmt: skip


def timed(times: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """Add the wall seconds of a piece of work."""
    started = time.perf_counter()
    try:
        return work()
    finally:
        times[name] = times.get(name, 0) + time.perf_counter() - started


def parts(count: int) -> Iterator[range]:
    """Yield ranges of `PART` frames."""
    return (range(first, min(first + PART, count)) for first in range(0, count, PART))


def main() -> None:
    """Run everything and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--photometry", type=int, default=60, help="frames measured behind masks")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder")
    options = parser.parse_args()
    helpers.print_header("whole_archive: the paper's archive through the command", options)
    times: dict[str, float] = {}
    pool = ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"))
    with helpers.scratch(options.folder) as folder, pool, connect(f"local:{options.workers}") as executor:
        archive, sources = folder / "night.zarr", folder / "frames"
        sources.mkdir()
        draw = partial(write_reference, sources, options.size)
        references = timed(times, "draw", lambda: list(pool.map(draw, range(REFERENCES))))
        aq.ingest(references, folder / "references.zarr", cluster=executor)
        model = timed(
            times, "calibrate",
            lambda: aq.calibrate(folder / "references.zarr", "wide-field", frames=["*"], cluster=executor),
        )  # fmt: skip
        for numbers in parts(options.frames):
            shutil.rmtree(sources)
            sources.mkdir()
            draw = partial(write_numbered, sources, options.size)
            written = timed(times, "draw", lambda n=numbers, d=draw: list(pool.map(d, n)))
            timed(times, "ingest", lambda w=written: aq.ingest(w, archive, cluster=executor))
            print(f"{numbers.stop} frames drawn and ingested, {sum(times.values()):.0f} s", flush=True)
        timed(times, "score", lambda: aq.score(archive, model, cluster=executor))
        table = timed(times, "export", lambda: aq.export(archive, folder / "products", cluster=executor))
        peak = helpers.peak_of_workers(executor)
        size = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
        rows = [(n, f"{s:.0f}", f"{1000 * s / options.frames:.0f}") for n, s in times.items()]
        title = f"{options.frames} frames, {options.workers} workers"
        helpers.print_table(title, ("step", "s", "ms a frame"), rows)
        masked = np.array(table["masked_fraction"].to_pylist())
        good, spoilt = (np.median(masked[first::2]) for first in (0, 1))
        print(f"\nmasked, median: good frames {good:.4f}, spoilt ones {spoilt:.4f}")
        print(f"largest worker {peak:.0f} MiB, archive {size / 2**30:.1f} GiB", flush=True)
        some = range(min(options.photometry, options.frames))
        title = f"The first {len(some)} frames behind masks at alpha {ALPHA}"
        helpers.print_table(title, COLUMNS, behind_masks(archive, model, options.size, some))


if __name__ == "__main__":
    main()
