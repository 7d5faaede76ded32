"""Part 3: real frames: noise, held-out good frames, size against sep's FWHM, another filter, known defects.

Frames are those of ``AQDASK_TEST_DATA`` (default ``../shared/data`` from the repository). Every random
split starts from ``wide-field``, trains the autoencoder for 300 steps on the frames that are not held out and
calibrates on them: no held-out frame takes part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import output
import plots
import real_defects
import real_others
import real_regions
import torch
from draws import MemoryFrames
from methods import frame_features
from metrics import Estimate, spearman
from seeds import SEEDS

from aqdask.errors import UsageError
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import train
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.feature_extractor import Detector
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.training.settings import TrainSpec
from aqdask.references.image_statistics import ImageStatistics, measure
from aqdask.references.propose import OUTLIER, propose
from aqdask.specs import FrameMetadata, PatchGrid
from aqdask.stats.masking import bad_patches
from aqdask.stats.patches import cut_range

ALPHA = 0.01
SPLITS = 10
HELD_OUT = 4  # frames of a split
REGION_SPLITS = 10
STEPS = 300  # optimiser steps of a split, from the shipped model
GOALS = {"MAD of u": (0.95, 1.12), "held-out masked": 0.03, "Spearman of size": 0.95}
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Real:
    """Frames of one filter: in memory, measured with sep, and which are good."""

    frames: MemoryFrames
    measures: list[ImageStatistics]
    good: list[int]


def data_folder() -> Path:
    """Folder of the real frames."""
    given = Path(os.environ.get("AQDASK_TEST_DATA", "../shared/data"))
    return given if given.is_absolute() else ROOT / given


def read(folder: Path, filter: str) -> Real:
    """All frames of a filter; good are those that `aqdask.references.propose` finds no outliers."""
    paths = sorted((folder / "bsu_2022yid" / filter).iterdir())
    images = [real_others.pixels(path) for path in paths]
    ids = [f"{filter}/{path.name}" for path in paths]
    measures = [measure(image) for image in images]
    proposals = propose(ids, measures, [("", filter)] * len(ids))
    good = [k for k, one in enumerate(proposals) if one.worst <= OUTLIER]
    return Real(MemoryFrames(images, ids, FrameMetadata(camera="STXL-6303", filter=filter)), measures, good)


def real(folder: Path, quick: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Run all parts on real frames: numbers, and tables as Markdown. Pictures go to ``folder``."""
    data = data_folder()
    if not (data / "bsu_2022yid").is_dir():
        return {"missing": "no real frames; set AQDASK_TEST_DATA"}, ["No real frames.\n"]
    luminance, red = read(data, "L"), read(data, "R")
    steps, count = (10, 1) if quick else (STEPS, SPLITS)
    splits = [one_split(luminance, number, steps) for number in range(count)]
    bundle, found = splits[0][0], {"splits": [row for _, row in splits], "good": len(luminance.good)}
    found["size"] = sizes(bundle, luminance, 3 if quick else 1)
    found["other_filter"] = other_filter(bundle, red, 1 if quick else len(red.frames.ids))
    scorer = NoiseAwareScorer(bundle)
    held = [luminance.frames.ids.index(name) for name in splits[0][1]["held_out"]]
    found["injected"] = real_defects.injected(
        scorer, [luminance.frames.images[k] for k in held[: 1 if quick else None]], "L"
    )
    if not quick:
        widest = int(np.argmax([one.fwhm for one in luminance.measures]))
        found["regions"] = real_regions.regions(
            luminance.frames, luminance.good, widest, red.frames, REGION_SPLITS
        )
    found["others"] = [] if quick else real_others.others(data, folder, steps)
    pictures(scorer, luminance, folder)
    return found, tables(found)


def one_split(real: Real, number: int, steps: int) -> tuple[Bundle, dict[str, Any]]:
    """Train without some good frames, and count the masked patches of those."""
    order = np.random.default_rng([SEEDS["splits"], number]).permutation(real.good)
    held, rest = sorted(order[:HELD_OUT]), sorted(order[HELD_OUT:])
    bundle = train(real.frames.part(rest), TrainSpec(name="real", seed=number, steps=steps))
    scorer = NoiseAwareScorer(bundle)
    card = real.frames.metadata[0]
    masked = {}
    for k in held:
        found = _frame(scorer, real.frames.images[k], card)
        masked[real.frames.ids[k]] = float(bad_patches(found["pvalue"], ALPHA).mean())
    return bundle, {
        "split": number,
        "held_out": list(masked),
        "masked": list(masked.values()),
        "mean": float(np.mean(list(masked.values()))),
        "mad_of_u": [mad_of_u(scorer, real.frames.images[k], card) for k in held],
    }


