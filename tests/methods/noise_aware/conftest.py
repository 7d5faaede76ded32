"""A model trained for a few steps, once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simulated import TINY, Frames

from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.noise_aware import train as noise_train


@pytest.fixture(scope="session")
def tiny() -> Bundle:
    """The shipped model, trained for six steps and calibrated on simulated frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_train, "HELD_OUT_CROPS", 8)
        return train(Frames(), TINY)


@pytest.fixture(scope="session")
def scorer(tiny):
    return load_scorer(Bundle.from_bytes(tiny.contents))
