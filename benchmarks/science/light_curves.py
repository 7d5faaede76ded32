"""Scatter of light curves without a mask, with that of `aqdask`, and with the true one.

`python benchmarks/science/light_curves.py [--draws N] [--frames N] [--size PX] [--out FILE]`. Each draw is a
field seen in frames with shifts of up to 20 px, every second with complex background (rms 30 % of the sky) in
a part of it. `wide-field` is calibrated on good frames of other fields and seeds. Everything goes through the
user's functions; for the true mask the masked fractions of the apertures are replaced. Real frames
(`AQDASK_TEST_DATA`): the L series.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for `helpers`

import helpers
import output
from archive import LEVEL, SCALES, region
from draws import Patches, good_scene
from real import data_folder
from seeds import SEEDS
from whole_archive import write

import aqdask as aq
from aqdask.measurements.ensemble_tables import BRIGHTEST, FLUXES, solve
from aqdask.measurements.reference_stars import AUTO_STARS, ReferenceStars, reference_stars
from aqdask.measurements.scored_frame import ScoredFrames, scored_places
from aqdask.photometry.apertures import aperture_masked
from aqdask.products.open import quality_name
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.defects import Background
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.simulate.scene import stream
from aqdask.specs import PatchGrid
from aqdask.stats.patches import stitch

ALPHA = 0.01
REFERENCES = 24  # good frames that calibrate
SHIFT = 20  # px, largest of a pointing
GOAL = 1.05  # of the true mask's scatter

Make = Callable[[np.random.Generator], Sequence[Defect]]


def series(seed: int, frames: int, size: int, make: Make) -> list[SimulatedFrame]:
    """Frames of one field; ``make`` gives the defects of every second one."""
    drawn = []
    for number in range(frames):
        one = seed + 100 + number
        pointing = tuple(float(shift) for shift in stream(one, "pointing").uniform(-SHIFT, SHIFT, 2))
        scene = good_scene(one, size, field_seed=seed, pointing=pointing)
        drawn.append(simulate_frame(scene, make(stream(one, "defect")) if number % 2 else (), one))
    return drawn


def camera_model(folder: Path, seed: int, size: int) -> aq.Bundle:
    """Calibrate `wide-field` on good frames of other fields."""
    (folder / "good").mkdir(parents=True)
    for number in range(REFERENCES):
        one = seed + 500 + number
        write(folder / "good" / f"good_{number:03d}.fits", simulate_frame(good_scene(one, size), seed=one))
    aq.ingest(folder / "good", folder / "good.zarr")
    return aq.calibrate(folder / "good.zarr", "wide-field")


def scored(folder: Path, model: aq.Bundle, frames: Sequence[SimulatedFrame]) -> Path:
    """Archive of these frames, scored."""
    (folder / "frames").mkdir(parents=True)
    for number, frame in enumerate(frames):
        write(folder / "frames" / f"frame_{number:03d}.fits", frame)
    aq.ingest(folder / "frames", folder / "night.zarr")
    aq.score(folder / "night.zarr", model)
    return folder / "night.zarr"


def stars_of(archive: Path, curves: aq.LightCurves) -> ReferenceStars:
    """The stars that were measured."""
    quality = quality_name(archive)
    frames = ScoredFrames(str(archive), quality, ALPHA)
    ids = [str(name) for name in aq.open_quality(archive)["frame_id"].values]
    place = next(p for p in scored_places(archive, quality)[0] if ids[p.frame.row] == curves.reference)
    return reference_stars(frames.read(place), None, AUTO_STARS, None)


def with_masks(
    curves: aq.LightCurves, out: Path, masks: dict[str, np.ndarray], stars: ReferenceStars
) -> pa.Table:
    """Table of stars of the same fluxes behind other masks, by frame id."""
    (out / FLUXES).mkdir(parents=True)
    (out / "light_curves").mkdir()
    for path in sorted((curves.folder / FLUXES).glob("part-*.parquet")):
        part = pq.ParquetFile(path)
        with pq.ParquetWriter(out / FLUXES / path.name, part.schema_arrow) as writer:
            for group in range(part.num_row_groups):
                table = part.read_row_group(group)
                positions = np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()])
                bad = aperture_masked(masks[table["frame_id"][0].as_py()], positions, stars.radius)
                place = table.schema.get_field_index("masked")
                field = table.schema.field(place)
                writer.write_table(table.set_column(place, field, pa.array(bad.astype(float))))
    solve(out, stars)
    return pq.read_table(out / "stars.parquet")


def one_draw(folder: Path, model: aq.Bundle, draw: int, scale: int, frames: int, size: int) -> dict[str, Any]:
    """Median scatter of the brightest stars of one field behind each mask; the same stars."""
    seed = SEEDS["light_curves"] + 1000 * (100 * SCALES.index(scale) + draw)
    drawn = series(seed, frames, size, lambda rng: [Background(LEVEL, scale=scale, region=region(rng))])
    archive = scored(folder, model, drawn)
    curves = aq.light_curves(archive, folder / "curves", alpha=ALPHA)
    grid = PatchGrid(size, size)
    masks = {
        f"frame_{number:03d}.fits": stitch(Patches.of(frame).affected, grid)
        for number, frame in enumerate(drawn)
    }
    ours = curves.stars.to_pandas()
    true = with_masks(curves, folder / "true", masks, stars_of(archive, curves)).to_pandas()
    usable = (ours["n_no_mask"] >= frames / 2) & (ours["n_masked"] >= 3) & (true["n_masked"] >= 3)
    order = ours["mag"].where(usable).sort_values().index[: min(BRIGHTEST, int(usable.sum() + 1) // 2)]
    medians = {
        "no mask": ours["scatter_no_mask"], "aqdask": ours["scatter_masked"],
        "aqdask, weighted": ours["scatter_weighted"], "true mask": true["scatter_masked"],
    }  # fmt: skip
    gain = curves.gains[0]
    truly = 1 - true["n_masked"].sum() / true["n_no_mask"].sum()
    return {
        "scale": scale, "draw": draw, "stars": len(order), "frames": gain.frames,
        "removed": gain.removed / gain.measurements, "removed_true": float(truly),
        **{name: float(values[order].median()) for name, values in medians.items()},
        "problems": curves.problems,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Write the Markdown table."""
    cells = [
        (
            f"{row['scale']} px", row["draw"], row["frames"], row["stars"], f"{row['no mask']:.4f}",
            f"{row['aqdask']:.4f}", f"{row['aqdask, weighted']:.4f}", f"{row['true mask']:.4f}",
            f"{row['aqdask'] / row['true mask']:.3f}", f"{row['removed']:.3f}", f"{row['removed_true']:.3f}",
        )
        for row in rows
    ]  # fmt: skip
    ratio = [row["aqdask"] / row["true mask"] for row in rows]
    mean = {name: np.mean([row[name] for row in rows]) for name in (*MASKS, *REMOVED)}
    cells.append(("mean", "", "", "", *(f"{mean[name]:.4f}" for name in MASKS), f"{np.mean(ratio):.3f}",
                  *(f"{mean[name]:.3f}" for name in REMOVED)))  # fmt: skip
    columns = (
        "background",
        "draw",
        "frames",
        "stars",
        *MASKS,
        "aqdask / true",
        "removed",
        "removed, true mask",
    )
    note = (
        "Median over the brightest stars of the standard deviation of their magnitudes, and share of the "
        f"measurements that a mask removes at alpha {ALPHA:g}. Goal: aqdask at most {GOAL} x the true mask "
        f"({'reached' if np.mean(ratio) <= GOAL else 'MISSED'} in the mean, by "
        f"{sum(one <= GOAL for one in ratio)} of {len(ratio)} draws)."
    )
    return output.markdown(
        f"Light curves: structure of {LEVEL:.0%} in parts of every second frame", columns, cells, note
    )


