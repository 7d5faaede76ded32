"""Little work runs in the process of the command, more on a local cluster; named clusters are kept."""

from __future__ import annotations

import contextlib
import json

import pytest
from click.testing import CliRunner
from night import OPTIONS, same_bytes, tiny_bundle, write_night

import aqdask as aq
from aqdask.cli.main import aqdask
from aqdask.execution import clusters, work_estimate
from aqdask.execution.clusters import Deferred
from aqdask.execution.executors import SerialExecutor, WorkQueue
from aqdask.execution.work_estimate import IN_PROCESS_SECONDS
from aqdask.store.lease import NAME, Lease


class Cluster(SerialExecutor):
    """What stands for a cluster here."""

    dashboard = "http://127.0.0.1:1/status"


@pytest.fixture
def connected(monkeypatch) -> list[str | None]:
    """Names of the clusters that are connected to."""
    names: list[str | None] = []

    @contextlib.contextmanager
    def connect(cluster):
        names.append(cluster)
        yield Cluster()

    monkeypatch.setattr(clusters, "connect", connect)
    return names


def run(executor: Deferred, seconds: float) -> list[int]:
    queue = WorkQueue([1, 2], seconds)
    return [result for _, result in executor.run(abs, queue, stage="score")]


@pytest.mark.parametrize(
    ("works", "started"),
    [
        ([1.0], []),
        ([IN_PROCESS_SECONDS], []),
        ([IN_PROCESS_SECONDS + 1], ["local"]),
        ([float("inf")], ["local"]),
        ([6.0, 6.0, 0.1], ["local"]),  # together too much; a cluster that runs is used
    ],
)
def test_auto_goes_by_the_announced_work(connected, works, started):
    told = []
    with Deferred("auto", told.append) as executor:
        for seconds in works:
            assert run(executor, seconds) == [1, 2]
    assert connected == started
    assert len(told) == len({type(one) for one in told})


@pytest.mark.parametrize("name", ["local", "serial", "tcp://127.0.0.1:1"])
def test_a_cluster_that_is_named_is_used_for_the_least_work(connected, name):
    with Deferred(name) as executor:
        run(executor, 0.0)
    assert connected == [name]


def test_a_bundle_goes_to_every_executor_that_is_used(connected, monkeypatch):
    provided = []
    monkeypatch.setattr(SerialExecutor, "provide", lambda self, *model: provided.append((type(self), *model)))
    with Deferred("auto") as executor:
        executor.provide(b"model", "digest", "fp32")
        for seconds in (1.0, 1.0, 100.0, 1.0):
            run(executor, seconds)
    assert provided == [(kind, b"model", "digest", "fp32") for kind in (SerialExecutor, Cluster)]


def test_a_command_over_a_small_archive_starts_no_cluster(tmp_path, connected):
    folder = write_night(tmp_path / "night", 3)
    tiny_bundle().save(tmp_path / "m.safetensors")
    words = ["run", folder, tmp_path / "a.zarr", "--model", tmp_path / "m.safetensors", "--chunk", 64]
    done = CliRunner().invoke(aqdask, [*map(str, words), "--frames-per-shard", "4"])
    assert done.exit_code == 0, done.output
    assert connected == []
    assert done.output.count("in this process, since it is little work (--cluster local starts workers)") == 1
    aq.ingest(folder, tmp_path / "b.zarr", cluster="serial", **OPTIONS)
    aq.score(tmp_path / "b.zarr", tmp_path / "m.safetensors", cluster="serial")
    same_bytes(tmp_path / "a.zarr", tmp_path / "b.zarr")


def test_workers_are_started_where_the_last_command_was_killed(tmp_path, connected):
    """A frame that kills the process is quarantined by the second command, whose workers it kills."""
    folder = write_night(tmp_path / "night", 3)
    archive = tmp_path / "a.zarr"
    aq.ingest(folder, archive, cluster="serial", **OPTIONS)
    tiny_bundle().save(tmp_path / "m.safetensors")
    about = json.loads(Lease(archive)._contents())
    (archive / NAME).write_text(json.dumps(about | {"pid": 2**22 - 1, "token": "of a killed process"}))
    done = CliRunner().invoke(aqdask, ["score", str(archive), "--model", str(tmp_path / "m.safetensors")])
    assert done.exit_code == 0, done.output
    assert connected[-1] == "local"


@pytest.mark.parametrize("stage", list(work_estimate.COSTS))
def test_a_night_of_large_frames_is_never_little_work(stage):
    assert work_estimate.seconds(stage, 12, (130, 200)) < IN_PROCESS_SECONDS
    assert work_estimate.seconds(stage, 600, (4096, 4096)) > IN_PROCESS_SECONDS
