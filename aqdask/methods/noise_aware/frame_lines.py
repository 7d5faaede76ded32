"""Lines that belong to a frame: streaks, and hot or dead columns and rows, with their ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from aqdask.methods.noise_aware.frame_line import FrameLine, crossed
from aqdask.methods.noise_aware.frame_sums import FrameSums, starts
from aqdask.methods.noise_aware.line_parts import CUT, MIN_PARTS, best_interval, extent, shortest_line
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.streaks import StreakFinder
from aqdask.stats.robust import mad_sigma

FLOOR = 5.0  # sigma; of fainter lines only the strongest is returned
MAX_STREAKS = 10
NEIGHBOURS = 8  # columns on either side whose median is subtracted
CANDIDATES = 8  # columns, and rows, that are looked at closely, at most
FOLLOWED = 3.8  # sigma from which more than one is


def find_lines(features: Features) -> tuple[FrameLine, ...]:
    """Find the lines of a frame, the strongest first.

    Parameters
    ----------
    features : mapping of str to ndarray (n_y, n_x)
        With `patch_statistics.LINE_SUMS`, 'top' and 'left'; NaN in patches without data.

    Returns
    -------
    tuple of FrameLine
        Lines of at least `FLOOR` sigma; without any, the strongest. Empty for frames of less than `MIN_PARTS`
        patches a side, or without data.
    """
    if min(features["top"].shape) < MIN_PARTS or not np.isfinite(features["top"]).any():
        return ()
    sums = FrameSums.of(features)
    found = [*columns(sums), *(_transposed(line) for line in columns(_swapped(sums)))]
    streaks = StreakFinder(sums)
    for line in found:
        if line.significance >= FLOOR:
            streaks.remove(line)
    for _ in range(MAX_STREAKS):
        streak = streaks.strongest()
        if streak is None:
            break
        found.append(streak)
        if streak.significance < FLOOR:
            break
        streaks.remove(streak)
    found.sort(key=lambda line: -line.significance)
    return tuple(line for line in found if line.significance >= FLOOR) or tuple(found[:1])


def significance_map(features: Features, lines: Iterable[FrameLine]) -> np.ndarray:
    """Compute the significance of the strongest line that crosses each patch, 0 without one.

    Parameters
    ----------
    features : mapping of str to ndarray (n_y, n_x)
        With 'top' and 'left'.
    lines : iterable of FrameLine

    Returns
    -------
    ndarray (n_y, n_x), float32
    """
    found = np.zeros(features["top"].shape, np.float32)
    if np.isfinite(features["top"]).any():
        size = 64
        tops, lefts = starts(features["top"], size), starts(features["left"].T, size)
        for line in lines:
            found = np.maximum(found, np.where(crossed(line, tops, lefts, size), np.float32(line.significance), 0))
    return found


def columns(sums: FrameSums) -> Iterator[FrameLine]:
    """Yield hot and dead columns, bright or dark, whole or in part: the most significant candidates."""
    profiles = sums.columns
    known = np.isfinite(profiles)
    cut = np.clip(np.where(known, profiles, 0), -CUT, CUT)
    shortest = shortest_line(min(len(sums.tops), len(sums.lefts)))
    totals = [_level(cut[part], known[part]) for part in _windows(len(profiles), shortest)]
    spread = max(float(mad_sigma(totals[0])), 1.0)
    strength = np.abs(totals).max(axis=0)
    for number in range(CANDIDATES):
        column = int(strength.argmax())
        if number and strength[column] < FOLLOWED * spread:
            return
        strength[max(column - 2, 0) : column + 3] = 0
        line = _column(sums, column, shortest)
        if line:
            yield replace(line, significance=line.significance / spread)


def _windows(length: int, shortest: int) -> list[slice]:
    """Return the whole length, and overlapping parts of it."""
    step = max(shortest // 2, 1)
    return [slice(None), *(slice(k, k + shortest) for k in range(0, length - shortest + 1, step))]


def _level(cut: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Sum up profiles ``(m, W)`` in units of the noise, less the mean of the neighbouring columns."""
    total = cut.sum(axis=0, dtype=np.float64) / np.sqrt(np.maximum(known.sum(axis=0), 1))
    side = 2 * NEIGHBOURS + 1
    padded = np.pad(np.clip(total, -CUT, CUT), NEIGHBOURS, mode="reflect")
    return total - np.convolve(padded, np.full(side, 1 / side), mode="valid")


def _column(sums: FrameSums, column: int, shortest: int) -> FrameLine | None:
    """Follow one column: its sign, interval and ends."""
    near = slice(max(column - NEIGHBOURS, 0), column + NEIGHBOURS + 1)
    around = sums.columns[:, near]
    contrast = sums.columns[:, column] - np.median(around, axis=1)
    signs = [(sign, best_interval(sign * contrast, shortest)) for sign in (1.0, -1.0)]
    known = [(sign, interval) for sign, interval in signs if interval]
    if not known:
        return None
    sign, interval = max(known, key=lambda one: one[1].significance)
    place = min(column // sums.cell, sums.cells.shape[1] - 1)
    cells = sums.cells[:, max(place - 4, 0) : place + 5]
    profile = sign * (sums.cells[:, place] - np.median(cells, axis=1)) * sums.valid[:, place]
    per_part = sums.size // sums.cell
    first, stop = extent(profile, interval.first * per_part, min(interval.stop * per_part, len(profile)))
    last = int(sums.tops[-1]) + sums.size - 1
    ends = float(first * sums.cell), float(min(stop * sums.cell - 1, last) if stop < len(profile) else last)
    return FrameLine("column", (ends[0], float(column)), (ends[1], float(column)), 1.0, interval.significance)


def _swapped(sums: FrameSums) -> FrameSums:
    """Swap rows and columns of a frame."""
    return FrameSums(
        sums.cells.T, sums.valid.T, sums.cell, sums.rows, sums.columns, sums.lefts, sums.tops
    )  # fmt: skip


def _transposed(line: FrameLine) -> FrameLine:
    return replace(line, kind="row", start=line.start[::-1], end=line.end[::-1])
