"""The whole line over a real Slurm: through dask-jobqueue, and inside one allocation."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import pytest
import yaml
from live import fetched, started, watched
from night import write_night

import aqdask as aq
from aqdask.errors import ClusterError, UsageError
from aqdask.execution import config, watchdog
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
def test_ingest_and_score_over_two_jobs_with_a_live_page(frames, model, serial, tmp_path, monkeypatch):
    archive, where = tmp_path / "a.zarr", ("--cluster", f"slurm:{ONE_NODE}")
    done = aqdask("ingest", frames, archive, *where)
    assert done.returncode == 0, done.stderr
    assert "dashboard: http://127.0.0.1:" in done.stderr + done.stdout
    assert "0 quarantined, 0 pending" in done.stdout
    faulty(monkeypatch, "sleep=0.5 image/c/")  # so that the page can be looked at
    process, seen, metrics = started(list(map(str, ("score", archive, "--model", model, *where)))), [], ""
    with process:
        for address in watched(process):
            with contextlib.suppress(OSError):  # the command has just ended
                seen.append(json.loads(fetched(f"{address}.json")))
                metrics = fetched(address.replace("/aqdask", "/metrics"))
    assert process.returncode == 0
    assert contents(archive) == serial != {}
    assert len(list((tmp_path / "slurm-logs").glob("*.out"))) == 4  # two jobs a command
    both = [page["workers"] for page in seen if sum(w["tasks"] > 0 for w in page["workers"]) == 2]
    assert len({worker["name"] for worker in both[-1]}) == 2
    assert all(worker["memory_bytes"] > 0 for worker in both[-1])
    counts = [run["done"] for page in seen for run in page["runs"] if run["stage"] == "score"]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert 'aqdask_done_total{command="score",stage="score"' in metrics


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
    code, log = sbatch("verify", "no.zarr", tasks=1)
    assert code == aqdask("verify", "no.zarr", "--cluster", "serial").returncode != 0, log
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
def test_a_lost_job_of_two_workers_is_replaced_and_the_run_completes(tmp_path):
    path = settings(tmp_path / "slurm.yaml", cores=2, processes=2)
    with dask.config.set({"aqdask.slurm.jobs": 1}), connect(f"slurm:{path}") as executor:
        executor.client.wait_for_workers(2, timeout=60)
        first = set(executor.client.run(os.getenv, "SLURM_JOB_ID").values())
        spill = executor.client.run(os.getenv, "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL")
        assert len(first) == 1
        assert set(spill.values()) == {"False"}
        assert set(executor.client.run(os.getenv, "MALLOC_ARENA_MAX").values()) == {"1"}
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


def faulty(monkeypatch, fault: str) -> None:
    """Let jobs that are submitted from now on have a fault of benchmarks/faults/sitecustomize.py."""
    path = os.pathsep.join([str(ROOT / "benchmarks/faults"), str(ROOT)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("AQDASK_FAULT", fault)


@pytest.fixture
def _slow(monkeypatch) -> None:
    """Let workers take a second for each frame, so that a run can be caught in the middle."""
    faulty(monkeypatch, "sleep=1 .fits read_frame")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Twenty small frames."""
    return write_night(tmp_path_factory.mktemp("many"), 20)


