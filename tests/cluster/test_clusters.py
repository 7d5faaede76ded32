"""Connecting to clusters, what stands on their workers, and how tasks are fed to them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import pytest
from click.testing import CliRunner
from distributed import Client
from distributed.utils import key_split

import aqdask as aq
from aqdask.cli.main import aqdask
from aqdask.errors import ClusterError, ModelError, UsageError
from aqdask.execution import clusters
from aqdask.execution.clusters import connect
from aqdask.execution.executors import DaskExecutor, SerialExecutor, WorkQueue
from aqdask.execution.model_cache import ModelPlugin, cached_scorer, plugin_name

pytestmark = pytest.mark.cluster
FOUR = r".*Expected: .*\. What to do: "


def double(number: int) -> int:
    return 2 * number


def slow_double(number: int) -> int:
    time.sleep(0.02)
    return 2 * number


def results(executor, count: int, function=double, stage: str = "ingest") -> list[int]:
    """``count`` tasks; asserts that each result belongs to its item."""
    pairs = list(executor.run(function, WorkQueue(range(count)), stage=stage))
    assert all(result == 2 * item for item, result in pairs)
    return sorted(item for item, _ in pairs)


# -- connect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", ["serial", None])
def test_this_process_without_dask(cluster):
    with connect(cluster) as executor:
        assert isinstance(executor, SerialExecutor)
        assert executor.dashboard == ""
        assert results(executor, 3) == [0, 1, 2]


def test_none_takes_the_current_client(pool):
    with Client(pool.scheduler_address), connect() as executor:
        assert isinstance(executor, DaskExecutor)
        assert results(executor, 3) == [0, 1, 2]


@pytest.mark.parametrize("cluster", ["serial", None])
def test_an_error_inside_passes_through(cluster):
    with pytest.raises(ValueError, match="of the body"), connect(cluster):
        raise ValueError("of the body")


@pytest.mark.slow
def test_a_local_cluster_has_the_settings_of_aqdask_and_ends_with_the_context():
    before = dask.config.get("distributed.worker.memory.target")
    with connect("local:1") as executor:
        assert executor.slots == 1
        assert executor.dashboard.startswith("http://127.0.0.1:")
        assert results(executor, 5) == [0, 1, 2, 3, 4]
        spill = executor.client.run(lambda: dask.config.get("distributed.worker.memory.spill"))
        threads = executor.client.run(lambda: os.environ["OMP_NUM_THREADS"])
        arenas = executor.client.run(lambda: os.environ["MALLOC_ARENA_MAX"])
        assert (*spill.values(), *threads.values(), *arenas.values()) == (False, "1", "1")
        address = executor.client.scheduler.address
    assert dask.config.get("distributed.worker.memory.target") == before
    with pytest.raises(OSError, match=r"[Tt]imed out"):
        Client(address, timeout=1)


def test_an_address_is_used_and_left_running(pool):
    for _ in range(2):
        with connect(pool.scheduler_address) as executor:
            assert executor.slots == 4
            assert results(executor, 20) == list(range(20))


@pytest.mark.slow
def test_scheduler_and_workers_as_programs_of_their_own(tmp_path):
    """A worker that comes after the client is waited for; one that comes later still gets tasks."""
    place = tmp_path / "scheduler.json"
    common = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = [*common, "scheduler", "--scheduler-file", place, "--port", "0", "--host", "127.0.0.1"]
    worker = [*common, "worker", "--scheduler-file", place, "--nthreads", "1", "--host", "127.0.0.1"]
    started = [subprocess.Popen([*scheduler, "--dashboard-address", ":0"], **quiet)]
    try:
        while not (place.exists() and place.stat().st_size):
            assert started[0].poll() is None
            time.sleep(0.05)
        address = re.search(r"tcp://[\d.:]+", place.read_text()).group()
        later = threading.Timer(1.0, lambda: started.append(subprocess.Popen(worker, **quiet)))
        later.start()
        with connect(address) as executor:
            assert executor.slots == 1
            done = 0
            for _ in executor.run(time.sleep, WorkQueue([0.02] * 2000), stage="score"):
                done += 1
                if done == 1:
                    started.append(subprocess.Popen(worker, **quiet))
                if executor.slots == 2:
                    break
            assert done < 2000
            assert results_of_builtin(executor) == [1] * 20
        later.join()
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(20)


def results_of_builtin(executor) -> list[int]:
    """A function that workers know without this file."""
    return [result for _, result in executor.run(abs, WorkQueue([-1] * 20), stage="score")]


@pytest.mark.parametrize("cluster", ["slrum", "local:0", "local:two", "local:-1", "127.0.0.1:8786"])
def test_no_such_cluster(cluster):
    with pytest.raises(UsageError, match=f"--cluster {cluster}.*Expected: "), connect(cluster):
        pass


def test_a_scheduler_that_does_not_answer():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        started = time.monotonic()
        with (
            dask.config.set({"aqdask.connect-timeout": "1 s"}),
            pytest.raises(ClusterError, match=f"{address} does not answer{FOUR}"),
            connect(address),
        ):
            pass
    assert time.monotonic() - started < 10


def test_a_scheduler_without_workers(scheduler):
    with (
        dask.config.set({"aqdask.worker-timeout": "1 s"}),
        pytest.raises(ClusterError, match=f"provided no worker within 1 s{FOUR}"),
        connect(scheduler.scheduler_address),
    ):
        pass


def test_jobs_that_ended_are_not_waited_for(scheduler, monkeypatch):
    monkeypatch.setattr(clusters, "LOOK_EVERY", 0.2)
    answers = iter([False, True])
    with (
        Client(scheduler.scheduler_address) as client,
        pytest.raises(ClusterError, match=f"provided no worker before its jobs ended{FOUR}"),
    ):
        clusters._with_workers(client, "slurm", lambda: next(answers))


def test_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ClusterError, match=f"no NVIDIA GPU{FOUR}"), connect("cuda"):
        pass


# -- replicas -----------------------------------------------------------------------------------------------


class SetupFails(ModelPlugin):
    """As on a new worker whose plugin could not be set up: Dask logs that and lets the worker join."""

    async def setup(self, worker) -> None:
        raise RuntimeError("the plugin's setup failed")


def which_replica(digest: str) -> tuple[int, int]:
    """Process and identity of the cached_scorer that a task gets."""
    time.sleep(0.05)
    return os.getpid(), id(cached_scorer(digest))


def test_one_replica_a_process_however_often_it_is_provided(pool, bundle):
    with connect(pool.scheduler_address) as executor:
        for _ in range(3):
            executor.provide(bundle.contents, bundle.digest)
        tasks = executor.run(which_replica, WorkQueue([bundle.digest] * 40), stage="score")
        found = {result for _, result in tasks}
        assert len(found) == len({process for process, _ in found}) == 2
        plugins = executor.client.run(lambda dask_worker: [str(name) for name in dask_worker.plugins])
        assert all(names.count(plugin_name(bundle.digest)) == 1 for names in plugins.values())


def test_a_worker_that_comes_later_has_the_model(scheduler, bundle):
    scheduler.scale(1)
    with connect(scheduler.scheduler_address) as executor:
        executor.provide(bundle.contents, bundle.digest)
        scheduler.scale(2)
        executor.client.wait_for_workers(2, timeout=60)
        assert len(executor.client.run(which_replica, bundle.digest)) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_a_worker_whose_plugin_failed_loads_the_model_or_fails_loudly(scheduler, bundle, whole):
    data = bundle.contents if whole else bundle.contents[:-10]
    with Client(scheduler.scheduler_address) as client:
        client.register_plugin(SetupFails(data, bundle.digest))
        scheduler.scale(1)
        client.wait_for_workers(1, timeout=60)
        if whole:
            (process, _), (same, _) = client.gather(
                [client.submit(which_replica, bundle.digest, pure=False) for _ in range(2)]
            )
            assert process == same != os.getpid()
        else:
            with pytest.raises(ModelError, match="cannot be read"):
                client.submit(which_replica, bundle.digest).result()


def test_a_worker_without_the_model_says_so(pool):
    with connect(pool.scheduler_address) as executor:
        ((_, result),) = executor.run(cached_scorer, WorkQueue(["0" * 64]), stage="score")
    assert isinstance(result, ModelError)
    assert re.search(f"has no model 00000000{FOUR}", str(result))


# -- feeding ------------------------------------------------------------------------------------------------


def on_scheduler(executor, what: str) -> list[str]:
    """Names of the scheduler's tasks or of groups of tasks."""
    return executor.client.run_on_scheduler(
        lambda dask_scheduler: [str(name) for name in getattr(dask_scheduler, what)]
    )


