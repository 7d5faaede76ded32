"""Arithmetic that numba vectorises: bits of float32, logarithm, median."""

from __future__ import annotations

import math

import numpy as np

from aqdask.stats.compiled import kernel

_SUMS = {"nnan", "nsz", "reassoc", "contract"}
compiled = kernel(fastmath=_SUMS)
# For what a kernel calls. A call that is left meets the first of several compiled copies in the process that
# compiles them, but its own copy in those that load them from the cache: sums in two orders.
inlined = kernel(fastmath=_SUMS, forceinline=True)

f32, i32 = np.float32, np.int32  # numba's own constants are 64 bits wide, and half as fast
_LN2, _ROOT = f32(math.log(2)), f32(math.sqrt(2))
_LARGEST = i32(0x7FFFFFFF)
_MANTISSA, _UNIT = i32(0x7FFFFF), i32(0x3F800000)


@inlined
def bits_of(x):
    return f32(x).view(np.int32)


@inlined
def from_bits(bits):
    return i32(bits).view(np.float32)


@inlined
def natural_log(x):
    """ln of a positive float32, to 1e-7: a vectorised `logf` (Cephes, Moshier 1992)."""
    bits = bits_of(x)
    exponent = i32(bits >> i32(23)) - i32(127)
    mantissa = from_bits(i32(bits & _MANTISSA) | _UNIT)
    is_big = mantissa > _ROOT
    f = (mantissa * f32(0.5) if is_big else mantissa) - f32(1)
    e = f32(i32(exponent + i32(1))) if is_big else f32(i32(exponent))
    p = f32(7.0376836292e-2) * f - f32(1.1514610310e-1)
    p = p * f + f32(1.1676998740e-1)
    p = p * f - f32(1.2420140846e-1)
    p = p * f + f32(1.4249322787e-1)
    p = p * f - f32(1.6668057665e-1)
    p = p * f + f32(2.0000714765e-1)
    p = p * f - f32(2.4999993993e-1)
    p = p * f + f32(3.3333331174e-1)
    z = f * f
    return f + (p * f - f32(0.5)) * z + e * _LN2


@inlined
def ordered(x):
    """Bits of a float32 as an integer of the same order; maxima of floats are not vectorised."""
    bits = bits_of(x)
    return i32(bits ^ _LARGEST) if bits < 0 else bits


@inlined
def from_ordered(key):
    """Inverse of `ordered`."""
    return from_bits(key ^ _LARGEST if key < 0 else key)


@inlined
def median(keys):
    """Lower median of float32 given as `ordered` integers ``(n,)``: exact, by vectorised bisection."""
    rank = i32((keys.size - 1) // 2)
    low, high = keys[0], keys[0]
    for n in range(keys.size):
        low, high = min(low, keys[n]), max(high, keys[n])
    while low < high:
        middle = i32((np.int64(low) + np.int64(high)) >> 1)
        below, under, over = i32(0), low, high
        for n in range(keys.size):
            is_below = keys[n] <= middle
            below += i32(is_below)
            under = max(under, keys[n] if is_below else low)
            over = min(over, high if is_below else keys[n])
        if below > rank:
            high = under
        else:
            low = over
    return from_ordered(low)
