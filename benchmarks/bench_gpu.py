"""Scoring on a GPU: agreement with the processor, parts of a frame's time, frames a second of an archive.

    python benchmarks/bench_gpu.py [--frames 128] [--processes 1 4 8 16] [--device cuda]

Masks are compared on frames of `aqdask demo` with defects. Timed are good ones, from the page cache.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import helpers
import numpy as np
import psutil
import torch
from astropy.io import fits

import aqdask as aq
from aqdask.execution import config
from aqdask.execution.clusters import connect
from aqdask.execution.model_cache import load_cached
from aqdask.execution.reporter import Silent
from aqdask.methods.base import score_frame
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.simulate.demo import demo_plan, write_demo_frame
from aqdask.specs import PatchGrid
from aqdask.store.frame_store import FrameStore

ALPHA = 0.01
CAMERA = "simulator", "L"


def milliseconds(work: Callable[[], object], repeat: int, device: str) -> tuple[str, str]:
    """Median wall and processor time of a piece of work."""
    walls, cpus = [], []
    for _ in range(repeat + 1):
        started, cpu = time.perf_counter(), time.process_time()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        walls.append(1000 * (time.perf_counter() - started))
        cpus.append(1000 * (time.process_time() - cpu))
    return f"{statistics.median(walls[1:]):.1f}", f"{statistics.median(cpus[1:]):.1f}"


def agreement(images: Sequence[np.ndarray], model: aq.Bundle, device: str) -> list[list[str]]:
    """Masks of a device beside those of the processor in fp32."""
    wanted = [
        score_frame(load_cached(model.contents, model.digest, "fp32", "cpu"), i, None, *CAMERA)
        for i in images
    ]
    rows = []
    for place, precision in (("cpu", "bf16"), (device, "fp32"), (device, "bf16")):
        scorer = load_cached(model.contents, model.digest, precision, place)
        found = [score_frame(scorer, image, None, *CAMERA) for image in images]
        pairs = [(a["pvalue"], b["pvalue"]) for a, b in zip(found, wanted, strict=True)]
        moved = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
        shifts = [np.abs(a["score"] - b["score"]) for a, b in zip(found, wanted, strict=True)]
        differ = [((a <= ALPHA) != (b <= ALPHA)).mean() for a, b in pairs]
        masked = [(a <= ALPHA).mean() for a, _ in pairs]
        rows.append([
            f"{place} {precision}", f"{np.nanmedian(moved):.5f}", f"{np.nanmedian(shifts):.4f}",
            f"{np.mean(differ):.5f}", f"{max(differ):.5f}", f"{np.mean(masked):.4f}",
        ])  # fmt: skip
    return rows


def parts(image: np.ndarray, model: aq.Bundle, device: str, precision: str, archive: Path) -> list[list[str]]:
    """Time of the parts of one frame in one process."""
    scorer = load_cached(model.contents, model.digest, precision, device)
    assert isinstance(scorer, NoiseAwareScorer)
    grid = PatchGrid(*image.shape, scorer.patch)
    features = scorer.extract_frame(image, None, grid, *CAMERA).reshape(*grid.shape, -1)
    store = FrameStore.open(archive)
    steps: dict[str, Callable[[], object]] = {
        "read and decode from zarr": lambda: store.read(0),
        "send the integers to the device": lambda: torch.from_numpy(image).to(device),
        "features, sending included": lambda: scorer.extract_frame(image, None, grid, *CAMERA),
        "decision, on the processor": lambda: scorer.score_features(features, *CAMERA),
        "whole frame": lambda: score_frame(scorer, image, None, *CAMERA),
    }
    return [[name, *milliseconds(work, 9, device)] for name, work in steps.items()]


@contextlib.contextmanager
def busy(found: dict[str, list[float]]) -> Iterator[None]:
    """Sample how busy GPU and processors are, in per cent, twice a second."""
    done = threading.Event()
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def watch() -> None:
        psutil.cpu_percent()
        while not done.wait(0.5):
            found["processors"].append(psutil.cpu_percent())
            with contextlib.suppress(OSError, ValueError):
                found["gpu"].append(float(subprocess.check_output(query, text=True).split()[0]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Counting(Silent):
    """Progress of a run as pairs of seconds and finished frames."""

    def __init__(self) -> None:
        self.done: list[tuple[float, int]] = []

    def advance(self, done: int, quarantined: int = 0) -> None:
        """Note the time of finished frames."""
        assert not quarantined
        self.done.append((time.perf_counter(), done))

    @property
    def rate(self) -> float:
        """Frames a second between the first answer and the last."""
        return sum(done for _, done in self.done[1:]) / (self.done[-1][0] - self.done[0][0])


def rates(
    sources: Sequence[str], folder: Path, model: aq.Bundle, cluster: str, numbers: Sequence[int]
) -> list[list[object]]:
    """Frames a second of `aqdask score` with warm processes, and what is busy meanwhile."""
    rows: list[list[object]] = []
    archive, warm = folder / "kept.zarr", folder / "warm.zarr"
    for number in numbers:
        found: dict[str, list[float]] = {"gpu": [], "processors": []}
        counting = Counting()
        with config.changed({"aqdask.workers": number, "aqdask.fsync": "off"}), connect(cluster) as executor:
            aq.run(sources[: 2 * number], warm, model, cluster=executor, frames_per_shard=1)
            aq.ingest(sources, archive, cluster=executor, frames_per_shard=4)
            started = time.perf_counter()
            with busy(found):
                aq.score(archive, model, cluster=executor, reporter=counting)
            whole = len(sources) / (time.perf_counter() - started)
        shares = (f"{statistics.median(values):.0f}" if values else "" for values in found.values())
        rows.append([number, f"{whole:.1f}", f"{counting.rate:.1f}", *shares])
        for place in (archive, warm):
            shutil.rmtree(place)
    return rows


def main() -> None:
    """Run everything and print tables."""
    parser = helpers.parser(__doc__, frames=128, long=1, repeat=1)
    parser.add_argument("--processes", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--spoilt", type=int, default=8, help="frames with defects whose masks are compared")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    helpers.print_header("bench_gpu: scoring on a GPU", options)
    if options.device == "cuda":
        print(f"  gpu        {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}", flush=True)
    torch.set_num_threads(1)
    model = aq.load_model("wide-field")
    with helpers.scratch(options.folder) as folder:
        sources = helpers.source_frames(folder, options.frames, options.size, options.seed)
        spoilt = demo_plan(30, options.size, options.seed)[-options.spoilt :]
        drawn = [write_demo_frame(folder / "spoilt", frame) for frame in spoilt]
        images = [fits.getdata(path).astype(np.uint16) for path in drawn]
        columns = [
            "on",
            "p-value moved, median",
            "score moved, median",
            "mask differs",
            "in the worst frame",
            "masked",
        ]
        rows = agreement(images, model, options.device)
        helpers.print_table(
            f"Against the processor in fp32, alpha {ALPHA}, {len(images)} frames", columns, rows
        )
        aq.ingest(sources[:1], folder / "one.zarr", cluster="serial")
        for precision in ("fp32", "bf16"):
            found = parts(images[0], model, options.device, precision, folder / "one.zarr")
            title = f"One frame in one process, {precision}: median of 9, ms"
            helpers.print_table(title, ["part", "wall", "processor"], found)
        cluster = "cuda" if options.device == "cuda" else "local"
        title = f"{options.frames} frames from the page cache, frames a second"
        rows = rates(sources, folder, model, cluster, options.processes)
        helpers.print_table(
            title,
            ["processes", "whole command", "first to last answer", "gpu busy, %", "processors busy, %"],
            rows,
        )


if __name__ == "__main__":
    main()
