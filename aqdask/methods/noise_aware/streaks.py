"""Streaks in an image of cells: maxima of its Radon transform, followed along their parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from aqdask.methods.noise_aware.frame_line import FrameLine
from aqdask.methods.noise_aware.frame_sums import CELL_CUT, FrameSums, binned
from aqdask.methods.noise_aware.line_parts import best_interval, extent, shortest_line
from aqdask.stats.discrete_radon import line_ends, line_sums
from aqdask.stats.robust import mad_sigma

TRIES = 3  # maxima of the Radon transform that are followed
SAME = 6  # cells of that: lines whose ends are closer are one
SMOOTH = 4  # pairs of cells on either side over which the sky is averaged
STEPS = 16  # of one sigma, to which cells are rounded for the Radon transform
WIDTHS = (1.5, 3.0, 6.0)  # cells over which a streak is summed up across
GAP, BAND = 1.0, 5.0  # cells: distance and width of the sky on either side that is subtracted
PART = 16  # cells along a line that count as one part
FOLLOWED = 4.5  # sigma of the second and third maximum from which they are followed
SHIFTS = (1.0, 0.5, 0.25)  # cells, by which both ends are moved to and fro
_NEAR = [6, 7, 8, 11, 12, 13, 16, 17, 18]
_MOVES = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2), axis=-1).reshape(-1, 2)


class StreakFinder:
    """Finder of streaks in the cells of one frame; what is found is taken out.

    Parameters
    ----------
    sums : FrameSums
    """

    def __init__(self, sums: FrameSums) -> None:
        self.cell, self.valid = sums.cell, sums.valid
        cells = high_pass(sums.cells, sums.valid)
        sigma = np.float32(max(mad_sigma(cells[sums.valid][:: 1 + cells.size // 40_000], 0.0), 1e-3))
        self.cells = np.clip(cells / sigma, -CELL_CUT, CELL_CUT)

    def strongest(self) -> FrameLine | None:
        """Find the strongest streak; None where the frame is too small for one."""
        coarse, valid = binned(self.cells, self.valid)
        coarse = np.clip(coarse, -CELL_CUT, CELL_CUT)
        weights, sample = line_weights(valid.shape, valid.tobytes())
        sums = line_sums(np.rint(STEPS * coarse)) * weights
        if not len(sample):
            return None
        spread = max(float(mad_sigma(sums.ravel()[sample])), 1.0)
        found = [self._followed(ends, spread) for ends in _maxima(sums, coarse.shape, FOLLOWED * spread)]
        return max((line for line in found if line), key=lambda line: line.significance, default=None)

    def remove(self, line: FrameLine) -> None:
        """Take the cells of a line out."""
        start, end = (np.array(point) / self.cell + 0.5 / self.cell for point in (line.start, line.end))
        steep = abs(end - start).argmax() == 0
        cells = self.cells.T if steep else self.cells
        (across, along) = zip(start, end, strict=True) if not steep else zip(start[::-1], end[::-1], strict=True)
        order = np.argsort(along)
        columns = np.arange(max(int(min(along)) - 1, 0), min(int(max(along)) + 2, cells.shape[1]))
        centre = np.interp(columns + 0.5, np.array(along)[order], np.array(across)[order])
        away = np.abs(np.arange(cells.shape[0])[:, None] + 0.5 - centre)
        reach = line.width / self.cell / 2 + 1.5
        cells[:, columns] = np.where(away < reach, 0, cells[:, columns])

    def _followed(self, ends: np.ndarray, spread: float) -> FrameLine | None:
        """Follow a line of the Radon transform, with ends in cells of this image: place, width, interval."""
        steep = bool(abs(ends[1] - ends[0]).argmax() == 0)
        cells, valid = (self.cells.T, self.valid.T) if steep else (self.cells, self.valid)
        across, along = ends[:, ::-1].T if steep else ends.T
        if along[0] > along[1]:
            across, along = across[::-1], along[::-1]
        table = np.zeros((cells.shape[0] + 1, cells.shape[1]), np.float32)
        np.cumsum(cells, axis=0, out=table[1:])
        columns = np.arange(cells.shape[1])
        share = (columns + 0.5 - along[0]) / (along[1] - along[0])

        def line(both: np.ndarray) -> np.ndarray:
            return both[..., :1] * (1 - share) + both[..., 1:] * share

        for shift in SHIFTS:
            tried = across + shift * (_MOVES if shift == SHIFTS[0] else _MOVES[_NEAR])
            parts = _in_parts(_band(table[:, ::2], line(tried)[:, ::2], WIDTHS[0]), PART // 2)
            across = tried[np.square(np.maximum(parts, 0)).sum(axis=-1).argmax()]
        centre = line(across)
        row = np.floor(centre).astype(int)
        inside = (row >= 0) & (row < cells.shape[0])
        inside &= valid[np.clip(row, 0, cells.shape[0] - 1), columns]
        shortest = shortest_line(min(cells.shape) // PART)
        best = None
        for width in WIDTHS:
            profile = np.where(inside, _contrast(table, centre, width), 0)
            count = _in_parts(inside)
            scale = _part_sigma(table, width)
            parts = np.where(count >= PART / 2, _in_parts(profile) / np.sqrt(np.maximum(count, 1)) / scale, np.nan)
            interval = best_interval(parts, shortest)
            if interval and (best is None or interval.significance > best[0].significance):
                best = interval, width, profile
        if best is None:
            return None
        interval, width, profile = best
        first, stop = extent(profile, interval.first * PART, min(interval.stop * PART, len(columns)))
        points = [(float(line(across)[0]) if 0 else float(np.interp(x, columns + 0.5, centre)), float(x)) for x in (first, stop)]
        points = [(self.cell * y - 0.5, self.cell * x - 0.5) for y, x in points]
        if steep:
            points = [(x, y) for y, x in points]
        return FrameLine("streak", *points, width * self.cell, interval.significance / spread)


def high_pass(cells: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Subtract the mean of the valid cells within 2 `SMOOTH` from each; 0 where not valid."""
    coarse, known = binned(cells, valid)
    mean = _box(np.where(known, coarse, 0)) / np.maximum(2 * _box(known.astype(np.float32)), 1)
    spread = mean.repeat(2, axis=0).repeat(2, axis=1)[: cells.shape[0], : cells.shape[1]]
    return np.where(valid, cells - spread, 0)


