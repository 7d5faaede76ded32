"""Patches as torch tensors, and reproducible arithmetic on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Types whose differences a float32 cannot hold (or that torch cannot convert): sent as float64.
_WIDE = ("int32", "uint32", "int64", "uint64", "float64", "float128", "longdouble")


def as_float(patches: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """Convert patches of any integer or float type to a float tensor on ``device``, values unchanged.

    Types of up to 16 bits and float32 become float32 *on the device*, so that the frame's own integers
    travel; wider ones become float64, because a float32 would round their differences.
    """
    if patches.dtype.name in _WIDE:
        return torch.from_numpy(patches.astype(np.float64)).to(device)
    native = np.uint8 if patches.dtype == bool else patches.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(patches, dtype=native)).to(device).to(torch.float32)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 and one fixed algorithm a shape on CUDA (TF32 keeps 10 bits); the CPU needs nothing.

    The caller's settings come back on leaving.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
