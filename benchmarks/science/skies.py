"""Words of the report for the sky of flagged frames, against simulated truth.

    python benchmarks/science/skies.py [--draws 20] [--size 1024]

Each draw has a field and a camera of its own, 8 good frames, and runs of 4 frames for each kind of sky. The
sky of a patch is the median of its pixels. Thresholds were chosen with fields 5, 6 and 7, not with these.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict

import numpy as np
from seeds import SEEDS

from aqdask.products.report.sky import sky_change
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.defects import Background, Cloud, Ghost, Gradient, Region, Vignetting
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec, stream

PATCH, GOOD, RUN = 64, 8, 4
Trouble = tuple[str, tuple[Defect, ...], float]  # the kind that is true, defects, level of the sky


def troubles(rng: np.random.Generator) -> dict[str, Trouble]:
    """Draw the amplitudes, angles and places of all kinds of sky."""
    top, left = rng.uniform(0, 0.5, 2)
    corner = Region(0, float(rng.uniform(0.4, 0.7)), 0, float(rng.uniform(0.4, 0.7)))
    inside = Region(top, top + 0.45, left, left + 0.45)
    amplitude, angle = float(rng.uniform(0.15, 0.35)), float(rng.uniform(0, 360))
    centre = (float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.8)))
    return {
        "cloud in a corner": ("patchy", (Cloud(0.5, glow=amplitude, region=corner),), 1.0),
        "cloud inside": ("patchy", (Cloud(0.5, glow=amplitude, region=inside),), 1.0),
        "cloud over half a frame": (
            "patchy",
            (Cloud(0.5, glow=amplitude, region=Region(0, 1, 0, 0.5)),),
            1.0,
        ),
        "cloud over all of it": ("patchy", (Cloud(0.5, glow=amplitude),), 1.0),
        "ghost": ("patchy", (Ghost(amplitude, centre=centre, radius=0.2),), 1.0),
        "structure of 32 px": ("patchy", (Background(amplitude, scale=32, region=inside),), 1.0),
        "moonlight (gradient)": ("gradient", (Gradient(amplitude, angle=angle),), 1.0),
        "faint gradient": ("gradient", (Gradient(amplitude / 3, angle=angle),), 1.0),
        "twilight (level)": ("brighter", (), 2.0),
        "dark sky (level)": ("darker", (), 0.5),
        "vignetting": ("", (Vignetting(amplitude),), 1.0),
        "nothing": ("", (), 1.0),
    }


def sky_of(seed: int, rng: np.random.Generator, size: int, trouble: Trouble) -> np.ndarray:
    """Simulate a frame, and return the median of each patch."""
    _, defects, level = trouble
    scene = SceneSpec(
        height=size, width=size, sky=level * float(rng.uniform(850, 1100)), fwhm=float(rng.uniform(2.3, 2.6)),
        field_seed=seed, camera_seed=seed, dust=3, pixel_response=0.005, hot_pixels=1e-5,
    )  # fmt: skip
    image = simulate_frame(scene, defects, int(rng.integers(2**31))).image
    side = size // PATCH
    patches = image[: side * PATCH, : side * PATCH].reshape(side, PATCH, side, PATCH).swapaxes(1, 2)
    return np.median(patches.reshape(side, side, -1), axis=-1)


def main() -> int:
    """Print what is said of each kind of sky."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="fields (%(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="side of a frame in px (%(default)s)")
    options = parser.parse_args()
    told: dict[str, Counter[str]] = defaultdict(Counter)
    truth: dict[str, str] = {}
    for draw in range(options.draws):
        seed = SEEDS["skies"] + 1000 * draw
        rng = stream(seed, "skies")
        usual = np.stack([sky_of(seed, rng, options.size, ("", (), 1.0)) for _ in range(GOOD)])
        for name, trouble in troubles(rng).items():
            sky = np.stack([sky_of(seed, rng, options.size, trouble) for _ in range(RUN)])
            change = sky_change(sky, usual)
            told[name][change.kind + " (cloud?)" * change.moves] += 1
            truth[name] = trouble[0]
    print(f"{options.draws} draws\n| sky | truth | said |\n|---|---|---|")
    for name, counts in told.items():
        said = ", ".join(f"{kind or 'neutral'} {count}" for kind, count in counts.most_common())
        print(f"| {name} | {truth[name] or 'neutral'} | {said} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