def mad_of_u(scorer: NoiseAwareScorer, image: np.ndarray, card: FrameMetadata) -> float:
    """1.4826 MAD of the variance-stabilised pixels of a frame: 1 where the noise model holds."""
    calibration, _ = scorer.calibration(card.camera, card.filter)
    grid = PatchGrid(*image.shape, scorer.patch)
    patches = torch.from_numpy(cut_range(image, grid, 0, grid.shape[0] * grid.shape[1]).astype(np.float32))
    with torch.inference_mode():
        _, u = scorer.extractor.normalised(patches, None, Detector(calibration.decision.camera.noise))
    values = u.numpy()
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _frame(scorer: NoiseAwareScorer, image: np.ndarray, card: FrameMetadata) -> dict[str, np.ndarray]:
    features = frame_features(scorer, image, card.camera, card.filter)
    return scorer.score_features(features, card.camera, card.filter)


def sizes(bundle: Bundle, real: Real, step: int = 1) -> dict[str, Any]:
    """Signed size of every ``step``-th frame of the filter, good or not, against sep's FWHM."""
    scorer, card = NoiseAwareScorer(bundle), real.frames.metadata[0]
    scored = [_frame(scorer, image, card) for image in real.frames.images[::step]]
    fwhm = [one.fwhm for one in real.measures[::step]]
    ratio = [float(one["frame_size_ratio"]) for one in scored]
    known = [k for k, value in enumerate(fwhm) if np.isfinite(value)]
    found = spearman([np.array([ratio[k]]) for k in known], [fwhm[k] for k in known])
    masked = [float(bad_patches(one["pvalue"], ALPHA).mean()) for one in scored]
    scores = [float(one["frame_score"]) for one in scored]
    return {"spearman": asdict(found), "frames": real.frames.ids[::step], "fwhm": fwhm, "size_ratio": ratio,
            "masked": masked, "frame_score": scores}  # fmt: skip


def other_filter(bundle: Bundle, real: Real, count: int) -> dict[str, Any]:
    """The first ``count`` frames of another filter: by the model's calibration, and by the others' own."""
    card, masked = real.frames.metadata[0], {"model": [], "own": []}
    for out, image in enumerate(real.frames.images[:count]):
        others = [k for k in range(len(real.frames.images)) if k != out]
        spec = TrainSpec(name="own", seed=out)
        variants: dict[str, Callable[[], Bundle]] = {
            "model": lambda: bundle,
            "own": lambda others=others, spec=spec: calibrate_bundle(
                bundle, real.frames.part(others), spec, lambda p: None
            ),
        }
        for name, make in variants.items():
            try:
                found = _frame(NoiseAwareScorer(make()), image, card)
            except UsageError as error:
                return {"masked": masked, "refused": str(error)}
            masked[name].append(float(bad_patches(found["pvalue"], ALPHA).mean()))
    return {"masked": masked, "frames": real.frames.ids}


def pictures(scorer: NoiseAwareScorer, real: Real, folder: Path) -> None:
    """Maps of three frames side by side: sharpest, median and widest by sep."""
    order = np.argsort([one.fwhm for one in real.measures])
    panels = []
    for k in (order[0], order[len(order) // 2], order[-1]):
        found = _frame(scorer, real.frames.images[k], real.frames.metadata[0])
        panels.append((real.frames.images[k], found["pvalue"], real.frames.ids[k]))
    plots.masks(panels, ALPHA, folder / "real.png")


def tables(found: dict[str, Any]) -> list[str]:
    """Results as Markdown."""
    splits = found["splits"]
    rows = [
        (s["split"], ", ".join(f"{m:.3f}" for m in s["masked"]), f"{s['mean']:.4f}", _range(s["mad_of_u"]))
        for s in splits
    ]
    means = [s["mean"] for s in splits]
    rows.append(
        ("all", f"worst split {max(means):.4f}", f"{np.mean(means):.4f}", f"goal {GOALS['MAD of u']}")
    )
    note = f"Goal: mean at most {GOALS['held-out masked']}. {found['good']} good frames."
    made = [
        output.markdown(
            f"Real: held-out good L frames masked at alpha {ALPHA:g}",
            ("split", "masked by frame", "mean", "MAD of u"),
            rows,
            note,
        )
    ]
    size = Estimate(**found["size"]["spearman"]).text()
    goal = GOALS["Spearman of size"]
    made.append(f"Spearman of the frame's size against sep's FWHM, all L frames: {size} (goal {goal})\n")
    other = found["other_filter"]
    rows = [(name, len(values), _range(values)) for name, values in other["masked"].items()]
    columns = ("calibration", "frames", "median (least - most)")
    made.append(output.markdown("R frames masked", columns, rows, other.get("refused", "")))
    made.append(real_defects.table(found["injected"]))
    if "regions" in found:
        made.append(real_regions.table(found["regions"]))
    return [*made, *real_others.tables(found["others"])]


def _range(values: Sequence[float]) -> str:
    return f"{np.median(values):.3f} ({min(values):.3f} - {max(values):.3f})" if len(values) else "-"
