"""Lines that belong to a frame: streaks, and hot or dead columns and rows, with their ends.

The pixels of the whole frame are summed up along lines, since a faint line shows in no single patch. A line
is significant by its parts (`line_parts`): stars, their spikes and their bleeding columns make none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from aqdask.methods.noise_aware.frame_line import FrameLine, crossed
from aqdask.methods.noise_aware.frame_sums import PATCH, FrameSums, first_pixels
from aqdask.methods.noise_aware.line_parts import (
    CUT,
    MIN_PARTS,
    STAR_REACH,
    Interval,
    away_from_stars,
    best_interval,
    extent,
    shortest_line,
)
from aqdask.methods.noise_aware.patch_statistics import CELL
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.streaks import StreakFinder
from aqdask.stats.compiled import exact
from aqdask.stats.robust import mad_sigma

FLOOR = 5.0  # sigma; of fainter lines only the strongest is returned
MAX_STREAKS = 10
NEIGHBOURS = 8  # columns on either side whose median is subtracted
CANDIDATES = 8  # columns, and rows, that are looked at closely, at most
FOLLOWED = 3.8  # sigma from which more than one is
SAME = 0.95  # of the length of a streak: a column in it that is longer is all there is
FULL = 0.7  # of the first or last patch of the frame: a column that fills more of it goes on to the edge


def find_lines(
    features: Features, known: Collection[FrameLine] = (), floor: float = FLOOR
) -> tuple[FrameLine, ...]:
    """Find the lines of a frame, the strongest first.

    Parameters
    ----------
    features : mapping of str to ndarray (n_y, n_x)
        `patch_statistics.LINE_SUMS`, 'top', 'left', 'sky' and 'noise'; NaN in patches without data.
    known : collection of FrameLine
        Columns and rows that are left out (`shared_lines`).
    floor : float
        Significance of a streak after which others are looked for; each costs as much as the first.

    Returns
    -------
    tuple of FrameLine
        Lines of at least `FLOOR` sigma; without any, the strongest. Empty for frames of less than `MIN_PARTS`
        patches a side, and where too few have data.
    """
    if min(features["top"].shape) < MIN_PARTS or not np.isfinite(features["top"]).any():
        return ()
    sums = FrameSums.of(features)
    found = columns_and_rows(sums, known)
    streaks = StreakFinder(sums)
    for line in known:
        streaks.remove(line)
    for _ in range(MAX_STREAKS):
        streak = streaks.strongest()
        if streak is None:
            break
        if not any(line.significance >= FLOOR and is_all_of(line, streak) for line in found):
            band = streak.width / 2 + CELL
            same = [line for line in found if is_along(line, streak, band)]
            if all(line.significance < streak.significance for line in same):
                found = [line for line in found if line not in same] + [streak]
        if streak.significance < floor:
            break
        streaks.remove(streak)
    found.sort(key=lambda line: -line.significance)
    return tuple(line for line in found if line.significance >= FLOOR) or tuple(found[:1])


def columns_and_rows(sums: FrameSums, known: Collection[FrameLine] = ()) -> list[FrameLine]:
    """Return the hot and dead columns and rows, without those that are ``known``; see `columns`."""
    left_out = {kind: [line for line in known if line.kind == kind] for kind in ("column", "row")}
    found = list(columns(sums, [round(line.start[1]) for line in left_out["column"]]))
    rows = columns(sums.swapped(), [round(line.start[0]) for line in left_out["row"]])
    return found + [replace(line, kind="row", start=line.start[::-1], end=line.end[::-1]) for line in rows]


def patches_crossed(features: Features, line: FrameLine) -> np.ndarray:
    """Find the patches that a line touches, corners included, bool ``(n_y, n_x)``, from 'top' and 'left'."""
    return crossed(line, *first_pixels(features), PATCH)


def shared_lines(frames: Sequence[Collection[FrameLine]]) -> tuple[FrameLine, ...]:
    """Find the columns and rows that more than half of the frames have within a pixel: the detector's own."""
    shared: list[FrameLine] = []
    for line in (line for lines in frames for line in lines if line.kind != "streak"):
        number = sum(any(is_same(line, other) for other in lines) for lines in frames)
        if 2 * number > max(len(frames), 2) and not any(is_same(line, other) for other in shared):
            shared.append(line)
    return tuple(shared)


def is_along(line: FrameLine, other: FrameLine, reach: float) -> bool:
    """Return True if both ends of a line lie within ``reach`` px of another, or of its continuation."""
    step = np.subtract(other.end, other.start)
    away = [np.subtract(point, other.start) for point in (line.start, line.end)]
    apart = max(abs(step[1] * one[0] - step[0] * one[1]) for one in away)
    return bool(apart <= reach * max(float(np.hypot(*step)), 1e-9))


