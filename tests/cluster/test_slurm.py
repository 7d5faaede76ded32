"""The whole line over a real Slurm: through dask-jobqueue, and inside one allocation."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import yaml

import aqdask as aq
from aqdask.errors import ClusterError, UsageError
from aqdask.execution.clusters import connect
from aqdask.execution.executors import DaskExecutor, WorkQueue

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
ONE_NODE = ROOT / "cluster" / "slurm-one-node.yaml"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module", autouse=True)
def _slurm(require) -> None:
    pytest.importorskip("dask_jobqueue")
    require(shutil.which("sinfo"), "no Slurm here (no sinfo)")
    try:
        answer = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        require(False, "Slurm does not answer (sinfo)")
    require(answer.returncode == 0, f"Slurm does not answer: {answer.stderr.strip()}")


@pytest.fixture
def _no_job_left(tmp_path, monkeypatch) -> Iterator[None]:
    """Run in a folder of its own; afterwards no job of this test is waiting or running."""
    monkeypatch.chdir(tmp_path)
    before = jobs()
    yield
    deadline = time.monotonic() + 30
    while (left := jobs() - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


def jobs() -> set[str]:
    """Jobs that wait or run, and those that are still ending."""
    return set(subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True).stdout.split())


def contents(archive: Path) -> dict[str, bytes]:
    """Every file under ``frames/`` and ``quality/``."""
    files = (path for part in ("frames", "quality") for path in (archive / part).rglob("*") if path.is_file())
    return {str(path.relative_to(archive)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def model(bundle, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    bundle.save(path)
    return path


@pytest.fixture(scope="module")
def frames(request, night) -> Path:
    """The 24 real frames where they are, else small simulated ones."""
    folder = Path(os.environ.get("AQDASK_TEST_DATA", "../shared/data"))
    real = (folder if folder.is_absolute() else ROOT / folder) / "bsu_2022yid"
    return real if real.is_dir() else night


@pytest.fixture(scope="module")
def serial(frames, model, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of the frames."""
    archive = tmp_path_factory.mktemp("serial") / "a.zarr"
    (summary,) = aq.ingest(frames, archive, cluster="serial")
    assert (summary.pending, summary.quarantined) == (0, 0)
    aq.score(archive, model, cluster="serial")
    return contents(archive)


def settings(path: Path, **changes) -> Path:
    """A copy of cluster/slurm-one-node.yaml with other jobqueue settings."""
    loaded = yaml.safe_load(ONE_NODE.read_text())
    del loaded["aqdask"]["slurm"]
    loaded["jobqueue"]["slurm"] |= changes
    path.write_text(yaml.safe_dump(loaded))
    return path


