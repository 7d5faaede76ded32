"""Functions compiled to machine code, with NaN and the order of sums as they are written."""

from __future__ import annotations

from numba import njit

exact = njit(cache=True, nogil=True, error_model="numpy")
