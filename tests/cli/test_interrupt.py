"""Ctrl-C: exit code 130, how to resume, no process left behind, and the resumed run completes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from night import OPTIONS, same_bytes, write_night

import aqdask as aq

SCRIPT = Path(sys.executable).parent / "aqdask"
MANY = 120


def hear_interrupts():
    """A shell's background job, such as a CI run, hands its children an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def long_night(tmp_path_factory):
    return write_night(tmp_path_factory.mktemp("long"), MANY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, long_night):
    archive = tmp_path_factory.mktemp("whole") / "a.zarr"
    aq.ingest(long_night, archive, cluster="serial", **OPTIONS)
    return archive


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("cluster", "everyone"),
    [("serial", False), ("local:2", False), ("local:2", True)],
    ids=["serial", "kill -INT of the command", "Ctrl-C on a terminal"],
)
def test_an_interrupted_ingest_says_how_to_resume_and_does(cluster, everyone, long_night, whole, tmp_path):
    archive = tmp_path / "a.zarr"
    options = ["--cluster", cluster, "--chunk", "64", "--frames-per-shard", "4"]
    process = subprocess.Popen(
        [SCRIPT, "ingest", long_night, archive, *options],
        start_new_session=True,
        preexec_fn=hear_interrupts,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while len(list(archive.glob("frames/image/c/*/0/0"))) < 24:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= (2 if cluster == "local:2" else 0)
    if everyone:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted. What was finished is kept; to resume, run the same command again" in errors
    assert f"aqdask ingest {long_night}" in errors
    assert "Traceback" not in errors
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert len(gone) == len(family)
    (summary,) = aq.ingest(long_night, archive, cluster="serial")
    assert 0 < summary.worked < MANY
    same_bytes(archive, whole)