def wait_for_no_tasks(executor) -> None:
    """Wait until the scheduler has forgotten all tasks, which it does some time after their results."""
    deadline = time.monotonic() + 60
    while on_scheduler(executor, "tasks"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def unfinished(dask_scheduler) -> int:
    """Tasks that are not results yet; a result stays until the client has let go of it."""
    states = [task.state for task in dask_scheduler.tasks.values()]
    assert len(states) < 100
    return sum(state not in ("memory", "released", "forgotten") for state in states)


def test_tasks_are_grouped_by_stage(pool):
    with connect(pool.scheduler_address) as executor:
        for stage in ("ingest", "score"):
            wait_for_no_tasks(executor)
            run = executor.run(slow_double, WorkQueue(range(30)), stage=stage)
            next(run)
            names = on_scheduler(executor, "tasks")
            assert names
            assert {key_split(name) for name in names} == {stage}
            assert len({name.rpartition("-")[0] for name in names}) == len(names)  # score-000012-...
            assert {stage} == set(on_scheduler(executor, "task_groups"))
            list(run)
        assert {"ingest", "score"} <= set(on_scheduler(executor, "task_prefixes"))


@pytest.mark.parametrize("window", [1, 3])
def test_never_more_tasks_than_the_window(pool, window):
    returned = most = 0
    taken = []
    supply = (taken.append(number) or number for number in range(200))

    with dask.config.set({"aqdask.window": window}), connect(pool.scheduler_address) as executor:
        limit = window * executor.slots
        for _ in executor.run(slow_double, WorkQueue(supply), stage="score"):
            returned += 1
            assert len(taken) - returned < limit
            if returned % 10 == 0:
                most = max(most, executor.client.run_on_scheduler(unfinished))
        assert returned == 200
        assert 0 < most <= limit


def test_a_run_that_is_left_leaves_no_tasks(pool):
    with connect(pool.scheduler_address) as executor:
        run = executor.run(slow_double, WorkQueue(range(1000)), stage="score")
        next(run)
        run.close()
        wait_for_no_tasks(executor)


def test_an_exception_is_a_result(pool):
    with connect(pool.scheduler_address) as executor:
        ((item, result),) = executor.run(len, WorkQueue([7]), stage="score")
    assert item == 7
    assert isinstance(result, TypeError)


# -- the whole line -----------------------------------------------------------------------------------------


def contents(archive: Path) -> dict[str, bytes]:
    """Every file under ``frames/`` and ``quality/``."""
    files = (path for part in ("frames", "quality") for path in (archive / part).rglob("*") if path.is_file())
    return {str(path.relative_to(archive)): path.read_bytes() for path in files}


def test_the_command_prints_the_dashboard_and_gives_the_bytes_of_a_serial_run(pool, night, bundle, tmp_path):
    model = tmp_path / "m.safetensors"
    bundle.save(model)
    aq.ingest(night, tmp_path / "serial.zarr", cluster="serial")
    aq.score(tmp_path / "serial.zarr", model, cluster="serial")
    arguments = ["run", str(night), str(tmp_path / "dask.zarr"), "--model", str(model)]
    done = CliRunner().invoke(aqdask, [*arguments, "--cluster", pool.scheduler_address])
    assert done.exit_code == 0, done.output
    assert re.search(r"dashboard: http://127\.0\.0\.1:\d+/aqdask", done.output)
    assert contents(tmp_path / "dask.zarr") == contents(tmp_path / "serial.zarr") != {}
