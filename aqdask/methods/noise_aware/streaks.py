"""Streaks in an image of cells: maxima of its Radon transform, followed along their parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aqdask.methods.noise_aware.frame_line import FrameLine
from aqdask.methods.noise_aware.frame_sums import CELL_CUT, FrameSums, binned
from aqdask.methods.noise_aware.kernel_math import compiled, inlined
from aqdask.methods.noise_aware.line_parts import (
    STAR_REACH,
    Interval,
    away_from_stars,
    best_interval,
    extent,
    shortest_line,
)
from aqdask.methods.noise_aware.pooling import box_sum
from aqdask.stats.discrete_radon import SAMPLE, STEPS, line_ends, line_sums, line_weights
from aqdask.stats.robust import mad_sigma

TRIES = 3  # maxima of the Radon transform that are followed, at most
FOLLOWED = 4.5  # sigma from which more than one is
SAME = 6  # cells of the transform: lines whose ends are closer are one
SMOOTH = 4  # pairs of cells on either side over which the sky is averaged
WIDTHS = (1.5, 3.0, 6.0)  # cells over which a streak is summed up across
GAP, BAND = 1.0, 5.0  # cells: distance and width of the sky on either side that is subtracted
PART = 12  # cells along a line that count as one part: 48 px
_FAR = np.stack(np.meshgrid(*[np.arange(-2.0, 3)] * 2), axis=-1).reshape(-1, 2)
_NEAR = _FAR[np.abs(_FAR).max(axis=1) <= 1]
MOVES = (_FAR, _NEAR / 2, _NEAR / 4)  # of the ends of a line in cells, one after the other


class StreakFinder:
    """Finder of streaks in one frame; what is found can be taken out.

    Parameters
    ----------
    sums : FrameSums
    """

    def __init__(self, sums: FrameSums) -> None:
        cells = high_pass(sums.cells, sums.valid)
        known = cells[sums.valid]
        sigma = np.float32(max(float(mad_sigma(known[:: 1 + len(known) // SAMPLE], 0.0)), 1e-3))
        self.cells = np.clip(cells / sigma, -CELL_CUT, CELL_CUT)
        self.valid, self.bright, self.cell = sums.valid, sums.bright, sums.cell

    def strongest(self) -> FrameLine | None:
        """Find the most significant streak; None where no line has enough data."""
        coarse, valid = binned(self.cells, self.valid)
        weights, sample = line_weights(valid.shape, valid.tobytes())
        if not len(sample):
            return None
        coarse = np.clip(coarse, -CELL_CUT, CELL_CUT)
        sums = line_sums(np.rint(STEPS * coarse)) * weights
        spread = max(float(mad_sigma(sums.ravel()[sample], 0.0)), 1.0)
        found = [self._followed(ends, spread) for ends in _maxima(sums, valid.shape, FOLLOWED * spread)]
        return max((line for line in found if line), key=lambda line: line.significance, default=None)

    def remove(self, line: FrameLine) -> None:
        """Take the cells of a line out."""
        ends = (np.array([line.start, line.end]) + 0.5) / self.cell
        steep = is_steep(ends)
        cells = self.cells.T if steep else self.cells
        ends = ends[ends[:, 0 if steep else 1].argsort()]
        across, along = (ends[:, ::-1] if steep else ends).T
        reach = line.width / self.cell / 2 + 1.5
        centres = np.interp(np.arange(cells.shape[1]) + 0.5, along, across)
        for column in range(max(int(along[0]) - 1, 0), min(int(along[1]) + 2, cells.shape[1])):
            centre = centres[column]
            cells[max(int(centre - reach), 0) : int(centre + reach) + 1, column] = 0

    def _followed(self, ends: np.ndarray, spread: float) -> FrameLine | None:
        """Follow a line between two points ``(y, x)`` in cells: place, width, interval and ends."""
        steep = is_steep(ends)
        images = self.cells, self.valid, self.bright
        cells, valid, bright = (image.T for image in images) if steep else images
        cells = np.ascontiguousarray(cells)
        across, along = (ends[:, ::-1] if steep else ends).T
        share = (np.arange(cells.shape[1]) + 0.5 - along[0]) / (along[1] - along[0])
        part = round(PART * abs(along[1] - along[0]) / np.hypot(*(ends[1] - ends[0])))
        for moves in MOVES:
            tried = across + moves
            across = tried[_strengths(cells, tried, share, 2 * (part // 2)).argmax()]
        centre = across[0] + (across[1] - across[0]) * share
        row = np.floor(centre).astype(int)
        place = np.clip(row, 0, len(cells) - 1), np.arange(len(row))
        inside = (row == place[0]) & valid[place]
        used = inside & away_from_stars(inside & bright[place], STAR_REACH // self.cell)
        rows = _in_parts(cells, part)
        found = [(_measured(cells, rows, centre, used, width, part), width) for width in WIDTHS]
        known = [(one, width) for one, width in found if one]
        if not known:
            return None
        interval, width = max(known, key=lambda one: one[0].uncut)
        profile = np.where(inside, _contrasts(cells, centre[None], width)[0, 0], 0)
        columns = extent(profile, part * interval.first, min(part * interval.stop, len(row)))
        points = [
            (across[0] + (across[1] - across[0]) * (x - along[0]) / (along[1] - along[0]), x) for x in columns
        ]
        start, end = (self.cell * np.array(point[::-1] if steep else point) - 0.5 for point in points)
        return FrameLine(
            "streak", (float(start[0]), float(start[1])), (float(end[0]), float(end[1])),
            width * self.cell, interval.significance / spread,
        )  # fmt: skip


def is_steep(ends: np.ndarray) -> bool:
    """Return True for a line between ``[[y, x], [y, x]]`` that is longer along y."""
    return bool(abs(ends[1, 0] - ends[0, 0]) > abs(ends[1, 1] - ends[0, 1]))


def high_pass(cells: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Subtract the mean of the valid cells within 2 `SMOOTH` from each; 0 where not valid."""
    coarse, known = binned(cells, valid)
    side = 2 * SMOOTH + 1
    total, count = (box_sum(image, side, np.float32) for image in (np.where(known, coarse, 0), known))
    return _above(cells, valid, total / np.maximum(2 * count, 1))


