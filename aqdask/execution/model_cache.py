"""Cache of loaded models in each worker process, keyed by the digest of the bundle.

Tasks carry only the digest. A worker plugin brings the bytes of the bundle and loads the model; where the
plugin failed, the task loads the model itself or raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker

from aqdask.errors import ModelError, UsageError
from aqdask.execution import config
from aqdask.methods import dispatch
from aqdask.methods.base import Scorer, score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.calibration_spans import CalibrationSpans

log = logging.getLogger(__name__)
_lock = threading.Lock()
_scorers: dict[tuple[str, str, str], Scorer] = {}
_spans: dict[str, CalibrationSpans] = {}


def default_device() -> str:
    """Return the device of models: ``aqdask.device``, or for 'auto' CUDA where torch finds it, else the CPU.

    Raises
    ------
    UsageError
        For a setting other than auto, cpu or cuda.
    """
    wanted = str(config.get("device"))
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"the setting aqdask.device is {wanted!r}",
            expected="auto, cpu or cuda",
            consequence="No model was loaded",
            remedy="set it in Dask's configuration, or leave it out",
        )
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_precision(bundle: Bundle) -> str:
    """Return the precision of a model's network: ``aqdask.precision``, or for 'auto' what suits this machine.

    That is bfloat16 for a method that can use it, on a device that has it.

    Raises
    ------
    UsageError
        For a setting other than auto, or what the method can use.
    """
    wanted, able = str(config.get("precision")), dispatch.find(bundle).precisions
    if wanted == "auto" and len(able) > 1:
        from aqdask.methods.tensors import native_precision

        found = native_precision(default_device())
        return found if found in able else "fp32"
    if wanted not in ("auto", *able):
        raise UsageError(
            f"the setting aqdask.precision is {wanted!r}",
            expected=f"auto, or what the method {bundle.method!r} can use: {', '.join(able)}",
            consequence="No model was loaded",
            remedy="set it in Dask's configuration, or leave it out",
        )
    return "fp32" if wanted == "auto" else wanted


def load_cached(data: bytes, digest: str, precision: str = "fp32", device: str = "") -> Scorer:
    """Return the scorer of a bundle from this process's cache, loading it from ``data`` the first time.

    Parameters
    ----------
    data : bytes
        The bundle, parsed only where it is not loaded yet.
    digest : str
        Its sha256.
    precision : str
        'fp32' or 'bf16'.
    device : str
        `default_device` where empty.

    Raises
    ------
    ModelError
        If the bytes are no bundle, or have another digest.
    """
    key = (digest, precision, device or default_device())
    with _lock:
        if key not in _scorers:
            bundle = Bundle.from_bytes(data)
            if bundle.digest != digest:
                raise ModelError(
                    f"a bundle with the digest {bundle.digest[:8]} instead of {digest[:8]}",
                    expected="the bytes that the digest was computed of",
                    consequence="The model was not loaded",
                    remedy="run the command again",
                )
            _spans[digest] = bundle.spans
            _scorers[key] = dispatch.load_scorer(bundle, key[2], precision)
            _warm(_scorers[key])
            _tell_if_slow(precision, key[2])
        return _scorers[key]


def calibration_spans(digest: str) -> CalibrationSpans:
    """Return the spans of the calibrations of a bundle whose scorer this process has loaded."""
    return _spans[digest]


def _warm(scorer: Scorer) -> None:
    """Score a small frame: what is compiled or allocated on first use is there before the first real one."""
    frame = np.random.default_rng(0).poisson(1000, (4 * scorer.patch, 4 * scorer.patch))
    with one_thread():
        score_frame(scorer, frame.astype(np.uint16))


def _tell_if_slow(precision: str, device: str) -> None:
    if precision == "bf16":
        from aqdask.methods.tensors import native_precision

        if native_precision(device) != precision:
            log.warning(
                "warning: bfloat16 is slow on this machine; aqdask.precision: fp32 in a new archive is faster"
            )


def cached_scorer(digest: str, precision: str = "fp32", device: str = "") -> Scorer:
    """Return the scorer of the bundle with a digest, in a precision.

    Raises
    ------
    ModelError
        If neither the cache nor a plugin of the worker holds it.
    """
    found = _scorers.get((digest, precision, device or default_device()))
    if found is not None:
        return found
    try:
        plugin = get_worker().plugins[plugin_name(digest)]
    except (ValueError, KeyError) as error:
        raise ModelError(
            f"this worker has no model {digest[:8]}",
            expected="the model, from the worker plugin of the run",
            consequence="The task cannot score",
            remedy="restart the worker, or run the command again",
        ) from error
    return load_cached(plugin.data, digest, precision, device)  # type: ignore[attr-defined]


def plugin_name(digest: str) -> str:
    """Return the name under which the plugin of a bundle is registered, once a bundle."""
    return f"aqdask-model-{digest[:16]}"


class ModelPlugin(WorkerPlugin):
    """Worker plugin that sends a bundle to every present and future worker and loads the model there."""

    idempotent = True

    def __init__(self, data: bytes, digest: str, precision: str = "fp32") -> None:
        self.data, self.digest, self.precision = data, digest, precision
        self.name = plugin_name(digest)

    async def setup(self, worker: Worker) -> None:
        """Load the model in a thread, so that the worker's heartbeats go on."""
        await asyncio.to_thread(load_cached, self.data, self.digest, self.precision)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: results do not depend on the machine, and cores are not oversubscribed."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
