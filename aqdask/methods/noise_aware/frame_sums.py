"""Sums of the patches of a frame put together: an image of cells, and profiles of single columns and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aqdask.methods.noise_aware.patch_statistics import CELL, LINE_SUMS, WINSOR
from aqdask.methods.noise_aware.pooling import Features, box_sum

CELL_CUT = 2.5  # sigma at which cells are cut
LARGEST_IMAGE = 512  # cells a side; cells of larger frames are joined
# Standard deviation of a normal variable cut at WINSOR.
_CUT_SIGMA = math.sqrt(
    math.erf(WINSOR / math.sqrt(2))
    - 2 * WINSOR * math.exp(-(WINSOR**2) / 2) / math.sqrt(2 * math.pi)
    + WINSOR**2 * math.erfc(WINSOR / math.sqrt(2))
)
# Change of the mean of one pixel, cut at WINSOR and in units of the noise of that, for a sky higher by 1 sigma.
_UNIT = math.erf(WINSOR / math.sqrt(2)) / _CUT_SIGMA


@dataclass(frozen=True, eq=False)
class FrameSums:
    """Sums of the pixels of a frame in units of their noise.

    Parameters
    ----------
    cells : ndarray (Y, X)
        Sums over squares of ``cell`` px from the first pixel on, float32; 0 where not valid.
    valid : ndarray (Y, X) of bool
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
    cell: int
    columns: np.ndarray
    rows: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray

    @classmethod
    def of(cls, features: Features) -> FrameSums:
        """Put together the features of a frame (`patch_statistics.LINE_SUMS`, 'top', 'left')."""
        values = unpacked(features)
        n_y, n_x, number = values.shape
        size = _side(number)
        parts = np.split(values, [number - 2 * size, number - size], axis=2)
        tops, lefts = starts(features["top"], size), starts(features["left"].T, size)
        squares = parts[0].reshape(n_y, n_x, size // CELL, size // CELL).transpose(0, 2, 1, 3)
        bands = _joined_cells(squares, tops, size)
        image = _joined_cells(np.moveaxis(bands, 0, -1), lefts, size).T
        cells, cell = image * np.float32(CELL * WINSOR / _CUT_SIGMA), CELL
        valid = np.isfinite(cells)
        cells = np.where(valid, np.clip(cells, -CELL_CUT, CELL_CUT), 0)
        while max(cells.shape) > LARGEST_IMAGE:
            cells, valid, cell = *binned(cells, valid), 2 * cell
        level = sky_level(features)
        across, down = (Steps.of(first, size) for first in (lefts, tops))
        cells += np.float32(cell * _UNIT) * down.at_cells(level, across, cell, cells.shape)
        scale, unit = np.float32(math.sqrt(size) * WINSOR / _CUT_SIGMA), np.float32(math.sqrt(size) * _UNIT)
        columns = _profiles(parts[1] * scale, lefts) + unit * across.at_pixels(level)
        rows = _profiles(parts[2].swapaxes(0, 1) * scale, tops) + unit * down.at_pixels(level.T)
        return cls(cells, valid, cell, columns, rows, tops, lefts)

    @property
    def size(self) -> int:
        """Side of a patch in pixels."""
        return self.columns.shape[1] - int(self.lefts[-1])


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps between the skies of patches and a sky that is linear between their centres, along one axis.

    The sky of a patch is taken from its pixels; on a slope that leaves a saw-tooth, whose edges are lines.

    Parameters
    ----------
    centres : ndarray (m,)
        Pixels; without that of a last patch that is close to the one before it.
    size : int
        Side of a patch in pixels.
    number : int
        Patches along the axis.
    length : int
        Pixels along the axis.
    """

    centres: np.ndarray
    size: int
    number: int
    length: int

    @classmethod
    def of(cls, first: np.ndarray, size: int) -> Steps:
        """Make the steps of patches with first pixels ``(n,)``, at least three."""
        used = first if first[-1] - first[-2] >= size / 2 else first[:-1]
        return cls(used + (size - 1) / 2, size, len(first), int(first[-1]) + size)

    def owners(self, place: np.ndarray) -> np.ndarray:
        """Patch of each pixel."""
        return np.minimum(place // self.size, self.number - 1).astype(int)

    def smooth(self, level: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Interpolate ``(n, m)`` levels of patches linearly at pixels along the first axis."""
        lower = np.clip(np.searchsorted(self.centres, place) - 1, 0, len(self.centres) - 2)
        share = (place - self.centres[lower]) / (self.centres[lower + 1] - self.centres[lower])
        share = share.astype(np.float32)[:, None]
        return level[lower] * (1 - share) + level[lower + 1] * share

    def at_pixels(self, level: np.ndarray) -> np.ndarray:
        """Compute steps of ``(m, n)`` levels at single columns, ``(m, length)``."""
        place = np.arange(self.length)
        return level[:, self.owners(place)] - self.smooth(level.T, place).T

    def at_cells(self, level: np.ndarray, across: Steps, cell: int, shape: tuple[int, int]) -> np.ndarray:
        """Compute steps of ``(n_y, n_x)`` levels at cells; ``across`` are those of the other axis."""
        y, x = (cell * (np.arange(length) + 0.5) - 0.5 for length in shape)
        smooth = across.smooth(self.smooth(level, y).T, x).T
        return level[np.ix_(self.owners(y), across.owners(x))] - smooth


def sky_level(features: Features) -> np.ndarray:
    """Compute the sky of patches in sigma, float32 ``(n_y, n_x)``; the mean of neighbours without data."""
    noise = np.sqrt(np.maximum(np.nanmedian(features["noise"]), 1e-12))
    level = (features["sky"] - np.nanmedian(features["sky"])) / noise
    known = np.isfinite(level)
    while not known.all():
        count = box_sum(known, 3)
        mean = box_sum(np.where(known, level, 0), 3) / np.maximum(count, 1)
        level, known = np.where(known, level, mean), count > 0
    return level.astype(np.float32)


def unpacked(features: Features) -> np.ndarray:
    """Invert `patch_statistics.pack`: ``(n_y, n_x, 3 m)``, float32 in [-1, 1], NaN without data."""
    packed = np.stack([features[name] for name in LINE_SUMS])
    codes = np.nan_to_num(packed).astype("<u4").view(np.uint8).reshape(*packed.shape, 4)
    values = codes[..., :3].transpose(1, 2, 0, 3).reshape(*packed.shape[1:], -1).astype(np.float32)
    values -= 128
    values /= 127
    values[np.isnan(packed[0])] = np.nan
    return values


def starts(positions: np.ndarray, size: int) -> np.ndarray:
    """First pixels of the rows of patches from ``(n_y, n_x)`` positions, NaN without data: int64 ``(n_y,)``."""
    known = np.isfinite(positions)
    regular = size * np.arange(len(positions))
    return np.where(known.any(axis=1), np.where(known, positions, 0).max(axis=1), regular).astype(np.int64)


def binned(cells: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join 2 x 2 cells in units of their noise; valid where two of them are."""
    odd = [(0, length % 2) for length in cells.shape]
    if np.any(odd):
        cells, valid = np.pad(cells, odd), np.pad(valid, odd)
    sums = [(a[0::2, 0::2] + a[0::2, 1::2]) + (a[1::2, 0::2] + a[1::2, 1::2]) for a in (cells, valid.view(np.int8))]
    return sums[0] / 2, sums[1] >= 2


def _side(number: int) -> int:
    """Side of a patch whose `patch_statistics.line_sums` are ``number``: ``(P / CELL)**2 + 2 P``."""
    return CELL * round(math.sqrt(CELL**2 + number) - CELL)


def _joined_cells(squares: np.ndarray, first: np.ndarray, size: int) -> np.ndarray:
    """Join cells ``(n, size / CELL, ...)`` along the first two axes, on a regular grid from pixel 0 on.

    The last patch may begin anywhere: its cells are interpolated, and scaled to the same noise.
    """
    count, side = squares.shape[:2]
    regular = squares[:-1].reshape(-1, *squares.shape[2:])
    total = (int(first[-1]) + size) // CELL
    place = np.arange((count - 1) * side, total) - first[-1] / CELL
    lower = np.floor(place).astype(int)
    weight = (place - lower).reshape(-1, *[1] * (squares.ndim - 2)).astype(np.float32)
    last = squares[-1]
    mixed = last[lower] * (1 - weight) + last[np.minimum(lower + 1, side - 1)] * weight
    return np.concatenate([regular, mixed / np.sqrt((1 - weight) ** 2 + weight**2)])


def _profiles(sums: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Join sums ``(n, m, P)`` of ``m`` patches beside each other, those of an overlap once: ``(n, length)``."""
    count, number, size = sums.shape
    overlap = (number - 1) * size - int(first[-1])
    regular = sums[:, :-1].reshape(count, -1)
    return np.concatenate([regular, sums[:, -1, overlap:]], axis=1)
