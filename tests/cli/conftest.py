"""Fixtures: three frames, a model file, a scored archive, and the frames of ``trouble``."""

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
    """Folder of three frames; read only."""
    return write_night(tmp_path_factory.mktemp("night"), 3)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """File of a tiny model."""
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
    """Copy of the scored archive."""
    return Path(shutil.copytree(_finished, tmp_path / "night.zarr"))


@pytest.fixture(scope="module")
def trouble(make_trouble, tmp_path_factory):
    """``trouble(kind, **options)``: the folder of one kind of odd frames, and what is right of it."""

    def make(kind, **options):
        folder = tmp_path_factory.mktemp(kind)
        return folder, make_trouble.KINDS[kind](folder, **options)

    return make
