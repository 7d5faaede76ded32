"""Fixed costs of a frame: passes over an archive of frames too small to cost anything else.

    git worktree add ../old 3d02b68
    python benchmarks/bench_overhead.py ../old [--frames 2000 --repeat 5]

Both checkouts take the same sources, serially, each in a fresh process, and swap places in every repetition.
The least that an ingest could cost is measured beside it: reading the file, sha256 of it, crc32c of its
pixels, and writing them with zarr. See README.md here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MODEL = "wide-field"
FIRST = 4  # frames that warm a process up
CARDS = {
    "EXPTIME": 30.0, "FILTER": "R", "INSTRUME": "CAM1", "GAIN": 1.4, "SATURATE": 60000, "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 32.0, "CRPIX2": 32.0, "CDELT1": -2e-4,
    "CDELT2": 2e-4, "CUNIT1": "deg", "CUNIT2": "deg",
}  # fmt: skip
STAGES = {
    "ingest": "ingest, a frame",
    "floor": "reading, hashing and writing alone, a frame",
    "beyond": "ingest beyond that, a frame",
    "score": "score, a frame",
    "again": "score with nothing to do, the whole archive",
    "export": "export, a frame",
}
Times = dict[str, dict[str, float]]


def write_sources(folder: Path, frames: int, size: int, more_cards: int = 120) -> None:
    """Write uint16 frames of noise, with headers as long as a telescope's."""
    from astropy.io import fits

    rng = np.random.default_rng(20240507)
    folder.mkdir()
    for number in range(frames):
        header = fits.Header(CARDS | {f"EXTRA{k}": k * 1.5 for k in range(more_cards)})
        header["DATE-OBS"] = f"2024-05-07T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}"
        image = rng.poisson(1000, (size, size)).astype("uint16")
        fits.PrimaryHDU(image, header).writeto(folder / f"frame_{number:05d}.fits")


def taken(function: Callable[[], object]) -> dict[str, float]:
    """Wall and processor seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processor}


def least(sources: list[Path], size: int, folder: Path) -> None:
    """Read, hash and write every frame, and nothing else."""
    import google_crc32c
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    array = zarr.create_array(
        str(folder / "least.zarr"), shape=(len(sources), size, size), dtype="uint16", chunks=(1, size, size),
        shards=(1, size, size), fill_value=0,
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=2), Crc32cCodec()],
    )  # fmt: skip
    padded = -(-2 * size**2 // 2880) * 2880
    for row, path in enumerate(sources):
        raw = path.read_bytes()
        hashlib.sha256(raw).hexdigest()
        stored = np.frombuffer(raw, ">i2", size**2, len(raw) - padded).reshape(size, size)
        image = stored.astype("uint16") ^ np.uint16(2**15)
        google_crc32c.value(image.view("uint8"))
        array[row] = image


def measure(sources: Path, size: int, folder: Path) -> Times:
    """Seconds of every stage in this process, the child's; imports and first calls come before."""
    import aqdask as aq

    assert Path(aq.__file__).parent.parent == Path(os.environ["PYTHONPATH"])
    files = sorted(sources.iterdir())

    def passes(listed: list[Path], name: str) -> dict[str, Callable[[], object]]:
        archive = folder / f"{name}.zarr"
        paths = [str(path) for path in listed]
        return {
            "ingest": lambda: aq.ingest(paths, archive, cluster="serial"),
            "score": lambda: aq.score(archive, MODEL, cluster="serial"),
            "again": lambda: aq.score(archive, MODEL, cluster="serial"),
            "export": lambda: aq.export(archive, folder / f"{name}-products", cluster="serial"),
            "floor": lambda: least(listed, size, folder / name),
        }

    for stage in passes(files[:FIRST], "first").values():
        stage()
    found = {name: taken(stage) for name, stage in passes(files, "whole").items()}
    found["beyond"] = {what: found["ingest"][what] - found["floor"][what] for what in ("wall", "cpu")}
    return found


def child(checkout: Path, sources: Path, size: int) -> Times:
    """Return `measure` with the package of a checkout."""
    with tempfile.TemporaryDirectory(dir=sources.parent) as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--measure", str(sources), str(size), folder]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(checkout)}, stdout=subprocess.PIPE, text=True
        )
    if done.returncode:
        raise SystemExit(f"{checkout} failed: {done.stdout}")
    found: Times = json.loads(done.stdout.splitlines()[-1])
    return found


def table(sides: list[str], times: dict[str, list[Times]], frames: int) -> str:
    """Medians in ms, and the ratio within pairs, as Markdown."""
    lines = [f"| ms | | {sides[1]} | {sides[0]} | ratio in pairs |", "| --- | --- | --: | --: | --: |"]
    for stage, meaning in STAGES.items():
        scale = 1000 if stage == "again" else 1000 / frames
        for what in ("wall", "cpu"):
            here, there = ([one[stage][what] * scale for one in times[side]] for side in sides)
            pairs = [a / b for a, b in zip(here, there, strict=True)]
            shown = [
                f"{statistics.median(side):.2f} ({min(side):.2f} - {max(side):.2f})" for side in (there, here)
            ]
            ratio = f"{statistics.median(pairs):.2f} ({min(pairs):.2f} - {max(pairs):.2f})"
            lines.append(f"| {meaning} | {what} | {' | '.join(shown)} | {ratio} |")
    return "\n".join(lines)


def model_lookup() -> str:
    """Time how a loaded model is found, and how long its bundle takes to be parsed and hashed."""
    from aqdask.execution.model_cache import load_cached
    from aqdask.methods.bundle import Bundle
    from aqdask.methods.shipped import load_shipped

    bundle = load_shipped(MODEL)
    load_cached(bundle.contents, bundle.digest)
    found = [
        statistics.median(taken(call)["wall"] for _ in range(21)) * 1000
        for call in (
            lambda: Bundle.from_bytes(bundle.contents),
            lambda: load_cached(bundle.contents, bundle.digest),
        )
    ]
    return (
        f"A tile of `quality_of` finds the model by its digest in {found[1]:.3f} ms; parsing and hashing the "
        f"bundle takes {found[0]:.1f} ms."
    )


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--frames", type=int, default=2000, help="frames (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of a frame in px (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs (%(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "results/overhead.md", help="(%(default)s)")
    return parser.parse_args()


def main() -> int:
    """Measure both checkouts, and write the table."""
    if sys.argv[1:2] == ["--measure"]:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
        return 0
    import helpers
    from bench_pair import commit_of

    asked = parse()
    places = HERE.parent, asked.other.resolve()
    sides = [commit_of(places[0]), f"{commit_of(places[1])} (other)"]
    checkouts, times = dict(zip(sides, places, strict=True)), defaultdict[str, list[Times]](list)
    about = helpers.environment()
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "sources"
        write_sources(sources, asked.frames, asked.size)
        for number in range(asked.repeat):
            for side in sides[:: 1 if number % 2 == 0 else -1]:
                times[side].append(child(checkouts[side], sources, asked.size))
    settings = f"{asked.frames} frames of {asked.size} x {asked.size} px, {asked.repeat} pairs, serial"
    lines = [
        "# Fixed costs of a frame",
        f"`python benchmarks/bench_overhead.py`: {settings}. Medians, with the smallest and the largest.",
        "\n".join(f"- {name}: {value}" for name, value in about.items()),
        table(sides, times, asked.frames),
        model_lookup(),
    ]
    asked.out.write_text("\n\n".join(lines) + "\n")
    print(asked.out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
