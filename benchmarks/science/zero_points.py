"""Zero point and sky of frames with clouds: weighted by the p-values of their patches, and unweighted.

`python benchmarks/science/zero_points.py [--draws N] [--frames N] [--size PX] [--out FILE]`. Each draw is a
field seen in good frames, and again in the same frames with a cloud over a part of them, which dims the stars
and brightens the sky. The truth is what the good twin of a frame gives. `wide-field` is calibrated on good
frames of other fields and seeds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for `helpers`

import helpers
import output
from archive import region
from draws import good_scene
from light_curves import ALPHA, SHIFT, camera_model, scored
from seeds import SEEDS

import aqdask as aq
from aqdask.simulate.defects import Cloud
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.simulate.scene import stream

CLOUDS = (0.05, 0.1, 0.3)  # of the starlight lost, and of the sky added
ZERO_POINTS = ("zero_point_no_mask", "zero_point_masked", "zero_point")
SKIES = ("sky", "sky_weighted")


def pairs(seed: int, count: int, size: int, cloud: float) -> list[SimulatedFrame]:
    """Good frames of one field, then the same frames with clouds."""
    good, cloudy = [], []
    for number in range(count):
        one = seed + 100 + number
        pointing = tuple(float(shift) for shift in stream(one, "pointing").uniform(-SHIFT, SHIFT, 2))
        scene = good_scene(one, size, field_seed=seed, pointing=pointing)
        where = region(stream(one, "defect"))
        good.append(simulate_frame(scene, seed=one))
        cloudy.append(simulate_frame(scene, [Cloud(cloud, glow=cloud, region=where)], one))
    return [*good, *cloudy]


def errors(
    folder: Path, model: aq.Bundle, draw: int, cloud: float, count: int, size: int
) -> dict[str, np.ndarray]:
    """Errors of the zero points in magnitudes, and of the sky as a fraction of it, by estimate."""
    seed = SEEDS["zero_points"] + 1000 * (100 * CLOUDS.index(cloud) + draw)
    archive = scored(folder, model, pairs(seed, count, size, cloud))
    curves = aq.light_curves(archive, folder / "curves", alpha=ALPHA, reference="frame_000.fits")
    frames = curves.frames.to_pandas().set_index("frame_id")
    good = frames.loc[[f"frame_{number:03d}.fits" for number in range(count)]]
    cloudy = frames.loc[[f"frame_{number:03d}.fits" for number in range(count, 2 * count)]]
    found = {name: cloudy[name].values - good["zero_point_no_mask"].values for name in ZERO_POINTS}
    pedestal = good_scene(seed, size).pedestal
    true = good["sky"].values - pedestal
    found |= {name: (cloudy[name].values - pedestal) / true - 1 for name in SKIES}
    clean, masked = cloudy["measurements"].sum(), cloudy["masked_measurements"].sum()
    return found | {"removed": np.array([masked / clean])}


def table(rows: list[dict[str, Any]]) -> str:
    """Write the Markdown table: root mean square over the frames that have all estimates."""
    cells = []
    for row in rows:
        known = np.all([np.isfinite(row[name]) for name in (*ZERO_POINTS, *SKIES)], axis=0)
        rms = {name: np.sqrt(np.mean(row[name][known] ** 2)) for name in (*ZERO_POINTS, *SKIES)}
        cells.append(
            (
                f"{row['cloud']:.0%}", f"{known.sum()} of {len(known)}", f"{row['removed'].mean():.3f}",
                *(f"{1000 * rms[name]:.2f}" for name in ZERO_POINTS),
                *(f"{100 * rms[name]:.3f}" for name in SKIES),
            )
        )  # fmt: skip
    columns = (
        "cloud", "frames", "measurements masked", "zero point, no mask [mmag]", "mask", "mask and weights",
        "sky, all patches [%]", "sky, mask and weights",
    )  # fmt: skip
    note = (
        "Root mean square error against the same frame without the cloud, which covers up to 0.36 of the "
        "frame with soft edges, dims stars by up to this fraction and adds it to the sky."
    )
    return output.markdown("Zero point and sky of cloudy frames", columns, cells, note)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=1, help="fields for each cloud (%(default)s)")
    parser.add_argument("--frames", type=int, default=12, help="cloudy frames of a field (%(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="px a side (%(default)s)")
    parser.add_argument("--folder", help="scratch space is made in this folder and removed afterwards")
    parser.add_argument("--out", type=Path, help="append the table to this file, too")
    given = parser.parse_args()
    rows = []
    with helpers.scratch(given.folder) as folder:
        model = camera_model(folder, SEEDS["zero_points"], given.size)
        for cloud in CLOUDS:
            found = []
            for draw in range(given.draws):
                place = folder / f"{cloud}-{draw}"
                found.append(errors(place, model, draw, cloud, given.frames, given.size))
                shutil.rmtree(place)
                print(f"cloud {cloud}, draw {draw}", file=sys.stderr, flush=True)
            rows.append(
                {"cloud": cloud} | {name: np.concatenate([one[name] for one in found]) for name in found[0]}
            )
    text = table(rows)
    print(text)
    if given.out:
        facts = helpers.environment()
        arguments = f"--draws {given.draws} --frames {given.frames} --size {given.size}"
        head = [
            f"- command: `python benchmarks/science/zero_points.py {arguments}`",
            f"- date: {facts['date']}",
        ]
        with given.out.open("a") as stream:
            stream.write("\n".join(["", *text.splitlines()[:1], "", *head, *text.splitlines()[1:], ""]))


if __name__ == "__main__":
    main()
