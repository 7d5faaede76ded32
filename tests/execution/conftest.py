"""Fixtures of the engine's tests: a night, a model, a finished archive, two workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster
from night import OPTIONS, tiny_bundle, write_night

import aqdask as aq
from aqdask.execution import config
from aqdask.methods.bundle import Bundle

FRAMES = 10  # two whole shards of four and one of two


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """A tiny model."""
    return tiny_bundle()


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> Path:
    """A folder of ten frames; not to be changed."""
    return write_night(tmp_path_factory.mktemp("night"), FRAMES)


@pytest.fixture(scope="session")
def _scored(tmp_path_factory, night, bundle) -> Path:
    archive = tmp_path_factory.mktemp("scored") / "night.zarr"
    aq.ingest(night, archive, cluster="serial", **OPTIONS)
    aq.score(archive, bundle, cluster="serial")
    return archive


@pytest.fixture
def undisturbed(_scored) -> Path:
    """The night, taken in and scored in one process without any trouble; not to be changed."""
    return _scored


@pytest.fixture
def scored(_scored, tmp_path) -> Path:
    """A copy of the finished archive, to be damaged or added to."""
    return Path(shutil.copytree(_scored, tmp_path / "night.zarr"))


@pytest.fixture
def ingested(night, tmp_path) -> Callable[..., Path]:
    """``ingested(**options)``: the night in a new archive, serially."""

    def take_in(**options) -> Path:
        archive = tmp_path / "new.zarr"
        aq.ingest(night, archive, cluster="serial", **(OPTIONS | options))
        return archive

    return take_in


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two worker processes, with the settings under which aqdask runs its own."""
    with (
        dask.config.set(config.get("dask")),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
