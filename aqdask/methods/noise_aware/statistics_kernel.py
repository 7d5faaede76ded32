"""Statistics of patches, compiled: each patch while it is in the cache.

The formulas are those of `patch_statistics`, which serve other devices.
"""

from __future__ import annotations

import numpy as np

from aqdask.methods.noise_aware.kernel_math import (
    bits_of,
    compiled,
    f32,
    from_bits,
    from_ordered,
    i32,
    inlined,
    median,
    natural_log,
    ordered,
)
from aqdask.methods.noise_aware.noise_model import KNEE
from aqdask.methods.noise_aware.normalise_kernel import normalised_patch
from aqdask.methods.noise_aware.patch_statistics import (
    CELL,
    LIMIT,
    STAR_SIGMA,
    SUBPATCHES_PER_SIDE,
    WINSOR,
    WINSOR_SLOPE,
)


@inlined
def _compressed(u, v):
    """`noise_model.compress` of one patch."""
    side = u.shape[0]
    for row in range(side):
        for column in range(side):
            size = abs(u[row, column]) / f32(KNEE)
            grown = f32(KNEE) * natural_log(size + np.sqrt(f32(1) + size * size))
            v[row, column] = -grown if u[row, column] < 0 else grown


@inlined
def _rounded(v, short):
    """Round one patch to bfloat16, ties to even, as the upper half of the bits."""
    side = v.shape[0]
    for row in range(side):
        for column in range(side):
            bits = bits_of(v[row, column])
            odd = i32(i32(bits >> i32(16)) & i32(1))
            short[row, column] = np.int16(i32(i32(bits + i32(0x7FFF)) + odd) >> i32(16))


@inlined
def halved(values, half):
    """Sums of 2 x 2 over 2."""
    side = half.shape[0]
    for row in range(side):
        for column in range(side):
            upper = values[2 * row, 2 * column] + values[2 * row, 2 * column + 1]
            lower = values[2 * row + 1, 2 * column] + values[2 * row + 1, 2 * column + 1]
            half[row, column] = (upper + lower) * f32(0.5)


@inlined
def _line_strength(sums, found):
    """Fill in mean square and largest absolute value of sums along lines, less mean and slope."""
    side = sums.size
    mean, slope, norm = f32(0), f32(0), f32(0)
    centre = f32(side - 1) / f32(2)
    for n in range(side):
        step = f32(n) - centre
        mean += sums[n]
        slope += step * sums[n]
        norm += step * step
    mean, slope = mean / f32(side), slope / norm
    square, peak = f32(0), f32(0)
    for n in range(side):
        away = (sums[n] - mean - slope * (f32(n) - centre)) / np.sqrt(f32(side))
        square += away * away
        peak = max(peak, abs(away))
    found[0], found[1] = square / f32(side), peak


@inlined
def _stars(half):
    """`patch_statistics.star_counts` of one patch averaged over 2 x 2 px."""
    found = i32(0)
    for row in range(1, half.shape[0] - 1):
        above, here, below = half[row - 1], half[row], half[row + 1]
        for column in range(1, half.shape[1] - 1):
            peak, before, behind = here[column], column - 1, column + 1
            star = (peak > f32(STAR_SIGMA)) & (peak >= here[before]) & (peak >= here[behind])
            star &= (peak >= above[before]) & (peak >= above[column]) & (peak >= above[behind])
            star &= (peak >= below[before]) & (peak >= below[column]) & (peak >= below[behind])
            found += i32(star)
    return found


