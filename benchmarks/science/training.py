"""Part 6: gain of fine-tuning the autoencoder, with and without the sky gradient, and the cost of `train`.

Every row is stored as soon as it is known (``training.json``), and an interrupted part goes on after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import output
import torch
from draws import MemoryFrames
from methods import DECIDES_WEIGHTS, source_of
from metrics import paired_change
from real import HELD_OUT, data_folder, read
from seeds import SEEDS

import aqdask as aq
from aqdask.methods.dispatch import train
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.progress import TrainProgress
from aqdask.methods.training.settings import TrainSpec

STEPS = 300  # of a row of the table of losses; the cost is that of the default
REPEATS = 2  # seeds: each divides the frames anew and draws other crops
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))  # the goal is stated for two cores
FRAMES = 30, 60  # of the archive: the number of the goal, and twice as many
LONG_STEPS = 200  # on the longer one, for its memory only: two fillings of the reservoir
GOAL_SECONDS = 600.0
SHIPPED, FINE_TUNED, LEVEL = "shipped", "fine-tuned", "fine-tuned without the sky gradient"
AUGMENT = {FINE_TUNED: None, LEVEL: "flips+rotations"}  # by variant; None: the default


def losses(frames: MemoryFrames, variant: str, seed: int, steps: int) -> dict[str, float]:
    """Held-out loss of the shipped autoencoder, and of a variant of the fine-tuned one, on the same crops."""
    bundle = train(frames, TrainSpec(seed=seed, steps=steps, augment=AUGMENT[variant]))
    found = bundle.provenance["held_out"]["autoencoder"]
    return {SHIPPED: found["shipped"], variant: found["trained"]}


class Notebook:
    """Rows by name in a JSON file; those of other code, settings or frames are dropped."""

    def __init__(self, path: Path, mark: str) -> None:
        self.path, self.mark = path, hashlib.sha256(mark.encode()).hexdigest()
        before = json.loads(path.read_text()) if path.exists() else {}
        self.rows: dict[str, Any] = before["rows"] if before.get("mark") == self.mark else {}

    def row(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the row ``name``, made by ``make`` where it is missing."""
        if name not in self.rows:
            begin = time.monotonic()
            self.rows[name] = make()
            print(f"training: {name}: {time.monotonic() - begin:.0f} s", flush=True)
            content = {"mark": self.mark, "environment": helpers.environment(), "rows": self.rows}
            self.path.write_text(json.dumps(content, indent=1) + "\n")
        return self.rows[name]


def training(folder: Path, simulated: MemoryFrames, quick: bool = False) -> list[str]:
    """All tables as Markdown; rows and tables are also stored in ``folder``."""
    mark = source_of(*DECIDES_WEIGHTS, losses) + repr((quick, STEPS, simulated.ids, load_shipped().digest))
    book = Notebook(folder / "training.json", mark)
    sources = {"simulated": simulated}
    if (data_folder() / "bsu_2022yid").is_dir():
        luminance = read(data_folder(), "L")
        order = np.random.default_rng([SEEDS["splits"], 0]).permutation(luminance.good)
        sources["real L"] = luminance.frames.part(sorted(order[HELD_OUT:]))
    steps, repeats = (10, 1) if quick else (STEPS, REPEATS)
    found: dict[str, list[dict[str, float]]] = {}
    with _threads(THREADS):
        for name, frames in sources.items():
            found[name] = [_row(book, name, frames, SEEDS["training"] + k, steps) for k in range(repeats)]
    made = [_losses_table(found, {name: len(frames.ids) for name, frames in sources.items()}, steps)]
    made.append(_cost_table(book.row("cost", lambda: cost(quick))))
    (folder / "training.md").write_text("\n".join(made))
    return made


