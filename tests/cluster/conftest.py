"""Fixtures of the cluster tests: a Dask cluster that is there already, a tiny model, a few frames."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import LocalCluster
from distributed.utils import get_mp_context

sys.path.append(str(Path(__file__).parents[1] / "execution"))  # the small night of the engine's tests
sys.path.append(str(Path(__file__).parents[1] / "browser"))

from night import tiny_bundle, write_night

import aqdask.execution.config  # noqa: F401  settings have defaults in forked workers if this process has them
from aqdask.methods.bundle import Bundle


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """A model with random weights."""
    return tiny_bundle()


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> Path:
    """A folder of six small frames."""
    return write_night(tmp_path_factory.mktemp("night"), 6)


@pytest.fixture(scope="session")
def forked() -> dict[str, str]:
    """Settings under which a cluster's workers start in a tenth of the time.

    They are forked from a process that has imported what they need. Clusters that aqdask itself starts are
    tested as users have them.
    """
    method = {"distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set(method):
        get_mp_context().set_forkserver_preload(["distributed", "aqdask.execution.tasks", "torch"])
    return method


@pytest.fixture(scope="module")
def pool(forked) -> Iterator[LocalCluster]:
    """Two worker processes of two threads, started by someone else: an address is all we use."""
    with dask.config.set(forked):
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=":0", env=dict(os.environ)
        )  # a forked worker has the environment of the process that it comes from
    with cluster:
        yield cluster


@pytest.fixture
def scheduler(forked) -> Iterator[LocalCluster]:
    """A scheduler without workers; ``scale`` brings some."""
    with (
        dask.config.set(forked),
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster
