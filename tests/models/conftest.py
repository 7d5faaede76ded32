"""A tiny model of our method, trained once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simulated import TINY, Frames

from aqdask.models import learn
from aqdask.models.bundle import Bundle
from aqdask.models.scorer import load_scorer
from aqdask.models.train import train


@pytest.fixture(scope="session")
def tiny() -> Bundle:
    """Both networks trained for three steps, calibrated on simulated frames: all is there, little is good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "HELD_OUT_CROPS", 8)
        return train(Frames(), TINY)


@pytest.fixture(scope="session")
def scorer(tiny):
    return load_scorer(Bundle.from_bytes(tiny.contents))
