"""Streaks in an image of cells: maxima of its Radon transform, followed along their parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from aqdask.methods.noise_aware.frame_line import FrameLine
from aqdask.methods.noise_aware.frame_sums import CELL_CUT, FrameSums, binned
from aqdask.methods.noise_aware.line_parts import (
    SHORTEST,
    STAR_REACH,
    Interval,
    away_from_stars,
    best_interval,
    extent,
    shortest_line,
)
from aqdask.stats.discrete_radon import line_ends, line_sums
from aqdask.stats.robust import mad_sigma

TRIES = 3  # maxima of the Radon transform that are followed, at most
FOLLOWED = 4.5  # sigma from which more than one is
SAME = 6  # cells of the transform: lines whose ends are closer are one
SMOOTH = 4  # pairs of cells on either side over which the sky is averaged
STEPS = 16  # of one sigma, to which cells are rounded for the transform
SAMPLE = 10_000  # values from which a spread is taken
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
        for column in range(max(int(along[0]) - 1, 0), min(int(along[1]) + 2, cells.shape[1])):
            centre = np.interp(column + 0.5, along, across)
            cells[max(int(centre - reach), 0) : int(centre + reach) + 1, column] = 0

    def _followed(self, ends: np.ndarray, spread: float) -> FrameLine | None:
        """Follow a line between two points ``(y, x)`` in cells: place, width, interval and ends."""
        steep = is_steep(ends)
        images = self.cells, self.valid, self.bright
        cells, valid, bright = (image.T for image in images) if steep else images
        across, along = (ends[:, ::-1] if steep else ends).T
        table = np.zeros((cells.shape[0] + 1, cells.shape[1]), np.float32)
        np.cumsum(cells, axis=0, out=table[1:])
        share = (np.arange(cells.shape[1]) + 0.5 - along[0]) / (along[1] - along[0])
        part = round(PART * abs(along[1] - along[0]) / np.hypot(*(ends[1] - ends[0])))
        for moves in MOVES:
            tried = across + moves
            centres = (tried[:, :1] + (tried[:, 1:] - tried[:, :1]) * share)[:, ::2]
            parts = _in_parts(_band(table[:, ::2], centres, WIDTHS[0]), part // 2)
            across = tried[np.square(np.maximum(parts, 0)).sum(axis=1).argmax()]
        centre = across[0] + (across[1] - across[0]) * share
        row = np.floor(centre).astype(int)
        place = np.clip(row, 0, len(cells) - 1), np.arange(len(row))
        inside = (row == place[0]) & valid[place]
        used = inside & away_from_stars(inside & bright[place], STAR_REACH // self.cell)
        found = [(_measured(table, centre, used, width, part), width) for width in WIDTHS]
        known = [(one, width) for one, width in found if one]
        if not known:
            return None
        interval, width = max(known, key=lambda one: one[0].uncut)
        profile = np.where(inside, _contrast(table, centre, width), 0)
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
    mean = _box(np.where(known, coarse, 0)) / np.maximum(2 * _box(known.astype(np.float32)), 1)
    sky = mean.repeat(2, axis=0).repeat(2, axis=1)[: cells.shape[0], : cells.shape[1]]
    return np.where(valid, cells - sky, 0)


def _box(image: np.ndarray) -> np.ndarray:
    """Sums over squares of ``2 SMOOTH + 1`` cells, zero beyond the edges."""
    side = 2 * SMOOTH + 1
    for _ in range(2):
        length = len(image)
        table = np.zeros((length + side, image.shape[1]), np.float32)
        np.cumsum(image, axis=0, out=table[SMOOTH + 1 : SMOOTH + 1 + length])
        table[SMOOTH + 1 + length :] = table[SMOOTH + length]
        image = (table[side:] - table[:-side]).T
    return image


@lru_cache(maxsize=4)
def line_weights(shape: tuple[int, int], valid: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the sums over lines to unit noise, 0 for short lines, and a sample of the others."""
    counts = line_sums(np.frombuffer(valid, bool).reshape(shape))
    long = counts >= SHORTEST * min(shape)
    weights = np.where(long, 1 / (STEPS * np.sqrt(np.maximum(counts, 1))), 0).astype(np.float32)
    sample = np.flatnonzero(long)
    return weights, sample[:: 1 + len(sample) // SAMPLE]


def _maxima(sums: np.ndarray, shape: tuple[int, int], followed: float) -> Iterator[np.ndarray]:
    """Yield the ends of the strongest lines in cells of half the size; ``sums`` is overwritten.

    The first, and up to `TRIES` in all that are above ``followed``.
    """
    found: list[np.ndarray] = []
    for _ in range(3 * TRIES):
        quadrant, slope, offset = map(int, np.unravel_index(sums.argmax(), sums.shape))
        if len(found) == TRIES or (found and sums[quadrant, slope, offset] < followed):
            return
        ends = line_ends(quadrant, slope, offset, shape)
        near = [slice(max(place - SAME, 0), place + SAME + 1) for place in (slope, offset)]
        sums[quadrant, near[0], near[1]] = 0
        if not any(min(np.abs(ends - one).max(), np.abs(ends - one[::-1]).max()) < SAME for one in found):
            found.append(ends)
            yield 2 * (ends + 0.5)


def _measured(
    table: np.ndarray, centre: np.ndarray, used: np.ndarray, width: float, part: int
) -> Interval | None:
    """Measure a line of one width: its best interval; None where too little of it is used.

    The significance is the least against the sky on both sides, and on either of them: a step of the sky is
    no line. ``part`` is the number of columns in a part of `PART` cells along the line.
    """
    count = _in_parts(used, part)
    noise = np.sqrt(np.maximum(count, 1)) * _part_sigma(table, width, part)
    enough = count >= part / 2
    parts = []
    for side in (0, -1, 1):
        sums = _in_parts(np.where(used, _contrast(table, centre, width, side), 0), part)
        parts.append(np.where(enough, sums / noise, np.nan))
    interval = best_interval(parts[0], shortest_line(min(len(table) - 1, table.shape[1]) // PART))
    return interval and replace(interval, significance=min(interval.of(side) for side in parts))


def _part_sigma(table: np.ndarray, width: float, part: int) -> float:
    """Spread of the parts of rows, at least 1: more where neighbouring cells are correlated."""
    parts = _in_parts(table, part)
    rows = np.arange(0.5, len(table) - 1, 4, dtype=np.float32)[:, None] + np.zeros_like(parts[:1])
    return max(float(mad_sigma(_contrast(parts, rows, width), 0.0)) / part**0.5, 1.0)


def _contrast(table: np.ndarray, centre: np.ndarray, width: float, side: int = 0) -> np.ndarray:
    """Signal of a band in units of its noise, above the sky on both sides (0), or on one (-1, 1)."""
    away = (width + BAND) / 2 + GAP
    skies = [_band(table, centre + sign * away, BAND) / BAND for sign in ((-1, 1) if side == 0 else (side,))]
    band = _band(table, centre, width) - width * sum(skies) / len(skies)
    # A band that begins and ends within cells has a third of a cell less noise than its width.
    return band / np.sqrt(width - 1 / 3 + width**2 / (len(skies) * BAND))


def _band(table: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    """Sums of cells within half a ``width`` of rows ``centre``, from their cumulative sums ``(Y + 1, X)``."""
    return _cumulative(table, centre + width / 2) - _cumulative(table, centre - width / 2)


def _cumulative(table: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Interpolate cumulative sums at fractional rows, ``(..., X)``."""
    row = np.clip(row, 0, len(table) - 1).astype(np.float32)
    lower = np.minimum(row.astype(np.int32), len(table) - 2)
    index = lower * table.shape[1] + np.arange(table.shape[1], dtype=np.int32)
    flat = table.ravel()
    below = flat.take(index)
    return below + (row - lower) * (flat.take(index + table.shape[1]) - below)


def _in_parts(values: np.ndarray, part: int) -> np.ndarray:
    """Sums over parts of ``part`` cells along the last axis; the last part may be shorter."""
    return np.add.reduceat(values, np.arange(0, values.shape[-1], part), axis=-1, dtype=np.float32)
