"""Part 6: what training gains, which augmentation helps, and what `train` costs on an archive.

Noise and flux jitter were tried here and are no part of the package: `JITTERS` act on the batches of a
recipe's subclass. Background jitter helped, and is.
Every row is kept as soon as it is known (``training.json``), and an interrupted part goes on after it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import helpers
import numpy as np
import output
import torch
from aqdask.methods.noise_aware.augmentation import TILT
from aqdask.methods.noise_aware.normalise import Stabilise
from aqdask.methods.training.train import Split
from draws import MemoryFrames
from merit import Measured
from methods import DECIDES_WEIGHTS
from real import HELD_OUT, data_folder, read
from seeds import SEEDS

import aqdask as aq
from aqdask.methods.noise_aware import train
from aqdask.methods.noise_aware.calibrate import camera_noises
from aqdask.methods.noise_aware.noise_model import linear, relinear
from aqdask.methods.noise_aware.reference_split import split_groups
from aqdask.methods.noise_aware.train import FineTuning
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training import crops, loop
from aqdask.methods.training.progress import TrainProgress
from aqdask.methods.training.settings import TrainSpec

STEPS = 300  # of a row of the table of losses; the cost is that of the default
REPEATS = 2  # seeds: each divides the frames anew and draws other crops
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))  # the goal is stated for two cores
FRAMES = 30, 60  # of the archive: what the goal is stated for, and twice as many
LONG_STEPS = 200  # on the longer one, where only memory is asked for: two fillings of the reservoir
GOAL_SECONDS = 600.0
NOISE, FLUX = 0.3, 0.7
_JITTER = 21  # first word of generators' seeds

Jitter = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""Crops ``(n, P, P)`` in units of the noise and ``q`` ``(n,)`` in, other crops out."""


