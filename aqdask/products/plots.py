"""PNG pictures of masks over their frames (needs matplotlib)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.visualization import ZScaleInterval

from aqdask.errors import UsageError
from aqdask.io.frame_ids import safe_name
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_pixels
from aqdask.store.frame_store import ChosenFrames, FrameStore, Place
from aqdask.store.quality_store import QualityStore
from aqdask.text import printable

MAX_SIDE = 1024  # px of the longer side of a picture


@dataclass(frozen=True)
class PictureJob:
    """Task that draws ``<folder>/<frame>.png`` for some frames.

    Parameters
    ----------
    archive, quality : str
        The archive and its quality group.
    folder : str
        An existing folder.
    alpha : float
        False-mask rate, in (0, 1).
    """

    archive: str
    quality: str
    folder: str
    alpha: float

    def __call__(self, places: Sequence[Place]) -> list[str]:
        """Draw the frames at these places and return the paths of the pictures."""
        store = QualityStore.open(self.archive, self.quality)
        chosen = ChosenFrames.of(FrameStore.open(self.archive), places)
        paths = []
        for position, (place, frame_id) in enumerate(zip(places, chosen.ids, strict=True)):
            image, invalid = chosen.read(position)
            grid = PatchGrid(image.shape[0], image.shape[1], int(store.group.attrs["patch"]))  # type: ignore[arg-type]
            pvalue = np.asarray(store.group["pvalue"][place.row])  # type: ignore[index]
            mask = bad_pixels(pvalue, self.alpha, grid)
            if invalid is not None:
                mask |= invalid
            path = Path(self.folder) / f"{safe_name(frame_id)}.png"
            title = f"{frame_id}: {100 * mask.mean():.1f} % masked (red) at alpha = {self.alpha}"
            mask_over_frame(image, mask, path, title)
            paths.append(str(path))
        return paths


def mask_over_frame(
    image: np.ndarray, mask: np.ndarray, path: str | os.PathLike[str], title: str = ""
) -> None:
    """Write a PNG of a frame in grey (zscale limits) with the mask in red.

    Parameters
    ----------
    image : ndarray (H, W)
        Counts of any real type.
    mask : ndarray (H, W) of bool
        True = bad.
    path : path
        File to write; an existing one is replaced.
    title : str
        Text above the picture.

    Raises
    ------
    UsageError
        If matplotlib is not installed.
    """
    Figure = require_matplotlib()
    step = max(1, -(-max(image.shape) // MAX_SIDE))
    small = _block_mean(image, step)
    red = _block_mean(mask, step)
    low, high = ZScaleInterval().get_limits(small)
    height = 8 * small.shape[0] / small.shape[1]
    figure = Figure(figsize=(8, height + 0.4), layout="constrained")
    axes = figure.add_subplot()
    extent = (0, image.shape[1], 0, image.shape[0])
    axes.imshow(small, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
    overlay = np.zeros((*red.shape, 4))
    overlay[..., 0], overlay[..., 3] = 1, 0.35 * red
    axes.imshow(overlay, origin="lower", extent=extent)
    axes.set_title(printable(title), parse_math=False)  # a file name may hold dollar signs
    axes.set(xlabel="x [px]", ylabel="y [px]")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # such characters show as boxes
        figure.savefig(path, dpi=110)


def require_matplotlib() -> Any:
    """Return matplotlib's ``Figure``, or raise `UsageError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "matplotlib is not installed",
            expected="matplotlib, for pictures",
            remedy="pip install matplotlib (the extra `plots`)",
        ) from error
    return Figure


def _block_mean(values: np.ndarray, step: int) -> np.ndarray:
    """Mean of blocks of ``step`` x ``step`` px, float64; incomplete blocks at the edges are dropped."""
    height, width = (n - n % step for n in values.shape)
    blocks = values[:height, :width].reshape(height // step, step, width // step, step)
    return blocks.mean(axis=(1, 3), dtype=np.float64)
