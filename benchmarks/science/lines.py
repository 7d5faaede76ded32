"""Lines of whole frames: streaks, hot and dead columns and rows; recall, ends, false masks and cost.

The noise model is the scene's own, and the threshold is fitted to good frames of the same scene, so that
nothing but the finder is tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import output
from draws import CAMERA, good_scene
from scipy.special import erf
from seeds import SEEDS

from aqdask.methods.base import batches
from aqdask.methods.noise_aware.camera_noise import CameraNoise
from aqdask.methods.noise_aware.feature_extractor import Detector, FeatureExtractor
from aqdask.methods.noise_aware.fit_calibration import FeatureReader
from aqdask.methods.noise_aware.frame_line import FrameLine
from aqdask.methods.noise_aware.frame_lines import find_lines, patches_crossed
from aqdask.methods.noise_aware.line_test import LineTest
from aqdask.methods.noise_aware.line_threshold import LineThreshold
from aqdask.methods.noise_aware.networks import load_networks
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.patch_statistics import line_sums
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.scorer import extract_batch
from aqdask.methods.noise_aware.two_pass import SHARES
from aqdask.methods.shipped import load_shipped
from aqdask.simulate.camera import bleed, read_out
from aqdask.simulate.defect_base import TRUTH_SIGMA
from aqdask.simulate.frame import expose
from aqdask.simulate.presets import preset
from aqdask.simulate.scene import SceneSpec, stream
from aqdask.simulate.sources import draw_stars, render_stars
from aqdask.simulate.truth import NARROW_FRACTIONS, patch_fraction
from aqdask.specs import FrameMetadata, PatchGrid

ALPHA = 0.01
LIMIT = 1 - (1 - ALPHA) ** SHARES["lines"]  # p-value of a line from which patches are masked
REFERENCES = (3, 10, 20)
DRAWS = 50  # sets of references of each number
COST_TURNS = 7
TRIALS = 8  # frames of a kind of line
SPIKED = 6  # additional stars of 1e6 to 2e7 e- in 1024 x 1024 px
SPIKE_RADIUS, SPIKE_SIGMA = 3.0, 1.2  # px: core of a spike, and its profile


@dataclass(frozen=True)
class Scene:
    """A kind of frame: the scene of a seed and a size, and the share of a star's light in its spikes."""

    make: Callable[[int, int], SceneSpec]
    spikes: float = 0.0


def _preset(name: str) -> Callable[[int, int], SceneSpec]:
    return lambda seed, size: replace(preset(name), height=size, width=size)


def _bleeding(seed: int, size: int) -> SceneSpec:
    return good_scene(seed, size, full_well=60_000.0)


SCENES = {
    "default": Scene(good_scene),
    "crowded": Scene(_preset("crowded")),
    "gwac": Scene(_preset("gwac")),
    "wide PSF": Scene(_preset("wide_psf")),
    "spiked stars": Scene(_bleeding, 0.02),
    "long spikes": Scene(_bleeding, 0.2),
    "crowded, spiked": Scene(_preset("crowded"), 0.05),
}


GOOD = {
    "default": 28, "crowded": 28, "gwac": 16, "wide PSF": 16, "spiked stars": 28, "long spikes": 16,
    "crowded, spiked": 14,
}  # fmt: skip
"""Good frames of each scene."""


