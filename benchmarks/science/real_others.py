"""Real frames without a goal: clouds over an all-sky camera, and satellite trails.

For the trails there are no other frames of the same cameras: tiles of the frame that the trail does not touch
are the references. A method that learns from the very frame that it scores is not promised to find anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import output
import plots
from draws import MemoryFrames

from aqdask.errors import OutlierFramesError, UsageError
from aqdask.io.reader import probe, read_frame
from aqdask.methods.base import score_frame
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate.truth import NARROW_FRACTIONS, patch_fraction
from aqdask.specs import FrameMetadata, PatchGrid, ReadSpec
from aqdask.stats.masking import bad_patches

ALPHA = 0.01
TILE = 256  # px, side of the tiles of a frame with a trail
TRAIL_REACH = 4.0  # px on either side


@dataclass(frozen=True)
class KnownTrail:
    """A file and the trail's ends in it, ``(x, y)`` in pixels."""

    file: str
    begin: tuple[float, float]
    end: tuple[float, float]


TRAILS = (
    KnownTrail("ngc4535-autofocus3.fits", (1430, 815), (1935, 330)),
    KnownTrail("astride_long.fits", (20, 306), (341, 342)),
)


def pixels(path: Path) -> np.ndarray:
    """The first image of a file; pixels that are not data are NaN where the type has it."""
    read = ReadSpec()
    frame = read_frame(path, probe(path, read)[0].hdu, read)
    if frame.invalid is None or frame.image.dtype.kind != "f":
        return frame.image
    return np.where(frame.invalid, np.nan, frame.image)


def others(data: Path, folder: Path, steps: int) -> list[dict[str, Any]]:
    """One row a data set: what happened. Pictures go to ``folder``."""
    rows = [clouds(data / "cloudynight", folder, steps)]
    return rows + [one_trail(data / "trails" / one.file, one, folder, steps) for one in TRAILS]


def clouds(data: Path, folder: Path, steps: int) -> dict[str, Any]:
    """All-sky frames: a model of the clear ones, and how much of the others it masks by their labels."""
    lines = [line.split() for line in (data / "y_train.dat").read_text().splitlines() if line.strip()]
    cloudy = {name: float(np.mean([int(label) for label in labels])) for name, *labels in lines}
    images = {name: pixels(data / f"{name}.fits.bz2") for name in cloudy}
    clear = [name for name, fraction in cloudy.items() if fraction == 0]
    row: dict[str, Any] = {"data": "cloudynight", "frames": len(images), "references": len(clear)}
    try:
        card = FrameMetadata(camera="all-sky")
        source = MemoryFrames([images[name] for name in clear], clear, card)
        scorer = load_scorer(train(source, TrainSpec(name="clouds", steps=steps)))
    except UsageError as error:
        return row | {"outcome": f"refused: {error.got}"}
    found = {n: score_frame(scorer, image, None, "all-sky", "") for n, image in images.items()}
    masked = {name: float(bad_patches(maps["pvalue"], ALPHA).mean()) for name, maps in found.items()}
    panels = [(images[n], found[n]["pvalue"], f"{n}: {cloudy[n]:.0%} cloudy") for n in list(images)[:3]]
    plots.masks(panels, ALPHA, folder / "cloudynight.png")
    parts = ", ".join(f"{name} ({cloudy[name]:.0%} cloudy) {value:.2f}" for name, value in masked.items())
    return row | {"cloudy": cloudy, "masked": masked, "outcome": f"masked: {parts}"}


def one_trail(path: Path, trail: KnownTrail, folder: Path, steps: int) -> dict[str, Any]:
    """Recall along a known trail, and the rate elsewhere in the frame, at `ALPHA`."""
    image = pixels(path)
    touched = along(image.shape, trail)
    tiles = [
        (y, x)
        for y in range(0, image.shape[0] - TILE + 1, TILE)
        for x in range(0, image.shape[1] - TILE + 1, TILE)
    ]
    free = [(y, x) for y, x in tiles if not touched[y : y + TILE, x : x + TILE].any()]
    row: dict[str, Any] = {"data": path.name, "frames": 1, "references": f"{len(free)} tiles"}
    cut = {f"{y},{x}": np.ascontiguousarray(image[y : y + TILE, x : x + TILE]) for y, x in free}
    left_out: list[str] = []
    while True:  # as where nobody names the frames: outliers are left out, up to a quarter
        try:
            source = MemoryFrames(list(cut.values()), list(cut), FrameMetadata())
            scorer = load_scorer(train(source, TrainSpec(name="trail", steps=steps)))
            break
        except OutlierFramesError as error:
            left_out += error.frames
            if len(left_out) > len(free) / 4:
                return row | {"outcome": f"refused: {error.got}"}
            cut = {name: tile for name, tile in cut.items() if name not in error.frames}
        except UsageError as error:
            return row | {"outcome": f"refused: {error.got}"}
    row["references"] = f"{len(cut)} of {len(free)} tiles"
    pvalue = score_frame(scorer, image)["pvalue"]
    masked, hit = bad_patches(pvalue, ALPHA), _patches(touched)
    plots.masks([(image, pvalue, path.name)], ALPHA, folder / f"{path.stem}.png")
    recall, elsewhere = float(masked[hit].mean()), float(masked[~hit].mean())
    outcome = f"recall {recall:.2f} of {hit.sum()} patches, {elsewhere:.3f} masked elsewhere"
    return row | {"recall": recall, "elsewhere": elsewhere, "outcome": outcome}


def along(shape: tuple[int, int], trail: KnownTrail) -> np.ndarray:
    """Pixels of the trail, bool ``(y, x)``."""
    y, x = np.indices(shape, dtype=np.float32)
    start, way = np.array(trail.begin), np.subtract(trail.end, trail.begin)
    length = np.hypot(*way)
    across = np.abs((x - start[0]) * way[1] - (y - start[1]) * way[0]) / length
    place = ((x - start[0]) * way[0] + (y - start[1]) * way[1]) / length
    return (across < TRAIL_REACH) & (place > 0) & (place < length)


def _patches(touched: np.ndarray) -> np.ndarray:
    """Patches in which at least a quarter of a crossing lies."""
    return patch_fraction(touched, PatchGrid(*touched.shape)) >= NARROW_FRACTIONS["trail"]


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Write the Markdown table; none without rows."""
    if not rows:
        return []
    columns = ("data", "frames", "references", "outcome")
    cells = [tuple(row[name] for name in columns) for row in rows]
    return [output.markdown("Other real frames, without goals", columns, cells)]