def _row(book: Notebook, name: str, frames: MemoryFrames, seed: int, steps: int) -> dict[str, float]:
    """Held-out losses of one seed by variant."""
    row: dict[str, float] = {}
    for variant in AUGMENT:
        row |= book.row(f"{name}, {variant}, seed {seed}", lambda v=variant: losses(frames, v, seed, steps))
    return row


def _losses_table(found: dict[str, list[dict[str, float]]], counts: dict[str, int], steps: int) -> str:
    table = []
    for variant in (SHIPPED, *AUGMENT):
        cells = []
        for rows in found.values():
            cells.append(f"{np.mean([row[variant] for row in rows]):.4f}")
            change = paired_change([row[variant] for row in rows], [row[SHIPPED] for row in rows])
            cells.append("" if variant == SHIPPED else f"{change.text(2)} %")
        table.append((variant, *cells))
    columns = [text for name in found for text in (f"{name}: held-out loss", "against the shipped")]
    seeds = len(next(iter(found.values())))
    note = (
        "Mean squared residual of the autoencoder on 256 crops of frames that it did not learn from, smaller "
        f"is better, least of {steps} steps; mean of {seeds} seed(s), change paired by seed ± its error; "
        f"frames: {', '.join(f'{count} {name}' for name, count in counts.items())}."
    )
    return output.markdown("Fine-tuning: held-out loss", ("autoencoder", *columns), table, note)


def cost(quick: bool) -> dict[str, Any]:
    """Seconds and peak memory of `aqdask.train` from an archive, in fresh processes."""
    size, counts = (512, (8, 12)) if quick else (4096, FRAMES)
    with helpers.scratch(None) as folder:
        sources = helpers.source_frames(folder / "sources", max(counts), size, SEEDS["cost"])
        archive = folder / "a.zarr"
        aq.ingest(sources, archive, cluster="serial")
        runs = []
        for count in counts:
            steps = 10 if quick else (None if count == counts[0] else LONG_STEPS)
            with helpers.new_process() as call:
                ids = [Path(name).name for name in sources[:count]]
                runs.append({"frames": count, **call(_timed, str(archive), ids, steps)})
    return {"size": size, "runs": runs}


def _timed(archive: str, ids: Sequence[str], steps: int | None) -> dict[str, Any]:
    """Time one training in this process."""
    torch.set_num_threads(THREADS)
    peaks = {"start": helpers.peak_memory()}
    clock = helpers.Clock()

    def progress(found: TrainProgress) -> None:
        peaks[found.stage] = helpers.peak_memory()

    with clock:
        bundle = aq.train(archive, frames=list(ids), steps=steps, device="cpu", progress=progress)
    return {
        "wall": clock.wall,
        "processor": clock.cpu,
        "peak_mib": {name: peaks[name] for name in ("start", "train", "calibrate")},
        "held_out": bundle.provenance["held_out"]["autoencoder"],
        "stopped": bundle.provenance["stopped"]["autoencoder"],
    }


def _cost_table(found: dict[str, Any]) -> str:
    rows = [
        (
            run["frames"],
            f"{run['stopped']['step']} of {run['stopped']['of']}",
            f"{run['wall']:.0f}",
            f"{run['processor']:.0f}",
            " / ".join(f"{peak:.0f}" for peak in run["peak_mib"].values()),
            f"{run['held_out']['shipped']:.4f} / {run['held_out']['trained']:.4f}",
        )
        for run in found["runs"]
    ]
    columns = (
        "frames", "steps", "wall s", "processor s", "peak MiB: imports / and training / and calibration",
        "held-out loss, shipped / fine-tuned",
    )  # fmt: skip
    reached = "reached" if found["runs"][0]["wall"] <= GOAL_SECONDS else "MISSED"
    goal = f"Goal: {GOAL_SECONDS:.0f} s: {reached}. " if found["size"] == 4096 else ""
    title = f"`train` on frames of {found['size']} px a side, streamed from an archive"
    return output.markdown(title, columns, rows, f"{goal}Threads: {THREADS}.")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run the block with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
