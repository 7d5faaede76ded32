"""Recall and false-mask rate of patch masks, from the pixel truth of simulated frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aqdask.specs import PatchGrid

AFFECTED_FRACTION = 0.05  # affected pixels from which a patch counts as affected
# Narrow defects never cover 5 % of a patch. These fractions are about 5 pixels of a track, a quarter of a
# column and half a crossing of a trail in a patch of 64 x 64.
NARROW_FRACTIONS = {
    "cosmic_rays": 5 / 64**2, "hot_column": 16 / 64**2, "dead_column": 16 / 64**2, "trail": 0.02,
    "saturated_stars": 0.02,  # only the bleeding column crosses the patch
}  # fmt: skip


@dataclass(frozen=True)
class MaskAndTruth:
    """Patch mask of one frame and its pixel truth.

    Parameters
    ----------
    mask : ndarray (patch_y, patch_x)
        bool, True = bad.
    truth : mapping of str to ndarray (y, x)
        Kind of defect to bool, True = affected; empty for a good frame.
    """

    mask: np.ndarray
    truth: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Rate:
    """Number of patches and of masked patches among them."""

    patches: int = 0
    masked: int = 0

    @property
    def rate(self) -> float:
        """Masked fraction; NaN without patches."""
        return self.masked / self.patches if self.patches else math.nan

    def plus(self, chosen: np.ndarray, mask: np.ndarray) -> Rate:
        """Add the chosen patches of one frame; both arrays are bool ``(patch_y, patch_x)``."""
        return Rate(self.patches + int(chosen.sum()), self.masked + int((chosen & mask).sum()))


@dataclass(frozen=True)
class Evaluation:
    """Rates of masked patches.

    Parameters
    ----------
    recall : dict of str to Rate
        Affected patches by kind of defect.
    good_frames : Rate
        Patches of frames without defects: false masks.
    untouched : Rate
        Patches of bad frames without any affected pixel: false masks.
    """

    recall: dict[str, Rate]
    good_frames: Rate
    untouched: Rate


def patch_fraction(pixels: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Fraction of True pixels in each patch, float64 ``(patch_y, patch_x)``.

    Parameters
    ----------
    pixels : ndarray (y, x)
        bool.
    grid : PatchGrid
        Patches; pixels of an overlap count in each of them.
    """
    rows = np.zeros((grid.height + 1, grid.width), np.int32)
    np.cumsum(pixels, axis=0, dtype=np.int32, out=rows[1:])
    bands = rows[grid.stops(0)] - rows[grid.starts(0)]
    columns = np.zeros((bands.shape[0], grid.width + 1), np.int64)
    np.cumsum(bands, axis=1, out=columns[:, 1:])
    counts = columns[:, grid.stops(1)] - columns[:, grid.starts(1)]
    sides = [grid.stops(axis) - grid.starts(axis) for axis in (0, 1)]
    return counts / np.multiply.outer(*sides)


def evaluate(masks: Iterable[MaskAndTruth], grid: PatchGrid) -> Evaluation:
    """Compare patch masks with pixel truth.

    A patch is affected by a kind if at least `AFFECTED_FRACTION` of its pixels are (or the kind's entry of
    `NARROW_FRACTIONS`), and untouched if no pixel is affected by any kind. All other patches are ignored. A
    patch with two kinds counts for both, whichever of them the mask found.

    Parameters
    ----------
    masks : iterable of MaskAndTruth
        One entry for each frame; a generator keeps only one truth in memory.
    grid : PatchGrid
        Patches of every frame.

    Raises
    ------
    ValueError
        For a mask or a truth of another shape than the grid's.
    """
    recall: dict[str, Rate] = {}
    good_frames = untouched = Rate()
    for frame in masks:
        if frame.mask.shape != grid.shape:
            raise ValueError(f"mask of shape {frame.mask.shape} for a grid of {grid.shape} patches")
        touched = np.zeros(grid.shape, bool)
        for kind, pixels in frame.truth.items():
            if pixels.shape != (grid.height, grid.width):
                raise ValueError(
                    f"truth of shape {pixels.shape} for a frame of {(grid.height, grid.width)} px"
                )
            fraction = patch_fraction(pixels, grid)
            affected = fraction >= NARROW_FRACTIONS.get(kind, AFFECTED_FRACTION)
            recall[kind] = recall.get(kind, Rate()).plus(affected, frame.mask)
            touched |= fraction > 0
        if frame.truth:
            untouched = untouched.plus(~touched, frame.mask)
        else:
            good_frames = good_frames.plus(~touched, frame.mask)
    return Evaluation(recall, good_frames, untouched)
