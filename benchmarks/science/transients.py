"""False alarms avoided and transients lost on GWAC-like frames, through the user's commands alone.

    python benchmarks/science/transients.py [--frames 24] [--size 2048] [--folder DIR]

Of each field the archive has a good frame and one with new stars and a defect (`archive.gwac_frame`). Fields
have their own places on the sky, so that `aqdask transients` finds the template. `wide-field` is calibrated
on 20 good frames of other seeds. Pairs of good frames without a change, on the same pixels and half a pixel
apart, show what the resampling of the template costs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.dataset
from archive import gwac_frame, gwac_scene
from astropy.io import fits
from draws import Patches
from scipy.spatial import KDTree
from seeds import SEEDS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import helpers

from aqdask.photometry.apertures import aperture_masked
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.simulate.presets import preset
from aqdask.specs import PatchGrid
from aqdask.stats.patches import stitch

KINDS = ("background, 8 px", "background, 32 px", "trail", "cloud", "ghost")
THRESHOLDS = (5, 7)
REFERENCES = 20
MATCH = 2.0  # px
STEP = 15.0  # deg between fields
SHIFT = 0.5  # px
QUIET = {"default": 2, "gwac": 2}  # pairs without a change, by scene


@dataclass
class Counts:
    """Candidates of one kind of frames."""

    pairs: int = 0
    injected: int = 0
    found: int = 0
    found_kept: int = 0
    false: int = 0
    false_kept: int = 0
    false_true_mask: int = 0
    found_true_mask: int = 0

    def row(self, name: str, threshold: int) -> list[object]:
        """Return a row of the table."""
        return [
            name, threshold, self.pairs, self.false, self.false_kept, self.false_true_mask, self.injected,
            self.found, self.found_kept, self.found_true_mask,
        ]  # fmt: skip


def write(path: Path, frame: SimulatedFrame, field: int) -> None:
    """Write a frame whose field has its own place on the sky."""
    hdu = fits.PrimaryHDU(frame.image)
    for name, value in frame.header.items():
        hdu.header[name] = value
    hdu.header["CRVAL1"] = STEP * field % 360
    hdu.writeto(path)


def draw(folder: Path, count: int, size: int) -> None:
    """Write all frames: references, pairs of the archive, and pairs without a change."""
    for name in ("references", "frames"):
        (folder / name).mkdir()
    for number in range(REFERENCES):
        frame = simulate_frame(gwac_scene(size), seed=SEEDS["archive_reference"] + number)
        write(folder / f"references/reference_{number:02d}.fits", frame, 0)
    for number in range(count):
        frame = gwac_frame(number, size).frame
        write(folder / f"frames/field_{number // 2:02d}_{'ab'[number % 2]}.fits", frame, number // 2)
    field = count // 2
    for name, pairs in QUIET.items():
        for pair in range(pairs):
            seed = SEEDS["transients"] + 10 * field
            scene = replace(preset(name), height=size, width=size, field_seed=seed)
            for epoch, moved in enumerate((0.0, 0.0, SHIFT)):
                shifted = replace(scene, pointing=(moved, moved))
                frame = simulate_frame(shifted, seed=seed + epoch)
                write(folder / f"frames/{name}_{pair}_{epoch}.fits", frame, field)
            field += 1


def command(*words: object) -> None:
    """Run a command of the user."""
    done = subprocess.run(
        ["aqdask", *map(str, words), "--quiet", "--cluster", "serial"], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def counted(candidates: Path, count: int, size: int) -> dict[tuple[str, int], Counts]:
    """Count candidates by kind of defect and threshold."""
    table = pyarrow.dataset.dataset(candidates).to_table().to_pandas()
    found: dict[tuple[str, int], Counts] = defaultdict(Counts)
    for number in range(1, count, 2):
        drawn = gwac_frame(number, size)
        new, true_mask = drawn.transients, stitch(Patches.of(drawn.frame).affected, PatchGrid(size, size))
        rows = table[table["frame_id"] == f"field_{number // 2:02d}_b.fits"]
        distance, star = KDTree(new[:, :2]).query(rows[["x", "y"]].to_numpy())
        real = (distance <= MATCH) & (rows["sign"] > 0).to_numpy()
        kept = (rows["verdict"] == "good").to_numpy()
        true = ~aperture_masked(true_mask, rows[["x", "y"]].to_numpy(), 0)
        for threshold in THRESHOLDS:
            seen = (rows["significance"] >= threshold).to_numpy()
            for name in (KINDS[number // 2 % len(KINDS)], "all"):
                one = found[name, threshold]
                one.pairs += 1
                one.injected += len(new)
                one.found += len(np.unique(star[real & seen]))
                one.found_kept += len(np.unique(star[real & seen & kept]))
                one.found_true_mask += len(np.unique(star[real & seen & true]))
                one.false += int((~real & seen).sum())
                one.false_kept += int((~real & seen & kept).sum())
                one.false_true_mask += int((~real & seen & true).sum())
    return found


def quiet_rows(candidates: Path) -> Iterable[list[object]]:
    """Yield candidates of pairs without a change, by scene and shift."""
    columns = ["frame_id", "significance"]
    table = pyarrow.dataset.dataset(candidates).to_table(columns=columns).to_pandas()
    for name, pairs in QUIET.items():
        for pair in range(pairs):
            for epoch in (1, 2):
                rows = table[table["frame_id"] == f"{name}_{pair}_{epoch}.fits"]
                numbers = [int((rows["significance"] >= threshold).sum()) for threshold in THRESHOLDS]
                yield [name, pair, f"{SHIFT if epoch == 2 else 0} px", *numbers]


def measure(folder: Path, count: int, size: int) -> None:
    """Run the commands in a folder, which may hold a part of their results, and print tables."""
    model, archive = folder / "model.safetensors", folder / "night.zarr"
    if not (folder / "frames").exists():
        draw(folder, count, size)
    if not model.exists():
        command("ingest", folder / "references", folder / "references.zarr")
        command(
            "calibrate", folder / "references.zarr", "--model", "wide-field", "--frames", "*", "--out", model
        )
    command("ingest", folder / "frames", archive)
    command("score", archive, "--model", model)
    templates = [w for f in range(count // 2) for w in ("--template", f"field_{f:02d}_a.fits")]
    templates += [w for n, p in QUIET.items() for i in range(p) for w in ("--template", f"{n}_{i}_0.fits")]
    out = folder / f"out_{THRESHOLDS[0]}"
    command("transients", archive, "--out", out, "--threshold", THRESHOLDS[0], *templates)
    found = counted(out / "candidates", count, size)
    names = [(name, threshold) for threshold in THRESHOLDS for name in (*KINDS, "all")]
    rows = [found[key].row(*key) for key in names if key in found]
    columns = ("defect", "sigma", "pairs", "false", "false, mask", "false, true mask", "injected", "found",
               "found, mask", "found, true mask")  # fmt: skip
    helpers.print_table("Candidates of spoilt frames against good ones", columns, rows)
    columns = ("scene", "pair", "shift", *(f"{threshold} sigma" for threshold in THRESHOLDS))
    helpers.print_table("Candidates of pairs without a change", columns, list(quiet_rows(out / "candidates")))


def main() -> None:
    """Run everything and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--folder", help="kept, with the frames; the same command goes on there")
    options = parser.parse_args()
    helpers.print_header("transients: false alarms and losses through the commands", options)
    if options.folder:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
        measure(Path(options.folder), options.frames, options.size)
        return
    with helpers.scratch(None) as folder:
        measure(folder, options.frames, options.size)


if __name__ == "__main__":
    main()
