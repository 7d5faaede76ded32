"""Sums of the patches of a frame put together: an image of cells, and profiles of single columns and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aqdask.methods.noise_aware.patch_statistics import CELL, LINE_SUMS, WINSOR
from aqdask.methods.noise_aware.pooling import Features, box_sum
from aqdask.stats.compiled import exact

CELL_CUT = 1.75  # sigma at which cells are cut
BRIGHT = 24  # px a side of a bright area: wider than a narrow line
BRIGHT_SHARE = 0.8  # of CELL_CUT, as a mean over it
LARGEST_IMAGE = 512  # cells a side; cells of larger frames are joined
PATCH = CELL * round(math.sqrt(CELL**2 + 3 * len(LINE_SUMS)) - CELL)  # px: (PATCH / CELL)**2 + 2 PATCH sums
_NEUTRAL = np.int32(128 * (1 + 256 + 65536))  # three zeros, packed
# Standard deviation of a normal variable cut at WINSOR, and change of its mean with that of the variable.
_CUT_SIGMA = math.sqrt(
    math.erf(WINSOR / math.sqrt(2))
    - 2 * WINSOR * math.exp(-(WINSOR**2) / 2) / math.sqrt(2 * math.pi)
    + WINSOR**2 * math.erfc(WINSOR / math.sqrt(2))
)
_CUT_SLOPE = math.erf(WINSOR / math.sqrt(2))


@dataclass(frozen=True, eq=False)
class FrameSums:
    """Sums of the pixels of a frame in units of their noise.

    Parameters
    ----------
    cells : ndarray (Y, X)
        Sums over squares of ``cell`` px from the first pixel on, float32; 0 where not valid.
    valid, bright : ndarray (Y, X) of bool
        Cells with data, and the middles of bright areas (`bright_areas`).
    cell : int
        Side of a cell in pixels.
    columns : ndarray (n_y, W)
        Sums of single columns over each row of patches, float32; NaN without data.
    rows : ndarray (n_x, H)
        Likewise, of single rows over each column of patches.
    tops, lefts : ndarray (n_y,), (n_x,)
        First row and column of each patch in pixels.
    """

    cells: np.ndarray
    valid: np.ndarray
    bright: np.ndarray
    cell: int
    columns: np.ndarray
    rows: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray

    @classmethod
    def of(cls, features: Features) -> FrameSums:
        """Put together the features of a frame of three patches a side or more.

        They are `patch_statistics.LINE_SUMS`, 'top', 'left', 'sky' and 'noise', NaN without data.
        """
        *codes, known = unpacked(features)
        tops, lefts = first_pixels(features)
        level = sky_level(features)
        squares, cell = _squares(codes[0])
        cells = np.ascontiguousarray(_joined_cells(_joined_cells(squares, tops, cell).T, lefts, cell).T)
        bright = bright_areas(cells, cell)
        places = [cell * (np.arange(length) + 0.5) - 0.5 for length in cells.shape]
        down, across = SkySteps.of(tops, places[0]), SkySteps.of(lefts, places[1])
        across.add(cells, level[down.owner], down.smooth(level), cell)
        valid = known[down.owner].take(across.owner, axis=1)
        cells[~valid] = 0
        columns = _profiles(codes[1], known, lefts, level)
        rows = _profiles(codes[2], known.T, tops, level.T)
        return cls(cells, valid, bright, cell, columns, rows, tops, lefts)

    def swapped(self) -> FrameSums:
        """Swap rows and columns."""
        images = self.cells.T, self.valid.T, self.bright.T
        return FrameSums(*images, self.cell, self.rows, self.columns, self.lefts, self.tops)


@dataclass(frozen=True, eq=False)
class SkySteps:
    """Steps between the skies of patches and a sky that is linear between their centres, along one axis.

    The sky of a patch is taken from its pixels: on a slope that leaves a saw-tooth, whose edges are lines.

    Parameters
    ----------
    owner : ndarray (length,)
        Patch of each place along the axis.
    lower : ndarray (length,)
        The first of two patches between which the sky is interpolated.
    share : ndarray (length,)
        Weight of the second, float32.
    """

    owner: np.ndarray
    lower: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, place: np.ndarray) -> SkySteps:
        """Make the steps at some pixels, of patches with first pixels ``(n,)``, three or more.

        The centre of a last patch that is close to the one before it is left out.
        """
        used = first if first[-1] - first[-2] >= PATCH / 2 else first[:-1]
        centres = used + (PATCH - 1) / 2
        lower = np.clip(np.searchsorted(centres, place) - 1, 0, len(centres) - 2)
        share = (place - centres[lower]) / (centres[lower + 1] - centres[lower])
        owner = np.minimum(place // PATCH, len(first) - 1).astype(int)
        return cls(owner, lower, share.astype(np.float32))

    def smooth(self, level: np.ndarray) -> np.ndarray:
        """Interpolate levels ``(n, m)`` of patches along the first axis."""
        share = self.share[:, None]
        return level[self.lower] * (1 - share) + level[self.lower + 1] * share

    def add(self, sums: np.ndarray, level: np.ndarray, smooth: np.ndarray, noise: float) -> None:
        """Add the steps between ``level`` and ``smooth``, ``(m, n)``, to sums ``(m, length)`` in place.

        ``noise`` is that of a sum in sigma of a pixel.
        """
        slope = np.float32(noise * _CUT_SLOPE / _CUT_SIGMA)
        owner, lower = (place.astype(np.uint32) for place in (self.owner, self.lower))  # negatives are slow
        _add_steps(sums, level, smooth, owner, lower, self.share, slope)


@exact
def _add_steps(
    sums: np.ndarray,
    level: np.ndarray,
    smooth: np.ndarray,
    owner: np.ndarray,
    lower: np.ndarray,
    share: np.ndarray,
    slope: np.float32,
) -> None:
    for row in range(sums.shape[0]):
        for column in range(sums.shape[1]):
            before, behind = smooth[row, lower[column]], smooth[row, lower[column] + 1]
            mean = before * (np.float32(1) - share[column]) + behind * share[column]
            sums[row, column] += slope * (level[row, owner[column]] - mean)


def sky_level(features: Features) -> np.ndarray:
    """Compute the sky of patches in sigma, float32 ``(n_y, n_x)``; the mean of neighbours without data."""
    noise = np.sqrt(np.maximum(np.nanmedian(features["noise"]), 1e-12))
    level = (features["sky"] - np.nanmedian(features["sky"])) / noise
    known = np.isfinite(level)
    while not known.all():
        count = box_sum(known, 3)
        mean = box_sum(np.where(known, level, 0), 3) / np.maximum(count, 1)
        level, known = np.where(known, level, mean), known | (count > 0)
    return level.astype(np.float32)


def bright_areas(cells: np.ndarray, cell: int) -> np.ndarray:
    """Find the middles of squares of `BRIGHT` px of which nearly all cells are cut: bright stars.

    Bool ``(Y, X)``. ``cells`` of ``cell`` px are cut at `CELL_CUT` before they are joined.
    """
    side = max(BRIGHT // cell, 1)
    inner = [slice(side // 2, length + side // 2 - side + 1) for length in cells.shape]  # no part of a square
    bright = np.zeros(cells.shape, bool)
    least = BRIGHT_SHARE * CELL_CUT * (cell // CELL) * side**2
    bright[*inner] = box_sum(cells, side, np.float32)[*inner] > least
    return bright


def unpacked(features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Invert `patch_statistics.pack`: uint8, 128 without data.

    Cells ``(16 n_y, 16 n_x)``, sums of columns ``(n_y, n_x, 64)`` and of rows ``(n_x, n_y, 64)``; last, the
    patches with data, bool ``(n_y, n_x)``.
    """
    packed = np.stack([features[name] for name in LINE_SUMS])
    known = np.isfinite(packed[0]) & np.isfinite(features["sky"]) & np.isfinite(features["noise"])
    n_y, n_x = known.shape
    side = PATCH // CELL
    shapes = (n_y, side, n_x, side), (n_y, n_x, PATCH), (n_x, n_y, PATCH)
    cells, columns, rows = (np.empty(shape, np.uint8) for shape in shapes)
    _unpack(packed, known, cells, columns, rows)
    return cells.reshape(n_y * side, -1), columns, rows, known


