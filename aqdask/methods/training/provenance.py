"""Provenance of a trained model: frames, settings, versions and loss curve."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

import numpy as np
import torch

from aqdask.methods.base import FrameSource
from aqdask.methods.training.settings import OPTIONS, TrainSpec
from aqdask.methods.training.split import Split


def provenance(
    frames: FrameSource, split: Split, spec: TrainSpec, curve: dict[str, list[float]]
) -> dict[str, object]:
    """Describe the origin of a model as plain JSON, without clock or host: equal input gives equal bytes."""
    without_effect = ("archive", "created", "labels")
    given = {name: value for name in without_effect if (value := getattr(spec, name))}
    usual = {name for name in OPTIONS if getattr(spec, name) == spec.default(name)}
    return given | {
        "frames": {part: [frames.ids[index] for index in members] for part, members in asdict(split).items()},
        "settings": {
            name: value for name, value in asdict(spec).items() if name not in {*without_effect, *usual}
        },
        "versions": {"aqdask": version("aqdask"), "numpy": np.__version__, "torch": str(torch.__version__)},
        "loss_curve": curve,
    }
