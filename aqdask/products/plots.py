"""PNG pictures of masks over their frames (needs matplotlib)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqdask import plot
from aqdask.io.frame_ids import safe_name
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_pixels
from aqdask.store.frame_store import ChosenFrames, FrameStore, Place
from aqdask.store.quality_store import QualityStore


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
    """Write a PNG of a frame in grey with the mask in red, as `aqdask.plot.frame` draws it.

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
    Figure = plot.require_matplotlib()
    figure = Figure(figsize=(8, 8 * image.shape[0] / image.shape[1] + 0.4), layout="constrained")
    plot.frame(image, mask, ax=figure.add_subplot(), title=title)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # such characters show as boxes
        figure.savefig(path, dpi=110)
