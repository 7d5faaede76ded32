"""Make the pictures of README and documentation from simulated frames; a few minutes on two cores.

    python docs/pictures/make_pictures.py

Needs the extra `plots`, playwright, and Chromium as ``chromium``. The frame of the first two has a cloud, a
ghost and a hot column.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

import aqdask as aq

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from PIL import Image
from playwright.sync_api import sync_playwright

from aqdask import plot

HERE = Path(__file__).resolve().parent
ROW = 22


def save(figure: plt.Figure, name: str, width: int, colours: int) -> None:
    """Write a small PNG: few colours, since a README is fetched often."""
    figure.savefig(HERE / name, dpi=200)
    plt.close(figure)
    reduce(name, width, colours)


def reduce(name: str, width: int, colours: int) -> None:
    """Reduce a picture to a width in px and a number of colours."""
    picture = Image.open(HERE / name).convert("RGB")
    picture.thumbnail((width, width), Image.Resampling.LANCZOS)
    picture.quantize(colours, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


def take_screenshots(report: Path) -> None:
    """Take a picture of the summary of a report, and of the panel of a flagged frame."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(report.as_uri())
        page.wait_for_timeout(5000)
        page.screenshot(path=HERE / "report.png")
        page.keyboard.press("f")
        page.wait_for_timeout(5000)
        page.screenshot(path=HERE / "panel.png")
        browser.close()
    for name in ("report.png", "panel.png"):
        reduce(name, 900, 64)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "aqdask", "demo", folder, "--size", "2048", "--quiet"]
        subprocess.run(command, check=True)
        archive = Path(folder, "demo.zarr")
        image = aq.open_frames(archive).image[ROW].load()
        quality = aq.open_quality(archive).isel(frame=ROW).load()
        take_screenshots(aq.report(archive, Path(folder, "report.html")).path)
    mask = aq.mask(quality, alpha=0.01)

    figure, axis = plt.subplots(figsize=(6, 6), layout="constrained")
    plot.frame(image, mask, ax=axis, title=f"{mask.values.mean():.1%} masked (red) at alpha = 0.01")
    save(figure, "mask.png", 640, 24)

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for axis, name in zip(axes, ("score", "sky", "stars"), strict=True):
        plot.quality_map(quality[name], ax=axis)
        axis.set_title(name)
    save(figure, "maps.png", 1100, 96)


if __name__ == "__main__":
    main()
