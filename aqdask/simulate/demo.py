"""Small simulated archive for demonstrations: good frames, then frames with known defects.

`demo_plan` returns frozen data; `write_demo_frame` draws one entry of the plan and can run on any worker.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time

from aqdask.errors import UsageError
from aqdask.execution.worker import at_work
from aqdask.simulate.defects import (
    KINDS,
    Background,
    Banding,
    Cloud,
    CosmicRays,
    DeadColumn,
    Defect,
    Defocus,
    Elongation,
    GainError,
    Ghost,
    Gradient,
    HotColumn,
    ReadNoise,
    Region,
    SaturatedStars,
    Trail,
    Vignetting,
)
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec, stream

FIRST_EXPOSURE = datetime(2024, 5, 7, 20, 0, 0)
CADENCE = timedelta(seconds=75)
GOOD_FRACTION = Fraction(2, 3)  # of 30 frames: 17 references, 3 good test frames, one frame for each recipe
FRAMES = 30
TRUTH_FOLDER, TRUTH_TABLE = "truth", "truth.json"

# Defects of the bad frames, in turn. Defects of the whole frame have a frame of their own, since every
# patch would count for them as well.
RECIPES: tuple[tuple[Defect, ...], ...] = (
    (
        Background(0.3, scale=32, region=Region(0.05, 0.45, 0.5, 0.95)),
        Trail(300, angle=18, through=(0.7, 0.4)),
        CosmicRays(1000),
    ),
    (Defocus(4.5),),
    (
        Cloud(0.5, glow=0.3, region=Region(0.55, 1.0, 0.0, 0.55)),
        Ghost(0.1, centre=(0.3, 0.65), radius=0.14),
        HotColumn(200, column=0.12, start=0.1),
    ),
    (Gradient(0.3, angle=60), Banding(15)),
    (Elongation(2.5),),
    (
        Background(0.1, scale=8, region=Region(0.3, 0.8, 0.2, 0.7)),
        Ghost(0.02, centre=(0.85, 0.82)),
        CosmicRays(300),
    ),
    (ReadNoise(14),),
    (SaturatedStars(1e7), DeadColumn(0.5)),
    (Vignetting(0.3),),
    (GainError(0.1),),
)


@dataclass(frozen=True)
class DemoFrame:
    """Complete description of one simulated frame.

    Parameters
    ----------
    name : str
        File name.
    seed : int
        Seed of the frame.
    time : str
        Start of the exposure, ISO 8601 in UTC.
    spec : SceneSpec
        The scene without defects.
    defects : tuple of Defect
        Empty for a good frame.
    """

    name: str
    seed: int
    time: str
    spec: SceneSpec
    defects: tuple[Defect, ...]

    @property
    def good(self) -> bool:
        """True for a frame without defects."""
        return not self.defects


def demo_plan(frames: int = FRAMES, size: int = 4096, seed: int = 20240507) -> tuple[DemoFrame, ...]:
    """Plan a demonstration: two thirds good frames, then frames with the defects of `RECIPES`.

    All frames show one field in one night, with a seeing of 2.2 to 2.6 px, a sky of 800 to 1200 e- and
    shifts of up to 2 px.

    Parameters
    ----------
    frames : int
        Number of frames, at least 2.
    size : int
        Side of the square frames in pixels, at least 128.
    seed : int
        Seed of the field and of all frames.

    Raises
    ------
    UsageError
        For fewer than 2 frames or fewer than 128 px.
    """
    if frames < 2 or size < 128:
        raise UsageError(
            f"a demonstration of {frames} frames of {size} x {size} px",
            expected="at least 2 frames of at least 128 px",
            consequence="It would show nothing",
            remedy="ask for more",
        )
    good = min(math.ceil(frames * GOOD_FRACTION), frames - 1)
    rng = stream(seed, "demo")
    plan = []
    for index in range(frames):
        spec = SceneSpec(
            height=size,
            width=size,
            sky=float(rng.uniform(800, 1200)),
            fwhm=float(rng.uniform(2.2, 2.6)),
            field_seed=seed,
            pointing=(float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2))),
        )
        defects = () if index < good else RECIPES[(index - good) % len(RECIPES)]
        moment = (FIRST_EXPOSURE + index * CADENCE).isoformat(timespec="milliseconds")
        # Frame seeds are drawn, not counted up, so that neighbouring seeds share no frame.
        plan.append(
            DemoFrame(f"frame_{index:03d}.fits", int(rng.integers(2**31)), moment, _on_grid(spec), defects)
        )
    return tuple(plan)


def _on_grid(spec: SceneSpec) -> SceneSpec:
    """Round the pointing to 1/8 px, the grid of star positions, so that the stars do not move apart."""
    y, x = (round(shift * 8) / 8 for shift in spec.pointing)
    return replace(spec, pointing=(y, x))


def write_demo_frame(folder: str | os.PathLike[str], frame: DemoFrame) -> Path:
    """Draw one frame, write it and its truth below ``folder``, and return the path of the frame.

    Both files are written atomically, the truth first.
    """
    simulated = simulate_frame(frame.spec, frame.defects, frame.seed)
    image = fits.PrimaryHDU(simulated.image)
    image.header["DATE-OBS"] = (frame.time, "[UTC] start of exposure")
    image.header["MJD-OBS"] = (Time(frame.time).mjd, "[d] the same")
    for keyword, (value, comment) in simulated.header.items():
        image.header[keyword] = (value, comment)
    write_truth(truth_path(folder, frame.name), simulated.truth, frame.spec.shape)
    path = Path(folder) / frame.name
    _write_whole(path, fits.HDUList([image]))
    return path


def truth_path(folder: str | os.PathLike[str], name: str) -> Path:
    """Path of the pixel truth of a frame: FITS, with a suffix that a scan for frames ignores."""
    return Path(folder) / TRUTH_FOLDER / f"{Path(name).stem}.truth"


def write_truth(path: Path, truth: Mapping[str, np.ndarray], shape: tuple[int, int]) -> None:
    """Write pixel truth as one compressed int16 image; bit k is kind k of `KINDS`, named by the card KINDk.

    Parameters
    ----------
    path : Path
        The FITS file.
    truth : mapping of str to ndarray (y, x) of bool
        Affected pixels by kind of defect.
    shape : tuple of int
        Shape (y, x) of the frame.
    """
    bits = np.zeros(shape, np.int16)
    for kind, affected in truth.items():
        bits |= affected.astype(np.int16) << np.int16(KINDS.index(kind))
    image = fits.CompImageHDU(bits, compression_type="GZIP_1", name="TRUTH")
    for bit, kind in enumerate(KINDS):
        image.header[f"KIND{bit}"] = (kind, f"meaning of bit value {1 << bit}")
    _write_whole(path, fits.HDUList([fits.PrimaryHDU(), image]))


def read_truth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read pixel truth from `write_truth`: bool ``(y, x)`` by kind, for the kinds that occur."""
    with fits.open(path) as hdus:
        bits, header = hdus["TRUTH"].data, hdus["TRUTH"].header
        masks = {header[f"KIND{bit}"]: (bits & (1 << bit)) != 0 for bit in range(len(header["KIND*"]))}
    return {kind: mask for kind, mask in masks.items() if mask.any()}


