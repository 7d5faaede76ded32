"""How well a patch mask finds known defects: recall per kind, and false masks where nothing was wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aqdask.specs import PatchGrid

AFFECTED_FRACTION = 0.05  # a patch is affected when this fraction of its pixels is
# Narrow defects never cover that much of a patch; these fractions are about 5 pixels of a track, a quarter
# of a column and half a crossing of a trail in a patch of 64 x 64.
NARROW_FRACTIONS = {
    "cosmic_rays": 5 / 64**2, "hot_column": 16 / 64**2, "dead_column": 16 / 64**2, "trail": 0.02,
    "saturated_stars": 0.02,  # where only the bled column crosses
}  # fmt: skip


@dataclass(frozen=True)
class FrameVerdict:
    """A mask to judge: ``mask`` bool ``(patch_y, patch_x)``, True = bad, and the frame's pixel truth.

    ``truth`` maps kinds of defect to bool ``(y, x)``; empty for a good frame.
    """

    mask: np.ndarray
    truth: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Rate:
    """``masked`` of ``patches``."""

    patches: int = 0
    masked: int = 0

    @property
    def rate(self) -> float:
        """The masked fraction; NaN where there was no patch to mask."""
        return self.masked / self.patches if self.patches else math.nan

    def plus(self, chosen: np.ndarray, mask: np.ndarray) -> Rate:
        """With the patches of one more frame where ``chosen`` is True."""
        return Rate(self.patches + int(chosen.sum()), self.masked + int((chosen & mask).sum()))


@dataclass(frozen=True)
class Evaluation:
    """What a mask is worth.

    Parameters
    ----------
    recall : dict of str to Rate
        Kind of defect to affected patches and how many of them are masked.
    good_frames : Rate
        False masks in frames without any defect.
    untouched : Rate
        False masks in patches of bad frames in which no pixel is affected by anything.
    """

    recall: dict[str, Rate]
    good_frames: Rate
    untouched: Rate


def patch_fraction(pixels: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Fraction of True pixels in each whole patch (overlap included): float64 ``(patch_y, patch_x)``."""
    rows = np.zeros((grid.height + 1, grid.width), np.int32)
    np.cumsum(pixels, axis=0, dtype=np.int32, out=rows[1:])
    bands = rows[grid.stops(0)] - rows[grid.starts(0)]
    columns = np.zeros((bands.shape[0], grid.width + 1), np.int64)
    np.cumsum(bands, axis=1, out=columns[:, 1:])
    counts = columns[:, grid.stops(1)] - columns[:, grid.starts(1)]
    sides = [grid.stops(axis) - grid.starts(axis) for axis in (0, 1)]
    return counts / np.multiply.outer(*sides)


def evaluate(verdicts: Iterable[FrameVerdict], grid: PatchGrid) -> Evaluation:
    """Compare patch masks with pixel truth, frame by frame (verdicts may come from a generator).

    A patch is affected by a kind from `AFFECTED_FRACTION` (or the kind's entry of `NARROW_FRACTIONS`) of
    its pixels upwards, and untouched where no pixel is affected by any kind. Patches in between count
    nowhere. A patch with two kinds counts for both, whichever of them the mask found.

    Raises
    ------
    ValueError
        Where a mask or a truth does not have the grid's shape.
    """
    recall: dict[str, Rate] = {}
    good_frames = untouched = Rate()
    for verdict in verdicts:
        if verdict.mask.shape != grid.shape:
            raise ValueError(f"mask of shape {verdict.mask.shape} for a grid of {grid.shape} patches")
        touched = np.zeros(grid.shape, bool)
        for kind, pixels in verdict.truth.items():
            if pixels.shape != (grid.height, grid.width):
                raise ValueError(
                    f"truth of shape {pixels.shape} for a frame of {(grid.height, grid.width)} px"
                )
            fraction = patch_fraction(pixels, grid)
            affected = fraction >= NARROW_FRACTIONS.get(kind, AFFECTED_FRACTION)
            recall[kind] = recall.get(kind, Rate()).plus(affected, verdict.mask)
            touched |= fraction > 0
        if verdict.truth:
            untouched = untouched.plus(~touched, verdict.mask)
        else:
            good_frames = good_frames.plus(~touched, verdict.mask)
    return Evaluation(recall, good_frames, untouched)
