"""Compiled statistics of single patches for processors: each patch is measured while it is in the cache.

The formulas are those of `noise_model` and `patch_statistics`, which serve other devices and patches with gaps.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from aqdask.methods.noise_aware.noise_model import CLIP, CLIP_ROUNDS, HUBER, KEPT_VARIANCE, KNEE, WITHIN_HUBER
from aqdask.methods.noise_aware.patch_statistics import CELL, LIMIT, STAR_SIGMA, SUBPATCH, WINSOR
from aqdask.stats.robust import SIGMA_PER_MAD

compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz", "reassoc", "contract"})

F, I = np.float32, np.int32  # numba's constants are 64 bits wide otherwise, and half as fast
_LN2, _ROOT = F(math.log(2)), F(math.sqrt(2))
_LARGEST = I(0x7FFFFFFF)
_MANTISSA, _UNIT = I(0x7FFFFF), I(0x3F800000)


@compiled
def _bits(x):  # type: ignore[no-untyped-def]
    return F(x).view(np.int32)


@compiled
def _number(bits):  # type: ignore[no-untyped-def]
    return I(bits).view(np.float32)


@compiled
def _ln(x):  # type: ignore[no-untyped-def]
    """ln of a positive float32, to 1e-7: a vectorised `logf` (Cephes, Moshier 1992)."""
    bits = _bits(x)
    exponent = I(bits >> I(23)) - I(127)
    mantissa = _number(I(bits & _MANTISSA) | _UNIT)
    is_big = mantissa > _ROOT
    f = (mantissa * F(0.5) if is_big else mantissa) - F(1)
    e = F(I(exponent + I(1))) if is_big else F(I(exponent))
    p = F(7.0376836292e-2) * f - F(1.1514610310e-1)
    p = p * f + F(1.1676998740e-1)
    p = p * f - F(1.2420140846e-1)
    p = p * f + F(1.4249322787e-1)
    p = p * f - F(1.6668057665e-1)
    p = p * f + F(2.0000714765e-1)
    p = p * f - F(2.4999993993e-1)
    p = p * f + F(3.3333331174e-1)
    z = f * f
    return f + (p * f - F(0.5)) * z + e * _LN2


@compiled
def _ordered(x):  # type: ignore[no-untyped-def]
    """Bits of a float32 as an integer of the same order; maxima of floats are not vectorised."""
    bits = _bits(x)
    return I(bits ^ _LARGEST) if bits < 0 else bits


@compiled
def _value(key):  # type: ignore[no-untyped-def]
    """Inverse of `_ordered`."""
    return _number(key ^ _LARGEST if key < 0 else key)


@compiled
def _median(keys):  # type: ignore[no-untyped-def]
    """Lower median of float32 given as `_ordered` integers ``(n,)``: exact, by vectorised bisection."""
    rank = I((keys.size - 1) // 2)
    low, high = keys[0], keys[0]
    for n in range(keys.size):
        low, high = min(low, keys[n]), max(high, keys[n])
    while low < high:
        middle = I((np.int64(low) + np.int64(high)) >> 1)
        below, under, over = I(0), low, high
        for n in range(keys.size):
            below += I(keys[n] <= middle)
        if below > rank:
            for n in range(keys.size):
                under = max(under, keys[n] if keys[n] <= middle else low)
            high = under
        else:
            for n in range(keys.size):
                over = min(over, keys[n] if keys[n] > middle else high)
            low = over
    return _value(low)


@compiled
def _clipped_variance(x, lag, squares, keys):  # type: ignore[no-untyped-def]
    """`noise_model.clipped_variance` of `noise_model.difference` of one patch."""
    side = x.shape[0] - lag
    half = x.dtype.type(0.5)
    for row in range(side):
        upper, lower, line = x[row], x[row + lag], squares[row * side : (row + 1) * side]
        shifted, moved = upper[lag:], lower[lag:]
        for column in range(side):
            high = F((moved[column] - lower[column] - shifted[column] + upper[column]) * half)
            line[column] = high * high
    count = side * side
    total = F(0)
    for n in range(count):
        total += squares[n]
    picked = (count + 7) // 8
    for n in range(picked):
        keys[n] = _ordered(squares[8 * n])
    variance = _median(keys[:picked]) * F(SIGMA_PER_MAD**2)
    if not variance > 0:
        variance = total / F(count)
    for _ in range(CLIP_ROUNDS):
        limit = F(CLIP**2) * variance
        kept, inside = F(0), I(0)
        for n in range(count):
            is_inside = squares[n] <= limit
            kept += squares[n] if is_inside else F(0)
            inside += I(is_inside)
        variance = kept / F(inside) / F(KEPT_VARIANCE)
    return variance


@compiled
def _sky(x, variance, keys):  # type: ignore[no-untyped-def]
    """`noise_model.sky_level` of one patch, about which it is summed in float32."""
    side = x.shape[0]
    origin = x[0, 0]
    n = 0
    for row in range(0, side, 4):
        for column in range(0, side, 2):
            keys[n] = _ordered(x[row, column] - origin)
            n += 1
    level = _median(keys[:n])
    reach = max(F(HUBER) * np.sqrt(variance), F(1e-6))
    for _ in range(2):
        pulled = F(0)
        for row in range(side):
            for column in range(side):
                away = F(x[row, column] - origin) - level
                pulled += min(max(away, -reach), reach)
        level += pulled / F(side * side) / F(WITHIN_HUBER)
    return origin + level


@compiled
def _largest(x):  # type: ignore[no-untyped-def]
    """Largest value of one patch, as float32."""
    top = _ordered(x[0, 0])
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            top = max(top, _ordered(x[row, column]))
    return _value(top)


@compiled
def _normalised(x, noise, saturation, levels, u, squares, keys):  # type: ignore[no-untyped-def]
    """Fill ``levels`` and ``u`` of one patch; see `normalise`."""
    a, b, c, floor, lag, is_subtracted = noise
    number = x.dtype.type
    side = x.shape[0]
    variance = _clipped_variance(x, int(lag), squares, keys)
    sky = _sky(x, variance, keys)
    constant, slope, curvature, least = number(a), number(b), number(c), number(floor)
    at_sky = number(np.sqrt(max(constant + sky * (slope + curvature * sky), least)))
    unit = number(2 * np.sqrt(a / max(variance, floor)) if is_subtracted else 2)
    for row in range(side):
        for column in range(side):
            value = x[row, column]
            scale = np.sqrt(max(constant + value * (slope + curvature * value), least)) + at_sky
            u[row, column] = F(unit * (value - sky) / scale)
    level = F(saturation) if np.isfinite(saturation) else _largest(x)
    full = I(0)
    for row in range(side):
        for column in range(side):
            full += I(F(x[row, column]) >= level)
    levels[0], levels[1], levels[2], levels[3] = 1, full / (side * side), sky, variance


@compiled
def normalise(patches, noise, saturation):  # type: ignore[no-untyped-def]
    """Compute levels and variance-stabilised signal of patches without gaps.

    Parameters
    ----------
    patches : ndarray (n, P, P), float32 or float64
        Counts, finite.
    noise : tuple of float
        `noise_terms`.
    saturation : float
        Counts; infinite where unknown.

    Returns
    -------
    levels : ndarray (n, 4), type of the patches
        `feature_extractor.LEVELS`; second the share of pixels at the saturation, or at the largest value where
        it is unknown.
    u : ndarray (n, P, P), float32
    """
    count, side, _ = patches.shape
    levels = np.empty((count, 4), patches.dtype)
    u = np.empty((count, side, side), np.float32)
    squares, keys = np.empty(side * side, np.float32), np.empty(side * side, np.int32)
    for n in range(count):
        _normalised(patches[n], noise, saturation, levels[n], u[n], squares, keys)
    return levels, u


def noise_terms(noise: NoiseModel) -> tuple[float, float, float, float, float, float]:
    """Return the numbers of a noise model for `normalise`: a with the 3/8 b**2 of `NoiseModel.variance`."""
    is_subtracted = float(noise.source == "subtracted")
    return noise.a + 0.375 * noise.b**2, noise.b, noise.c, noise.floor, float(noise.lag), is_subtracted


@compiled
def _compressed(u, v):  # type: ignore[no-untyped-def]
    """`noise_model.compress` of one patch."""
    side = u.shape[0]
    for row in range(side):
        for column in range(side):
            size = abs(u[row, column]) / F(KNEE)
            grown = F(KNEE) * _ln(size + np.sqrt(F(1) + size * size))
            v[row, column] = -grown if u[row, column] < 0 else grown


@compiled
def _rounded(v, short):  # type: ignore[no-untyped-def]
    """Round one patch to bfloat16, ties to even, as the upper half of the bits."""
    side = v.shape[0]
    for row in range(side):
        for column in range(side):
            bits = _bits(v[row, column])
            odd = I(I(bits >> I(16)) & I(1))
            short[row, column] = np.int16(I(I(bits + I(0x7FFF)) + odd) >> I(16))


@compiled
def _halved(values, half):  # type: ignore[no-untyped-def]
    """Sums of 2 x 2 over 2."""
    side = half.shape[0]
    for row in range(side):
        for column in range(side):
            upper = values[2 * row, 2 * column] + values[2 * row, 2 * column + 1]
            lower = values[2 * row + 1, 2 * column] + values[2 * row + 1, 2 * column + 1]
            half[row, column] = (upper + lower) * F(0.5)


@compiled
def _line_strength(sums, found):  # type: ignore[no-untyped-def]
    """Fill in mean square and largest absolute value of sums along lines, less mean and slope."""
    side = sums.size
    mean, slope, norm = F(0), F(0), F(0)
    centre = F(side - 1) / F(2)
    for n in range(side):
        step = F(n) - centre
        mean += sums[n]
        slope += step * sums[n]
        norm += step * step
    mean, slope = mean / F(side), slope / norm
    square, peak = F(0), F(0)
    for n in range(side):
        away = (sums[n] - mean - slope * (F(n) - centre)) / np.sqrt(F(side))
        square += away * away
        peak = max(peak, abs(away))
    found[0], found[1] = square / F(side), peak


@compiled
def _stars(half):  # type: ignore[no-untyped-def]
    """`patch_statistics.star_counts` of one patch averaged over 2 x 2 px."""
    found = 0
    for row in range(1, half.shape[0] - 1):
        bright = False
        for column in range(1, half.shape[1] - 1):
            bright |= half[row, column] > F(STAR_SIGMA)
        if not bright:
            continue
        for column in range(1, half.shape[1] - 1):
            peak = half[row, column]
            if peak > F(STAR_SIGMA):
                found += peak >= half[row - 1 : row + 2, column - 1 : column + 2].max()
    return found


@compiled
def _cell_sums(u, sums):  # type: ignore[no-untyped-def]
    """Fill in sums of winsorised pixels over `CELL` x `CELL` px, over columns and over rows."""
    side = u.shape[0]
    cells = side // CELL
    sums[:] = 0
    columns, rows = sums[cells * cells : cells * cells + side], sums[cells * cells + side :]
    for row in range(side):
        total = F(0)
        for column in range(side):
            pixel = min(max(u[row, column], F(-WINSOR)), F(WINSOR))
            total += pixel
            columns[column] += pixel
        rows[row] = total
        first = (row // CELL) * cells
        for cell in range(cells):
            part = F(0)
            for column in range(CELL * cell, CELL * cell + CELL):
                part += min(max(u[row, column], F(-WINSOR)), F(WINSOR))
            sums[first + cell] += part


@compiled
def signal_statistics(u):  # type: ignore[no-untyped-def]
    """Compute what `patch_statistics` takes from the signal, and the networks' input.

    Parameters
    ----------
    u : ndarray (n, P, P), float32
        Variance-stabilised signal without gaps.

    Returns
    -------
    v : ndarray (n, P, P), float32
        `noise_model.compress`.
    short : ndarray (n, P, P), int16
        The bits of ``v`` in bfloat16.
    sums : ndarray (n, cells + 2 P), float32
        Sums of winsorised pixels over cells of 4 x 4 px, over columns and over rows.
    found : ndarray (n, 5), float32
        Mean square and peak of rows, of columns, and number of stars.
    folded : ndarray (n, (P / 4)**2), float32
        Signal averaged over 4 x 4 px, times 4, less its median, cut at `LIMIT`.
    """
    count, side, _ = u.shape
    cells = side // CELL
    v, short = np.empty_like(u), np.empty(u.shape, np.int16)
    sums = np.empty((count, cells * cells + 2 * side), np.float32)
    found = np.empty((count, 5), np.float32)
    folded = np.empty((count, cells * cells), np.float32)
    half, keys = np.empty((side // 2, side // 2), np.float32), np.empty(cells * cells, np.int32)
    for n in range(count):
        _compressed(u[n], v[n])
        _rounded(v[n], short[n])
        _cell_sums(u[n], sums[n])
        _line_strength(sums[n, cells * cells + side :], found[n, :2])
        _line_strength(sums[n, cells * cells : cells * cells + side], found[n, 2:4])
        _halved(u[n], half)
        found[n, 4] = _stars(half)
        _halved(half, folded[n].reshape(cells, cells))
        for cell in range(cells * cells):
            keys[cell] = _ordered(folded[n, cell])
        middle = _median(keys)
        for cell in range(cells * cells):
            folded[n, cell] = min(max(folded[n, cell] - middle, F(-LIMIT)), F(LIMIT))
    return v, short, sums, found, folded


@compiled
def residual_statistics(v, smooth):  # type: ignore[no-untyped-def]
    """Compute what `patch_statistics` takes from the residual.

    Parameters
    ----------
    v : ndarray (n, P, P), float32
        The networks' input.
    smooth : ndarray (n, P / 4, P / 4, 16), float32
        The reconstruction, squares of 4 x 4 px as channels.

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
                        r[y, x] = v[n, y, x] - smooth[n, cells, cell, 4 * row + column]
        total, peak, spike = F(0), I(0), _ordered(F(-np.inf))
        for row in range(side):
            for column in range(side):
                total += abs(r[row, column])
                peak = max(peak, _bits(abs(r[row, column])))
        for row in range(1, side - 1):
            for column in range(1, side - 1):
                across = r[row, column + 1] + r[row, column - 1]
                around = across + r[row + 1, column] + r[row - 1, column]
                spike = max(spike, _ordered(r[row, column] - F(0.25) * around))
        found[n, 0], found[n, 7] = total / F(side * side), _value(spike) / np.sqrt(F(1.25))
        found[n, 8] = _number(peak)
        _halved(r, half)
        _halved(half, pooled)
        for scale in range(3):
            length = side // 4 >> scale
            if scale:
                _halved(pooled[: 2 * length, : 2 * length], pooled[:length, :length])
            square, peak = F(0), I(0)
            for row in range(length):
                for column in range(length):
                    square += pooled[row, column] * pooled[row, column]
                    peak = max(peak, _bits(abs(pooled[row, column])))
            found[n, 1 + 2 * scale], found[n, 2 + 2 * scale] = square / F(length * length), _number(peak)
    return found
