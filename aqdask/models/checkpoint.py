"""The state of an unfinished training, so that an interrupted one goes on where it was.

A checkpoint is a safetensors file like the bundle: nothing is unpickled. What a step learns from follows from
the seed and the step (`fit.Recipe`), so weights, optimiser, step and losses are the whole state; there is no
generator to save.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aqdask.errors import ModelError
from aqdask.models.container import pack, unpack, write_atomic
from aqdask.models.settings import TrainSpec

FORMAT = "aqdask-checkpoint"
VERSION = 1
_NO_EFFECT = ("checkpoint_seconds", "created", "archive", "name")  # settings that do not change the weights


@dataclass
class Progress:
    """How far a training is: optimiser steps done, the loss curve, and the losses since its last point."""

    step: int = 0
    curve: dict[str, list[float]] = field(
        default_factory=lambda: {"step": [], "train": [], "held_out": []}  # losses
    )
    since: list[float] = field(default_factory=list)


def settings_digest(spec: TrainSpec, ids: Sequence[str], device: torch.device, start: str = "") -> str:
    """sha256 of all that a training's result depends on; another digest means another training.

    ``start`` names the model whose weights it begins from or is compared with.
    """
    settings = {name: value for name, value in asdict(spec).items() if name not in _NO_EFFECT}
    identity = [settings, list(ids), str(torch.__version__), device.type, *([start] if start else [])]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def save(
    path: Path, digest: str, progress: Progress, network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the state whole or not at all, over an older one."""
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
    document: dict[str, Any] = asdict(progress)
    document |= {"format": FORMAT, "bundle_version": VERSION, "settings": digest}
    write_atomic(path, pack(arrays, document))


def restore(
    path: Path, digest: str, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, str]:
    """Put the saved state into network and optimiser.

    Returns
    -------
    progress, note
        A fresh `Progress`, network and optimiser untouched, where there is no checkpoint or not one of
        this training; ``note`` then says why, and is empty where there is none.
    """
    if not path.exists():
        return Progress(), ""
    try:
        arrays, document = unpack(path.read_bytes(), FORMAT, VERSION)
    except ModelError as error:
        return Progress(), f"{path} is not used, and training starts anew: {error.got}"
    if document["settings"] != digest:
        return Progress(), f"{path} belongs to other settings or frames, and training starts anew"
    saved = {name: torch.tensor(array) for name, array in arrays.items()}
    network.load_state_dict(
        {name.removeprefix("network/"): value for name, value in saved.items() if name.startswith("network/")}
    )
    for index, parameter in enumerate(network.parameters()):
        if f"optimizer/{index}/step" not in saved:
            continue  # it has not been trained yet: the optimiser knows nothing of it
        optimizer.state[parameter] = {
            # In the parameter's own memory layout: another one rounds differently in the next step.
            name: torch.empty_like(parameter).copy_(saved[f"optimizer/{index}/{name}"])
            for name in ("exp_avg", "exp_avg_sq")
        } | {"step": saved[f"optimizer/{index}/step"]}
    return Progress(document["step"], document["curve"], document["since"]), ""
