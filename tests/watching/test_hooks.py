"""Commands on frames: words as given, no shell, a limit in time, and what is said of failures."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from aqdask.errors import UsageError
from aqdask.watching.hooks import HookRunner, parse_command

NASTY = [
    "a b",
    "$(touch hacked)",
    "`touch hacked`",
    "'\"",
    "; touch hacked",
    "-rf",
    "*",
    "",
    "\u00e9",
    "%s\n",
]


@pytest.fixture
def hooks():
    runner = HookRunner(timeout=20.0)
    yield runner
    runner.close()


def python(tmp_path: Path, code: str) -> tuple[str, ...]:
    script = tmp_path / "hook.py"
    script.write_text(code)
    return sys.executable, str(script)


def test_arguments_arrive_as_they_are_and_no_shell_sees_them(hooks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import json, sys; json.dump(sys.argv[1:], open('arguments', 'w'))"
    assert hooks.submit((*python(tmp_path, code), *NASTY)).result().exit_code == 0
    import json

    assert json.loads((tmp_path / "arguments").read_text()) == NASTY
    assert not (tmp_path / "hacked").exists()


def test_a_command_that_fails_is_told_with_the_end_of_its_output(hooks, tmp_path):
    code = "import sys; print('x' * 10**6); print('no \x1b[31m alert', file=sys.stderr); sys.exit(3)"
    result = hooks.submit(python(tmp_path, code)).result()
    assert result.exit_code == 3
    assert result.problem.startswith("ended with exit code 3: ")
    assert result.problem.endswith("no \\x1b[31m alert")
    assert len(result.problem) < 300


def test_a_command_that_vanishes_is_told(hooks, tmp_path):
    result = hooks.submit([str(tmp_path / "gone"), "f"]).result()
    assert result.exit_code is None
    assert "could not be started" in result.problem


def test_a_command_that_hangs_is_killed_with_its_children_and_the_next_one_runs(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(99)\n"
    )
    runner = HookRunner(timeout=2.0)
    began = time.monotonic()
    first, second = runner.submit(python(tmp_path, code)), runner.submit(["true"])
    assert first.result().exit_code is None
    assert "was killed after 2 s" in first.result().problem
    assert not first.result().is_cut_short
    assert second.result().exit_code == 0
    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    runner.close()


def test_at_the_end_the_running_command_is_cut_short_and_others_are_not_started(tmp_path):
    runner = HookRunner(timeout=60.0)
    running = runner.submit(["sleep", "99"])
    waiting = runner.submit(["touch", str(tmp_path / "started")])
    time.sleep(0.2)
    began = time.monotonic()
    runner.close(0.3)
    assert time.monotonic() - began < 5
    assert running.result().is_cut_short
    assert waiting.cancelled()
    assert not (tmp_path / "started").exists()


def test_a_command_that_ends_in_time_is_waited_for():
    runner = HookRunner(timeout=60.0)
    running = runner.submit(["sleep", "0.3"])
    time.sleep(0.1)
    runner.close(10.0)
    assert running.result().exit_code == 0


def test_a_command_is_split_as_a_shell_would():
    assert parse_command("--on-bad", "sh -c 'a b' \"c\"") == ("sh", "-c", "a b", "c")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo 'a", "No closing quotation"),
        ("  ", "it is empty"),
        ("/no/such/program x", "there is no program"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_at_once(text, why):
    with pytest.raises(UsageError, match=why):
        parse_command("--on-bad", text)


def test_a_file_that_may_not_be_run_is_refused_at_once(tmp_path):
    (tmp_path / "script").write_text("#!/bin/sh\n")
    os.chmod(tmp_path / "script", 0o644)
    with pytest.raises(UsageError, match="no program"):
        parse_command("--on-good", str(tmp_path / "script"))
