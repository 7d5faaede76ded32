"""Noise, sky and variance stabilisation of patches, compiled: each patch while it is in the cache.

The formulas are those of `noise_model` and of `feature_extractor.fill_invalid`, which serve other devices.
"""

from __future__ import annotations

import numpy as np

from aqdask.methods.noise_aware.kernel_math import compiled, f32, i32, inlined, median, ordered
from aqdask.methods.noise_aware.noise_model import (
    CLIP,
    CLIP_ROUNDS,
    HUBER,
    KEPT_VARIANCE,
    WITHIN_HUBER,
    NoiseModel,
)
from aqdask.methods.noise_aware.patch_statistics import WINSOR, WINSOR_SLOPE
from aqdask.stats.robust import SIGMA_PER_MAD

SLOPE = 0.004  # sigma a pixel: typical slope of the sky within a patch


@inlined
def _squares(x, lag, squares, keys):
    """Fill in squares of `noise_model.difference`, and every eighth as a key; return the numbers of both."""
    side = x.shape[0] - lag
    half = x.dtype.type(0.5)
    for row in range(side):
        upper, lower, line = x[row], x[row + lag], squares[row * side : (row + 1) * side]
        shifted, moved = upper[lag:], lower[lag:]
        for column in range(side):
            high = f32((moved[column] - lower[column] - shifted[column] + upper[column]) * half)
            line[column] = high * high
    picked = (side * side + 7) // 8
    for n in range(picked):
        keys[n] = ordered(squares[8 * n])
    return side * side, picked


@inlined
def _valid_squares(x, valid, lag, squares, keys):
    """Do what `_squares` does with differences of valid pixels."""
    side = x.shape[0] - lag
    count, picked, half = 0, 0, x.dtype.type(0.5)
    for row in range(side):
        for column in range(side):
            across, down = column + lag, row + lag
            if valid[row, column] & valid[row, across] & valid[down, column] & valid[down, across]:
                lower = x[down, across] - x[down, column]
                high = f32((lower - x[row, across] + x[row, column]) * half)
                squares[count] = high * high
                if (row * side + column) % 8 == 0:
                    keys[picked] = ordered(squares[count])
                    picked += 1
                count += 1
    return count, picked


@inlined
def _clipped_variance(squares, keys):
    """`noise_model.clipped_variance` of squares, every eighth of which is a key."""
    variance = median(keys) * f32(SIGMA_PER_MAD**2) if keys.size else f32(0)
    if not variance > 0:
        total = f32(0)
        for n in range(squares.size):
            total += squares[n]
        variance = total / f32(squares.size)
    for _ in range(CLIP_ROUNDS):
        limit = f32(CLIP**2) * variance
        kept, inside = f32(0), f32(0)
        for n in range(squares.size):
            weight = f32(1) if squares[n] <= limit else f32(0)
            kept += weight * squares[n]
            inside += weight
        variance = kept / inside / f32(KEPT_VARIANCE)
    return variance


@inlined
def _sky(x, variance, keys):
    """`noise_model.sky_level` of one patch, summed about its first pixel."""
    side = x.shape[0]
    origin = x[0, 0]
    n = 0
    for row in range(0, side, 4):
        for column in range(0, side, 2):
            keys[n] = ordered(x[row, column] - origin)
            n += 1
    level = median(keys[:n])
    reach = max(f32(HUBER) * np.sqrt(variance), f32(1e-6))
    for _ in range(2):
        pulled = f32(0)
        for row in range(side):
            for column in range(side):
                away = f32(x[row, column] - origin) - level
                pulled += min(max(away, -reach), reach)
        level += pulled / f32(side * side) / f32(WITHIN_HUBER)
    return origin + level