def noisier(u: torch.Tensor, q: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """White noise of up to `NOISE` sigma is added to each crop."""
    sigma = NOISE * torch.rand(len(u), 1, 1, generator=generator)
    return u + sigma * torch.randn(u.shape, generator=generator)


def dimmer(u: torch.Tensor, q: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Light times `FLUX` to 1, and the noise that so much light would have had: its variance is 1 + q L."""
    factor = FLUX ** torch.rand(len(u), 1, 1, generator=generator)
    q = q[:, None, None]
    light = linear(u, q)
    missing = 1 - factor**2 + (q * factor * light * (1 - factor)).clamp(min=0)
    return relinear(factor * light + missing.sqrt() * torch.randn(u.shape, generator=generator), q)


JITTERS: dict[str, Jitter] = {"noise": noisier, "flux": dimmer}
SHIPPED, DEFAULT, PLAIN = "shipped, not trained", "default", "no flips, no rotations"
LEVEL = "no background jitter"
SLOW = "a quarter of the learning rate"
VARIANTS = (DEFAULT, PLAIN, LEVEL, *(f"+ {name} jitter" for name in JITTERS), SLOW)


class Jittered(FineTuning):
    """The recipe of the package with one of the jitters on what it learns from."""

    jitter: Jitter | None = None

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `FineTuning.batch`."""
        values, facts = super().batch(step)
        if self.jitter is None:
            return values, facts
        seed = np.random.SeedSequence([_JITTER, self.spec.seed, step]).generate_state(1)[0]
        return self.jitter(values, facts[:, 0], torch.Generator().manual_seed(int(seed))), facts


@dataclass(frozen=True)
class Prepared:
    """Frames that are divided by a seed, and what is known of their camera."""

    frames: MemoryFrames
    spec: TrainSpec
    split: Split
    normalise: Stabilise

    @classmethod
    def of(cls, frames: MemoryFrames, seed: int, steps: int) -> Prepared:
        """As the training of the package would."""
        spec = TrainSpec(seed=seed, steps=steps)
        ((key, sets),) = (groups := split_groups(frames, spec)).items()
        camera = camera_noises(frames, groups, spec.patch, spec.alpha)[key]
        return cls(frames, spec, Split(*sets), Stabilise(frames, dict.fromkeys(sets.every, camera)))

    def losses(self, variant: str) -> dict[str, float]:
        """Held-out loss as shipped, and the least on the way of a training."""
        with ExitStack() as changes:
            if variant == PLAIN:
                changes.enter_context(mock.patch.object(crops, "orient"))
            if variant == LEVEL:
                changes.enter_context(mock.patch.object(train, "tilted", lambda u, q, generator: u))
            rate = self.spec.learning_rate / (4 if variant == SLOW else 1)
            spec = replace(self.spec, learning_rate=rate)
            recipe = Jittered(self.frames, self.split, self.normalise, spec, torch.device("cpu"))
            recipe.jitter = JITTERS.get(variant.removeprefix("+ ").removesuffix(" jitter"))
            curve = loop.fit(recipe, _silent)
        found = recipe.stopped(curve)["autoencoder"]
        return {SHIPPED: recipe.shipped["autoencoder"], variant: found["best"]}


class Notebook:
    """Rows by name in a JSON file; those of other code, settings or frames are forgotten."""

    def __init__(self, path: Path, mark: str) -> None:
        self.path, self.mark = path, hashlib.sha256(mark.encode()).hexdigest()
        before = json.loads(path.read_text()) if path.exists() else {}
        self.rows: dict[str, Any] = before["rows"] if before.get("mark") == self.mark else {}

    def row(self, name: str, make: Callable[[], Any]) -> Any:
        """What is known by ``name``, or else what ``make`` gives."""
        if name not in self.rows:
            begin = time.monotonic()
            self.rows[name] = make()
            print(f"training: {name}: {time.monotonic() - begin:.0f} s", flush=True)
            content = {"mark": self.mark, "environment": helpers.environment(), "rows": self.rows}
            self.path.write_text(json.dumps(content, indent=1) + "\n")
        return self.rows[name]


def training(folder: Path, simulated: MemoryFrames, quick: bool = False) -> list[str]:
    """All tables as Markdown; rows and tables are also kept in ``folder``."""
    decides = (*DECIDES_WEIGHTS, *JITTERS.values(), Jittered, Prepared)
    settings = (quick, STEPS, NOISE, FLUX, simulated.ids, load_shipped().digest)
    mark = "".join(inspect.getsource(code) for code in decides) + repr(settings)
    book = Notebook(folder / "training.json", mark)
    sets = {"simulated": simulated}
    if (data_folder() / "bsu_2022yid").is_dir():
        luminance = read(data_folder(), "L")
        order = np.random.default_rng([SEEDS["splits"], 0]).permutation(luminance.good)
        sets["real L"] = luminance.frames.part(sorted(order[HELD_OUT:]))
    steps, repeats = (10, 1) if quick else (STEPS, REPEATS)
    with _threads(THREADS):
        found = {name: table_of_losses(book, name, sets[name], steps, repeats) for name in sets}
    made = [_losses_table(found, {name: len(sets[name].ids) for name in sets}, steps)]
    made.append(_cost_table(book.row("cost", lambda: cost(quick))))
    (folder / "training.md").write_text("\n".join(made))
    return made


def table_of_losses(
    book: Notebook, name: str, frames: MemoryFrames, steps: int, repeats: int
) -> list[dict[str, float]]:
    """Held-out losses by variant, one row a seed: all variants are watched on the same crops."""
    rows = []
    for seed in range(SEEDS["training"], SEEDS["training"] + repeats):
        prepared: list[Prepared] = []  # made where a row is missing

        def losses(variant: str, seed: int = seed, prepared: list[Prepared] = prepared) -> dict[str, float]:
            prepared[:] = prepared or [Prepared.of(frames, seed, steps)]
            return prepared[0].losses(variant)

        row: dict[str, float] = {}
        for variant in VARIANTS:
            row |= book.row(f"{name}, {variant}, seed {seed}", lambda v=variant: losses(v))
        rows.append(row)
    return rows


def _losses_table(found: dict[str, list[dict[str, float]]], counts: dict[str, int], steps: int) -> str:
    table = []
    for variant in (SHIPPED, *VARIANTS):
        cells = []
        for rows in found.values():
            change = np.array([row[variant] / row[DEFAULT] - 1 for row in rows]) * 100
            error = change.std(ddof=1) / math.sqrt(len(change)) if len(change) > 1 else math.nan
            cells += [f"{np.mean([row[variant] for row in rows]):.4f}"]
            cells += ["" if variant == DEFAULT else f"{Measured(change.mean(), error).text(2)} %"]
        table.append((variant, *cells))
    columns = [text for name in found for text in (f"{name}: held-out loss", "against the default")]
    seeds = len(next(iter(found.values())))
    note = (
        "Mean squared residual of the autoencoder on 256 crops of frames that it did not learn from, least "
        f"of {steps} steps; mean of {seeds} seeds, change paired by seed ± its error; frames: "
        f"{', '.join(f'{count} {name}' for name, count in counts.items())}. Noise of up to {NOISE} sigma, "
        f"flux times {FLUX} to 1; the default has a plane of sky of up to {TILT:g} sigma."
    )
    return output.markdown("Training: held-out loss", ("variant", *columns), table, note)


def cost(quick: bool) -> dict[str, Any]:
    """Seconds, what was foretold and peak memory of `aqdask.train` from an archive, in fresh processes."""
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
    """One training in this process."""
    torch.set_num_threads(THREADS)
    started, begin, processor = helpers.peak_memory(), time.monotonic(), time.process_time()
    told: list[tuple[float, TrainProgress]] = []
    peaks = {"start": started}

    def progress(found: TrainProgress) -> None:
        told.append((time.monotonic() - begin, found))
        peaks[found.stage] = helpers.peak_memory()

    bundle = aq.train(archive, frames=list(ids), steps=steps, device="cpu", progress=progress)
    wall, spent = time.monotonic() - begin, time.process_time() - processor
    train = [(at, progress) for at, progress in told if progress.stage == "train"]
    words = next(((at, p.note) for at, p in told if p.note.startswith("about")), (math.nan, ""))
    return {
        "steps": train[-1][1].total,
        "wall": wall,
        "processor": spent,
        "told_after": words[0],
        "told": words[1],
        "predicted": train[0][0] + train[0][1].eta_seconds,
        "trained_after": train[-1][0],
        "peak_mib": {name: peaks[name] for name in ("start", "train", "calibrate")},
        "held_out": bundle.provenance["held_out"],
        "stopped": bundle.provenance["stopped"],
    }


def _cost_table(found: dict[str, Any]) -> str:
    rows = []
    for run in found["runs"]:
        stopped, loss = run["stopped"]["autoencoder"], run["held_out"]["autoencoder"]
        rows.append(
            (
                run["frames"],
                f"{stopped['step']} of {run['steps']}",
                f"{run['wall']:.0f}",
                f"{run['processor']:.0f}",
                f"{run['predicted']:.0f} / {run['trained_after']:.0f}",
                " / ".join(f"{run['peak_mib'][name]:.0f}" for name in ("start", "train", "calibrate")),
                f"{loss['shipped']:.4f} / {loss['trained']:.4f}",
            )
        )
    columns = (
        "frames", "steps", "wall s", "processor s", "steps done after s, as foretold / in fact",
        "peak MiB: imports / and training / and calibration", "held-out loss, shipped / kept",
    )  # fmt: skip
    first = found["runs"][0]
    reached = "reached" if first["wall"] <= GOAL_SECONDS else "MISSED"
    goal = f"Goal: {GOAL_SECONDS:.0f} s: {reached}. " if found["size"] == 4096 else ""
    told = f"Said after {first['told_after']:.0f} s: '{first['told']}'. " if first["told"] else ""
    note = f"{goal}{told}Threads: {THREADS}."
    title = f"`train` on frames of {found['size']} px a side, streamed from an archive"
    return output.markdown(title, columns, rows, note)


@contextmanager
def _threads(count: int) -> Any:
    """This many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(progress: TrainProgress) -> None:
    """Tell nobody."""
