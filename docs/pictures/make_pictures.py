"""Make the pictures of README and documentation from simulated frames; a few minutes on two cores.

    python docs/pictures/make_pictures.py

Needs the extra `plots`. The frame has a cloud, a ghost and a hot column.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

import aqdask as aq

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from PIL import Image

from aqdask import plot

HERE = Path(__file__).resolve().parent
ROW = 22


def save(figure: plt.Figure, name: str, width: int, colours: int) -> None:
    """Write a small PNG: few colours, since a README is fetched often."""
    figure.savefig(HERE / name, dpi=200)
    picture = Image.open(HERE / name).convert("RGB")
    picture.thumbnail((width, width), Image.Resampling.LANCZOS)
    picture.quantize(colours, dither=Image.Dither.NONE).save(HERE / name, optimize=True)
    plt.close(figure)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "aqdask", "demo", folder, "--size", "2048", "--quiet"]
        subprocess.run(command, check=True)
        archive = Path(folder, "demo.zarr")
        image = aq.open_frames(archive).image[ROW].load()
        quality = aq.open_quality(archive).isel(frame=ROW).load()
    mask = aq.mask(quality, alpha=0.01)

    figure, axis = plt.subplots(figsize=(6, 6), layout="constrained")
    plot.frame(image, mask, ax=axis, title=f"{mask.values.mean():.1%} masked (red) at alpha = 0.01")
    save(figure, "mask.png", 640, 24)

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for axis, name in zip(axes, ("reason", "score", "sky"), strict=True):
        plot.quality_map(quality[name], ax=axis)
        axis.set_title(name)
    save(figure, "maps.png", 1100, 48)


if __name__ == "__main__":
    main()
