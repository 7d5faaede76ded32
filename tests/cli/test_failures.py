"""Unforeseen errors: exit code 3, one paragraph, an object with ``--json``, never a traceback."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from aqdask.cli import aqdask
from aqdask.cli.common import command, interrupted
from aqdask.cli.failures import as_error
from aqdask.errors import (
    AqdaskError,
    ArchiveError,
    ClusterError,
    FrameTimeout,
    SourceUnreachable,
    place_failed,
)


def ending(error: BaseException, *options: str):
    """Command that raises ``error``."""

    @click.command()
    @command
    def broken(session):
        raise error

    return CliRunner().invoke(broken, list(options))


UNFORESEEN = {
    "value": ValueError("operands could not be broadcast"),
    "no message": KeyError(),
    "lines": RuntimeError("first\nsecond\x1b[31m \udce9"),
    "memory": MemoryError(),
    "recursion": RecursionError("maximum recursion depth exceeded"),
    "exit": SystemExit(0),
    "exit 1": SystemExit(1),
    "cancelled": asyncio.CancelledError(),
    "descriptors": OSError(errno.EMFILE, "Too many open files"),
    "nameless": OSError("something"),
    "import": ImportError("No module named 'x'"),
}


@pytest.mark.parametrize("error", UNFORESEEN.values(), ids=UNFORESEEN.keys())
def test_an_unforeseen_error_ends_with_3_and_one_paragraph(error):
    result = ending(error)
    assert result.exit_code == 3
    (paragraph,) = result.stderr.splitlines()
    assert paragraph.startswith(f"aqdask: an error that aqdask did not foresee: {type(error).__name__}")
    for part in ("Expected: ", "What was finished is kept, and the archive can be resumed", "What to do: "):
        assert part in paragraph
    assert paragraph.isprintable()
    told = json.loads(ending(error, "--json").stdout)
    assert (told["event"], told["exit_code"]) == ("error", 3)
    assert "Traceback (most recent call last)" in ending(error, "--debug").stderr


def test_the_message_keeps_the_cause():
    assert "first second\\x1b[31m \\xe9" in ending(UNFORESEEN["lines"]).stderr
    assert "use fewer workers" in ending(MemoryError()).stderr


@pytest.mark.parametrize(
    "error",
    [
        CommClosedError("in <TCP>: Stream is closed"),
        KilledWorker("ingest-000001", None, 3),  # its own text fails
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError("timed out"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lost_connection_is_the_clusters(error):
    result = ending(error)
    assert result.exit_code == 3
    assert "the connection to the cluster was lost" in result.stderr
    assert type(as_error(error)) is ClusterError
    if isinstance(error, OSError):  # of a run that writes: it is not the archive's disk
        assert type(place_failed("a.zarr", error)) is ClusterError


def test_failures_of_reading_and_of_writing_differ(tmp_path):
    (tmp_path / "there").touch()

    def said(number, name):
        return str(as_error(OSError(number, os.strerror(number), str(name))))

    assert "could not be read: No such file" in said(errno.ENOENT, tmp_path / "none")
    assert "could not be written: No such file" in said(errno.ENOENT, tmp_path / "none" / "x")
    assert "could not be read: Input/output error" in said(errno.EIO, tmp_path / "there")
    assert "could not be written: No space left" in said(errno.ENOSPC, tmp_path / "there")
    assert "could not be written: Permission denied" in said(errno.EACCES, tmp_path / "new")
    assert "cannot be a file: File name too long" in said(errno.ENAMETOOLONG, "x" * 300)
    assert "could not be written: Read-only" in str(as_error(OSError(errno.EROFS, "Read-only")))


def test_a_frame_that_a_command_needs_is_no_riddle():
    for error in (SourceUnreachable("the file is not there", errno.ENOENT), FrameTimeout("a.fits", 9)):
        assert type(as_error(error)) is ArchiveError
    known = AqdaskError("got")
    assert as_error(known) is known


def test_what_click_says_itself_stays():
    assert ending(click.UsageError("no")).exit_code == 2
    assert ending(click.exceptions.Exit(0)).exit_code == 0
    assert ending(click.Abort()).exit_code == 130


def test_what_click_quotes_is_shown_escaped():
    for words in (
        ["x\x1b[31m"],
        ["info", "a", "b\x1b[31m"],
        ["info", "--x\x1b[31m"],
        ["demo", "--size", "\x1b"],
    ):
        result = CliRunner().invoke(aqdask, words)
        assert result.exit_code == 2
        assert "\x1b" not in result.stderr


def test_an_error_before_a_command_begins_is_reported(monkeypatch):
    def broken(*_):
        raise ImportError("numpy is half installed")

    monkeypatch.setattr("importlib.import_module", broken)
    result = CliRunner().invoke(aqdask, ["info", "x"])
    assert result.exit_code == 3
    assert "numpy is half installed" in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_before_a_command_begins(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", stop)
    assert CliRunner().invoke(aqdask, ["info", "x"]).exit_code == 130


def test_the_command_to_resume_with_is_one_that_a_shell_takes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["aqdask", "ingest", "M31_\udce9 '\x1b\\.fits", "two words"])
    interrupted(aqdask_session())
    shown = capsys.readouterr().err.rstrip("\n")
    typed = shown.partition("aqdask ingest ")[2]
    assert typed == r"$'M31_\xe9 \'\x1b\\.fits' 'two words'"
    echoed = subprocess.run(["bash", "-c", f"printf '%s|' {typed}"], capture_output=True, check=True).stdout
    assert echoed == b"M31_\xe9 '\x1b\\.fits|two words|"


def aqdask_session():
    from aqdask.cli.common import Session

    return Session(None, quiet=True, json=False)


@pytest.mark.parametrize("option", ["--frames", "--quarantined"])
def test_a_reader_that_goes_away_is_no_error_of_ours(option, archive):
    script = f"exec 2>&1; {sys.executable} -m aqdask info {archive} {option} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout in ("3\n", "0\n")  # 0 where all of it was in the pipe before


def test_a_terminal_that_is_not_utf8_is_shown_escapes(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    call = [sys.executable, "-m", "aqdask", "info", f"{tmp_path}/é\u0142", "--json"]
    done = subprocess.run(call, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 2
    for stream in (done.stdout, done.stderr):
        assert b"/\xe9\\u0142" in stream