@inlined
def _valid_sky(x, valid, variance, keys):
    """`noise_model.sky_level` of the valid pixels of one patch, at least one."""
    side = x.shape[0]
    count, n, step_y, step_x = 0, 0, 4, 2
    origin = x.dtype.type(0)
    for row in range(side):
        for column in range(side):
            if valid[row, column]:
                origin = origin if count else x[row, column]
                count += 1
    while n == 0:
        for row in range(0, side, step_y):
            for column in range(0, side, step_x):
                if valid[row, column]:
                    keys[n] = ordered(x[row, column] - origin)
                    n += 1
        step_y, step_x = 1, 1
    level = median(keys[:n])
    reach = max(f32(HUBER) * np.sqrt(variance), f32(1e-6))
    for _ in range(2):
        pulled = f32(0)
        for row in range(side):
            for column in range(side):
                if valid[row, column]:
                    away = f32(x[row, column] - origin) - level
                    pulled += min(max(away, -reach), reach)
        level += pulled / f32(count) / f32(WITHIN_HUBER)
    return origin + level


@inlined
def _stabilised(x, sky, variance, noise, u):
    """`noise_model.variance_stabilise` of one patch, or its signal in units of its own noise."""
    a, b, c, floor, _, is_subtracted = noise
    number = x.dtype.type
    constant, slope, curvature, least = number(a), number(b), number(c), number(floor)
    at_sky = number(np.sqrt(max(constant + sky * (slope + curvature * sky), least)))
    unit = number(2 * np.sqrt(a / max(variance, floor)) if is_subtracted else 2)
    for row in range(x.shape[0]):
        for column in range(x.shape[0]):
            value = x[row, column]
            scale = np.sqrt(max(constant + value * (slope + curvature * value), least)) + at_sky
            u[row, column] = f32(unit * (value - sky) / scale)


@inlined
def _saturated(x, saturation):
    """Count the pixels at the saturation, or at the largest value where it is infinite."""
    level = ordered(f32(saturation))
    if np.isinf(saturation):
        level = ordered(x[0, 0])
        for row in range(x.shape[0]):
            for column in range(x.shape[1]):
                level = max(level, ordered(x[row, column]))
    full = i32(0)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            full += i32(ordered(x[row, column]) >= level)
    return full


@inlined
def normalised_patch(source, valid, top, left, x, about, squares, keys, levels, u):
    """Fill in levels and signal of one patch.

    ``about`` are noise, saturation and noise for gaps; ``squares`` and ``keys`` ``(P**2,)`` are overwritten.
    """
    side, (noise, saturation, unit_noise) = x.shape[0], about
    for row in range(side):
        line = source[top + row, left : left + side]
        for column in range(side):
            x[row, column] = line[column]
    there = valid[top : top + side, left : left + side]
    known = there.sum() if valid.size else side * side
    if known == side * side:
        differences, picked = _squares(x, int(noise[4]), squares, keys)
        variance = _clipped_variance(squares[:differences], keys[:picked])
        sky = _sky(x, variance, keys)
        full = _saturated(x, saturation)
        _stabilised(x, sky, variance, noise, u)
    elif known:
        differences, picked = _valid_squares(x, there, int(noise[4]), squares, keys)
        variance = _clipped_variance(squares[:differences], keys[:picked])
        sky = _valid_sky(x, there, variance if differences else f32(0), keys)
        full = _saturated(np.where(there, x, x.dtype.type(-np.inf)), saturation)
        _stabilised(np.where(there, x, sky), sky, variance if differences else f32(1), noise, u)
        _fill(u, there, unit_noise)
    else:
        variance, sky, full = f32(np.nan), x.dtype.type(np.nan), i32(0)
        u[:] = 0
    levels[0], levels[1] = known / (side * side), full / max(known, 1)
    levels[2], levels[3] = sky, variance


