"""Fixtures of the cluster tests: a Dask cluster that is there already, a tiny model, a few frames."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

sys.path.append(str(Path(__file__).parents[1] / "execution"))  # the small night of the engine's tests

from night import tiny_bundle, write_night

from aqdask.methods.bundle import Bundle


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """A model with random weights."""
    return tiny_bundle()


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> Path:
    """A folder of six small frames."""
    return write_night(tmp_path_factory.mktemp("night"), 6)


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalCluster]:
    """Two worker processes of two threads, started by someone else: an address is all we use."""
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def scheduler() -> Iterator[LocalCluster]:
    """A scheduler without workers; ``scale`` brings some."""
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster
