"""Ctrl-C, SIGTERM, SIGHUP: exit code 130, the command that resumes, no process left, a complete resume."""

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
from aqdask.cli.main import sigterm_as_interrupt

SCRIPT = Path(sys.executable).parent / "aqdask"
MANY = 120


def restore_interrupts():
    """Restore SIGINT, which background jobs such as CI runs ignore in their children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


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
    ("cluster", "number", "everyone"),
    [
        ("serial", signal.SIGINT, False),
        ("local:2", signal.SIGINT, False),
        ("local:2", signal.SIGINT, True),
        ("local:2", signal.SIGTERM, False),
        ("local:2", signal.SIGTERM, True),
        ("serial", signal.SIGHUP, False),
    ],
    ids=[
        "serial",
        "kill -INT of the command",
        "Ctrl-C on a terminal",
        "kill of the command",
        "scancel, or the end of a time limit",
        "the terminal is closed",
    ],
)
def test_an_interrupted_ingest_says_how_to_resume_and_does(
    cluster, number, everyone, long_night, whole, tmp_path
):
    archive = tmp_path / "a.zarr"
    options = ["--cluster", cluster, "--chunk", "64", "--frames-per-shard", "4"]
    process = subprocess.Popen(
        [SCRIPT, "ingest", long_night, archive, *options],
        start_new_session=True,
        preexec_fn=restore_interrupts,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while len(list(archive.glob("frames/image/c/*/0/0"))) < 24:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= (2 if cluster == "local:2" else 0)
    if everyone:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=300)
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


def test_the_handlers_are_those_of_the_command_only(monkeypatch):
    monkeypatch.setattr(signal, "signal", heard := Heard(signal.signal))
    former = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == former
    second = [handler for number, handler in heard.calls if number == signal.SIGTERM][1]
    monkeypatch.setattr(os, "_exit", lambda code: heard.calls.append(("exit", code)))
    second(signal.SIGTERM, None)
    assert heard.calls[-1] == ("exit", 130)


class Heard:
    """`signal.signal` that remembers what it was called with."""

    def __init__(self, real):
        self.real, self.calls = real, []

    def __call__(self, number, handler):
        self.calls.append((number, handler))
        return self.real(number, handler)


def test_a_signal_that_is_ignored_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with sigterm_as_interrupt():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)
