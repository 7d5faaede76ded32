"""A night, a model file and a finished archive for the command line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from night import OPTIONS, tiny_bundle, write_night

import aqdask as aq


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> Path:
    """A folder of three frames; not to be changed."""
    return write_night(tmp_path_factory.mktemp("night"), 3)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The file of a tiny model."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    tiny_bundle().save(path)
    return path


@pytest.fixture(scope="session")
def _finished(tmp_path_factory, night, model) -> Path:
    archive = tmp_path_factory.mktemp("archive") / "night.zarr"
    aq.ingest(night, archive, cluster="serial", **OPTIONS)
    aq.score(archive, model, cluster="serial")
    return archive


@pytest.fixture
def archive(_finished, tmp_path) -> Path:
    """A copy of the finished archive."""
    return Path(shutil.copytree(_finished, tmp_path / "night.zarr"))
