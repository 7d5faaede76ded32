"""Stacks with and without masks: depth, photometry and detections against the truth, and the real series.

    python benchmarks/science/stack.py [--size 1024] [--frames 20] [--parts simulated,real,memory]

Of 20 frames of one field 5 are spoilt: defocus, cloud, trail, background, gradient. `wide-field` is
calibrated on 16 good frames of other fields. The real frames are those of `AQDASK_TEST_DATA`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from output import markdown
from seeds import SEEDS
from whole_archive import write

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import helpers

import aqdask as aq
from aqdask.measurements.stack import CombineJob, StackOptions
from aqdask.photometry.aperture_photometry import photometric_scatter
from aqdask.photometry.coadd import depth, occupied_sky
from aqdask.photometry.false_alarms import count_detections
from aqdask.simulate import defects
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec, stream

BAD = (
    defects.Defocus(4.5),
    defects.Cloud(0.6, glow=0.3, region=defects.Region(0.2, 0.9, 0.0, 0.7)),
    defects.Trail(300, angle=25, through=(0.6, 0.5)),
    defects.Background(0.3, scale=32, region=defects.Region(0.1, 0.7, 0.3, 0.9)),
    defects.Gradient(0.3, angle=60),
)
ALPHA = 0.01
NAIVE = {"masked": False, "weighted": False, "clip": 0.0}
STACKS: dict[str, tuple[bool, dict[str, Any]]] = {  # with the spoilt frames, options
    "good frames alone": (False, {"masked": False}),
    "good frames alone, mask": (False, {}),
    "all frames, mask, weights, clipped": (True, {}),
    "all frames, no mask, weights, clipped": (True, {"masked": False}),
    "all frames, mask, weights": (True, {"clip": 0.0}),
    "all frames, no mask, weights": (True, {"masked": False, "clip": 0.0}),
    "all frames, plain mean": (True, NAIVE),
}
COLUMNS = (
    "stack", "frames", "depth [mag]", "gain", "depth, rms", "gain", "sky noise", "scatter of stars [mag]",
    "real", "spurious",
)  # fmt: skip


def scene(size: int, number: int) -> SceneSpec:
    """Draw the conditions of a frame of the night."""
    rng = stream(SEEDS["stack"] + number, "night")
    y, x = (float(np.round(8 * shift) / 8) for shift in rng.uniform(-8, 8, 2))
    return SceneSpec(
        height=size, width=size, sky=float(rng.uniform(800, 1200)), fwhm=float(rng.uniform(2.2, 2.6)),
        vignetting=0.0, flux_maximum=2e5, pointing=(y, x), field_seed=SEEDS["stack"],
    )  # fmt: skip


def simulated(folder: Path, size: int, count: int) -> str:
    """Stack the simulated frames in all ways."""
    night = folder / "night"
    night.mkdir()
    stars = {}
    for number in range(count):
        spoilt = BAD[number - (count - len(BAD))] if number >= count - len(BAD) else None
        drawn = simulate_frame(scene(size, number), [spoilt] if spoilt else [], SEEDS["stack"] + number)
        name = f"frame_{number:03d}.fits"
        write(night / name, drawn)
        stars[name] = drawn.stars
    references = [
        write(
            folder / f"reference_{number:03d}.fits",
            simulate_frame(
                replace(scene(size, number), field_seed=None), [], SEEDS["stack_reference"] + number
            ),
        )
        for number in range(16)
    ]
    aq.ingest(references, folder / "references.zarr")
    model = aq.calibrate(folder / "references.zarr", "wide-field", frames=["*"])
    archive = folder / "night.zarr"
    aq.ingest(night, archive)
    aq.score(archive, model)
    good = [f"frame_{number:03d}.fits" for number in range(count - len(BAD))]
    reference = aq.rank_frames(archive, purpose="reference", frames=good)["frame_id"][0].as_py()
    images = {}
    for name, (everything, options) in STACKS.items():
        out = folder / "stack.fits"
        found = aq.stack(archive, out, frames=None if everything else good, reference=reference, **options)
        images[name] = fits.getdata(out), sum(found.frames["used"].to_pylist())
    masked = aq.mask(aq.open_quality(archive), ALPHA).mean(("y", "x")).values
    told = ", ".join(
        f"{defect.kind} {share:.2f}" for defect, share in zip(BAD, masked[-len(BAD) :], strict=True)
    )
    note = (
        f"Masked fraction of the spoilt frames: {told}; of the good ones {masked[: -len(BAD)].mean():.4f}. "
        "Depth: 5 sigma of a star in apertures on empty sky, -2.5 log10 of counts, from their robust scatter "
        "and from their standard deviation; gain over the first row, larger is deeper. Scatter: magnitudes "
        "minus true ones, isolated stars of signal to noise above 20 in a frame. Detections at 5 sigma."
    )
    rows = truth_rows(images, stars[reference], scene(size, int(reference[6:9])))
    return markdown(
        f"{count} simulated frames of {size} x {size} px, {len(BAD)} of them spoilt", COLUMNS, rows, note
    )


def truth_rows(images: dict[str, tuple[np.ndarray, int]], stars: np.ndarray, spec: SceneSpec) -> list[tuple]:
    """Compare all stacks in the same apertures and with the same true stars."""
    occupied = occupied_sky(images["good frames alone"][0], spec.fwhm)
    rows, first = [], None
    for name, (image, used) in images.items():
        found = depth(image, occupied, spec.fwhm)
        first = first or found
        invalid = ~np.isfinite(image)
        scatter = photometric_scatter(
            np.nan_to_num(image), stars, radius=1.7 * spec.fwhm, gain=spec.gain, sky_noise=spec.sky_noise,
            invalid=invalid,
        )  # fmt: skip
        seen = count_detections(np.nan_to_num(image), stars, invalid=invalid)
        rows.append(
            (
                name, used,
                f"{found.limit:.3f}", f"{found.limit - first.limit:+.3f}", f"{found.limit_rms:.3f}",
                f"{found.limit_rms - first.limit_rms:+.3f}", f"{found.noise:.2f}", f"{scatter.rms_all:.4f}",
                seen.real, seen.spurious,
            )
        )  # fmt: skip
    return rows


def real(folder: Path) -> str:
    """Stack the real series of 18 frames without WCS."""
    source = Path(os.environ.get("AQDASK_TEST_DATA", "../shared/data")) / "bsu_2022yid" / "L"
    archive = folder / "real.zarr"
    aq.ingest(source, archive)
    model = aq.calibrate(archive, "wide-field")
    aq.score(archive, model)
    rows: list[tuple] = []
    reference = aq.rank_frames(archive, purpose="reference")["frame_id"][0].as_py()
    images = {}
    for name, options in {
        "all frames, mask, weights, clipped": {},
        "all frames, no mask, weights, clipped": {"masked": False},
        "all frames, plain mean": NAIVE,
        "best 13, mask, weights, clipped": {"best": 13},
        "best 13, no mask, weights, clipped": {"best": 13, "masked": False},
    }.items():
        started = time.process_time()
        found = aq.stack(archive, folder / "real.fits", reference=reference, **options)
        images[name] = fits.getdata(folder / "real.fits"), found, time.process_time() - started
    fwhm = float(np.median([one for one in found.frames["fwhm"].to_pylist() if np.isfinite(one)]))
    occupied = occupied_sky(images["all frames, mask, weights, clipped"][0], fwhm)
    for name, (image, found, seconds) in images.items():
        one = depth(image, occupied, fwhm)
        used = sum(found.frames["used"].to_pylist())
        rows.append(
            (name, used, f"{one.limit:.3f}", f"{one.limit_rms:.3f}", f"{one.noise:.2f}", f"{seconds:.1f}")
        )
    shares = aq.mask(aq.open_quality(archive), ALPHA).mean(("y", "x")).values
    columns = ("stack", "frames", "depth [mag]", "depth, rms", "sky noise", "processor s")
    note = (
        f"Reference {reference}; masked {shares.mean():.3f} on average, {shares.max():.3f} at most. "
        "Frames are "
        f"aligned by stars, median offset {np.nanmedian(found.frames['offset'].to_pylist()):.2f} px."
    )
    return markdown(f"{len(shares)} real frames of 1023 x 1536 px (SBIG, L)", columns, rows, note)


def memory(folder: Path, size: int = 1024) -> str:
    """Combine 16 and 128 files and compare the peaks of the process."""
    rng, rows = np.random.default_rng(0), []
    planes = np.stack([rng.normal(size=(size, size)), np.ones((size, size))]).astype(np.float32)
    names = []
    for number in range(128):
        names.append(str(folder / f"part-{number:03d}.npy"))
        np.save(names[-1], np.roll(planes, number, axis=2))
    for count in (16, 128):
        with helpers.new_process() as call:
            seconds, peak = call(combined, tuple(names[:count]), size)
        rows.append((count, f"{seconds:.1f}", f"{peak:.0f}"))
    columns = ("frames", "processor s", "peak MiB")
    return markdown(f"Memory of a combining process, {size} x {size} px", columns, rows)


def combined(files: tuple[str, ...], size: int) -> tuple[float, float]:
    """Combine all bands; processor seconds and peak memory."""
    from aqdask.measurements.stack import BAND_VALUES

    job, step = CombineJob(files, StackOptions()), max(1, BAND_VALUES // (len(files) * size))
    started = time.process_time()
    for top in range(0, size, step):
        job([(top, min(top + step, size))])
    return time.process_time() - started, helpers.peak_memory()


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--parts", default="simulated,real,memory")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    helpers.print_header("stack: depth with and without masks", options)
    parts = {
        "simulated": lambda folder: simulated(folder, options.size, options.frames),
        "real": real,
        "memory": memory,
    }
    for name in options.parts.split(","):
        with helpers.scratch(None) as folder:
            text = parts[name](folder)
        print(f"\n{text}", flush=True)
        if options.out:
            with open(options.out, "a") as stream:
                stream.write(f"\n{text}")


if __name__ == "__main__":
    main()
