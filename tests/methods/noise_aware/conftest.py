"""A tiny model of our method, trained once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from aqdask.methods.training.train import train
from simulated import TINY, Frames

from aqdask.methods.base import load_scorer
from aqdask.methods.bundle import Bundle
from aqdask.methods.noise_aware import train


@pytest.fixture(scope="session")
def tiny() -> Bundle:
    """Both networks trained for three steps, calibrated on simulated frames: all is there, little is good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "HELD_OUT_CROPS", 8)
        return train(Frames(), TINY)


@pytest.fixture(scope="session")
def scorer(tiny):
    return load_scorer(Bundle.from_bytes(tiny.contents))
