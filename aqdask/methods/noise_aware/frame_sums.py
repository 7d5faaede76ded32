"""Sums of the patches of a frame put together: an image of cells, and profiles of single columns and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aqdask.methods.noise_aware.patch_statistics import CELL, LINE_SUMS, WINSOR
from aqdask.methods.noise_aware.pooling import Features, box_sum

CELL_CUT = 1.75  # sigma at which cells are cut
BRIGHT = 24  # px a side of a bright area: wider than a narrow line
BRIGHT_SHARE = 0.8  # of CELL_CUT, as a mean over it
LARGEST_IMAGE = 512  # cells a side; cells of larger frames are joined
PATCH = CELL * round(math.sqrt(CELL**2 + 3 * len(LINE_SUMS)) - CELL)  # px: (PATCH / CELL)**2 + 2 PATCH sums
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
        codes, known = unpacked(features)
        tops, lefts = first_pixels(features)
        down, across = SkySteps.of(tops), SkySteps.of(lefts)
        level = sky_level(features)
        squares, cell = _squares(codes[..., : -2 * PATCH])
        cells = _joined_cells(np.moveaxis(_joined_cells(squares, tops, cell), 0, -1), lefts, cell).T
        places = [cell * (np.arange(length) + 0.5) - 0.5 for length in cells.shape]
        owners = np.ix_(down.owners(places[0]), across.owners(places[1]))
        steps = level[owners] - across.smooth(down.smooth(level, places[0]).T, places[1]).T
        valid, bright = known[owners], bright_areas(cells, cell)
        cells = np.where(valid, cells + np.float32(cell * _CUT_SLOPE / _CUT_SIGMA) * steps, 0)
        columns = _profiles(codes[..., -2 * PATCH : -PATCH], known, lefts) + across.along(level)
        rows = _profiles(codes[..., -PATCH:].swapaxes(0, 1), known.T, tops) + down.along(level.T)
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
    centres : ndarray (m,)
        Pixels; without that of a last patch that is close to the one before it.
    number : int
        Patches along the axis.
    length : int
        Pixels along the axis.
    """

    centres: np.ndarray
    number: int
    length: int

    @classmethod
    def of(cls, first: np.ndarray) -> SkySteps:
        """Make the steps of patches with first pixels ``(n,)``, three or more."""
        used = first if first[-1] - first[-2] >= PATCH / 2 else first[:-1]
        return cls(used + (PATCH - 1) / 2, len(first), int(first[-1]) + PATCH)

    def owners(self, place: np.ndarray) -> np.ndarray:
        """Return the patch of each pixel."""
        return np.minimum(place // PATCH, self.number - 1).astype(int)

    def smooth(self, level: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Interpolate levels ``(n, m)`` of patches at pixels along the first axis."""
        lower = np.clip(np.searchsorted(self.centres, place) - 1, 0, len(self.centres) - 2)
        share = (place - self.centres[lower]) / (self.centres[lower + 1] - self.centres[lower])
        share = share.astype(np.float32)[:, None]
        return level[lower] * (1 - share) + level[lower + 1] * share

    def along(self, level: np.ndarray) -> np.ndarray:
        """Compute the steps of levels ``(m, n)`` in sums of `PATCH` pixels, ``(m, length)``."""
        place = np.arange(self.length)
        steps = level[:, self.owners(place)] - self.smooth(level.T, place).T
        return np.float32(math.sqrt(PATCH) * _CUT_SLOPE / _CUT_SIGMA) * steps


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
    side = BRIGHT // cell
    table = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), np.float32)
    np.cumsum(np.cumsum(cells, axis=0), axis=1, out=table[1:, 1:])
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    bright = np.zeros(cells.shape, bool)
    inner = bright[side // 2 :, side // 2 :]
    inner[: sums.shape[0], : sums.shape[1]] = sums > BRIGHT_SHARE * CELL_CUT * (cell // CELL) * side**2
    return bright


def unpacked(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Invert `patch_statistics.pack`: uint8 ``(n_y, n_x, 384)``, 128 without data; patches with data."""
    packed = np.stack([features[name] for name in LINE_SUMS])
    known = np.isfinite(packed[0]) & np.isfinite(features["sky"]) & np.isfinite(features["noise"])
    whole = np.where(known, packed, 128 + 256 * 128 + 65536 * 128).astype("<u4")
    codes = whole.view(np.uint8).reshape(*packed.shape, 4)[..., :3]
    return np.ascontiguousarray(codes.transpose(1, 2, 0, 3)).reshape(*known.shape, -1), known


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
    """Cut cells at `CELL_CUT`, and join those of large frames: float32 ``(n_y, p, n_x, p)``, side in px."""
    n_y, n_x, _ = codes.shape
    sigma = CELL * WINSOR / _CUT_SIGMA / 127  # of one code
    reach = round(CELL_CUT / sigma)
    cells = np.clip(codes, 128 - reach, 128 + reach).reshape(n_y, n_x, PATCH // CELL, -1).astype(np.int16)
    cells -= 128
    cell = CELL
    while max(n_y, n_x) * cells.shape[-1] > LARGEST_IMAGE and cells.shape[-1] > 2:
        cells, cell, sigma = _fours(cells), 2 * cell, sigma / 2
    return cells.transpose(0, 2, 1, 3) * np.float32(sigma), cell


def _joined_cells(squares: np.ndarray, first: np.ndarray, cell: int) -> np.ndarray:
    """Join cells ``(n, p, ...)`` along the first two axes, on a regular grid from pixel 0 on.

    The last patch may begin anywhere: its cells are interpolated, and scaled to the same noise.
    """
    count, side = squares.shape[:2]
    regular = squares[:-1].reshape(-1, *squares.shape[2:])
    place = np.arange((count - 1) * side, (int(first[-1]) + PATCH) // cell) - first[-1] / cell
    lower = np.floor(place).astype(int)
    weight = (place - lower).reshape(-1, *[1] * (squares.ndim - 2)).astype(np.float32)
    last = squares[-1]
    mixed = last[lower] * (1 - weight) + last[np.minimum(lower + 1, side - 1)] * weight
    return np.concatenate([regular, mixed / np.sqrt((1 - weight) ** 2 + weight**2)])


def _profiles(codes: np.ndarray, known: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Join sums ``(n, m, P)`` of patches beside each other, those of an overlap once: ``(n, length)``."""
    sums = (codes - np.float32(128)) * np.float32(math.sqrt(PATCH) * WINSOR / _CUT_SIGMA / 127)
    sums[~known] = np.nan
    count, number, size = sums.shape
    overlap = (number - 1) * size - int(first[-1])
    regular = sums[:, :-1].reshape(count, -1)
    return np.concatenate([regular, sums[:, -1, overlap:]], axis=1)