@compiled
def _above(cells: np.ndarray, valid: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Cells less the mean of their square of 2 x 2; 0 where not valid."""
    found = np.empty_like(cells)
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            sky = mean[row >> 1, np.uint32(column) >> np.uint32(1)]
            found[row, column] = cells[row, column] - sky if valid[row, column] else np.float32(0)
    return found


def _maxima(sums: np.ndarray, shape: tuple[int, int], followed: float) -> Iterator[np.ndarray]:
    """Yield the ends of the strongest lines in cells of half the size; ``sums`` is overwritten.

    The first, and up to `TRIES` in all that are above ``followed``.
    """
    found: list[np.ndarray] = []
    flat = sums.ravel()
    strong = np.flatnonzero(flat >= min(followed, flat.max()))
    for _ in range(3 * TRIES):
        place = strong[flat[strong].argmax()]
        quadrant, slope, offset = map(int, np.unravel_index(place, sums.shape))
        if len(found) == TRIES or (found and sums[quadrant, slope, offset] < followed):
            return
        ends = line_ends(quadrant, slope, offset, shape)
        near = [slice(max(place - SAME, 0), place + SAME + 1) for place in (slope, offset)]
        sums[quadrant, near[0], near[1]] = 0
        if not any(min(np.abs(ends - one).max(), np.abs(ends - one[::-1]).max()) < SAME for one in found):
            found.append(ends)
            yield 2 * (ends + 0.5)


def _measured(
    cells: np.ndarray, rows: np.ndarray, centre: np.ndarray, used: np.ndarray, width: float, part: int
) -> Interval | None:
    """Measure a line of one width: its best interval; None where too little of it is used.

    The significance is the least against the sky on both sides, and on either of them: a step of the sky is
    no line. ``part`` is the number of columns in a part of `PART` cells along the line, ``rows`` are all
    cells in such parts.
    """
    count = _in_parts(used, part)
    noise = np.sqrt(np.maximum(count, 1)) * _part_sigma(rows, width, part)
    sums = _in_parts(np.where(used, _contrasts(cells, centre[None], width)[:, 0], 0), part)
    parts = np.where(count >= part / 2, sums / noise, np.nan)
    interval = best_interval(parts[0], shortest_line(min(cells.shape) // PART))
    return interval and replace(interval, significance=min(interval.of(side) for side in parts))


def _part_sigma(rows: np.ndarray, width: float, part: int) -> float:
    """Spread of the parts of rows, at least 1: more where neighbouring cells are correlated."""
    centres = np.arange(0.5, len(rows), 4)[:, None] + np.zeros(rows.shape[1])
    return max(float(mad_sigma(_contrasts(rows, centres, width)[0], 0.0)) / part**0.5, 1.0)


@compiled
def _contrasts(cells: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Signals of bands in units of their noise, above the sky on both sides, below them and above them.

    Parameters
    ----------
    cells : ndarray (Y, X), float32
    centres : ndarray (m, X)
        Row of the middle of each band in each column.
    width : float
        Rows.

    Returns
    -------
    ndarray (3, m, X), float32
    """
    away = (width + BAND) / 2 + GAP
    # A band that begins and ends within cells has a third of a cell less noise than its width.
    noise = np.sqrt(width - 1 / 3 + width**2 / BAND)
    found = np.empty((3, *centres.shape), np.float32)
    for line in range(centres.shape[0]):
        for column in range(centres.shape[1]):
            centre = centres[line, column]
            band = _band(cells, column, centre, width)
            before, behind = (
                width / BAND * _band(cells, column, centre - away, BAND),
                width / BAND * _band(cells, column, centre + away, BAND),
            )
            both = np.sqrt(width - 1 / 3 + width**2 / (2 * BAND))
            found[0, line, column] = (band - (before + behind) / 2) / both
            found[1, line, column] = (band - before) / noise
            found[2, line, column] = (band - behind) / noise
    return found


@inlined
def _band(cells: np.ndarray, column: int, centre: float, width: float) -> float:
    """Sum of the cells of a column within half a ``width`` of a row."""
    low, high = max(centre - width / 2, 0.0), min(centre + width / 2, float(len(cells)))
    if high <= low:
        return 0.0
    first, last = int(low), min(int(high), len(cells) - 1)
    total = cells[first, column] * (first + 1 - low) - cells[last, column] * (last + 1 - high)
    for row in range(first + 1, last + 1):
        total += cells[row, column]
    return total


@compiled
def _strengths(cells: np.ndarray, tried: np.ndarray, share: np.ndarray, part: int) -> np.ndarray:
    """Sums of the squares of the positive parts of lines, over every second column.

    Parameters
    ----------
    cells : ndarray (Y, X)
    tried : ndarray (m, 2)
        Rows at which each line begins and ends.
    share : ndarray (X,)
        Place of each column between them.
    part : int
        Columns in a part, even.
    """
    found = np.zeros(len(tried))
    for line in range(len(tried)):
        for first in range(0, len(share), part):
            total = 0.0
            for column in range(first, min(first + part, len(share)), 2):
                centre = tried[line, 0] + (tried[line, 1] - tried[line, 0]) * share[column]
                total += _band(cells, column, centre, WIDTHS[0])
            found[line] += max(total, 0.0) ** 2
    return found


def _in_parts(values: np.ndarray, part: int) -> np.ndarray:
    """Sums over parts of ``part`` cells along the last axis; the last part may be shorter."""
    return np.add.reduceat(values, np.arange(0, values.shape[-1], part), axis=-1, dtype=np.float32)