def aqdask(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it."""
    return subprocess.run([BIN / "aqdask", *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.mark.usefixtures("_no_job_left")
def test_ingest_and_score_over_two_jobs(frames, model, serial, tmp_path):
    archive, where = tmp_path / "a.zarr", ("--cluster", f"slurm:{ONE_NODE}")
    for command in (("ingest", frames, archive), ("score", archive, "--model", model)):
        done = aqdask(*command, *where)
        assert done.returncode == 0, done.stderr
        assert "dashboard: http://127.0.0.1:" in done.stderr + done.stdout
        assert "0 quarantined, 0 pending" in done.stdout
    assert contents(archive) == serial != {}
    assert len(list((tmp_path / "slurm-logs").glob("*.out"))) == 4  # two jobs a command


@pytest.mark.usefixtures("_no_job_left")
def test_a_fused_run_through_the_api(frames, model, serial, tmp_path):
    (summary,) = aq.run(frames, tmp_path / "a.zarr", model, cluster=f"slurm:{ONE_NODE}")
    assert (summary.pending, summary.quarantined) == (0, 0)
    assert contents(tmp_path / "a.zarr") == serial


def sbatch(*command: str | Path, tasks: int) -> tuple[int, str]:
    """Run cluster/aqdask.sbatch with ``command``; its exit code and what it wrote."""
    environment = {"AQDASK_NETWORK": "--host 127.0.0.1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    options = ["--parsable", f"--ntasks={tasks}", "--time=10", "--output=log"]
    script = ROOT / "cluster" / "aqdask.sbatch"
    call = ["sbatch", *options, script, *map(str, command)]
    submitted = subprocess.run(call, capture_output=True, text=True, check=True, env=os.environ | environment)
    job, deadline = submitted.stdout.strip(), time.monotonic() + 300
    while job in jobs():  # `sbatch --wait` looks far less often
        assert time.monotonic() < deadline, Path("log").read_text()
        time.sleep(0.5)
    about = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
    return int(re.search(r"ExitCode=(\d+):", about).group(1)), Path("log").read_text()


@pytest.mark.usefixtures("_no_job_left")
def test_one_allocation_with_scheduler_and_workers(frames, model, serial, tmp_path):
    code, log = sbatch("run", frames, tmp_path / "a.zarr", "--model", model, tasks=2)
    assert code == 0, log
    assert "0 quarantined, 0 pending" in log
    assert "dashboard: http://127.0.0.1:" in log
    assert contents(tmp_path / "a.zarr") == serial
    assert not list(tmp_path.glob(".aqdask-*"))


@pytest.mark.usefixtures("_no_job_left")
def test_the_allocation_ends_with_the_exit_code_of_the_command():
    code, log = sbatch("info", "no.zarr", tasks=1)
    assert code == aqdask("info", "no.zarr", "--cluster", "serial").returncode != 0, log
    assert "What to do: " in log


@pytest.mark.usefixtures("_no_job_left")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": "nosuch"}, "could not be started: sbatch: error: .*invalid partition.*What to do"),
        ({"memory": None}, "could not be started: jobqueue.slurm.memory is not set.*What to do"),
        ({"python": "/nonexistent/python"}, "provided no worker before its jobs ended.*slurm-.*out"),
    ],
    ids=["refused", "incomplete", "job fails"],
)
def test_jobs_that_cannot_start_end_in_a_paragraph_and_not_in_waiting(night, tmp_path, changes, message):
    path = settings(tmp_path / "slurm.yaml", **changes)
    started = time.monotonic()
    with pytest.raises(ClusterError, match=message):
        aq.ingest(night, tmp_path / "a.zarr", cluster=f"slurm:{path}")
    assert time.monotonic() - started < 40


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ("[1", "is not YAML"), ("- 1", "holds no settings")],
)
def test_a_file_that_holds_no_settings(night, tmp_path, text, message):
    path = tmp_path / "slurm.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=f"{message}.*Expected: .*What to do: "):
        aq.ingest(night, tmp_path / "a.zarr", cluster=f"slurm:{path}")


@pytest.mark.usefixtures("_no_job_left")
@pytest.mark.parametrize(
    ("jobs_asked", "shape"),
    [(2, {}), (1, {"cores": 2, "processes": 2})],
    ids=["two jobs", "one job of two workers"],
)
def test_lost_jobs_are_replaced_and_the_run_completes(tmp_path, jobs_asked, shape):
    path = settings(tmp_path / "slurm.yaml", **shape)
    with dask.config.set({"aqdask.slurm.jobs": jobs_asked}), connect(f"slurm:{path}") as executor:
        executor.client.wait_for_workers(2, timeout=60)
        first = set(executor.client.run(os.getenv, "SLURM_JOB_ID").values())
        spill = executor.client.run(os.getenv, "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL")
        assert len(first) == jobs_asked
        assert set(spill.values()) == {"False"}
        subprocess.run(["scancel", *first], check=True)
        while jobs() & first:
            time.sleep(0.2)
        tasks = executor.run(os.getenv, WorkQueue(["SLURM_JOB_ID"] * 20), stage="score")
        seen = {result for _, result in tasks}
        assert seen
        assert not seen & first


# -- loss, preemption, walltime ------------------------------------------------------------------------------


def scontrol(*words: str) -> None:
    subprocess.run(["scontrol", *words], check=True, capture_output=True)


@contextlib.contextmanager
def two_jobs(tmp_path: Path, **changes) -> Iterator[DaskExecutor]:
    """An executor whose two workers are jobs that have started."""
    path = settings(tmp_path / "slurm.yaml", **changes)
    with dask.config.set({"aqdask.slurm.jobs": 2}), connect(f"slurm:{path}") as executor:
        executor.client.wait_for_workers(2, timeout=60)
        yield executor


def job_ids(executor: DaskExecutor) -> set[str]:
    return set(executor.client.run(os.getenv, "SLURM_JOB_ID").values())


def results(executor: DaskExecutor, count: int) -> list:
    return [
        result for _, result in executor.run(os.getenv, WorkQueue(["SLURM_JOB_ID"] * count), stage="score")
    ]


@pytest.mark.usefixtures("_no_job_left")
def test_one_of_two_jobs_is_cancelled_in_mid_run_and_replaced(frames, model, serial, tmp_path):
    archive = tmp_path / "a.zarr"
    with two_jobs(tmp_path) as executor:
        first = job_ids(executor)
        victim = min(first)
        threading.Timer(1.0, lambda: subprocess.run(["scancel", victim], check=True)).start()
        (summary,) = aq.run(frames, archive, model, cluster=executor)
        executor.client.wait_for_workers(2, timeout=60)
        assert victim not in job_ids(executor) != first
    assert (summary.pending, summary.quarantined) == (0, 0)
    assert contents(archive) == serial


@pytest.mark.usefixtures("_no_job_left")
def test_preempted_jobs_come_back_when_the_urgent_one_is_done(frames, model, serial, tmp_path):
    archive = tmp_path / "a.zarr"
    urgent = ["sbatch", "-p", "urgent", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 5"]
    with two_jobs(tmp_path) as executor:
        subprocess.run(urgent, check=True, capture_output=True)
        deadline = time.monotonic() + 60
        while executor.client.nthreads():  # Slurm takes both cores back
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (summary,) = aq.run(frames, archive, model, cluster=executor)
    assert (summary.pending, summary.quarantined) == (0, 0)
    assert contents(archive) == serial


@pytest.mark.usefixtures("_no_job_left")
def test_workers_leave_before_the_walltime_and_new_jobs_take_their_place(tmp_path):
    """A run of three lifetimes: no task is lost, and none is blamed."""
    extra = ["--host", "127.0.0.1", "--lifetime", "8s", "--lifetime-stagger", "1s"]
    seen: set[str] = set()

    def slow_job_id(number: int) -> str:  # nested, so that workers without this file know it
        time.sleep(0.3)
        return os.environ["SLURM_JOB_ID"]

    with two_jobs(tmp_path, walltime="00:01:00", **{"worker-extra-args": extra}) as executor:
        done = 0
        for _, result in executor.run(slow_job_id, WorkQueue(range(80)), stage="score"):
            assert isinstance(result, str)
            done, seen = done + 1, seen | {result}
    assert done == 80
    assert len(seen) > 2


@pytest.mark.usefixtures("_no_job_left")
@pytest.mark.parametrize("state", ["DOWN", "INACTIVE"])
def test_all_workers_lost_while_replacements_wait_or_are_refused(tmp_path, state):
    """In a partition that is down jobs wait, and so does the run; an inactive one refuses them."""
    with two_jobs(tmp_path) as executor, dask.config.set({"aqdask.worker-timeout": "4 s"}):
        scontrol("update", "PartitionName=debug", f"State={state}")
        back = threading.Timer(12.0, scontrol, ("update", "PartitionName=debug", "State=UP"))
        try:
            subprocess.run(["scancel", *job_ids(executor)], check=True)
            while executor.client.nthreads():
                time.sleep(0.1)
            back.start()
            started = time.monotonic()
            if state == "DOWN":
                assert len(results(executor, 5)) == 5
                assert time.monotonic() - started > 10
            else:
                with pytest.raises(ClusterError, match=r"all workers are gone.*run the same command again"):
                    results(executor, 5)
                assert time.monotonic() - started < 12
        finally:
            back.cancel()
            scontrol("update", "PartitionName=debug", "State=UP")


@pytest.mark.usefixtures("_no_job_left")
def test_the_file_for_real_clusters_runs_as_far_as_one_node_allows(frames, model, serial, tmp_path):
    """cluster/slurm.yaml with fewer and smaller jobs, and the addresses of a node without a network."""
    loaded = yaml.safe_load((ROOT / "cluster" / "slurm.yaml").read_text())
    loaded["aqdask"]["slurm"]["jobs"] = 2
    given = loaded["jobqueue"]["slurm"]
    given |= {"cores": 1, "processes": 1, "memory": "2 GiB", "scheduler-options": {"host": "127.0.0.1"}}
    given["worker-extra-args"] += ["--host", "127.0.0.1"]
    path = tmp_path / "slurm.yaml"
    path.write_text(yaml.safe_dump(loaded))
    scontrol("create", f"PartitionName={given['queue']}", "Nodes=ALL")
    try:
        done = aqdask("run", frames, tmp_path / "a.zarr", "--model", model, "--cluster", f"slurm:{path}")
    finally:
        scontrol("delete", f"PartitionName={given['queue']}")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "a.zarr") == serial


@pytest.mark.usefixtures("_no_job_left")
def test_connections_are_encrypted_and_pages_are_private(tmp_path):
    def listening() -> set[str]:  # nested, so that workers without this file know it
        import psutil

        return {one.laddr.ip for one in psutil.Process().net_connections() if one.status == "LISTEN"}

    with dask.config.set({"aqdask.tls": "temporary"}), two_jobs(tmp_path) as executor:
        keys = list(tmp_path.glob(".dask-jobqueue.worker.*"))
        assert keys
        assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
        assert executor.client.scheduler.address.startswith("tls://127.0.0.1:")
        assert all(worker.startswith("tls://") for worker in executor.client.nthreads())
        assert len(results(executor, 4)) == 4
        assert set().union(*executor.client.run(listening).values()) == {"127.0.0.1"}
    assert not any(key.exists() for key in keys)
