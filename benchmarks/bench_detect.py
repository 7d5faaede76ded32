"""Catalogues of `aqdask detect`: time beside sep by hand, and purity with and without the mask columns.

    python benchmarks/bench_detect.py [--repeat 3] [--frames 4] [--parts time,purity]

`time`: a crowded frame, detected and measured by the guide of sep in a plain loop ("by hand"),
and by the command from an archive, in turns, in this process. `purity`: frames of the prior of `science` with
known stars, good ones and ones with a defect, through the user's commands; a detection within 2 px of a true
star is real. See README.md here.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dask.dataframe
import helpers
import numpy as np
import pandas as pd
import sep
from astropy.io import fits
from scipy.spatial import KDTree

sys.path.insert(0, str(Path(__file__).parent / "science"))

from draws import MakeDefect, good_scene
from seeds import SEEDS

import aqdask as aq
from aqdask.simulate import defects
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.simulate.presets import preset
from aqdask.simulate.scene import SceneSpec, stream

APERTURES = (3.0, 6.0)
MATCH = 2.0  # px
BRIGHT = 10.0  # signal to noise in an aperture of 1.7 FWHM, from which a star should be found
ALPHA = 0.01
REFERENCES = 20
CUTS: dict[str, str] = {
    "none": "x == x",
    "masked_fraction < 0.5": "masked_fraction < 0.5",
    "masked_fraction < 0.1 and pvalue > 0.01": f"masked_fraction < 0.1 and pvalue > {ALPHA}",
}
DEFECTS: dict[str, MakeDefect] = {
    "background .3, 8 px": lambda rng: defects.Background(0.3, scale=8, region=_region(rng)),
    "background .3, 32 px": lambda rng: defects.Background(0.3, scale=32, region=_region(rng)),
    "trail 300 e-": lambda rng: defects.Trail(300, angle=float(rng.uniform(0, 180))),
    "cosmic rays 1000 e-": lambda rng: defects.CosmicRays(1000),
    "ghost .3": lambda rng: defects.Ghost(
        0.3, centre=(float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))
    ),
}


def _region(rng: np.random.Generator) -> defects.Region:
    """A rectangle of 0.6 of either side."""
    top, left = (float(edge) for edge in rng.uniform(0, 0.4, 2))
    return defects.Region(top, top + 0.6, left, left + 0.6)


def write(folder: Path, name: str, made: SimulatedFrame) -> Path:
    """The frame as FITS with its header."""
    path = folder / f"{name}.fits"
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(made.image, fits.Header([(name, *card) for name, card in made.header.items()])).writeto(
        path
    )
    return path


def by_hand(path: Path, gain: float) -> int:
    """Read, detect and measure as the guide of sep does, with the columns of the command that are sep's."""
    pixels = fits.getdata(path).astype(np.float32)
    background = sep.Background(pixels)
    data, rms = pixels - background.back(), background.rms()
    sep.set_extract_pixstack(3_000_000)
    found = sep.extract(data, 3.0, err=rms, minarea=5, clean=False)
    x, y, a, b = (found[name] for name in "xyab")
    theta = np.clip(found["theta"], -np.pi / 2, np.pi / 2)
    kron, _ = sep.kron_radius(data, x, y, a, b, theta, 6.0)
    flux, error, _ = sep.sum_ellipse(data, x, y, a, b, theta, 2.5 * kron, err=rms, gain=gain, subpix=1)
    small = kron * np.sqrt(a * b) < 1.75
    flux[small], error[small], _ = sep.sum_circle(
        data, x[small], y[small], 1.75, err=rms, gain=gain, subpix=1
    )
    sep.flux_radius(data, x, y, 6.0 * a, 0.5, normflux=flux, subpix=5)
    for radius in APERTURES:
        sep.sum_circle(data, x, y, radius, err=rms, gain=gain)
    sep.set_extract_pixstack(300_000)
    return len(x)


