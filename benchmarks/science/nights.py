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
import real
from draws import CAMERA, FILTER, MemoryFrames, good_scene
from metrics import auroc
from seeds import SEEDS

from aqdask.errors import UsageError
from aqdask.methods.base import score_frame
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.frame_tests import FRAME_TESTS
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
SLOPE_REFERENCES, SLOPE_FRAMES = 20, 40
SKIES: dict[str, tuple[int, dict[str, float]]] = {
    "512 px, 1 to 3 %": (512, {}),
    "1024 px, 1 to 3 %": (1024, {}),
    "1024 px, 3 %": (1024, {"structure": 0.03}),
}
"""Frames by size and natural structure, whose scale is 512 px."""
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
        row: dict[str, Any] = {"references": count, "refused": 0, "spread": [], "good": []}
        row |= {kind: [] for kind in KINDS}
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


def _draw(count: int, draw: int) -> dict[str, Any]:
    """Masked fractions of the frames of one camera by kind, with ``count`` references; their spreads."""
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

    result: dict[str, Any] = {"spread": _spread(scorer, card.camera, card.filter)}
    result["good"] = [masked(frame(100 + k)) for k in range(GOOD)]
    for number, kind in enumerate(KINDS):
        result[kind] = [masked(frame(200 + 100 * number + k, kind)) for k in range(SPOILT)]
    return result


SLOPES: dict[str, Callable[[np.random.Generator], Defect]] = {
    "gradient of 10 %": lambda rng: Gradient(0.1, angle=float(rng.uniform(0, 360))),
    "vignetting of 20 %": lambda rng: Vignetting(0.2),
}


def slopes(quick: bool = False) -> list[dict[str, Any]]:
    """Rows by defect of the sky of a whole frame: AUROC of the frame score, and fraction of frames masked."""
    number, rows = 3 if quick else SLOPE_FRAMES, []
    card = FrameMetadata(camera=CAMERA, filter=FILTER, gain=1.0)
    for sky in list(SKIES)[: 1 if quick else None]:
        images = [_natural(sky, k) for k in range(6 if quick else SLOPE_REFERENCES)]
        frames = MemoryFrames(images, [f"slope/{k:03}" for k in range(len(images))], card)
        bundle = calibrate_bundle(load_shipped(), frames, TrainSpec(name="slopes"), lambda note: None)
        scorer = NoiseAwareScorer(bundle)
        good = [_scored(scorer, _natural(sky, 1000 + k)) for k in range(number)]
        rows.append({"sky": sky, "frames": "good", "count": number, "masked": _masked(good)})
        for place, (title, make) in enumerate(SLOPES.items()):
            bad = [_scored(scorer, _natural(sky, 2000 + 100 * place + k, make)) for k in range(number)]
            scores = [[np.atleast_1d(one["frame_score"]) for one in frames] for frames in (bad, good)]
            found = auroc(*scores)
            rows.append({"sky": sky, "frames": title, "count": number, "masked": _masked(bad),
                         "auroc": found.value, "error": found.error})  # fmt: skip
    return rows


def _scored(scorer: NoiseAwareScorer, image: np.ndarray) -> dict[str, np.ndarray]:
    return score_frame(scorer, image, None, CAMERA, FILTER)


def _natural(
    sky: str, number: int, make: Callable[[np.random.Generator], Defect] | None = None
) -> np.ndarray:
    """A frame with natural structure, with or without a defect."""
    side, changes = SKIES[sky]
    seed = SEEDS["slopes"] + number
    scene = good_scene(seed, side, **changes)
    return simulate_frame(scene, [make(stream(seed, "defect"))] if make else [], seed).image


def _masked(frames: list[dict[str, np.ndarray]]) -> float:
    return float(np.mean([bad_patches(one["pvalue"], ALPHA).mean() for one in frames]))


def spreads(rows: list[dict[str, Any]], quick: bool = False) -> dict[str, list[dict[str, float]]]:
    """Standard deviation of each test's statistics between good frames: simulated cameras, real series."""
    found = {"simulated cameras": [one for row in rows if row["references"] == 20 for one in row["spread"]]}
    data = real.data_folder()
    for name in "" if quick else "LR":
        if (data / "bsu_2022yid" / name).is_dir():
            series = real.read(data, name)
            bundle = calibrate_bundle(
                load_shipped(), series.frames.part(series.good), TrainSpec(name="real"), lambda note: None
            )
            card = series.frames.metadata[0]
            found[f"real series {name}, {len(series.good)} frames"] = [
                _spread(NoiseAwareScorer(bundle), card.camera, card.filter)
            ]
    return found


def _spread(scorer: NoiseAwareScorer, camera: str, filter: str) -> dict[str, float]:
    tests = scorer.calibration(camera, filter)[0].decision.frame_tests
    assert tests is not None
    found = {}
    for test in FRAME_TESTS:
        if all(name in tests.values for name in test.statistics):
            columns = [np.asarray(tests.values[name], float) for name in test.statistics]
            found[test.name] = float(np.sqrt(np.mean([np.nanvar(one, ddof=1) for one in columns])))
    return found


def tables(
    rows: list[dict[str, Any]], sky: list[dict[str, Any]], spread: dict[str, list[dict[str, float]]]
) -> list[str]:
    """Write the tables as Markdown."""
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
        (row["sky"], row["frames"], row["count"],
         f"{row['auroc']:.3f} ±{row['error']:.3f}" if "auroc" in row else "-", f"{row['masked']:.3f}")
        for row in sky
    ]  # fmt: skip
    spread_cells = [
        (name, len(series), *(_range([one.get(test.name) for one in series]) for test in FRAME_TESTS))
        for name, series in spread.items()
    ]
    spread_cells.append(("prior", "-", *(f"{test.prior_spread:g}" for test in FRAME_TESTS)))
    return [
        output.markdown("First nights", columns, cells, note),
        output.markdown(
            "Sky of whole frames", ("frames, natural structure", "defect", "number", "AUROC of frame_score",
            "masked"), slopes_cells, f"{SLOPE_REFERENCES} references; the structure has a scale of 512 px.",
        ),
        output.markdown(
            "Spread of good frames", ("frames", "series", *(test.name for test in FRAME_TESTS)), spread_cells,
            "Standard deviation in the units of the tests: median (least - most) of the series.",
        ),
    ]  # fmt: skip


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{np.median(known):.4f} ({min(known):.4f} - {max(known):.4f})"