@inlined
def _cell_sums(u, sums):
    """Fill in sums of winsorised pixels over `CELL` x `CELL` px, over columns and over rows."""
    side = u.shape[0]
    cells = side // CELL
    sums[:] = 0
    columns, rows = sums[cells * cells : cells * cells + side], sums[cells * cells + side :]
    for row in range(side):
        total = f32(0)
        for column in range(side):
            pixel = min(max(u[row, column], f32(-WINSOR)), f32(WINSOR))
            total += pixel
            columns[column] += pixel
        rows[row] = total
        first = (row // CELL) * cells
        for cell in range(cells):
            part = f32(0)
            for column in range(CELL * cell, CELL * cell + CELL):
                part += min(max(u[row, column], f32(-WINSOR)), f32(WINSOR))
            sums[first + cell] += part


@inlined
def _subpatches(sums, side, found):
    """Fill in winsorised means over 16 sub-patches from the sums over cells."""
    found[:] = 0
    cells = side // CELL
    part = cells // SUBPATCHES_PER_SIDE
    for row in range(cells):
        for column in range(cells):
            found[row // part * SUBPATCHES_PER_SIDE + column // part] += sums[row * cells + column]
    for n in range(found.size):
        found[n] /= f32((part * CELL) ** 2 * WINSOR_SLOPE)


@inlined
def _packed(sums, side, found):
    """Fill in `patch_statistics.pack` of the means over cells, columns and rows."""
    cells = (side // CELL) ** 2
    for n in range(found.size):
        code = i32(0)
        for place in range(3):
            k = 3 * n + place
            scale = f32(127 / WINSOR / (CELL**2 if k < cells else side))
            code += i32(i32(np.rint(sums[k] * scale) + f32(128)) << i32(8 * place))
        found[n] = f32(code)


@inlined
def _patch_statistics(u, sums, half, keys, subpatches, packed, found, folded):
    """Fill in the statistics of the signal of one patch; ``sums``, ``half`` and ``keys`` are overwritten."""
    side = u.shape[0]
    cells = side // CELL
    _cell_sums(u, sums)
    _subpatches(sums, side, subpatches)
    _packed(sums, side, packed)
    _line_strength(sums[cells * cells + side :], found[:2])
    _line_strength(sums[cells * cells : cells * cells + side], found[2:4])
    halved(u, half)
    found[4] = _stars(half)
    halved(half, folded.reshape(cells, cells))
    for cell in range(folded.size):
        keys[cell] = ordered(folded[cell])
    middle = median(keys[: folded.size])
    for cell in range(folded.size):
        folded[cell] = min(max(folded[cell] - middle, f32(-LIMIT)), f32(LIMIT))


@compiled
def measure(source, valid, tops, lefts, scratch, noise, saturation, unit_noise):
    """Compute levels of patches, the networks' input, and what `patch_statistics` takes from the signal.

    The signal of `normalise_kernel.normalise`, which has the same parameters, does not leave the cache.

    Returns
    -------
    levels : ndarray (n, 4)
        As `normalise_kernel.normalise`.
    v : ndarray (n, P, P), float32
        `noise_model.compress` of the signal.
    short : ndarray (n, P, P), int16
        The bits of ``v`` in bfloat16.
    subpatches : ndarray (n, 16), float32
        `patch_statistics.sky_subpatches`.
    packed : ndarray (n, 128), float32
        `patch_statistics.line_sums`; of that size for P = 64.
    found : ndarray (n, 5), float32
        Mean square and peak of rows, of columns, and number of stars.
    folded : ndarray (n, (P / 4)**2), float32
        Signal averaged over 4 x 4 px, times 4, less its median, cut at `LIMIT`.
    """
    count, side = tops.size, scratch.shape[0]
    cells = side // CELL
    levels, u = np.empty((count, 4), scratch.dtype), np.empty((side, side), np.float32)
    squares, keys = np.empty(side * side, np.float32), np.empty(side * side, np.int32)
    v, short = np.empty((count, side, side), np.float32), np.empty((count, side, side), np.int16)
    sums, half = np.empty(cells * cells + 2 * side, np.float32), np.empty((side // 2, side // 2), np.float32)
    subpatches = np.empty((count, SUBPATCHES_PER_SIDE**2), np.float32)
    packed = np.empty((count, sums.size // 3), np.float32)
    found = np.empty((count, 5), np.float32)
    folded = np.empty((count, cells * cells), np.float32)
    about = noise, saturation, unit_noise
    for n in range(count):
        normalised_patch(source, valid, tops[n], lefts[n], scratch, about, squares, keys, levels[n], u)
        _compressed(u, v[n])
        _rounded(v[n], short[n])
        _patch_statistics(u, sums, half, keys, subpatches[n], packed[n], found[n], folded[n])
    return levels, v, short, subpatches, packed, found, folded


@compiled
def residual_statistics(v, smooth, shift):
    """Compute what `patch_statistics` takes from the residual.

    Parameters
    ----------
    v : ndarray (n, P, P), float32
        The networks' input.
    smooth : ndarray (n, P / 4, P / 4, 16), int32 or int16
        Bits of the reconstruction in float32 or bfloat16, squares of 4 x 4 px as channels.
    shift : int
        Bits that it lacks to float32: 0 or 16.

    Returns
    -------
    ndarray (n, 9), float32
        Mean absolute value; mean square and peak averaged over 4, 8 and 16 px; spike and peak of single
        pixels.
    """
    count, side, _ = v.shape
    found = np.empty((count, 9), np.float32)
    r = np.empty((side, side), np.float32)
    half = np.empty((side // 2, side // 2), np.float32)
    pooled = np.empty((side // 4, side // 4), np.float32)
    for n in range(count):
        for cells in range(side // 4):
            for cell in range(side // 4):
                for row in range(4):
                    for column in range(4):
                        y, x = 4 * cells + row, 4 * cell + column
                        bits = i32(smooth[n, cells, cell, 4 * row + column]) << i32(shift)
                        r[y, x] = v[n, y, x] - from_bits(bits)
        total, peak, spike = f32(0), i32(0), ordered(f32(-np.inf))
        for row in range(side):
            for column in range(side):
                total += abs(r[row, column])
                peak = max(peak, bits_of(abs(r[row, column])))
        for row in range(1, side - 1):
            for column in range(1, side - 1):
                across = r[row, column + 1] + r[row, column - 1]
                around = across + r[row + 1, column] + r[row - 1, column]
                spike = max(spike, ordered(r[row, column] - f32(0.25) * around))
        found[n, 0], found[n, 7] = total / f32(side * side), from_ordered(spike) / np.sqrt(f32(1.25))
        found[n, 8] = from_bits(peak)
        halved(r, half)
        halved(half, pooled)
        for scale in range(3):
            length = side // 4 >> scale
            if scale:
                halved(pooled[: 2 * length, : 2 * length], pooled[:length, :length])
            square, peak = f32(0), i32(0)
            for row in range(length):
                for column in range(length):
                    square += pooled[row, column] * pooled[row, column]
                    peak = max(peak, bits_of(abs(pooled[row, column])))
            found[n, 1 + 2 * scale], found[n, 2 + 2 * scale] = square / f32(length * length), from_bits(peak)
    return found