def timed(work: Callable[[], int]) -> tuple[float, float, int]:
    """Wall and processor seconds of a call, and its result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - processor, result


def time_crowded(folder: Path, size: int, repeat: int, density: float) -> None:
    """Print seconds a frame of both, in turns."""
    scene = replace(preset("crowded"), height=size, width=size, star_density=density, flux_minimum=1500.0)
    path = write(folder / "crowded", "frame", simulate_frame(scene, seed=SEEDS["catalogue"]))
    archive = folder / "crowded.zarr"
    aq.ingest(folder / "crowded", archive, cluster="serial")
    aq.score(archive, "wide-field", cluster="serial")
    masked = aq.mask(aq.open_quality(archive), ALPHA).mean().compute().item()

    def command(segmentation: Path | None = None) -> int:
        shutil.rmtree(folder / "sources", ignore_errors=True)
        return aq.detect(
            archive, folder / "sources", apertures=APERTURES, segmentation=segmentation, cluster="serial"
        ).sources

    works = {
        "sep by hand": lambda: by_hand(path, scene.gain),
        "aqdask detect": command,
        "aqdask detect --segmentation": lambda: command(folder / "segmentation"),
    }
    taken: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for number in range(repeat):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            taken[name].append(timed(works[name]))
    rows = []
    for name, times in taken.items():
        wall, processor = ([one[k] for one in times] for k in (0, 1))
        ratios = [b[1] / a[1] for a, b in zip(taken["sep by hand"], times, strict=True)]
        rows.append(
            (
                name,
                times[0][2],
                helpers.spread(wall, 2),
                helpers.spread(processor, 2),
                helpers.spread(ratios, 2),
            )
        )
    title = f"Seconds a frame of {size} x {size} px, {masked:.2f} of it masked"
    helpers.print_table(title, ("", "sources a frame", "wall", "processor", "processor, of sep's"), rows)


def frames_of(kind: str, number: int, size: int) -> SimulatedFrame:
    """A good frame, or one with a defect."""
    seed = SEEDS["catalogue"] + 1000 + 100 * [*DEFECTS, "good"].index(kind) + number
    made = [DEFECTS[kind](stream(seed, "defect"))] if kind in DEFECTS else []
    return simulate_frame(good_scene(seed, size), made, seed)


def purity(folder: Path, size: int, frames: int) -> None:
    """Print purity and completeness by defect and cut."""
    for n in range(REFERENCES):
        seed = SEEDS["catalogue"] + 5000 + n
        write(folder / "night", f"reference{n:02}", simulate_frame(good_scene(seed, size), seed=seed))
    truth: dict[str, tuple[str, SceneSpec, SimulatedFrame]] = {}
    for kind in ("good", *DEFECTS):
        for n in range(frames):
            made = frames_of(kind, n, size)
            name = f"{kind.replace(' ', '_').replace(',', '')}{n}"
            write(folder / "night", name, made)
            truth[f"{name}.fits"] = kind, good_scene(int(made.header["SIMSEED"][0]), size), made
    archive, model = folder / "night.zarr", folder / "camera.safetensors"
    aq.ingest(folder / "night", archive, cluster="serial")
    aq.calibrate(archive, "wide-field", frames=["reference*"], out=model, cluster="serial")
    aq.score(archive, model, cluster="serial")
    aq.detect(archive, folder / "night.parquet", alpha=ALPHA, cluster="serial")
    sources = dask.dataframe.read_parquet(folder / "night.parquet").compute()
    found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for name, (kind, scene, made) in truth.items():
        table = sources[sources["frame_id"] == name]
        for cut, text in CUTS.items():
            found[kind, cut].append(counts(table.query(text), table, scene, made))
    rows = []
    for (kind, cut), parts in found.items():
        kept, real, bright, seen, clean, clean_seen = np.sum(parts, axis=0)
        shares = real / max(kept, 1), seen / max(bright, 1), clean_seen / max(clean, 1)
        rows.append((kind, cut, int(kept), int(kept - real), *(f"{share:.4f}" for share in shares)))
    helpers.print_table(
        f"{frames} frames of {size} x {size} px for each row, alpha {ALPHA}",
        ("frames", "cut", "sources", "spurious", "purity", "completeness", "where untouched"), rows,
    )  # fmt: skip


def counts(kept: pd.DataFrame, table: pd.DataFrame, scene: SceneSpec, made: SimulatedFrame) -> np.ndarray:
    """Sources kept and real ones among them; bright stars and those found; the same at untouched pixels."""
    stars = made.stars[
        (made.stars[:, :2] >= 0).all(axis=1) & (made.stars[:, :2] < made.image.shape[0] - 1).all(axis=1)
    ]
    places = kept[["x", "y"]].to_numpy()
    real = int((KDTree(stars[:, :2]).query(places)[0] <= MATCH).sum()) if len(places) else 0
    radius = 1.7 * scene.fwhm
    bright = stars[stars[:, 2] / np.sqrt(stars[:, 2] + np.pi * radius**2 * scene.sky_noise**2) >= BRIGHT]
    seen = KDTree(places).query(bright[:, :2])[0] <= MATCH if len(places) else np.zeros(len(bright), bool)
    column, row = np.rint(bright[:, :2]).astype(int).T
    untouched = (
        ~np.any([pixels[row, column] for pixels in made.truth.values()], axis=0)
        if made.truth
        else seen | True
    )
    return np.array([len(kept), real, len(bright), seen.sum(), untouched.sum(), (seen & untouched).sum()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="time,purity", help="what is measured (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of `time` (%(default)s)")
    parser.add_argument("--size", type=int, default=4096, help="px a side of crowded frames (%(default)s)")
    parser.add_argument(
        "--density", type=float, default=1 / 85, help="stars a pixel of crowded frames (%(default)s)"
    )
    parser.add_argument(
        "--small", type=int, default=1024, help="px a side of frames of `purity` (%(default)s)"
    )
    parser.add_argument("--frames", type=int, default=4, help="frames a row of `purity` (%(default)s)")
    parser.add_argument("--folder", help="scratch space is made in this folder and removed afterwards")
    arguments = parser.parse_args()
    helpers.print_header("bench_detect: catalogues of sources", arguments)
    with helpers.scratch(arguments.folder) as folder:
        if "time" in arguments.parts:
            time_crowded(folder, arguments.size, arguments.repeat, arguments.density)
        if "purity" in arguments.parts:
            purity(folder, arguments.small, arguments.frames)


if __name__ == "__main__":
    main()