@pytest.fixture(scope="module")
def many_serial(many, model, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of them."""
    archive = tmp_path_factory.mktemp("many serial") / "a.zarr"
    aq.run(many, archive, model, cluster="serial")
    return contents(archive)


@contextlib.contextmanager
def in_mid_run(archive: Path, strike: Callable[[], object]) -> Iterator[None]:
    """Call a function once maps are stored while the context runs; what it raises is raised at the end."""

    over = threading.Event()

    def wait_and_strike() -> None:
        while not list(archive.glob("quality/*/pvalue/c/*")):
            assert not over.wait(0.05), "the run has ended before"
        strike()

    with ThreadPoolExecutor(1) as pool:
        struck = pool.submit(wait_and_strike)
        try:
            yield
        finally:
            over.set()
        struck.result(timeout=0)  # not after the run


def until_alone(executor: DaskExecutor) -> None:
    deadline = time.monotonic() + 60
    while executor.client.nthreads():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_same(summary: aq.Summary, archive: Path, expected: dict[str, bytes]) -> None:
    assert (summary.pending, summary.quarantined) == (0, 0)
    assert contents(archive) == expected
    assert aq.verify(archive, cluster="serial").sound


@pytest.mark.usefixtures("_no_job_left", "_slow")
def test_one_of_two_jobs_is_cancelled_in_mid_run_and_replaced(many, model, many_serial, tmp_path):
    archive = tmp_path / "a.zarr"
    with two_jobs(tmp_path) as executor:
        first = job_ids(executor)
        victim = min(first)
        with in_mid_run(archive, lambda: subprocess.run(["scancel", victim], check=True)):
            (summary,) = aq.run(many, archive, model, cluster=executor)
        executor.client.wait_for_workers(2, timeout=60)
        assert victim not in job_ids(executor) != first
    assert_same(summary, archive, many_serial)


@pytest.mark.usefixtures("_no_job_left", "_slow")
@pytest.mark.parametrize("state", ["DOWN", "INACTIVE"])
def test_all_jobs_are_cancelled_in_mid_run(many, model, many_serial, tmp_path, state, monkeypatch):
    """In a partition that is down replacements wait, and so does the run; an inactive one refuses them."""
    archive, told = tmp_path / "a.zarr", list[str]()
    monkeypatch.setattr(watchdog.log, "warning", lambda text, *words: told.append(text % words))
    with two_jobs(tmp_path) as executor, dask.config.set({"aqdask.worker-timeout": "4 s"}):

        def strike() -> None:
            scontrol("update", "PartitionName=debug", f"State={state}")
            subprocess.run(["scancel", *job_ids(executor)], check=True)
            until_alone(executor)
            if state == "DOWN":
                time.sleep(6)
                scontrol("update", "PartitionName=debug", "State=UP")

        try:
            with in_mid_run(archive, strike):
                if state == "DOWN":
                    (summary,) = aq.run(many, archive, model, cluster=executor)
                else:
                    with pytest.raises(ClusterError, match=r"all workers are gone.*same command again"):
                        aq.run(many, archive, model, cluster=executor)
        finally:
            scontrol("update", "PartitionName=debug", "State=UP")
    assert [text.partition(",")[0] for text in told] == [
        "warning: all workers are gone; the run waits for others"
    ]
    if state == "INACTIVE":
        assert 0 < len(contents(archive)) < len(many_serial)
        (summary,) = aq.run(many, archive, model, cluster="serial")
    assert_same(summary, archive, many_serial)


@pytest.mark.usefixtures("_no_job_left", "_slow")
def test_jobs_preempted_in_mid_run_come_back_when_the_urgent_one_is_done(many, model, many_serial, tmp_path):
    archive = tmp_path / "a.zarr"
    urgent = ["sbatch", "-p", "urgent", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 5"]
    with two_jobs(tmp_path) as executor:

        def preempt() -> None:
            subprocess.run(urgent, check=True, capture_output=True)
            until_alone(executor)  # Slurm takes both cores back

        with in_mid_run(archive, preempt):
            (summary,) = aq.run(many, archive, model, cluster=executor)
    assert_same(summary, archive, many_serial)


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
def test_a_job_that_exceeds_its_memory_is_killed_and_replaced(
    many, model, many_serial, tmp_path, monkeypatch
):
    """One frame takes more than a job may have, though less than Dask was told.

    Dask reads the limit that Slurm sets for the job, and whichever of the two looks first kills the worker.
    The first death of a worker counts here, also for frames that were waiting there.
    """
    archive = tmp_path / "a.zarr"
    faulty(monkeypatch, "memory=1500 f07.fits read_frame")
    with (
        dask.config.set({"aqdask.dask": config.get("dask") | {"distributed.scheduler.allowed-failures": 0}}),
        two_jobs(tmp_path, memory="4 GiB", **{"job-mem": "1G"}) as executor,
    ):
        (summary,) = aq.run(many, archive, model, cluster=executor)
    logs = "".join(path.read_text() for path in tmp_path.glob("slurm-logs/*"))
    assert re.search("exceeded (memory limit|95% memory budget)", logs)
    assert "R/f07.fits" in dict(summary.problems)
    for _, reason in summary.problems:
        assert re.search("it held .* of 1024 MiB|Dask allowed it .*, a batch job .* may allow less", reason)
    assert summary.pending == 0
    assert summary.done > 10
    (summary,) = aq.run(many, archive, model, cluster="serial", retry=True)
    assert_same(summary, archive, many_serial)


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
        tasks = executor.run(os.getenv, WorkQueue(["SLURM_JOB_ID"] * 4), stage="score")
        assert len(list(tasks)) == 4
        assert set().union(*executor.client.run(listening).values()) == {"127.0.0.1"}
    assert not any(key.exists() for key in keys)
