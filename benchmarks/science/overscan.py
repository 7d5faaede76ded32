"""Places without sky: trails found in frames with overscan or corners beyond the detector, and in whole ones.

`python benchmarks/science/overscan.py [--draws N] [--out FILE]`. Each draw is a set of reference frames on
which `wide-field` is calibrated, and fresh frames with a trail each. All variants show the same sky.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for `helpers`

import helpers
import output
from draws import CAMERA, FILTER, MemoryFrames, good_scene
from seeds import SEEDS

from aqdask.io.fill import find_fill
from aqdask.io.sections import read_sections
from aqdask.methods.base import score_frame
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate.defects import Trail
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.simulate.scene import SceneSpec, stream
from aqdask.simulate.truth import NARROW_FRACTIONS, patch_fraction
from aqdask.specs import FrameMetadata, PatchGrid

ALPHA = 0.01
SIZE = 512
REFERENCES, TRAILS = 24, 8  # of a draw; trails of each amplitude, and as many good frames
AMPLITUDES = (0, 60, 120, 250, 500)  # e-, peak
FRAME_SEEDS = 1000  # of a draw
CARD = FrameMetadata(camera=CAMERA, filter=FILTER, gain=1.0)

Pixels = tuple[np.ndarray, "np.ndarray | None"]


@dataclass(frozen=True)
class Overscan:
    """Columns and rows of overscan at the sides of a frame: left, right, bottom, top.

    ``told`` is False for frames without the cards.
    """

    left: int = 0
    right: int = 0
    bottom: int = 0
    top: int = 0
    told: bool = True

    def put(self, frame: SimulatedFrame, seed: int) -> Pixels:
        """Add the overscan to a frame."""
        height, width = frame.image.shape
        beyond = ((self.bottom, self.top), (self.left, self.right))
        scene = scene_of(seed)
        shape = (height + sum(beyond[0]), width + sum(beyond[1]))
        noise = stream(seed, "overscan").normal(scene.pedestal, scene.read_noise / scene.gain, shape)
        whole = noise.round().astype(frame.image.dtype)
        whole[self.bottom : self.bottom + height, self.left : self.left + width] = frame.image
        columns = f"{self.left + 1}:{self.left + width}"
        card = f"DATASEC = '[{columns},{self.bottom + 1}:{self.bottom + height}]'".ljust(80)
        sections = read_sections(card if self.told else "", "", whole.shape)
        return whole, sections.unexposed(whole.shape)[0]

    def truth(self, pixels: np.ndarray) -> np.ndarray:
        """Pad a map of affected pixels."""
        return np.pad(pixels, ((self.bottom, self.top), (self.left, self.right)))


@dataclass(frozen=True)
class Footprint:
    """A square that is turned by ``angle`` degrees, with ``fill`` beyond."""

    angle: float
    fill: float

    def inside(self, seed: int = 0) -> np.ndarray:
        """Pixels on the detector; the place differs by a pixel or two between frames."""
        y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
        angle, reach = np.deg2rad(self.angle), 0.44 * SIZE + seed % 3
        across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        return np.maximum(np.abs(across), np.abs(along)) <= reach

    def put(self, frame: SimulatedFrame, seed: int) -> Pixels:
        """Overwrite what is beyond the detector."""
        image = frame.image.astype(np.float32)
        image[~self.inside(seed)] = self.fill
        return image, ~np.isfinite(image) if np.isnan(self.fill) else find_fill(image)

    def truth(self, pixels: np.ndarray) -> np.ndarray:
        """Affected pixels on the detector."""
        return pixels & self.inside()


VARIANTS: dict[str, Overscan | Footprint] = {
    "whole frames": Overscan(),
    "overscan of 90 columns, no card": Overscan(left=20, right=70, told=False),
    "left 5": Overscan(left=5),
    "left 32": Overscan(left=32),
    "right 90": Overscan(right=90),
    "left 20, right 70": Overscan(left=20, right=70),
    "bottom 50": Overscan(bottom=50),
    "top 200": Overscan(top=200),
    "right 200": Overscan(right=200),
    "turned, 0 beyond": Footprint(8, 0),
    "turned, NaN beyond": Footprint(8, np.nan),
}


class MaskedFrames(MemoryFrames):
    """Frames in memory with their invalid pixels."""

    def __init__(self, frames: Sequence[Pixels]) -> None:
        super().__init__([image for image, _ in frames], [f"{k:03}" for k in range(len(frames))], CARD)
        self.invalid = [invalid for _, invalid in frames]

    def read(self, index: int, /) -> Pixels:
        """Pixels and invalid ones."""
        return self.images[index], self.invalid[index]


def scene_of(seed: int) -> SceneSpec:
    """A scene of the prior, without structure and bright stars, in which frames this small would differ."""
    return good_scene(seed, SIZE, structure=0.0, flux_maximum=5e4)


def frame_of(seed: int, amplitude: float = 0) -> SimulatedFrame:
    """A frame of the prior, with a trail somewhere."""
    rng = stream(seed, "trail")
    through = (float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.25, 0.75)))
    trail = Trail(amplitude, angle=float(rng.uniform(0, 180)), through=through)
    return simulate_frame(scene_of(seed), [trail] if amplitude else [], seed)


def shares(put: Overscan | Footprint, seed: int, frames: dict[int, SimulatedFrame]) -> Iterator[np.ndarray]:
    """Calibrate on one draw, and yield flagged and counted patches of each amplitude, ``(2,)``."""
    references = [put.put(frames[seed + k], seed + k) for k in range(REFERENCES)]
    spec = TrainSpec(name="overscan", seed=SEEDS["training"])
    scorer = NoiseAwareScorer(
        calibrate_bundle(load_shipped(), MaskedFrames(references), spec, lambda progress: None)
    )
    for number, amplitude in enumerate(AMPLITUDES):
        counts = np.zeros(2)
        for k in range(TRAILS):
            one = seed + 100 * (number + 1) + k
            image, invalid = put.put(frames[one], one)
            pvalue = score_frame(scorer, image, invalid, CAMERA, FILTER)["pvalue"]
            counted = np.isfinite(pvalue)
            if amplitude:
                fraction = patch_fraction(put.truth(frames[one].truth["trail"]), PatchGrid(*image.shape))
                counted = fraction >= NARROW_FRACTIONS["trail"]
            counts += (pvalue[counted] <= ALPHA).sum(), counted.sum()
        yield counts


def overscan(draws: int, report: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Flagged and counted patches of each variant, ``(draw, amplitude, 2)``."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
    for draw in range(draws):
        seed = SEEDS["overscan"] + FRAME_SEEDS * draw
        frames = {seed + k: frame_of(seed + k) for k in range(REFERENCES)}
        for number, amplitude in enumerate(AMPLITUDES):
            first = seed + 100 * (number + 1)
            frames |= {k: frame_of(k, amplitude) for k in range(first, first + TRAILS)}
        for name, put in VARIANTS.items():
            found[name].append(np.stack([*shares(put, seed, frames)]))
        report(f"draw {draw + 1} of {draws}")
    return {name: np.stack(counts) for name, counts in found.items()}


def table(found: dict[str, np.ndarray]) -> str:
    """Write the Markdown table: shares, with their difference from whole frames and its error over draws."""
    rows = []
    whole = found["whole frames"]
    share = {name: counts[..., 0] / counts[..., 1] for name, counts in found.items()}
    for name, counts in found.items():
        total = counts.sum(axis=0)
        cells = [f"{value:.3f}" for value in total[:, 0] / total[:, 1]]
        away = share[name] - share["whole frames"]
        error = (
            away.std(axis=0, ddof=1) / np.sqrt(len(away)) if len(away) > 1 else np.full(len(cells), np.nan)
        )
        if name != "whole frames":
            cells = [
                f"{c} ({a:+.3f} ±{e:.3f})" for c, a, e in zip(cells, away.mean(axis=0), error, strict=True)
            ]
        rows.append((name, *cells))
    note = (
        f"{len(whole)} draws of {REFERENCES} references and {TRAILS} frames of each amplitude, {SIZE} px a "
        f"side. Patches masked at alpha {ALPHA:g}, in brackets the difference from whole frames ± its error."
    )
    columns = ("frames", "good patches", *(f"trail {amplitude} e-" for amplitude in AMPLITUDES[1:]))
    return output.markdown("Places without sky", columns, rows, note)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=6, help="sets of reference frames (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    parser.add_argument("--only", nargs="*", help="variants")
    given = parser.parse_args()
    for name in set(VARIANTS) - {"whole frames", *(given.only or VARIANTS)}:
        del VARIANTS[name]
    found = table(overscan(given.draws, lambda text: print(text, file=sys.stderr, flush=True)))
    print(found)
    if given.out:
        facts = helpers.environment()
        head = [f"- command: `python benchmarks/science/overscan.py --draws {given.draws}`"]
        head += [f"- {name}: {value}" for name, value in facts.items()]
        given.out.write_text(
            "\n".join(["# Places without sky", "", *head, "", *found.splitlines()[2:]]) + "\n"
        )


if __name__ == "__main__":
    main()