@compiled
def normalise(source, valid, tops, lefts, scratch, noise, saturation, unit_noise):
    """Compute levels and variance-stabilised signal of patches, gaps filled.

    Parameters
    ----------
    source : ndarray (H, W)
        Counts of any type that ``scratch`` holds; any value where not valid.
    valid : ndarray (H, W) of bool
        Or (0, 0), where every pixel is data.
    tops, lefts : ndarray (n,) of int
        First row and column of each patch.
    scratch : ndarray (P, P), float32 or float64
        Overwritten.
    noise : tuple of float
        `noise_terms`.
    saturation : float
        Counts; infinite where unknown.
    unit_noise : ndarray (P, P), float32
        Noise for wide gaps.

    Returns
    -------
    levels : ndarray (n, 4), type of ``scratch``
        `feature_extractor.LEVELS`; the second is the share of pixels at the saturation, or at the largest
        value where it is unknown.
    u : ndarray (n, P, P), float32
    """
    count, side = tops.size, scratch.shape[0]
    levels, u = np.empty((count, 4), scratch.dtype), np.empty((count, side, side), np.float32)
    squares, keys = np.empty(side * side, np.float32), np.empty(side * side, np.int32)
    about = noise, saturation, unit_noise
    for n in range(count):
        normalised_patch(source, valid, tops[n], lefts[n], scratch, about, squares, keys, levels[n], u[n])
    return levels, u


def noise_terms(noise: NoiseModel) -> tuple[float, float, float, float, float, float]:
    """Return the numbers of a noise model for `normalise`: a with the 3/8 b**2 of `NoiseModel.variance`."""
    is_subtracted = float(noise.source == "subtracted")
    return noise.a + 0.375 * noise.b**2, noise.b, noise.c, noise.floor, float(noise.lag), is_subtracted


@inlined
def _fill(u, valid, unit_noise):
    """`feature_extractor.fill_invalid` of one patch."""
    side = u.shape[0]
    count = np.zeros((side, side), np.int32)
    mean = np.zeros((side, side), np.float32)
    wide = False
    for row in range(side):
        for column in range(side):
            if valid[row, column]:
                continue
            for y in range(max(row - 1, 0), min(row + 2, side)):
                for x in range(max(column - 1, 0), min(column + 2, side)):
                    if valid[y, x]:
                        count[row, column] += 1
                        mean[row, column] += u[y, x]
            if count[row, column]:
                mean[row, column] /= f32(count[row, column])
            else:
                wide = True
    if wide:
        level, slope_y, slope_x, middle_y, middle_x = _plane(u, valid)
    for row in range(side):
        for column in range(side):
            if valid[row, column]:
                continue
            filling = mean[row, column]
            if wide:
                if count[row, column] == 0:
                    plane = level + slope_y * (row - middle_y) + slope_x * (column - middle_x)
                    filling = f32(plane) + unit_noise[row, column]
                elif _beside_empty(count, valid, row, column):
                    filling += np.sqrt(f32(1) - f32(1) / f32(count[row, column])) * unit_noise[row, column]
            u[row, column] = filling


@inlined
def _beside_empty(count, valid, row, column):
    """Return True if a pixel of the eight around has no valid one around itself."""
    for y in range(max(row - 1, 0), min(row + 2, count.shape[0])):
        for x in range(max(column - 1, 0), min(column + 2, count.shape[1])):
            if not valid[y, x] and count[y, x] == 0:
                return True
    return False


@inlined
def _plane(u, valid):
    """Fit the plane of `feature_extractor.fill_invalid` to one patch: level, slopes and centre."""
    number, level, middle_y, middle_x = 0.0, 0.0, 0.0, 0.0
    for row in range(u.shape[0]):
        for column in range(u.shape[1]):
            if valid[row, column]:
                number += 1
                level += min(max(u[row, column], f32(-WINSOR)), f32(WINSOR)) / WINSOR_SLOPE
                middle_y += row
                middle_x += column
    level, middle_y, middle_x = level / number, middle_y / number, middle_x / number
    yy, xx, xy, uy, ux = SLOPE**-2, SLOPE**-2, 0.0, 0.0, 0.0
    for row in range(u.shape[0]):
        for column in range(u.shape[1]):
            if valid[row, column]:
                value = min(max(u[row, column], f32(-WINSOR)), f32(WINSOR)) / WINSOR_SLOPE
                y, x = row - middle_y, column - middle_x
                yy, xx, xy = yy + y * y, xx + x * x, xy + x * y
                uy, ux = uy + value * y, ux + value * x
    scale = yy * xx - xy * xy
    return level, (uy * xx - ux * xy) / scale, (ux * yy - uy * xy) / scale, middle_y, middle_x
