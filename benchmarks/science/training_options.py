"""Training options, each changed alone: ``python benchmarks/science/training_options.py --out FOLDER``.

Every autoencoder begins with random weights and is trained by the same small budget, the default too, on
the same frames; test frames are others. One JSON line for each row and seed is stored as soon as it is known,
and an interrupted run goes on after it. ``--table`` writes the table of what there is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for `helpers`

import archive
import experiments
import numpy as np
import torch
from archive import NOTHING, ORACLE
from conditions import CONDITIONS
from draws import CAMERA, FILTER, MemoryFrames, Patches, good_scene, spoilt_frame
from evaluate import Scored, patch_metrics
from methods import AQDASK, MAE, PAPER, Contest, Task
from metrics import Estimate, mean, rate, spearman
from seeds import SEEDS

from aqdask.methods.base import score_frame
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.noise_aware import train as noise_aware_train
from aqdask.methods.registry import METHODS
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate import defects
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import stream
from aqdask.specs import FrameMetadata

STEPS, BATCH = 400, 32  # an 80th of the crops that made the shipped model
SIZE, REFERENCES, CLEAN, SPOILT, PHOTOMETRY = 512, 24, 8, 2, 6
TRAININGS = 3  # seeds of split, crops and weights
CHOSEN = (
    "background 3%, 8 px", "background 3%, 32 px", "FWHM 2.8 px", "elongation 1.5 px", "trail 100 e- peak",
    "cosmic rays 300 e-", "cosmic rays 1000 e-", "hot column 60 e-", "ghost 5%", "read noise 10 e-",
    "banding 15 e-",
)  # fmt: skip
FWHMS = (2.0, 2.8, 4.0)  # px; the references have 2.2 to 2.6
LEVELS = (0.01, 0.03, 0.1)  # of the sky; the publication's begin at 0.1, where all is found
DEFAULT, SHIPPED, FINE_TUNED = "default", "shipped, not trained", "shipped, fine-tuned"
LOCAL = ("paper", AQDASK, MAE)

COMMON: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "skip": {"architecture": "skip"},
    "attention": {"architecture": "attention"},
    "width 8": {"width": 8},
    "width 32": {"width": 32},
    "dropout .1": {"dropout": 0.1},
    "norm group": {"norm": "group"},
    "loss mae": {"loss": "mae"},
    "loss ssim:0.2+mse:0.8": {"loss": "ssim:0.2+mse:0.8"},
    "loss perceptual+mse": {"loss": "perceptual+mse"},
    "loss adversarial:0.05+mse": {"loss": "adversarial:0.05+mse"},
    "augment none": {"augment": "none"},
    "schedule step": {"schedule": "step"},
    "schedule one-cycle": {"schedule": "one-cycle"},
}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "aqdask": COMMON
    | {
        "depth 2": {"depth": 2},
        "norm none": {"norm": "none"},
        "augment without background": {"augment": "flips+rotations"},
        "augment + noise": {"augment": "flips+rotations+background+noise"},
        "augment + flux": {"augment": "flips+rotations+background+flux"},
        "augment + scale": {"augment": "flips+rotations+background+scale"},
        "warm-up 0": {"warm_up": 0},
        SHIPPED: {},
        FINE_TUNED: {},
    },
    "paper": COMMON
    | {
        "depth 2": {"depth": 2},
        "depth 3": {"depth": 3},
        "norm batch": {"norm": "batch"},
        "warm-up 50": {"warm_up": 50},
        "augment + background": {"augment": "flips+rotations+background"},
        "augment + noise": {"augment": "flips+rotations+noise"},
        "augment + scale": {"augment": "flips+rotations+scale"},
    },
}
FILE, COST, TABLE = "training_options.jsonl", "training_options_cost.jsonl", "training_options.md"
TURNS = 9  # of the timing


@dataclass(frozen=True)
class TestSet:
    """Frames that all rows are tested on; groups of frames by name."""

    clean: list[np.ndarray]
    spoilt: dict[str, list[tuple[np.ndarray, Patches]]]
    photometry: list[archive.Drawn]


def reference_frames() -> MemoryFrames:
    """Frames that train and calibrate."""
    seeds = range(SEEDS["training_options"], SEEDS["training_options"] + REFERENCES)
    images = [simulate_frame(good_scene(seed, SIZE), seed=seed).image for seed in seeds]
    card = FrameMetadata(camera=CAMERA, filter=FILTER, gain=1.0)
    return MemoryFrames(images, [f"reference/{seed}" for seed in seeds], card)


def test_set() -> TestSet:
    """Draw the test frames."""
    first = SEEDS["training_options"] + 10_000
    clean = [simulate_frame(good_scene(seed, SIZE), seed=seed).image for seed in range(first, first + CLEAN)]
    makes: dict[str, Any] = {row.name: row.make for row in CONDITIONS if row.name in CHOSEN}
    makes |= {f"fwhm {value}": lambda rng, v=value: defects.Defocus(v) for value in FWHMS}
    for scale in experiments.SCALES:
        for level in LEVELS:
            makes[f"level {level} {scale}"] = lambda rng, a=level, s=scale: defects.Background(a, scale=s)
    spoilt = {}
    for number, (name, make) in enumerate(makes.items(), start=1):
        drawn = [spoilt_frame(make, first + 1000 * number + k, SIZE) for k in range(SPOILT)]
        spoilt[name] = [(frame.image, Patches.of(frame)) for frame in drawn]
    pictures = []
    for number in range(PHOTOMETRY):
        seed = first + 80_000 + number
        scene, region = good_scene(seed, SIZE), archive.region(stream(seed, "region"))
        defect = defects.Background(archive.LEVEL, scale=experiments.SCALES[number % 2], region=region)
        pictures.append(archive.Drawn(scene, simulate_frame(scene, [defect], seed)))
    return TestSet(clean, spoilt, pictures)


def trained(frames: MemoryFrames, method: str, row: str, seed: int, steps: int = STEPS) -> tuple[Any, float]:
    """Train the model of a row; return it with its processor seconds."""
    spec = TrainSpec(method=method, name="options", seed=seed, steps=steps, batch=BATCH, **ROWS[method][row])
    begin = time.process_time()
    if row == SHIPPED:
        from aqdask.methods.noise_aware.calibrate import calibrate_bundle

        bundle = calibrate_bundle(load_shipped(), frames, spec, lambda note: None)
    elif row == FINE_TUNED or method == "paper":
        bundle = train(frames, spec)
    else:  # the default network, too, begins with random weights
        with mock.patch.object(noise_aware_train, "PLAIN", None):
            bundle = train(frames, spec)
    return bundle, time.process_time() - begin


def measured(frames: MemoryFrames, test: TestSet, method: str, row: str, seed: int) -> dict[str, Any]:
    """Train a row, and score the test frames."""
    bundle, seconds = trained(frames, method, row, seed)
    origin = bundle.provenance["frames"]  # of the shipped model in words: no frame is held out from it
    calibrating = frames.ids if isinstance(origin, str) else origin["calibration"]
    held_out = tuple(frames.ids.index(name) for name in calibrating)
    task = Task(frames, (), held_out, {method: bundle})
    contest = Contest(task, ("published" if method == "paper" else "aqdask",))
    clean = [Scored(contest.score(image)) for image in test.clean]
    spoilt = {
        name: [Scored(contest.score(image), patches) for image, patches in group]
        for name, group in test.spoilt.items()
    }
    names = [name for name in LOCAL if name in clean[0].verdicts]
    scores = {name: _metrics(name, clean, spoilt) for name in names}
    with mock.patch.object(archive, "NAMES", tuple(names)):
        for found in archive.outcome(contest, test.photometry):
            if found["mask"] not in (NOTHING, ORACLE):
                scores[found["mask"]] |= {"photometry": found["ratio"], "lost": found["lost"]}
    loss = bundle.provenance.get("loss_curve", {}).get("held_out", [math.nan])
    return {"scores": scores, "train_s": seconds, "loss": loss[-1]}


def _metrics(name: str, clean: Sequence[Scored], spoilt: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    """Metrics of one method; ``conditions`` keeps every AUROC and recall."""
    found = {row: patch_metrics(group, clean, name) for row, group in spoilt.items()}
    plain = {row: [one["auroc"].value, one["recall"].value] for row, one in found.items()}
    wide = [row for row in found if row.startswith("fwhm") and float(row.split()[1]) > 2.6]
    levels = [row for row in found if row.startswith("level")]
    sweep = {
        "fwhm": [(float(r.split()[1]), np.concatenate([s.verdicts[name].score.ravel() for s in spoilt[r]]))
                 for r in found if r.startswith("fwhm")],
    }  # fmt: skip
    trend = spearman([score for _, score in sweep["fwhm"]], [value for value, _ in sweep["fwhm"]])

    def average(rows: Iterable[str], key: str) -> float:
        return mean([found[row][key] for row in rows]).value

    return {
        "conditions": plain,
        "auroc": average(CHOSEN, "auroc"),
        "recall": average(CHOSEN, "recall"),
        "fwhm": average(wide, "auroc"),
        "trend": trend.value,
        "background": average(levels, "auroc"),
        "false": rate([one.verdicts[name].masked(0.01) for one in clean]).value,
    }


def costs(folder: Path, frames: MemoryFrames) -> None:
    """Store the processor milliseconds of `score_frame` for 1024 x 1024 px by network, taken in turns."""
    networks = [
        (method, row)
        for method, rows in ROWS.items()
        for row, options in rows.items()
        if row == DEFAULT or options.keys() & {"architecture", "depth", "width", "norm"}
    ]
    scorers = [load_scorer(trained(frames, *network, seed=0, steps=1)[0]) for network in networks]
    image = np.tile(frames.images[0], (2, 2))
    found: dict[tuple[str, str], list[float]] = {network: [] for network in networks}
    for _ in range(TURNS):
        for network, scorer in zip(networks, scorers, strict=True):
            begin = time.process_time()
            score_frame(scorer, image, None, CAMERA, FILTER)
            found[network].append(1000 * (time.process_time() - begin))
    lines = [{"network": network, "ms": min(times)} for network, times in found.items()]
    (folder / COST).write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(folder: Path, trainings: int, only: Sequence[str], until: float) -> None:
    """Measure what is missing: the default with all seeds first, whose spread the others are judged by."""
    path = folder / FILE
    done = {tuple(line["row"]) for line in stored(path)}
    frames, test = reference_frames(), test_set()
    rows = [
        (method, row, seed)
        for seed in range(trainings)
        for method in METHODS
        for row in ROWS.get(method, {})
        if (method, row, seed) not in done and (not only or row in only)
    ]
    for method, row, seed in sorted(rows, key=lambda one: one[1] != DEFAULT):
        begin = time.monotonic()
        if time.time() > until:
            break
        found = {"row": [method, row, seed]} | measured(frames, test, method, row, seed)
        with path.open("a") as stream:
            stream.write(json.dumps(found) + "\n")
        print(f"{method}, {row}, seed {seed}: {time.monotonic() - begin:.0f} s", flush=True)


def stored(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


COLUMNS = {
    "auroc": ("mean AUROC", 3),
    "recall": ("mean recall", 3),
    "false": ("good masked", 4),
    "fwhm": ("AUROC, wide PSF", 3),
    "trend": ("score and FWHM", 2),
    "background": ("AUROC, background", 3),
    "photometry": ("scatter", 2),
}


def tables(lines: Sequence[Mapping[str, Any]], costs: Mapping[tuple[str, str], float]) -> str:
    """Write a table for each score, as differences from the default paired by seed where both are known.

    ``costs`` are milliseconds by method and row.
    """
    found: list[str] = []
    for score, method in ((AQDASK, "aqdask"), (MAE, "aqdask"), (PAPER, "paper")):
        seeds = {
            row: {line["row"][2]: line for line in lines if line["row"][:2] == [method, row]}
            for row in ROWS[method]
        }
        head = [f"`{method}`: {score}", *(title for title, _ in COLUMNS.values()), "ms a frame", "seeds"]
        body = []
        for row, by_seed in seeds.items():
            cells, count = _cells(row, by_seed, seeds[DEFAULT], score)
            cost = costs.get((method, row), costs.get((method, DEFAULT), math.nan))
            body.append([row, *cells, Estimate(cost).text(0), str(count)])
        found += ["", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))]
    return "\n".join([*found, ""])


def _cells(
    row: str, by_seed: Mapping[int, Mapping[str, Any]], default: Mapping[int, Mapping[str, Any]], score: str
) -> tuple[list[str], int]:
    """Cells of a row, means of the default, changes against it of the others; and the number of seeds."""
    shared = sorted(by_seed.keys() & default.keys())
    if not shared:
        return ["not run"] * len(COLUMNS), 0
    cells = []
    for key, (_, digits) in COLUMNS.items():
        values = np.array([by_seed[seed]["scores"][score][key] for seed in shared])
        if row != DEFAULT:
            values = values - [default[seed]["scores"][score][key] for seed in shared]
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        sign = "" if row == DEFAULT or values.mean() < 0 else "+"
        cells.append(sign + Estimate(float(values.mean()), float(error)).text(digits))
    return cells, len(shared)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/science"))
    parser.add_argument("--seeds", type=int, default=TRAININGS)
    parser.add_argument("--rows", action="append", default=[], help="only these (repeatable)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no row after so many")
    parser.add_argument(
        "--table", action="store_true", help="train nothing, write the table of what there is"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        run(chosen.out, chosen.seeds, chosen.rows, time.time() + 60 * chosen.minutes)
        costs(chosen.out, reference_frames())
    known = {tuple(line["network"]): line["ms"] for line in stored(chosen.out / COST)}
    text = tables(stored(chosen.out / FILE), known)
    (chosen.out / TABLE).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