MASKS = ("no mask", "aqdask", "aqdask, weighted", "true mask")
REMOVED = ("removed", "removed_true")


def real_series(folder: Path) -> str:
    """The real L series, calibrated on the frames that `select` proposes, as `aqdask run` does."""
    source = data_folder() / "bsu_2022yid" / "L"
    if not source.is_dir():
        return "No real frames.\n"
    aq.ingest(source, folder / "real.zarr")
    aq.score(folder / "real.zarr", aq.calibrate(folder / "real.zarr", "wide-field"))
    curves = aq.light_curves(folder / "real.zarr", folder / "real", alpha=ALPHA)
    by_time = curves.frames.to_pandas()
    lines = [gain.sentence() + "." for gain in curves.gains]
    spread = by_time["extinction"].max() - by_time["extinction"].min()
    lines.append(
        f"Stars were found by {', '.join(sorted(set(by_time['placed_by'])))} in {len(by_time)} frames, "
        f"{len(curves.problems)} were left out; zero points span {spread:.2f} mag, their errors are "
        f"{by_time['zero_point_err'].median():.4f} mag (median)."
    )
    return "\n".join(["\n## The real L series\n", *lines, ""])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2, help="fields for each scale (%(default)s)")
    parser.add_argument("--frames", type=int, default=24, help="frames of a field (%(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="px a side (%(default)s)")
    parser.add_argument("--folder", help="scratch space is made in this folder and removed afterwards")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    given = parser.parse_args()
    facts = helpers.environment()
    rows = []
    with helpers.scratch(given.folder) as folder:
        model = camera_model(folder, SEEDS["light_curves"], given.size)
        for scale in SCALES:
            for draw in range(given.draws):
                place = folder / f"{scale}-{draw}"
                rows.append(one_draw(place, model, draw, scale, given.frames, given.size))
                shutil.rmtree(place)
                print(rows[-1], file=sys.stderr, flush=True)
        text = table(rows) + real_series(folder)
    print(text)
    if given.out:
        arguments = f"--draws {given.draws} --frames {given.frames} --size {given.size}"
        head = [f"- command: `python benchmarks/science/light_curves.py {arguments}`"]
        head += [f"- {name}: {value}" for name, value in facts.items()]
        given.out.write_text("\n".join(["# Light curves", "", *head, "", text]))


if __name__ == "__main__":
    main()