def _box(image: np.ndarray) -> np.ndarray:
    """Sums over squares of ``2 SMOOTH + 1`` cells, zero beyond the edges."""
    side = 2 * SMOOTH + 1
    for _ in range(2):
        table = np.zeros((image.shape[0] + side, image.shape[1]), np.float32)
        np.cumsum(image, axis=0, out=table[SMOOTH + 1 : SMOOTH + 1 + image.shape[0]])
        table[SMOOTH + 1 + image.shape[0] :] = table[SMOOTH + image.shape[0]]
        image = (table[side:] - table[:-side]).T
    return image


@lru_cache(maxsize=4)
def line_weights(shape: tuple[int, int], valid: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the sums over lines to unit noise, 0 for short lines, and a sample of the others."""
    counts = line_sums(np.frombuffer(valid, bool).reshape(shape)).astype(np.float32)
    long = counts >= min(shape) / 3
    weights = np.where(long, 1 / (STEPS * np.sqrt(np.maximum(counts, 1))), 0).astype(np.float32)
    sample = np.flatnonzero(long)
    return weights, sample[:: 1 + len(sample) // 20_000]


def _maxima(sums: np.ndarray, shape: tuple[int, int], followed: float) -> Iterator[np.ndarray]:
    """Yield the ends of the strongest lines in cells of half the size; ``sums`` is overwritten.

    The first, and up to `TRIES` in all that are above ``followed``.
    """
    found: list[np.ndarray] = []
    for _ in range(3 * TRIES):
        quadrant, slope, offset = np.unravel_index(sums.argmax(), sums.shape)
        if found and sums[quadrant, slope, offset] < followed:
            return
        ends = line_ends(int(quadrant), int(slope), int(offset), shape)
        sums[quadrant, max(slope - SAME, 0) : slope + SAME + 1, max(offset - SAME, 0) : offset + SAME + 1] = 0
        known = any(min(np.abs(ends - one).max(), np.abs(ends - one[::-1]).max()) < SAME for one in found)
        if not known:
            found.append(ends)
            yield 2 * (ends + 0.5)
        if len(found) == TRIES:
            return


def _band(table: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    """Sums of cells within half a ``width`` of rows ``centre``, from their cumulative sums ``(Y + 1, X)``."""
    return _cumulative(table, centre + width / 2) - _cumulative(table, centre - width / 2)


def _cumulative(table: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Interpolate cumulative sums at fractional rows, ``(..., X)``."""
    row = np.clip(row, 0, len(table) - 1).astype(np.float32)
    lower = np.minimum(row.astype(np.int32), len(table) - 2)
    index = lower * table.shape[1] + np.arange(table.shape[1], dtype=np.int32)
    flat = table.ravel()
    below = flat[index]
    return below + (row - lower) * (flat[index + table.shape[1]] - below)


def _contrast(table: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    """Signal of a band above the sky on its two sides, in units of its noise."""
    band, near, far = (_band(table, centre, width + 2 * more) for more in (0, GAP, GAP + BAND))
    sky = (far - near) / (2 * BAND)
    variance = width - 1 / 3 + width**2 / (2 * BAND)
    return (band - width * sky) / np.sqrt(variance)


def _part_sigma(table: np.ndarray, width: float) -> float:
    """Spread of the parts of all rows, at least 1: more where neighbouring cells are correlated."""
    parts = _in_parts(table)
    rows = np.arange(len(table) - 1)[:, None] + np.full((1, parts.shape[1]), 0.5, np.float32)
    return max(float(mad_sigma(_contrast(parts, rows, width), 0.0)) / PART**0.5, 1.0)


def _in_parts(values: np.ndarray, part: int = PART) -> np.ndarray:
    """Sums over parts of ``part`` cells along the last axis; the last part may be shorter."""
    return np.add.reduceat(values, np.arange(0, values.shape[-1], part), axis=-1, dtype=np.float32)
