"""Detection of bad reference frames: sets of frames of simulated cameras are calibrated.

Good sets should pass; of a set with one bad frame, or with two of the same kind, the calibration should name
those. Needs no trained model: the shipped one is calibrated, as `aqdask calibrate` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import output
from draws import MemoryFrames
from seeds import SEEDS

from aqdask.errors import UsageError
from aqdask.methods.bundle import Bundle
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.defects import Background, Cloud, Defocus, Elongation, Gradient, Region
from aqdask.simulate.detector_defects import ReadNoise
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.presets import wide_field_prior
from aqdask.simulate.scene import SceneSpec, stream
from aqdask.specs import FrameMetadata

CAMERAS = 9
SIZE = 768  # px a side: 144 patches
FEW, MANY = 6, 14  # frames of a set
PER_CAMERA = 100  # seeds of the frames of a camera
ALPHA = 0.01

KINDS: dict[str, Callable[[SceneSpec], Defect]] = {
    "cloud over a third, glow 30 %": lambda scene: Cloud(0.5, glow=0.3, region=Region(right=1 / 3)),
    "gradient of 30 %": lambda scene: Gradient(0.3),
    "background of 10 %, 32 px": lambda scene: Background(0.1, scale=32),
    "stars 1.4 x wider": lambda scene: Defocus(1.4 * scene.fwhm),
    "stars drawn out by 0.8 FWHM": lambda scene: Elongation(0.8 * scene.fwhm),
    "read noise x 2": lambda scene: ReadNoise(2 * scene.read_noise),
}


@dataclass(frozen=True)
class Series:
    """``count`` frames of one camera: sky .8 to 1.2, FWHM .95 to 1.05 times the scene's, uniform.

    Parameters
    ----------
    scene : SceneSpec
    seed : int
        Of frame 0; the others follow.
    count : int
    """

    scene: SceneSpec
    seed: int
    count: int = MANY

    @classmethod
    def of(cls, seed: int, count: int = MANY) -> Series:
        """The series of the camera that ``seed`` draws."""
        return cls(wide_field_prior(stream(seed, "camera"), SIZE, SIZE), seed, count)

    def frames(self, kind: str = "", members: Sequence[int] | None = None) -> MemoryFrames:
        """The frames, or ``members`` of them, as they are or each spoilt by a defect of a kind."""
        chosen = range(self.count) if members is None else members
        images = []
        for number in chosen:
            rng = stream(self.seed + number, "night")
            sky, fwhm = self.scene.sky * rng.uniform(0.8, 1.2), self.scene.fwhm * rng.uniform(0.95, 1.05)
            scene = replace(self.scene, sky=sky, fwhm=fwhm)
            defects = [KINDS[kind](scene)] if kind else []
            images.append(simulate_frame(scene, defects, self.seed + number).image)
        card = FrameMetadata(camera="simulated", filter="L", gain=self.scene.gain)
        return MemoryFrames(images, [f"night/{number:03}" for number in chosen], card)

    def bad(self) -> tuple[int, int]:
        """Positions of the two frames that are spoilt, the first among the first `FEW`."""
        rng = stream(self.seed, "bad")
        first = int(rng.integers(FEW))
        return first, (first + 1 + int(rng.integers(self.count - 1))) % self.count


def with_bad(good: MemoryFrames, bad: Mapping[int, Any], count: int) -> MemoryFrames:
    """The first ``count`` of good frames, some of them replaced by the images ``bad``, by position."""
    images = [bad.get(k, image) for k, image in enumerate(good.images[:count])]
    return MemoryFrames(images, good.ids[:count], good.metadata[0])


def sets_of(series: Series) -> Iterator[tuple[str, MemoryFrames, set[str]]]:
    """Kind, frames and ids of the bad ones: good sets, with one bad frame, and with two."""
    good = series.frames()
    for members in (range(FEW), range(series.count - FEW, series.count), range(series.count)):
        yield "none", good.part(members), set()
    positions = series.bad()
    for kind in KINDS:
        spoilt = dict(zip(positions, series.frames(kind, positions).images, strict=True))
        for count, number in ((FEW, 1), (series.count, 1), (series.count, 2)):
            bad = {place: spoilt[place] for place in positions[:number]}
            yield kind, with_bad(good, bad, count), {good.ids[place] for place in bad}


def verdict(bundle: Bundle, frames: MemoryFrames, bad: set[str]) -> dict[str, bool | str]:
    """Calibrate on a set whose frames ``bad`` are bad, and compare those with the frames that are named."""
    text, named, notes = "", set(), ""
    try:
        spec = TrainSpec(name="references", alpha=ALPHA)
        calibrated = calibrate_bundle(bundle, frames, spec, lambda progress: None)
        notes = " ".join(note for note in calibrated.notes if note.startswith("Inspect"))
    except UsageError as error:
        text, named = str(error), set(getattr(error, "frames", ()))
    return {
        "refused": bool(text),
        "named": bool(named) and named == bad,
        "some": bool(named & bad) and bool(bad - named),
        "wrong": bool(named - bad),
        "looked": any(f"{name} (" in notes for name in bad) if bad else bool(notes),
        "text": text or notes,
    }


def references(folder: Path, quick: bool = False) -> list[str]:
    """Table as Markdown; it and every verdict are also kept in ``folder``."""
    bundle, found = load_shipped(), []
    for camera in range(1 if quick else CAMERAS):
        series = Series.of(SEEDS["references"] + PER_CAMERA * camera)
        for kind, frames, bad in sets_of(series):
            about = {"camera": camera, "kind": kind, "frames": len(frames.ids), "bad": len(bad)}
            found.append(about | verdict(bundle, frames, bad))
    made = [output.references(summary(found))]
    (folder / "references.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "references.md").write_text("\n".join(made))
    return made


def summary(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Counts by kind, number of frames and number of bad ones."""
    rows = []
    for key in sorted({(one["bad"], one["frames"]) for one in found}):
        for kind in dict.fromkeys(one["kind"] for one in found):
            chosen = [one for one in found if (one["bad"], one["frames"]) == key and one["kind"] == kind]
            counts = {
                name: sum(one[name] for one in chosen)
                for name in ("refused", "named", "some", "wrong", "looked")
            }
            if chosen:
                rows.append({"kind": kind, "bad": key[0], "frames": key[1], "sets": len(chosen)} | counts)
    return rows
