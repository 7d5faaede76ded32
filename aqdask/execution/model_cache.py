"""One replica of the model a worker process, found by the digest of its bundle.

A task carries only the digest. The bundle's bytes reach workers by a plugin that also warms the cache; on a
worker whose plugin failed, the task loads the model itself or fails loudly.
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
_replicas: dict[tuple[str, str], Scorer] = {}


def default_device() -> str:
    """Where models run: ``aqdask.device``, or with 'auto' CUDA where torch sees it, else the CPU.

    Raises
    ------
    UsageError
        For another word than auto, cpu or cuda.
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


def warm(data: bytes, device: str = "") -> Scorer:
    """Load the bundle ``data`` into this process's cache (once) and return its scorer."""
    bundle = Bundle.from_bytes(data)
    place = device or default_device()
    with _lock:
        key = (bundle.digest, place)
        if key not in _replicas:
            _replicas[key] = load_scorer(bundle, place)
        return _replicas[key]


def replica(digest: str, device: str = "") -> Scorer:
    """The scorer of bundle ``digest`` in this process.

    Raises
    ------
    ModelError
        If neither the cache nor the worker's plugin has it.
    """
    found = _replicas.get((digest, device or default_device()))
    if found is not None:
        return found
    try:
        plugin = get_worker().plugins[plugin_name(digest)]
    except (ValueError, KeyError) as error:
        raise ModelError(
            f"this worker has no model {digest[:8]}",
            expected="the worker plugin of the run to have brought it",
            consequence="The task cannot score",
            remedy="restart the worker, or run the command again",
        ) from error
    return warm(plugin.data, device)  # type: ignore[attr-defined]


def plugin_name(digest: str) -> str:
    """Name under which a bundle's plugin is registered: the same bundle is registered once."""
    return f"aqdask-model-{digest[:16]}"


class ModelPlugin(WorkerPlugin):
    """Brings a bundle's bytes to every worker, present and future, and loads the model there."""

    idempotent = True

    def __init__(self, data: bytes, digest: str) -> None:
        self.data = data
        self.name = plugin_name(digest)

    async def setup(self, worker: Worker) -> None:
        """Load off the event loop: heartbeats must go on."""
        await asyncio.to_thread(warm, self.data)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread wherever it scores: the same bytes, and never more threads than cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
