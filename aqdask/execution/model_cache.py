"""Cache of loaded models in each worker process, keyed by the digest of the bundle.

Tasks carry only the digest. A worker plugin brings the bytes of the bundle and loads the model; where the
plugin failed, the task loads the model itself or raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from distributed import Worker, WorkerPlugin, get_worker

from aqdask.errors import ModelError, UsageError
from aqdask.execution import config
from aqdask.methods.base import Scorer
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import load_scorer

_lock = threading.Lock()
_scorers: dict[tuple[str, str], Scorer] = {}


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


def load_cached(data: bytes, digest: str, device: str = "") -> Scorer:
    """Return the scorer of a bundle from this process's cache, loading it from ``data`` the first time.

    Parameters
    ----------
    data : bytes
        The bundle, parsed only where it is not loaded yet.
    digest : str
        Its sha256.

    Raises
    ------
    ModelError
        If the bytes are no bundle, or have another digest.
    """
    key = (digest, device or default_device())
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
            _scorers[key] = load_scorer(bundle, key[1])
        return _scorers[key]


def cached_scorer(digest: str, device: str = "") -> Scorer:
    """Return the scorer of the bundle with a digest.

    Raises
    ------
    ModelError
        If neither the cache nor a plugin of the worker holds it.
    """
    found = _scorers.get((digest, device or default_device()))
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
    return load_cached(plugin.data, digest, device)  # type: ignore[attr-defined]


def plugin_name(digest: str) -> str:
    """Return the name under which the plugin of a bundle is registered, once a bundle."""
    return f"aqdask-model-{digest[:16]}"


class ModelPlugin(WorkerPlugin):
    """Worker plugin that sends a bundle to every present and future worker and loads the model there."""

    idempotent = True

    def __init__(self, data: bytes, digest: str) -> None:
        self.data, self.digest = data, digest
        self.name = plugin_name(digest)

    async def setup(self, worker: Worker) -> None:
        """Load the model in a thread, so that the worker's heartbeats go on."""
        await asyncio.to_thread(load_cached, self.data, self.digest)


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
