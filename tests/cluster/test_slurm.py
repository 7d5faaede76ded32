"""The whole line over a real Slurm: through dask-jobqueue, and inside one allocation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import yaml

import aqdask as aq
from aqdask.errors import ClusterError, UsageError
from aqdask.execution.clusters import connect
from aqdask.execution.executors import WorkQueue

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
