"""Cut short at any moment and started again: the same bytes, and nothing finished is done again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from night import InterruptAfter, ledger_of, same_bytes, stamps, write_night

import aqdask as aq
from aqdask.execution import executors
from aqdask.execution.executors import SerialExecutor
from aqdask.execution.open_archive import writing
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import DONE

MANY = 40
OPTIONS = {"chunk": 64, "frames_per_shard": 2}
NIGHT = {"chunk": 64, "frames_per_shard": 4}  # as in the undisturbed archive


# --- without processes ---------------------------------------------------------------------------------


def shard_stamps(archive):
    return {name: stamp for name, stamp in stamps(archive).items() if "/c/" in name}


@given(st.lists(st.tuples(st.sampled_from(["ingest", "score", "run"]), st.integers(1, 4)), max_size=4))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_it_is_interrupted_the_bytes_are_those_of_one_run(
    night, undisturbed, bundle, tmp_path_factory, stops
):
    archive = tmp_path_factory.mktemp("cut") / "a.zarr"
    start = {
        "ingest": lambda **about: aq.ingest(night, archive, cluster="serial", **NIGHT, **about),
        "run": lambda **about: aq.run(night, archive, bundle, cluster="serial", **NIGHT, **about),
        "score": lambda **about: aq.score(archive, bundle, cluster="serial", **about),
    }
    for what, count in stops:
        if what == "score" and not archive.exists():
            continue
        with contextlib.suppress(KeyboardInterrupt):
            start[what](reporter=InterruptAfter(count))
    start["ingest"]()
    start["score"]()
    same_bytes(archive, undisturbed)
    assert aq.verify(archive, cluster="serial").sound


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_finished_before_an_interruption_is_not_touched_again(
    night, undisturbed, bundle, tmp_path, count, monkeypatch
):
    monkeypatch.setattr(executors, "TASK_SECONDS", 0.0)  # a batch a task
    archive = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt, match="stopped by the test"):
        aq.run(night, archive, bundle, cluster="serial", reporter=InterruptAfter(count), **NIGHT)
    finished = shard_stamps(archive)
    assert sum("/image/c/" in name for name in finished) == 4 * count
    (summary,) = aq.run(night, archive, bundle, cluster="serial")
    assert summary.worked == 10 - 4 * count
    after = shard_stamps(archive)
    frame_scores = {name for name in finished if "/frame_score/" in name}  # one object for all frames
    assert {name: after[name] for name in finished.keys() - frame_scores} == {
        name: finished[name] for name in finished.keys() - frame_scores
    }
    same_bytes(archive, undisturbed)


class DiesWithin(SerialExecutor):
    """Runs tasks, but dies after a task has written and before its record is kept."""

    def __init__(self, count):
        self.left = count

    def run(self, function, queue, *, stage):
        for item, result in super().run(function, queue, stage=stage):
            if stage != "look":
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt("died between writing and recording")
            yield item, result


@pytest.mark.parametrize("count", [1, 2, 3])
def test_work_whose_record_was_lost_is_done_again_with_the_same_bytes(
    night, undisturbed, bundle, tmp_path, count, monkeypatch
):
    monkeypatch.setattr(executors, "TASK_SECONDS", 0.0)  # a batch a task
    archive = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt, match="between writing and recording"):
        aq.run(night, archive, bundle, cluster=DiesWithin(count), **NIGHT)
    aq.run(night, archive, bundle, cluster="serial")
    same_bytes(archive, undisturbed)


def test_half_written_files_and_rows_without_a_ledger_are_swept_away(night, undisturbed, bundle, scored):
    pending = next(entry for entry in ledger_of(scored).rows() if entry.row == 3)
    with writing(scored) as archive:  # a writer died within the shard, before its record
        archive.ledger.append([{"event": "ingest", "frame_id": pending.frame_id, "state": "pending"}])
    (scored / "frames" / "image" / "c" / "3" / "0" / "0.1234.partial").write_bytes(b"half")
    (scored / "frames" / "filter" / "c" / "0.1234.partial").write_bytes(b"half")
    FrameStore.open(scored, writable=True).grow(17)  # a client grew the arrays and died before registering
    aq.ingest(night, scored, cluster="serial")
    same_bytes(scored, undisturbed)


# --- real processes ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def long_night(tmp_path_factory) -> Path:
    """Enough frames that a run can be caught in the middle."""
    return write_night(tmp_path_factory.mktemp("long"), MANY)


@pytest.fixture(scope="session")
def model(tmp_path_factory, bundle) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    bundle.save(path)
    return path


@pytest.fixture(scope="session")
def whole(tmp_path_factory, long_night, bundle) -> Path:
    """The long night, done without any trouble."""
    archive = tmp_path_factory.mktemp("whole") / "a.zarr"
    aq.ingest(long_night, archive, cluster="serial", **OPTIONS)
    aq.score(archive, bundle, cluster="serial")
    return archive


@pytest.fixture(scope="session")
def whole_pixels(tmp_path_factory, long_night) -> Path:
    archive = tmp_path_factory.mktemp("pixels") / "a.zarr"
    aq.ingest(long_night, archive, cluster="serial", **OPTIONS)
    return archive


def start(*arguments: object) -> subprocess.Popen:
    """`aqdask` on two workers of its own, in a session of its own, slowed down to be caught."""
    code = "from aqdask.cli import main; main()"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        *map(str, arguments),
        "--cluster",
        "local:2",
        "--quiet",
    ]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def shards(archive: Path, what: str) -> int:
    """How many shards of a variable are stored."""
    return sum(1 for path in archive.rglob("*") if f"/{what}/c/" in path.as_posix() and path.is_file())


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL of the client and of everything that it started, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


def done_in(archive: Path, quality: bool) -> int:
    entries = ledger_of(archive).entries.values()
    return sum(bool(e.scores) if quality else e.state == DONE for e in entries)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Its worker processes (children of nannies, which are threads of the client here)."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("stage", ["ingest", "score"])
def test_sigkill_of_client_and_workers_then_resume_gives_the_same_bytes(
    stage, long_night, whole, whole_pixels, model, bundle, tmp_path
):
    archive = tmp_path / "a.zarr"
    if stage == "score":
        shutil.copytree(whole_pixels, archive)
        arguments = ("score", archive, "--model", model)
    else:
        arguments = ("ingest", long_night, archive, "--chunk", 64, "--frames-per-shard", 2)
    process = start(*arguments)
    wait_for(lambda: shards(archive, "image" if stage == "ingest" else "pvalue") >= 8, process)
    kill_all(process)
    known = done_in(archive, stage == "score")
    (summary,) = aq.ingest(long_night, archive, cluster="serial")
    if stage == "score":
        assert summary.worked == 0
        summary = aq.score(archive, bundle, cluster="serial")
    assert summary.worked == MANY - known
    assert known < MANY, "the run was over before it was killed"
    if stage == "ingest":
        aq.score(archive, bundle, cluster="serial")
    same_bytes(archive, whole)


@pytest.mark.slow
@pytest.mark.cluster
def test_sigkill_of_one_worker_is_survived_with_the_same_bytes(long_night, whole, model, tmp_path):
    archive = tmp_path / "a.zarr"
    process = start("run", long_night, archive, "--model", model, "--chunk", 64, "--frames-per-shard", 2)
    wait_for(lambda: shards(archive, "pvalue") >= 3, process)
    victims = workers_of(process)
    assert len(victims) == 2
    victims[0].kill()
    stored = shards(archive, "pvalue")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"{MANY} done, 0 quarantined, 0 pending" in output
    assert stored < MANY // 2, "the run was over before the worker was killed"
    same_bytes(archive, whole)