def is_all_of(line: FrameLine, streak: FrameLine) -> bool:
    """Return True if a column or row accounts for a streak: the same place within a cell, and length."""
    lengths = [float(np.hypot(*np.subtract(one.end, one.start))) for one in (line, streak)]
    return line.kind != "streak" and is_along(streak, line, CELL) and lengths[0] >= SAME * lengths[1]


def is_same(line: FrameLine, other: FrameLine) -> bool:
    """Return True for two columns, or two rows, at most a pixel apart."""
    axis = 1 if line.kind == "column" else 0
    return line.kind == other.kind != "streak" and abs(line.start[axis] - other.start[axis]) <= 1


def columns(sums: FrameSums, left_out: Iterable[int] = ()) -> Iterator[FrameLine]:
    """Yield hot and dead columns, whole or in part: the strongest, and others from `FOLLOWED` sigma on."""
    shortest = shortest_line(min(len(sums.tops), len(sums.lefts)))
    levels = _levels(sums.columns, shortest)
    spread = max(float(mad_sigma(levels[0], 0.0)), 1.0)
    strength = np.abs(levels).max(axis=0)
    for column in left_out:
        strength[max(column - 1, 0) : column + 2] = 0
    for number in range(CANDIDATES):
        column = int(strength.argmax())
        if number and strength[column] < FOLLOWED * spread:
            return
        strength[max(column - 2, 0) : column + 3] = 0
        line = _column(sums, column, shortest)
        if line:
            yield replace(line, significance=line.significance / spread)


def _levels(profiles: np.ndarray, shortest: int) -> np.ndarray:
    """Sum up profiles ``(m, W)`` in units of the noise, less the mean of the neighbouring columns.

    Over the whole length, and over overlapping parts of it: ``(n, W)``.
    """
    step = max(shortest // 2, 1)
    first = np.array([0, *range(0, len(profiles) - shortest + 1, step)])
    total = _totals(profiles, first, np.array([len(profiles), *(first[1:] + shortest)]))
    return total - ndimage.uniform_filter1d(np.clip(total, -CUT, CUT), 2 * NEIGHBOURS + 1, mode="mirror")


@exact
def _totals(profiles: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Sums of the known values of rows ``first`` to ``stop``, each cut at `CUT`, over their noise."""
    total = np.zeros((first.size, profiles.shape[1]))
    for part in range(first.size):
        count = np.zeros(profiles.shape[1], np.float32)
        for row in range(first[part], stop[part]):
            for column in range(profiles.shape[1]):
                value = profiles[row, column]
                known = value == value
                value = np.float32(-CUT) if value < np.float32(-CUT) else value
                value = np.float32(CUT) if value > np.float32(CUT) else value
                total[part, column] += value if known else np.float32(0)
                count[column] += np.float32(known)
        total[part] /= np.sqrt(np.maximum(count, np.float32(1)))
    return total


def _column(sums: FrameSums, column: int, shortest: int) -> FrameLine | None:
    """Follow one column: its sign, interval and ends; None where it has too little data."""
    near = slice(max(column - NEIGHBOURS, 0), column + NEIGHBOURS + 1)
    contrast = sums.columns[:, column] - np.median(sums.columns[:, near], axis=1)
    place = min(column // sums.cell, sums.cells.shape[1] - 1)
    bright = sums.bright[:, max(place - 1, 0) : place + 2].sum(axis=1) > 0
    clear = away_from_stars(bright, STAR_REACH // sums.cell)
    middles = np.minimum((sums.tops + PATCH // 2) // sums.cell, len(clear) - 1)
    usable = np.where(clear[middles], contrast, np.nan)
    signs = [(sign, best_interval(sign * usable, shortest)) for sign in (1, -1)]
    known = [(sign, interval) for sign, interval in signs if interval]
    if not known:
        return None
    sign, interval = max(known, key=lambda one: one[1].significance)
    first, last = _column_ends(np.nan_to_num(sign * contrast), interval, sums.tops)
    return FrameLine("column", (first, float(column)), (last, float(column)), 1.0, interval.significance)


def _column_ends(contrast: np.ndarray, interval: Interval, tops: np.ndarray) -> tuple[float, float]:
    """First and last pixel of a column, from the shares of the first and the last patch that it fills."""
    filled = np.clip(contrast / max(np.median(contrast[interval.first : interval.stop]), 1e-3), 0, 1)
    first, stop = extent(filled, interval.first, interval.stop)
    before = filled[max(first - 1, 0) : first + 1].sum()
    behind = filled[stop - 1 : stop + 1].sum()
    start = tops[first] + PATCH * (1 - before)
    end = tops[stop - 1] + PATCH * behind
    height = float(tops[-1] + PATCH)
    return (
        0.0 if start < PATCH * (1 - FULL) else float(start),
        height - 1 if end > height - PATCH * (1 - FULL) else float(end) - 1,
    )
