"""Part 1, third experiment: photometry and false alarms without a mask, with each method's, and the true one.

`photometry` is the table with goals, on frames of the prior; `gwac` an archive of GWAC-like frames, half of
them spoilt, with models of its own. The arithmetic is `aqdask.sky.photometry`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from draws import MemoryFrames, Patches, good_scene
from evaluate import ALPHA, Scale
from methods import AQDASK, NAMES, Contest, prepare
from seeds import SEEDS

from aqdask.kernels.masking import bad_pixels
from aqdask.kernels.patches import stitch
from aqdask.sky import defects
from aqdask.sky.camera import flat_field
from aqdask.sky.defect import Defect
from aqdask.sky.photometry import Detections, detections, photometric_scatter
from aqdask.sky.scene import SceneSpec, stream
from aqdask.sky.scenes import preset
from aqdask.sky.simulate import SimulatedFrame, simulate_frame
from aqdask.specs import Card, PatchGrid

FRAMES, REFERENCES = 24, 20  # of the archive (600 on a cluster), and to train on
LEVEL = 0.3  # complex background, rms fraction of the sky
SCALES = (8, 32)  # px
APERTURE = 1.7  # FWHM, radius
GOAL_RATIO, GOAL_LOST = 1.05, 0.03  # of the oracle's scatter; clean patches lost
NOTHING, ORACLE = "no mask", "true mask"

Drawn = tuple[SceneSpec, SimulatedFrame]


def region(rng: np.random.Generator) -> defects.Region:
    """A rectangle of 0.6 of either side."""
    top, left = (float(edge) for edge in rng.uniform(0, 0.4, 2))
    return defects.Region(top, top + 0.6, left, left + 0.6)


def photometry(contest: Contest, scale: Scale) -> list[dict[str, Any]]:
    """Rows by scale of the background and mask, on frames of the prior; see `outcome`."""
    rows = []
    for place, pixels in enumerate(SCALES):
        drawn = []
        for seed in range(
            SEEDS["archive"] + 1000 * place, SEEDS["archive"] + 1000 * place + 2 * scale.spoilt
        ):
            scene = good_scene(seed, scale.size)
            defect = defects.Background(LEVEL, scale=pixels, region=region(stream(seed, "region")))
            drawn.append((scene, simulate_frame(scene, [defect], seed)))
        rows += [{"frames": f"background {LEVEL}, {pixels} px", **row} for row in outcome(contest, drawn)]
    return rows


def gwac_scene(size: int) -> SceneSpec:
    """The preset, smaller if asked for."""
    return replace(preset("gwac"), height=size, width=size)


def gwac_frames(count: int, size: int) -> Iterator[Drawn]:
    """Frames of the archive, one at a time; every second one is spoilt, by five kinds of defect in turn."""
    scene = gwac_scene(size)
    for number in range(count):
        seed = SEEDS["archive"] + 50_000 + number
        rng = stream(seed, "region")
        kinds: list[Defect] = [
            defects.Background(LEVEL, scale=8, region=region(rng)),
            defects.Background(LEVEL, scale=32, region=region(rng)),
            defects.Trail(300, angle=float(rng.uniform(0, 180))),
            defects.Cloud(0.6, region=region(rng)),
            defects.Ghost(0.1, centre=(float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.8)))),
        ]
        chosen = [kinds[number // 2 % len(kinds)]] if number % 2 else []
        yield scene, simulate_frame(scene, chosen, seed)


def gwac(folder: Path, count: int, size: int, references: int, steps: dict[str, int]) -> list[dict[str, Any]]:
    """Train on good frames of the archive's camera, then see what masks are worth on ``count`` others."""
    scene = gwac_scene(size)
    seeds = range(SEEDS["archive_reference"], SEEDS["archive_reference"] + references)
    images = [simulate_frame(scene, seed=seed).image for seed in seeds]
    card = Card(camera=scene.camera, filter=scene.filter, gain=scene.gain)
    source = MemoryFrames(images, [f"gwac/{seed}" for seed in seeds], card)
    contest = Contest(prepare(source, steps, folder))
    rows = outcome(contest, gwac_frames(count, size))
    return [{"frames": f"{count} of {size} px a side, half spoilt", **row} for row in rows]


def outcome(contest: Contest, drawn: Iterable[Drawn]) -> list[dict[str, Any]]:
    """What masks at `ALPHA` do to photometry and detections; one row a mask.

    'rms' is the scatter of aperture magnitudes of the stars that the mask leaves, in quadrature over frames;
    'lost' the share of masked patches among those that no defect touches; 'detections' are spurious and real
    ones, all and those that are left.
    """
    names = (NOTHING, *NAMES, ORACLE)
    scatter: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    found = {name: Detections() for name in names}
    clean: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    count = 0
    for scene, frame in drawn:
        count += 1
        grid, patches = PatchGrid(*frame.image.shape), Patches.of(frame)
        verdicts = contest.score(frame.image)
        masks = {name: bad_pixels(verdicts[name].pvalue, ALPHA, grid) for name in NAMES}
        masks |= {NOTHING: np.zeros(frame.image.shape, bool), ORACLE: stitch(patches.affected, grid)}
        for name in names:
            scatter[name].append(_scatter(scene, frame, masks[name]))
            found[name] = found[name].plus(detections(frame.image, frame.stars, masks[name]))
        for name in NAMES:
            clean[name].append(verdicts[name].masked(ALPHA)[~patches.touched])
    best = _together(scatter[ORACLE])
    rows = []
    for name in names:
        lost = float(np.concatenate(clean[name]).mean()) if name in clean else 0.0
        rows.append(
            {
                "mask": name,
                "count": count,
                "stars": sum(number for number, _ in scatter[name]),
                "rms": _together(scatter[name]),
                "ratio": _together(scatter[name]) / best,
                "lost": lost,
                "detections": asdict(found[name]),
            }
        )
    return rows


def _scatter(scene: SceneSpec, frame: SimulatedFrame, mask: np.ndarray) -> tuple[int, float]:
    """Stars that are left, and the scatter of their magnitudes."""
    found = photometric_scatter(
        frame.image, frame.stars, mask, radius=APERTURE * scene.fwhm, gain=scene.gain,
        sky_noise=scene.sky_noise, flat=flat_field(scene), saturation=scene.saturation,
    )  # fmt: skip
    return found.kept, found.rms_kept


def _together(parts: Sequence[tuple[int, float]]) -> float:
    """Scatter of all frames, magnitudes: in quadrature, each about its own zero point."""
    known = [(number, rms) for number, rms in parts if math.isfinite(rms)]
    total = sum(number for number, _ in known)
    return math.sqrt(sum(number * rms**2 for number, rms in known) / total) if total else math.nan


def verdict(row: dict[str, Any]) -> str:
    """Whether `aqdask` reached the goals."""
    if row["mask"] != AQDASK:
        return ""
    misses = []
    if not row["ratio"] <= GOAL_RATIO:
        misses.append(f"scatter {row['ratio']:.2f} x the true mask's, goal {GOAL_RATIO}")
    if not row["lost"] <= GOAL_LOST:
        misses.append(f"lost {row['lost']:.3f}, goal {GOAL_LOST}")
    return "; ".join(misses) or "reached"
