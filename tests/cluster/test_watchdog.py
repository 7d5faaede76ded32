"""Workers that hang, that are gone, or that have other versions than the client."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster

from aqdask.errors import ClusterError, FrameTimeout
from aqdask.execution import config, worker
from aqdask.execution.executors import DaskExecutor, WorkQueue
from aqdask.execution.pipeline import blame, collect
from aqdask.execution.versions import difference, versions

pytestmark = pytest.mark.cluster


def hang_on_three(numbers):
    """A read that never ends: no Python code runs, and no signal reaches it."""
    for number in numbers:
        with worker.at_work(str(number)):
            if number == 3:
                ctypes.CDLL(None).pause()
    return [2 * number for number in numbers]


def slow(numbers):
    time.sleep(0.3)
    return numbers


def crash_on_three(numbers):
    if 3 in numbers:
        os.kill(os.getpid(), 11)
    return [2 * number for number in numbers]


@pytest.fixture
def settings(forked):
    with (
        dask.config.set(config.get("dask")),
        dask.config.set(forked),
        dask.config.set({"aqdask.frame-timeout": "2 s", "aqdask.worker-timeout": "60 s"}),
    ):
        yield


@pytest.fixture
def impatient(settings):
    """Soon give up when there are no workers; a worker of a busy machine takes longer to come back."""
    with dask.config.set({"aqdask.worker-timeout": "3 s"}):
        yield


def answers(executor, function, parts):
    failed = {}

    def note(number, error):
        failed[number] = blame(error)
        return None

    found = {}
    for part, results in collect(executor, function, parts, stage="test", failed=note):
        found.update(zip(part, results, strict=True))
    return found, failed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_frame_that_hangs_is_named_and_the_others_are_done(settings, workers):
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        before = time.monotonic()
        found, failed = answers(DaskExecutor(client), hang_on_three, [[1, 2, 3, 4], [5, 6]])
        assert found == {1: 2, 2: 4, 3: None, 4: 8, 5: 10, 6: 12}
        assert list(failed) == [3]
        assert "aqdask.frame-timeout" in failed[3]
        assert time.monotonic() - before < 60
        client.wait_for_workers(workers, timeout=60)  # the worker that hung is free again


def test_a_thing_that_kills_its_worker_is_found_by_halving(settings):
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        found, failed = answers(DaskExecutor(client), crash_on_three, [[1, 2, 3, 4]])
    assert {number: found[number] for number in (1, 2, 4)} == {1: 2, 2: 4, 4: 8}
    assert list(failed) == [3]
    assert "KilledWorker" in failed[3]


def test_no_worker_at_all_is_told_and_ends_with_a_message(impatient, caplog):
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        before = time.monotonic()
        with pytest.raises(ClusterError, match="all workers are gone, and for 3 s none has come"):
            list(DaskExecutor(client).run(slow, WorkQueue([[1]]), stage="test"))
        assert time.monotonic() - before < 20
    assert caplog.text.count("warning: all workers are gone; the run waits for others") == 1


def test_workers_that_are_gone_for_good_in_mid_run_end_it(impatient):
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        threading.Timer(1.0, lambda: cluster.scale(0)).start()
        with pytest.raises(ClusterError, match="all workers are gone"):
            list(DaskExecutor(client).run(slow, WorkQueue([n] for n in range(1000)), stage="test"))


def test_workers_that_come_back_in_time_go_on(settings):
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        threading.Timer(0.5, lambda: cluster.scale(0)).start()
        threading.Timer(2.0, lambda: cluster.scale(1)).start()
        done = list(DaskExecutor(client).run(slow, WorkQueue([n] for n in range(10)), stage="test"))
        assert sorted(item[0] for item, _ in done) == list(range(10))


# --- versions -------------------------------------------------------------------------------------------


def pretend(number: str) -> None:
    """Another version of numpy, as far as this process says."""
    import numpy

    numpy.__version__ = number
    versions.cache_clear()


def test_workers_of_another_version_are_refused_by_name(settings):
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        other = sorted(client.scheduler_info()["workers"])[0]
        client.run(pretend, "1.26.0", workers=[other])
        with pytest.raises(ClusterError, match=rf"{other} has numpy 1\.26\.0 \(here "):
            DaskExecutor(client)


def test_a_late_joiner_of_another_version_gets_no_work(settings, caplog):
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        executor = DaskExecutor(client)
        cluster.scale(2)
        client.wait_for_workers(2, timeout=60)
        first = {item["id"] for item in [{"id": address} for address in client.scheduler_info()["workers"]]}
        late = sorted(first)[-1]
        client.run(pretend, "1.26.0", workers=[late])
        done = list(executor.run(slow, WorkQueue([n] for n in range(12)), stage="test"))
        assert sorted(item[0] for item, _ in done) == list(range(12))
        assert all(not isinstance(result, Exception) for _, result in done)
        assert f"the worker {late} has numpy 1.26.0" in caplog.text


def test_a_worker_without_aqdask_is_refused_by_name(settings, tmp_path):
    """A worker process of its own whose Python finds no aqdask."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'aqdask':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        path = os.pathsep.join([str(tmp_path), str(Path(worker.__file__).parents[2])])
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            cluster.scheduler_address,
            "--no-nanny",
        ]
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            client.wait_for_workers(1, timeout=60)
            with pytest.raises(ClusterError, match="has aqdask missing"):
                DaskExecutor(client)
        finally:
            process.kill()
            process.wait()


def test_versions_differ_by_what_decides_about_numbers():
    here = {"aqdask": "1.0", "numpy": "2.4.6", "torch": "2.13.0"}
    assert difference(here, here) == ""
    assert difference({**here, "torch": "2.6.0"}, here) == "torch 2.6.0 (here 2.13.0)"
    assert difference({"numpy": "2.4.6"}, here) == "aqdask missing (here 1.0), torch missing (here 2.13.0)"


# --- without Dask ---------------------------------------------------------------------------------------


def test_in_a_process_of_its_own_an_alarm_ends_what_hangs(tmp_path):
    code = (
        "import time, dask\n"
        "from aqdask.execution import worker\n"
        "from aqdask.errors import FrameTimeout\n"
        "with dask.config.set({'aqdask.frame-timeout': '0.5 s'}):\n"
        "    try:\n"
        "        with worker.at_work('a.fits'):\n"
        "            time.sleep(30)\n"
        "    except FrameTimeout as error:\n"
        "        print(error.subject)\n"
        "    with worker.at_work('b.fits'):\n"
        "        pass\n"
        "time.sleep(1)\n"
        "print('quiet')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["a.fits", "quiet"], done.stderr


def test_a_timeout_travels():
    import pickle

    error = pickle.loads(pickle.dumps(FrameTimeout("a.fits", 601.0)))
    assert (error.subject, str(error)) == ("a.fits", "no end after 601 s (aqdask.frame-timeout)")
