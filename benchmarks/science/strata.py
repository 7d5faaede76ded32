"""Two skies: references of dark and of bright nights in one calibration, or each sky with its own.

`wide-field`, calibrated on as many dark frames as bright ones, which are four to ten times as bright; scored
are fresh good frames and frames with one defect, under either sky.
"""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import numpy as np
import output
from draws import CAMERA, FILTER, MakeDefect, MemoryFrames, Patches, good_scene
from metrics import auroc
from seeds import SEEDS

from aqdask.methods.base import score_frame
from aqdask.methods.noise_aware import reference_split
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate import defects
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec, stream
from aqdask.specs import FrameMetadata
from aqdask.stats.masking import bad_patches

ALPHA = 0.01
SIZE = 1024
REFERENCES, GOOD, SPOILT = 20, 12, 4  # frames of each sky
SKIES = {"dark": (800.0, 1200.0), "bright": (4000.0, 8000.0)}  # electrons
VARIANTS = {"one calibration": math.inf, "one for each sky": reference_split.STRATA_FACTOR}


def _same(defect: Defect) -> MakeDefect:
    return lambda rng: defect


DEFECTS: dict[str, MakeDefect] = {
    "FWHM 2.8 px": _same(defects.Defocus(2.8)),
    "read noise 14 e-": _same(defects.ReadNoise(14)),
    "background 3%, 32 px": _same(defects.Background(0.03, scale=32)),
    "cosmic rays 300 e-": _same(defects.CosmicRays(300)),
    "trail 100 e- peak": lambda rng: defects.Trail(100, angle=float(rng.uniform(0, 180)), through=(0.4, 0.6)),
    "ghost 5%": lambda rng: defects.Ghost(0.05, centre=tuple(rng.uniform(0.2, 0.8, 2))),
    "cloud 0.3, glow 0.3": _same(defects.Cloud(0.3, glow=0.3)),
}


def strata(quick: bool = False) -> list[dict[str, Any]]:
    """Rows by sky and kind of frame: AUROC and recall, or masked share of good frames, of both variants."""
    good, spoilt, kinds = (1, 1, list(DEFECTS)[:1]) if quick else (GOOD, SPOILT, list(DEFECTS))
    references = {sky: [_image(sky, k) for k in range(REFERENCES)] for sky in SKIES}
    images = [image for pair in zip(*references.values(), strict=True) for image in pair]
    frames = MemoryFrames(
        images, [f"{k:03}" for k in range(len(images))], FrameMetadata(camera=CAMERA, filter=FILTER)
    )
    scorers = {}
    for name, factor in VARIANTS.items():
        with patch.object(reference_split, "STRATA_FACTOR", factor):
            spec = TrainSpec(name="strata", seed=SEEDS["training"])
            scorers[name] = NoiseAwareScorer(
                calibrate_bundle(load_shipped(), frames, spec, lambda progress: None)
            )
    rows = []
    for sky in SKIES:
        fresh = [_image(sky, 100 + k) for k in range(good)]
        clean = {name: [_scored(scorer, image) for image in fresh] for name, scorer in scorers.items()}
        masked = {
            name: np.mean([bad_patches(f["pvalue"], ALPHA) for f in one]) for name, one in clean.items()
        }
        rows.append(
            {"sky": sky, "frames": "good: masked", "count": good, **{n: float(m) for n, m in masked.items()}}
        )
        for number, kind in enumerate(kinds):
            found = [_spoilt(sky, kind, 1000 * (number + 1) + k) for k in range(spoilt)]
            row: dict[str, Any] = {"sky": sky, "frames": kind, "count": spoilt}
            for name, scorer in scorers.items():
                scored = [(_scored(scorer, image), affected) for image, affected in found]
                area = auroc([f["score"][bad] for f, bad in scored], [f["score"] for f in clean[name]])
                recall = np.concatenate([bad_patches(f["pvalue"], ALPHA)[bad] for f, bad in scored]).mean()
                row[name] = {"auroc": area.value, "error": area.error, "recall": float(recall)}
            rows.append(row)
    return rows


def _scene(sky: str, number: int) -> tuple[SceneSpec, int]:
    seed = SEEDS["strata"] + 10_000 * list(SKIES).index(sky) + number
    return good_scene(seed, SIZE, sky=float(stream(seed, "sky").uniform(*SKIES[sky]))), seed


def _image(sky: str, number: int) -> np.ndarray:
    scene, seed = _scene(sky, number)
    return simulate_frame(scene, seed=seed).image


def _spoilt(sky: str, kind: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    scene, seed = _scene(sky, number)
    frame = simulate_frame(scene, [DEFECTS[kind](stream(seed, "defect"))], seed)
    return frame.image, Patches.of(frame).affected


def _scored(scorer: NoiseAwareScorer, image: np.ndarray) -> dict[str, np.ndarray]:
    return score_frame(scorer, image, None, CAMERA, FILTER)


def table(rows: list[dict[str, Any]]) -> str:
    """Write the Markdown table."""

    def cell(value: float | dict[str, float]) -> str:
        if isinstance(value, float):
            return f"{value:.4f}"
        return f"{value['auroc']:.3f} ±{value['error']:.3f} [{value['recall']:.2f}]"

    cells = [(r["sky"], r["frames"], r["count"], *(cell(r[name]) for name in VARIANTS)) for r in rows]
    note = f"{REFERENCES} references of each sky. AUROC ± its error over frames [recall at alpha {ALPHA:g}]."
    return output.markdown("Two skies", ("sky", "frames", "number", *VARIANTS), cells, note)