@exact
def _unpack(
    packed: np.ndarray, known: np.ndarray, cells: np.ndarray, columns: np.ndarray, rows: np.ndarray
) -> None:
    codes = np.empty((known.shape[1], 3 * len(packed)), np.uint8)  # of one row of patches, in the cache
    side = cells.shape[1]
    for row in range(known.shape[0]):
        for number in range(len(packed)):
            for column in range(known.shape[1]):
                whole = np.int32(packed[number, row, column]) if known[row, column] else _NEUTRAL
                codes[column, 3 * number] = whole
                codes[column, 3 * number + 1] = whole >> 8
                codes[column, 3 * number + 2] = whole >> 16
        for column in range(known.shape[1]):
            for place in range(side):
                for cell in range(side):
                    cells[row, place, column, cell] = codes[column, side * place + cell]
            for place in range(PATCH):
                columns[row, column, place] = codes[column, side * side + place]
                rows[column, row, place] = codes[column, side * side + PATCH + place]


def first_pixels(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """First row ``(n_y,)`` and first column ``(n_x,)`` of the patches of a frame in pixels, int64."""
    return _first(features["top"]), _first(features["left"].T)


def _first(positions: np.ndarray) -> np.ndarray:
    """First pixels from positions ``(n, m)``, NaN without data; those of a regular grid where all are."""
    known = np.isfinite(positions)
    regular = PATCH * np.arange(len(positions))
    return np.where(known.any(axis=1), np.where(known, positions, 0).max(axis=1), regular).astype(np.int64)


def binned(cells: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join 2 x 2 cells in units of their noise; valid where two of them are."""
    odd = [(0, length % 2) for length in cells.shape]
    if np.any(odd):
        cells, valid = np.pad(cells, odd), np.pad(valid, odd)
    return _fours(cells) / 2, _fours(valid.view(np.int8)) >= 2


def _fours(cells: np.ndarray) -> np.ndarray:
    """Sums of 2 x 2 along the last two axes."""
    down = cells[..., 0::2, :] + cells[..., 1::2, :]
    return down[..., 0::2] + down[..., 1::2]


def _squares(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Cut cells at `CELL_CUT`, and join those of large frames: float32 ``(Y, X)``, side in px."""
    sigma = CELL * WINSOR / _CUT_SIGMA / 127  # of one code
    reach = round(CELL_CUT / sigma)
    cells = np.clip(codes, 128 - reach, 128 + reach).astype(np.int16) - np.int16(128)
    cell = CELL
    while max(cells.shape) > LARGEST_IMAGE and cell < PATCH // 2:
        cells, cell, sigma = _fours(cells), 2 * cell, sigma / 2
    return cells * np.float32(sigma), cell


def _joined_cells(cells: np.ndarray, first: np.ndarray, cell: int) -> np.ndarray:
    """Move cells ``(n p, m)`` of patches to a regular grid from pixel 0 on along the first axis.

    The last patch may begin anywhere: its cells are interpolated, and scaled to the same noise.
    """
    if first[-1] == PATCH * (len(first) - 1):
        return cells
    side = PATCH // cell
    start = len(cells) - side
    place = np.arange(start, (int(first[-1]) + PATCH) // cell) - first[-1] / cell
    lower = np.floor(place).astype(int)
    weight = (place - lower)[:, None].astype(np.float32)
    last = cells[start:]
    mixed = last[lower] * (1 - weight) + last[np.minimum(lower + 1, side - 1)] * weight
    return np.concatenate([cells[:start], mixed / np.sqrt((1 - weight) ** 2 + weight**2)])


def _profiles(codes: np.ndarray, known: np.ndarray, first: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Join sums ``(n, m, P)`` of patches beside each other, those of an overlap once: ``(n, length)``.

    ``level`` are the skies of the patches, whose steps are taken out.
    """
    overlap = PATCH * (len(first) - 1) - int(first[-1])
    profiles = _side_by_side(codes, known, overlap, math.sqrt(PATCH) * WINSOR / _CUT_SIGMA / 127)
    SkySteps.of(first, np.arange(profiles.shape[1])).add(profiles, level, level, math.sqrt(PATCH))
    return profiles


@exact
def _side_by_side(codes: np.ndarray, known: np.ndarray, overlap: int, sigma: float) -> np.ndarray:
    count, number, size = codes.shape
    sums = np.empty((count, number * size - overlap), np.float32)
    for row in range(count):
        for column in range(number):
            skip = overlap if column == number - 1 else 0
            part, joined = codes[row, column, skip:], sums[row, size * column :]
            for place in range(part.size):
                joined[place] = (part[place] - np.float32(128)) * np.float32(sigma)
            if not known[row, column]:
                joined[: part.size] = np.nan
    return sums