@dataclass(frozen=True)
class Line:
    """A line to draw: kind, peak in electrons, width as sigma in px, share of the frame that it covers."""

    kind: str
    peak: float
    sigma: float = 1.1
    share: float = 1.0

    def placed(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw the ends ``[[y, x], [y, x]]`` in px; a streak of share 1 goes from edge to edge."""
        if self.kind != "streak":
            start = rng.uniform(0, 1 - self.share) * size
            place = float(rng.integers(size // 20, size - size // 20))
            ends = np.array([[start, place], [start + self.share * size - 1, place]])
            return np.round(ends if self.kind == "column" else ends[:, ::-1])
        while True:
            angle, centre = rng.uniform(0, np.pi), rng.uniform(0.15, 0.85, 2) * size
            step = np.array([np.sin(angle), np.cos(angle)])
            with np.errstate(divide="ignore"):
                reach = np.sort([(edge - centre) / step for edge in (-0.5, size - 0.5)], axis=0)
            ends = centre + np.outer([reach[0].max(), reach[1].min()], step)
            if self.share == 1 and np.hypot(*(ends[1] - ends[0])) > size / 2:
                return ends
            half = self.share * size / 2
            if self.share < 1 and reach[0].max() < -half and reach[1].min() > half:
                return centre + np.outer([-half, half], step)

    def drawn(self, ends: np.ndarray, size: int) -> np.ndarray:
        """Electrons of each pixel, float32 ``(size, size)``."""
        image = np.zeros((size, size), np.float32)
        if self.kind != "streak":
            (y0, x0), (y1, x1) = ends.astype(int)
            image[y0 : y1 + 1, x0 : x1 + 1] = self.peak
            return image
        y, x = np.mgrid[:size, :size].astype(np.float32)
        length = float(np.hypot(*(ends[1] - ends[0])))
        step = (ends[1] - ends[0]) / length
        along = (y - ends[0, 0]) * step[0] + (x - ends[0, 1]) * step[1]
        away = (y - ends[0, 0]) * step[1] - (x - ends[0, 1]) * step[0]
        inside = (erf(along) - erf(along - length)) / 2
        return (self.peak * np.exp(-0.5 * np.square(away / self.sigma)) * inside).astype(np.float32)


LINES = {
    "streak across, 100 e-": Line("streak", 100),
    "streak across, 30 e-": Line("streak", 30),
    "streak across, 15 e-": Line("streak", 15),
    "streak over a third, 60 e-": Line("streak", 60, share=1 / 3),
    "wide trail (sigma 8 px), 15 e-": Line("streak", 15, sigma=8),
    "column, 20 e-": Line("column", 20),
    "column over a third, 40 e-": Line("column", 40, share=1 / 3),
    "row, 20 e-": Line("row", 20),
    "dead column, -20 e-": Line("column", -20),
    "dead column, -500 e-": Line("column", -500),
}
GOALS = {
    "streak across, 100 e-": 0.98, "streak across, 30 e-": 0.9, "streak across, 15 e-": 0.7,
    "streak over a third, 60 e-": 0.8, "column, 20 e-": 0.9,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A frame: image in ADU, scene, pixels that a line affects, and its ends."""

    image: np.ndarray
    scene: SceneSpec
    truth: np.ndarray
    ends: np.ndarray | None = None


def draw(kind: str, size: int, seed: int, line: Line | None = None) -> Drawn:
    """Draw a frame with at most one line."""
    chosen = SCENES[kind]
    scene = chosen.make(seed, size)
    stars = draw_stars(scene, seed)
    electrons = expose(scene, stars, seed).total()
    if chosen.spikes:
        rng = stream(seed, "spiked")
        number = max(round(SPIKED * (size / 1024) ** 2), 1)
        bright = np.column_stack([rng.integers(0, size, (number, 2)), 10 ** rng.uniform(6, 7.3, number)])
        electrons += render_stars(scene, bright) + _spikes(
            np.concatenate([stars, bright]), size, chosen.spikes
        )
    before, ends = bleed(electrons, scene.full_well), None
    truth = np.zeros(scene.shape, bool)
    if line:
        ends = line.placed(stream(seed, "line"), size)
        electrons = np.maximum(electrons + line.drawn(ends, size), 0)
        change = np.abs(bleed(electrons, scene.full_well) - before)
        truth = change > TRUTH_SIGMA * np.sqrt(before + scene.read_noise**2)
    charge = bleed(electrons, scene.full_well)
    return Drawn(read_out(scene, charge, stream(seed, "noise")), scene, truth, ends)


def _spikes(stars: np.ndarray, size: int, share: float) -> np.ndarray:
    """Four diffraction spikes of each star above 2e5 e-, which fall off with the square of the distance."""
    image = np.zeros((size, size), np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    for left, top, flux in stars[stars[:, 2] > 2e5]:
        for angle in (0.5, 0.5 + np.pi / 2):
            along = (x - left) * np.cos(angle) + (y - top) * np.sin(angle)
            away = (y - top) * np.cos(angle) - (x - left) * np.sin(angle)
            near = np.abs(away) < 5 * SPIKE_SIGMA
            squared = np.square(along[near]) + SPIKE_RADIUS**2
            profile = np.exp(-0.5 * np.square(away[near] / SPIKE_SIGMA)) / (SPIKE_SIGMA * np.sqrt(2 * np.pi))
            image[near] += share * flux * SPIKE_RADIUS / np.pi / squared * profile
    return image


def features_of(frame: Drawn) -> Features:
    """Extract the features of a frame with the noise model of its scene."""
    reader = FeatureReader(load_networks(load_shipped()), _camera_noise(frame.scene), 64)
    return reader(frame.image, None, FrameMetadata(camera=CAMERA))


def _camera_noise(scene: SceneSpec) -> CameraNoise:
    a = (scene.read_noise / scene.gain) ** 2 - scene.pedestal / scene.gain
    noise = NoiseModel(a, 1 / scene.gain, floor=1e-3)
    none = np.zeros((0, 2), np.int32)
    return CameraNoise(noise, none, none, float("inf"), scene.shape, (), {})


@dataclass(frozen=True)
class Found:
    """Result for one frame: patches affected and touched by a line, lines, patches of each, seconds."""

    affected: np.ndarray
    touched: np.ndarray
    lines: tuple[FrameLine, ...]
    crossed: list[np.ndarray]
    seconds: float

    @classmethod
    def of(cls, frame: Drawn, line: Line | None = None) -> Found:
        """Find the lines of a frame."""
        features = features_of(frame)
        begin = time.process_time()
        lines = find_lines(features)
        crossed = [patches_crossed(features, one) for one in lines]
        seconds = time.process_time() - begin
        fraction = patch_fraction(frame.truth, PatchGrid(*frame.image.shape))
        kind = "trail" if line and line.kind == "streak" else "hot_column"
        return cls(fraction >= NARROW_FRACTIONS[kind], fraction > 0, lines, crossed, seconds)

    def masked(self, threshold: LineThreshold) -> np.ndarray:
        """Patches masked for their lines, bool."""
        test, bad = LineTest(threshold), np.zeros(self.touched.shape, bool)
        for line, there in zip(self.lines, self.crossed, strict=True):
            if test.pvalue(line, float(there.mean())) <= LIMIT:
                bad |= there
        return bad

    @property
    def strongest(self) -> float:
        """Significance of the strongest line."""
        return max((line.significance for line in self.lines), default=1.0)


def good(kind: str, size: int, count: int, seed: int) -> list[Found]:
    """Find lines in good frames."""
    return [Found.of(draw(kind, size, seed + k)) for k in range(count)]


def false_masks(found: Sequence[Found], references: int) -> tuple[float, float]:
    """Share of patches and of frames that lines mask in good frames, by thresholds of other good frames."""
    rng = np.random.default_rng(SEEDS["lines"])
    masked, frames = [], []
    for _ in range(DRAWS):
        order = rng.permutation(len(found))
        threshold = LineThreshold.fit([found[k].strongest for k in order[:references]])
        for k in order[references:]:
            bad = found[k].masked(threshold)
            masked.append(bad.mean())
            frames.append(bad.any())
    return float(np.mean(masked)), float(np.mean(frames))


def good_rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield rows of good frames: the strongest line, and false masks by number of references."""
    cases = [(kind, 1024, count) for kind, count in GOOD.items()]
    cases += [("default", 512, 28), ("crowded", 512, 28), ("default", 4096, 4)]
    for number, (kind, size, count) in enumerate([("default", 512, 6)] if quick else cases):
        found = good(kind, size, count, SEEDS["lines"] + 1000 * number)
        strongest = [one.strongest for one in found]
        row = {
            "scene": kind,
            "size": size,
            "frames": count,
            "strongest": strongest,
            "seconds": [f.seconds for f in found],
        }
        usable = [references for references in REFERENCES if references < count - 1]
        print(kind, size, np.round(np.sort(strongest), 1), flush=True)
        yield row | {"false": {str(references): false_masks(found, references) for references in usable}}


def line_rows(quick: bool, strongest: dict[tuple[str, int], list[float]]) -> Iterator[dict[str, Any]]:
    """Yield rows of frames with one line: recall, false masks elsewhere, ends."""
    cases = [(name, "default", 1024, TRIALS) for name in LINES]
    cases += [(name, kind, 1024, TRIALS // 2) for kind in ("crowded", "spiked stars") for name in GOALS]
    cases += [(name, "default", 512, TRIALS) for name in GOALS]
    cases += [
        (name, "default", 4096, 2)
        for name in ("streak across, 15 e-", "streak over a third, 60 e-", "column, 20 e-")
    ]
    if quick:
        cases = [("streak across, 100 e-", "default", 512, 2)]
    for number, (name, kind, size, trials) in enumerate(cases):
        threshold = LineThreshold.fit(strongest[kind, size][: REFERENCES[1]])
        line, hit, affected, wrong, untouched, ends = LINES[name], 0, 0, 0, 0, []
        for k in range(trials):
            frame = draw(kind, size, SEEDS["lines"] + 50_000 + 100 * number + k, line)
            found = Found.of(frame, line)
            bad = found.masked(threshold)
            hit, affected = hit + (bad & found.affected).sum(), affected + found.affected.sum()
            wrong, untouched = wrong + (bad & ~found.touched).sum(), untouched + (~found.touched).sum()
            ends += [_ends_apart(found.lines[0], frame.ends)] if bad.any() else []
        yield {
            "line": name, "scene": kind, "size": size, "frames": trials, "recall": float(hit / affected),
            "false": float(wrong / untouched), "ends": ends, "goal": GOALS.get(name),
        }  # fmt: skip


def _ends_apart(line: FrameLine, ends: np.ndarray) -> float:
    """Distance of the farther end from where it should be, px."""
    found = np.array([line.start, line.end])
    return float(min(np.hypot(*(one - ends).T).max() for one in (found, found[::-1])))


def lines(quick: bool = False) -> list[str]:
    """Measure, and write the tables."""
    rows = list(good_rows(quick))
    tables = [_good_table(rows)]
    found = line_rows(quick, {(row["scene"], row["size"]): row["strongest"] for row in rows})
    tables.append(_line_table(list(found)))
    return [*tables, _cost_table(cost(512 if quick else 4096, quick))]


def cost(size: int, quick: bool) -> list[dict[str, Any]]:
    """Measure processor seconds of one frame, with and without the sums for lines, in turns."""
    networks, rows = load_networks(load_shipped()), []
    for kind in ("default",) if quick else ("default", "crowded", "long spikes"):
        frame = draw(kind, size, SEEDS["lines"] + 90_000)
        camera = _camera_noise(frame.scene)
        detector, grid = Detector(camera.noise, float("inf")), PatchGrid(*frame.image.shape)
        sums = FeatureExtractor(networks)
        plain = FeatureExtractor(networks)
        plain.statistics = tuple(row for row in plain.statistics if row.function is not line_sums)
        features = features_of(frame)
        seconds: dict[str, list[float]] = {"with sums": [], "without": [], "lines": []}
        for _ in range(COST_TURNS):
            for name, extractor in (("with sums", sums), ("without", plain)):
                begin = time.process_time()
                for patches, valid, _, _ in batches(frame.image, None, grid):
                    extract_batch(extractor, patches, valid, detector)
                seconds[name].append(time.process_time() - begin)
            begin = time.process_time()
            find_lines(features, floor=math.inf)
            seconds["lines"].append(time.process_time() - begin)
        rows.append({"scene": kind, "size": size, **seconds})
    return rows


def _cost_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        with_sums, without, found = (np.array(row[name]) for name in ("with sums", "without", "lines"))
        cells.append(
            (row["scene"], row["size"], *(f"{np.median(one):.3f}" for one in (without, with_sums, found)),
             f"{np.median((with_sums + found) / without) - 1:.1%}")
        )  # fmt: skip
    columns = ("scene", "px", "features without sums, s", "with sums, s", "lines, s", "cost")
    note = f"Processor seconds of a frame, one thread, {COST_TURNS} turns; cost: median of the ratios."
    return output.markdown("Cost", columns, cells, note)


def _good_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        strongest = np.quantile(row["strongest"], [0, 0.5, 1])
        false = [row["false"].get(str(n)) for n in REFERENCES]
        cells.append(
            (row["scene"], row["size"], row["frames"], " / ".join(f"{x:.1f}" for x in strongest),
             *(f"{one[0]:.5f} ({one[1]:.3f})" if one else "-" for one in false),
             f"{1e3 * np.median(row['seconds']):.1f}")
        )  # fmt: skip
    names = [f"masked, {n} references" for n in REFERENCES]
    columns = ("scene", "px", "frames", "strongest line, least / median / most", *names, "ms")
    note = f"Good patches masked for a line at alpha {ALPHA:g}, in brackets the share of frames with one."
    return output.markdown("Good frames", columns, cells, note)


def _line_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (r["line"], r["scene"], r["size"], r["frames"], f"{r['recall']:.3f}", r["goal"] or "-",
         f"{r['false']:.5f}", f"{np.median(r['ends']):.0f}" if r["ends"] else "-")
        for r in rows
    ]  # fmt: skip
    columns = ("line", "scene", "px", "frames", "recall", "goal", "others masked", "ends off by, px")
    note = (
        f"Threshold from {REFERENCES[1]} good frames, alpha {ALPHA:g}. Recall of affected patches; others: "
        "patches without an affected pixel. Ends: median distance of the farther end."
    )
    return output.markdown("Frames with a line", columns, cells, note)
