"""Resampling of a frame: `photometry.resampling.resample_weighted` beside `reproject_interp`.

python benchmarks/science/stack_resampling.py [--size 2048]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_interp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import helpers

from aqdask.io.wcs import wcs_transform
from aqdask.photometry.resampling import resample_weighted
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec


def frame(size: int, pointing: tuple[float, float], seed: int) -> tuple[np.ndarray, WCS]:
    """Draw a frame of one field, sky subtracted, with its WCS."""
    scene = SceneSpec(height=size, width=size, field_seed=1, vignetting=0, structure=0)
    found = simulate_frame(replace(scene, pointing=pointing), seed=seed)
    header = fits.Header([(name, *card) for name, card in found.header.items()])
    return found.image - np.float32(np.median(found.image)), WCS(header)


def ours(image: np.ndarray, own: WCS, wcs: WCS) -> np.ndarray:
    """Resample counts and weights."""
    weight, bad = np.ones_like(image), np.zeros(image.shape, bool)
    return resample_weighted(image, weight, bad, image.shape, wcs_transform(wcs, own), 1.0)[0]


def theirs(image: np.ndarray, own: WCS, wcs: WCS) -> np.ndarray:
    """Resample counts and weights, which share the positions."""
    both = np.stack([image, np.ones_like(image)])
    kwargs = {"order": "bicubic", "roundtrip_coords": False, "return_footprint": False}
    return reproject_interp((both, own), wcs, shape_out=both.shape, **kwargs)[0]


def main() -> None:
    """Run both in processes of their own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=2048)
    options = parser.parse_args()
    helpers.print_header("stack_resampling: resampling of one frame", options)
    rows, images = [], []
    for name, function in (("aqdask", ours), ("reproject_interp", theirs)):
        with helpers.new_process() as call:
            seconds, peak, image = call(measured, function, options.size)
        rows.append((name, f"{seconds:.2f}", f"{peak:.0f}"))
        images.append(image)
    columns = ("resampling of counts and weights", "processor s", "peak MiB above the frame")
    helpers.print_table("One frame, one process", columns, rows)
    inner = [image[32:-32, 32:-32] for image in images]
    print(
        f"\nlargest difference {np.nanmax(np.abs(inner[0] - inner[1])):.3g} counts, "
        f"of {np.nanmax(inner[1]):.3g}"
    )


def measured(function, size: int) -> tuple[float, float, np.ndarray]:
    """Return processor seconds, peak memory in MiB and the resampled counts."""
    (image, own), (_, wcs) = frame(size, (1.25, -3.5), 1), frame(64, (0, 0), 2)
    wcs.wcs.crpix = (size + 1) / 2, (size + 1) / 2
    function(image[:64, :64].copy(), own, wcs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, started = helpers.peak_memory(), time.process_time()
    result = function(image, own, wcs)
    return time.process_time() - started, helpers.peak_memory() - before, np.asarray(result)


if __name__ == "__main__":
    main()