def truth_table(plan: tuple[DemoFrame, ...]) -> str:
    """Text of ``truth.json``: file, size, seed, good, and kind, amplitude and unit of each defect."""
    rows = [
        {
            "file": frame.name,
            "size": [frame.spec.height, frame.spec.width],
            "seed": frame.seed,
            "good": frame.good,
            "defects": [
                {"kind": defect.kind, "amplitude": defect.amplitude, "unit": defect.unit}
                for defect in frame.defects
            ],
        }
        for frame in plan
    ]
    return json.dumps(rows, indent=1) + "\n"


def write_truth_table(folder: str | os.PathLike[str], plan: tuple[DemoFrame, ...]) -> Path:
    """Write ``truth.json`` after all frames, as a sign that they are complete."""
    path = Path(folder) / TRUTH_TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(truth_table(plan))
    os.replace(temporary, path)
    return path


def is_written(folder: str | os.PathLike[str], plan: tuple[DemoFrame, ...]) -> bool:
    """Return True if ``folder`` holds all frames of this plan."""
    table = Path(folder) / TRUTH_TABLE
    files = (Path(folder) / frame.name for frame in plan)
    return table.is_file() and table.read_text() == truth_table(plan) and all(f.is_file() for f in files)


@dataclass(frozen=True)
class SimulateJob:
    """Task that draws frames and writes them with their truth into a folder."""

    folder: str

    def __call__(self, frames: Sequence[DemoFrame]) -> list[str]:
        """Write some frames and return their paths."""
        written = []
        for frame in frames:
            with at_work(frame.name):
                written.append(str(write_demo_frame(self.folder, frame)))
        return written


def _write_whole(path: Path, hdus: fits.HDUList) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        hdus.writeto(temporary, overwrite=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
