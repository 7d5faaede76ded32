"""Light of stars that the reconstruction of `aqdask.reconstruct` keeps: the reason not to measure on it.

    python benchmarks/bench_reconstruct.py [--frames 6] [--steps 400]

Stars of known flux are added to good frames of the prior of `science`. Their light is measured in apertures
of 1.7 FWHM in the frame and in its reconstruction, by the default method and by `paper`, both fitted on 20
other frames. See README.md here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import helpers
import numpy as np
import sep
from scipy.spatial import KDTree

sys.path.insert(0, str(Path(__file__).parent / "science"))

from draws import CAMERA, FILTER, good_scene, reference_frames
from seeds import SEEDS

import aqdask as aq
from aqdask.methods import dispatch
from aqdask.methods.training.settings import TrainSpec
from aqdask.photometry.sky_subtraction import extract, subtract_sky
from aqdask.simulate.camera import flat_field
from aqdask.simulate.frame import add_stars, simulate_frame
from aqdask.simulate.scene import SceneSpec

SIGNALS = (5, 10, 30, 100, 300, 1000)  # signal to noise in the aperture
STEP = 40  # px between stars
THRESHOLD, MATCH = 3.0, 2.0  # sigma of the frame's noise; px


def flux_of(signal: float, radius: float, scene: SceneSpec) -> float:
    """Electrons of a star with a signal to noise in an aperture."""
    return (signal**2 + np.sqrt(signal**4 + 4 * signal**2 * np.pi * radius**2 * scene.sky_noise**2)) / 2


def light(image: np.ndarray, stars: np.ndarray, radius: float) -> np.ndarray:
    """Counts above the sky in apertures, ``(n,)``."""
    frame = subtract_sky(image)
    return sep.sum_circle(frame.pixels, stars[:, 0], stars[:, 1], radius, mask=frame.invalid, subpix=0)[0]


def found(image: np.ndarray, rms: np.ndarray, stars: np.ndarray) -> np.ndarray:
    """Stars with a detection above the noise of the frame, bool ``(n,)``."""
    frame = subtract_sky(image)
    sources = extract(frame.pixels, THRESHOLD, err=rms, mask=frame.invalid, minarea=5, clean=False)
    if not len(sources):
        return np.zeros(len(stars), bool)
    return KDTree(np.column_stack([sources["x"], sources["y"]])).query(stars[:, :2])[0] <= MATCH


def measure(models: dict[str, aq.Bundle], frames: int, size: int) -> dict[tuple[str, int], list[np.ndarray]]:
    """Light over true light and detections by image and signal to noise."""
    results: dict[tuple[str, int], list[np.ndarray]] = {}
    for number in range(frames):
        seed = SEEDS["catalogue"] + 8000 + number
        scene = good_scene(seed, size, star_density=1e-9)
        rng, radius = np.random.default_rng(seed), 1.7 * scene.fwhm
        y, x = np.mgrid[STEP : size - STEP + 1 : STEP, STEP : size - STEP + 1 : STEP].reshape(2, -1)
        places = np.column_stack([x, y]) + rng.uniform(-3, 3, (len(x), 2))
        signals = np.resize(SIGNALS, len(x))
        flux = np.array([flux_of(signal, radius, scene) for signal in signals])
        stars = np.column_stack([places, flux])
        image = add_stars(simulate_frame(scene, seed=seed).image, stars, scene, seed)
        sky = subtract_sky(image)
        images = {"frame": image.astype(np.float32)}
        for name, model in models.items():
            images[name] = aq.reconstruct(image, model, camera=CAMERA, filter=FILTER)["reconstruction"].values
        column, row = np.rint(places).astype(int).T
        true = flux * flat_field(scene)[row, column] / scene.gain
        for name, pixels in images.items():
            pair = np.column_stack([light(pixels, stars, radius) / true, found(pixels, sky.rms, stars)])
            for signal in SIGNALS:
                results.setdefault((name, signal), []).append(pair[signals == signal])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=6, help="frames with stars (%(default)s)")
    parser.add_argument("--references", type=int, default=20, help="frames to fit on (%(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="px a side (%(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of the training of `paper` (%(default)s)")
    arguments = parser.parse_args()
    helpers.print_header("bench_reconstruct: light in reconstructions", arguments)
    references = reference_frames(arguments.references, arguments.size)
    wide = aq.load_model("wide-field")
    paper = TrainSpec(method="paper", name="paper", steps=arguments.steps)
    models = {
        "aqdask": dispatch.calibrate(wide, references, TrainSpec(method="aqdask", name="ours")),
        "paper": dispatch.train(references, paper),
    }
    rows = []
    for (name, signal), parts in measure(models, arguments.frames, arguments.size).items():
        ratio, seen = np.concatenate(parts).T
        low, middle, high = np.percentile(ratio, (16, 50, 84))
        rows.append(
            (name, signal, len(ratio), f"{middle:.3f}", f"{(high - low) / 2:.3f}", f"{seen.mean():.2f}")
        )
    columns = ("image", "signal to noise", "stars", "light / true, median", "half of 16 to 84 %", "detected")
    helpers.print_table("Light in apertures of 1.7 FWHM; the apertures hold about nine tenths", columns, rows)


if __name__ == "__main__":
    main()
