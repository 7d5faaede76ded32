"""Patches and weights as torch tensors, and reproducible arithmetic on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from aqdask.errors import ModelError
from aqdask.methods.bundle import OPTIONS, Bundle

Network = TypeVar("Network", bound=nn.Module)
# Types whose differences a float32 cannot hold (or that torch cannot convert): sent as float64.
_WIDE = ("int32", "uint32", "int64", "uint64", "float64", "float128", "longdouble")


def as_float(patches: np.ndarray, device: torch.device | str | Staging, unit: float = 1.0) -> torch.Tensor:
    """Convert patches of any integer or float type to a float tensor on ``device``, in a ``unit``.

    With the unit 1 values are unchanged: types of up to 16 bits and float32 become float32 *on the device*,
    so that the frame's own integers travel; wider ones become float64, because a float32 would round their
    differences.
    """
    staging = device if isinstance(device, Staging) else Staging(device)
    if unit != 1:
        return staging.send((patches.astype(np.float64) / unit).astype(np.float32))
    if patches.dtype.name in _WIDE:
        return staging.send(patches.astype(np.float64))
    native = np.uint8 if patches.dtype == bool else patches.dtype.newbyteorder("=")
    return staging.send(np.ascontiguousarray(patches, dtype=native)).to(torch.float32)


def native_precision(device: str = "cpu") -> str:
    """Return the precision in which a device runs networks fastest: 'bf16' if it has bfloat16, else 'fp32'.

    Of processors, those with AMX or AVX512-BF16; others would emulate it.
    """
    if device == "cpu":
        found = (
            torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        )  # torch >= 2.10
        return "bf16" if found.get("amx_bf16") or found.get("avx512_bf16") else "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


class Staging:
    """Page-locked memory through which arrays travel to a CUDA device and back, allocated once.

    Copies from ordinary memory take six times as long, during which the device is busy. One array is on its
    way at a time; on other devices there is nothing to stage.

    Parameters
    ----------
    device : torch.device or str
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._memory = torch.empty(0, dtype=torch.uint8)

    def _of(self, like: torch.Tensor) -> torch.Tensor:
        size = like.numel() * like.element_size()
        if self._memory.numel() < size:
            self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._memory[:size].view(like.dtype).view(like.shape)

    def send(self, array: np.ndarray) -> torch.Tensor:
        """Copy an array of a type that torch knows to the device."""
        values = torch.from_numpy(array)
        if self.device.type != "cuda":
            return values.to(self.device)
        torch.cuda.current_stream(self.device).synchronize()  # what was staged before has arrived
        return self._of(values).copy_(values).to(self.device, non_blocking=True)

    def fetch(self, values: torch.Tensor) -> np.ndarray:
        """Copy a tensor from the device."""
        if self.device.type != "cuda":
            return values.cpu().numpy()
        staged = self._of(values).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)  # other processes use the core meanwhile
        arrived.record(torch.cuda.current_stream(self.device))
        arrived.synchronize()
        return staged.numpy().copy()


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 and one fixed algorithm a shape on CUDA (TF32 keeps 10 bits); the CPU needs nothing.

    The caller's settings come back on leaving.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Random numbers of torch from ``seed`` alone inside; the caller's generators come back on leaving."""
    target = torch.device(device)
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if target.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def restore_network(
    bundle: Bundle, architectures: Mapping[str, Callable[..., Network]], *settings: str, **training: float
) -> Network:
    """Make a network with the architecture and the weights of a bundle, on the CPU.

    Parameters
    ----------
    bundle : Bundle
    architectures : mapping of str to callable
        Classes of networks by the name in ``bundle.architecture["network"]``; the first where there is none.
    *settings : str
        Entries of ``bundle.architecture`` that it is called with, by name; and `OPTIONS` where there are any.
    **training
        Further arguments that change no weight.

    Raises
    ------
    ModelError
        If the weights do not fit the architecture that the bundle states.
    """
    stated = bundle.architecture
    try:
        make = architectures[stated.get("network", next(iter(architectures)))]
        given = {name: stated[name] for name in (*settings, *({OPTIONS} & stated.keys()))}
        with seeded(0):  # first weights, which are replaced, leave the caller's generator alone
            network = make(**given, **training)
        # A copy: arrays that come from bytes are read-only, which torch cannot express.
        network.load_state_dict({key: torch.tensor(array) for key, array in bundle.weights.items()})
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the weights of the model {bundle.name} do not fit its architecture {dict(stated)}",
            expected="one array for every layer of a network that this release knows",
            consequence="It cannot reconstruct a patch",
            remedy="train again with this release of aqdask, or install the one that wrote it",
        ) from error
    return network
