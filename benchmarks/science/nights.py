"""First nights: `wide-field` calibrated on a few frames of a camera that it has not seen, and whole frames.

Cameras are drawn from `wide_field_prior`, one a draw; its good frames differ in sky by a fifth and in FWHM by
a twentieth to either side. Scored are other good frames, and frames with a wider PSF, elongated stars or more
read noise; then slopes and vignetting of a whole frame among the natural ones of `good_scene`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import output
from draws import CAMERA, FILTER, MemoryFrames, good_scene
from metrics import auroc
from seeds import SEEDS

from aqdask.errors import UsageError
from aqdask.methods.base import score_frame
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.defects import Defocus, Elongation, Gradient, Vignetting
from aqdask.simulate.detector_defects import ReadNoise
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.presets import wide_field_prior
from aqdask.simulate.scene import SceneSpec, stream
from aqdask.specs import FrameMetadata
from aqdask.stats.masking import bad_patches

ALPHA = 0.01
REFERENCES = (3, 5, 10, 20)
DRAWS, GOOD, SPOILT = 10, 8, 3
SIDE = 1024  # px
PER_DRAW = 1000  # seeds of a draw
WIDER, ELLIPTICITY = 1.4, 0.15
SLOPE_REFERENCES, SLOPE_FRAMES = 20, 24
PIXEL_VARIANCE = 1 / 12  # px**2, second moment of a pixel


def elongated(scene: SceneSpec) -> Defect:
    """Stars drawn out along a line, so that ``(a**2 - b**2) / (a**2 + b**2)`` is `ELLIPTICITY`."""
    variance = (scene.fwhm / 2.3548) ** 2 + PIXEL_VARIANCE
    length = math.sqrt(12 * 2 * variance * ELLIPTICITY / (1 - ELLIPTICITY))
    return Elongation(length, angle=float(stream(scene.field_seed or 0, "angle").uniform(0, 180)))


KINDS: dict[str, Callable[[SceneSpec], Defect]] = {
    f"PSF {WIDER} x wider": lambda scene: Defocus(WIDER * scene.fwhm),
    f"ellipticity {ELLIPTICITY}": elongated,
    "read noise x 2": lambda scene: ReadNoise(2 * scene.read_noise),
}


def first_nights(quick: bool = False) -> list[dict[str, Any]]:
    """Rows by number of references: masked fractions of good and of spoilt frames, one entry a draw."""
    rows = []
    for count in REFERENCES[1:2] if quick else REFERENCES:
        row: dict[str, Any] = {"references": count, "refused": 0, "good": [], **{kind: [] for kind in KINDS}}
        for draw in range(1 if quick else DRAWS):
            try:
                found = _draw(count, draw)
            except UsageError:
                row["refused"] += 1
                continue
            for name, masked in found.items():
                row[name].append(masked)
        rows.append(row)
    return rows


def _draw(count: int, draw: int) -> dict[str, list[float]]:
    """Masked fractions of the frames of one camera by kind, with ``count`` references."""
    seed = SEEDS["nights"] + PER_DRAW * draw
    scene = wide_field_prior(stream(seed, "camera"), SIDE, SIDE)
    card = FrameMetadata(camera="simulated", filter="L", gain=scene.gain)

    def frame(number: int, kind: str = "") -> np.ndarray:
        rng = stream(seed + number, "night")
        fwhm = scene.fwhm * (1 if kind else rng.uniform(0.95, 1.05))
        night = replace(scene, sky=scene.sky * rng.uniform(0.8, 1.2), fwhm=fwhm)
        return simulate_frame(night, [KINDS[kind](night)] if kind else [], seed + number).image

    references = [frame(number) for number in range(count)]
    frames = MemoryFrames(references, [f"night/{number:03}" for number in range(count)], card)
    bundle = calibrate_bundle(load_shipped(), frames, TrainSpec(name="nights", seed=draw), lambda note: None)
    scorer = NoiseAwareScorer(bundle)

    def masked(image: np.ndarray) -> float:
        found = score_frame(scorer, image, None, card.camera, card.filter)
        return float(bad_patches(found["pvalue"], ALPHA).mean())

    result = {"good": [masked(frame(100 + k)) for k in range(GOOD)]}
    for number, kind in enumerate(KINDS):
        result[kind] = [masked(frame(200 + 100 * number + k, kind)) for k in range(SPOILT)]
    return result


SLOPES: dict[str, Callable[[np.random.Generator], Defect]] = {
    "gradient of 10 %": lambda rng: Gradient(0.1, angle=float(rng.uniform(0, 360))),
    "vignetting of 20 %": lambda rng: Vignetting(0.2),
}


def slopes(quick: bool = False) -> list[dict[str, Any]]:
    """Rows by defect of the sky of a whole frame: AUROC of the frame score, and fraction of frames masked."""
    number = 3 if quick else SLOPE_FRAMES
    images = [_natural(k) for k in range(6 if quick else SLOPE_REFERENCES)]
    card = FrameMetadata(camera=CAMERA, filter=FILTER, gain=1.0)
    frames = MemoryFrames(images, [f"slope/{k:03}" for k in range(len(images))], card)
    bundle = calibrate_bundle(load_shipped(), frames, TrainSpec(name="slopes"), lambda note: None)
    scorer = NoiseAwareScorer(bundle)

    def scored(images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [score_frame(scorer, image, None, CAMERA, FILTER) for image in images]

    good = scored([_natural(1000 + k) for k in range(number)])
    rows = [{"frames": "good", "count": number, "masked": _masked(good)}]
    for place, (title, make) in enumerate(SLOPES.items()):
        bad = scored([_natural(2000 + 100 * place + k, make) for k in range(number)])
        scores = [[np.atleast_1d(one["frame_score"]) for one in frames] for frames in (bad, good)]
        found = auroc(*scores)
        rows.append(
            {
                "frames": title,
                "count": number,
                "masked": _masked(bad),
                "auroc": found.value,
                "error": found.error,
            }
        )
    return rows


def _natural(number: int, make: Callable[[np.random.Generator], Defect] | None = None) -> np.ndarray:
    """A frame with a natural structure of 3 % of the sky, with or without a defect."""
    seed = SEEDS["slopes"] + number
    scene = good_scene(seed, SIDE, structure=0.03)
    return simulate_frame(scene, [make(stream(seed, "defect"))] if make else [], seed).image


def _masked(frames: list[dict[str, np.ndarray]]) -> float:
    return float(np.mean([bad_patches(one["pvalue"], ALPHA).mean() for one in frames]))


def tables(rows: list[dict[str, Any]], sky: list[dict[str, Any]]) -> list[str]:
    """Write both tables as Markdown."""
    cells = []
    for row in rows:
        good = [value for draw in row["good"] for value in draw]
        cell = [row["references"], len(row["good"]), row["refused"]]
        cell += [f"{np.mean(good):.4f} ({max(good):.3f})", f"{np.mean(np.array(good) > 5 * ALPHA):.3f}"]
        for kind in KINDS:
            draws = [np.mean(draw) for draw in row[kind]]
            cell.append(f"{np.mean(draws):.2f} ({sum(mean >= 0.9 for mean in draws)} of {len(draws)})")
        cells.append(tuple(cell))
    columns = (
        "references", "draws", "refused", "good frames masked, mean (most)", "good above 5 alpha", *KINDS
    )  # fmt: skip
    note = f"Masked fraction of frames at alpha {ALPHA:g}, mean (draws in which it is .9 or more)."
    slopes_cells = [
        (row["frames"], row["count"], f"{row['auroc']:.3f} ±{row['error']:.3f}" if "auroc" in row else "-",
         f"{row['masked']:.3f}")
        for row in sky
    ]  # fmt: skip
    return [
        output.markdown("First nights", columns, cells, note),
        output.markdown(
            "Sky of whole frames", ("frames", "number", "AUROC of frame_score", "masked"), slopes_cells,
            f"{SLOPE_REFERENCES} references; natural structure of 3 % at 512 px.",
        ),
    ]  # fmt: skip
