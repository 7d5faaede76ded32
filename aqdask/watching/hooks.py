"""Commands that are run on frames, one after the other beside the scoring, and never through a shell."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from aqdask.errors import UsageError
from aqdask.text import printable

SHOWN = 200  # characters of the output of a command that failed


@dataclass(frozen=True)
class HookResult:
    """End of one command.

    Parameters
    ----------
    exit_code : int or None
        None where it could not be started or was stopped.
    seconds : float
        Duration.
    problem : str
        Description of a failure; empty for exit code 0.
    is_cut_short : bool
        True if it was killed because the watch ended.
    """

    exit_code: int | None
    seconds: float
    problem: str = ""
    is_cut_short: bool = False


def parse_command(option: str, text: str) -> tuple[str, ...]:
    """Split a command into words as a shell does, without running one.

    Raises
    ------
    UsageError
        For quotes that are not closed, an empty command, or a program that does not exist.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise _refused(option, text, str(error)) from error
    if not words:
        raise _refused(option, text, "it is empty")
    if shutil.which(words[0]) is None:
        raise _refused(option, text, f"there is no program {words[0]!r} that can be run")
    return words


def _refused(option: str, text: str, why: str) -> UsageError:
    return UsageError(
        f"{option} {text!r}: {why}",
        expected="a program and its arguments; frame id, score, reason and mask are appended",
        consequence="Nothing was started",
        remedy="put pipes and redirections into a script, and name that",
    )


class HookRunner:
    """Runner of commands in a thread of its own: one that hangs delays other commands, but no frame.

    Parameters
    ----------
    timeout : float
        Seconds after which a command and its children are killed.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="aqdask hook")
        self._deadline = float("inf")
        self._idle = threading.Event()
        self._idle.set()

    def submit(self, command: Sequence[str]) -> Future[HookResult]:
        """Run a command after those before it."""
        return self._pool.submit(self._run, tuple(command))

    def close(self, seconds: float = 0.0) -> None:
        """Wait so long for the running command, then kill it; others are not started any more."""
        self._deadline = time.monotonic() + seconds
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            self._idle.wait()  # not a join: a thread that is joined counts as ended after a Ctrl-C
        except BaseException:
            self._deadline = 0.0
            self._idle.wait(2.0)
            raise

    def _run(self, command: Sequence[str]) -> HookResult:
        self._idle.clear()
        try:
            return self._run_one(command)
        finally:
            self._idle.set()

    def _run_one(self, command: Sequence[str]) -> HookResult:
        began = time.monotonic()
        with tempfile.TemporaryFile() as output:  # a pipe would have to be read, and a child could keep it
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
            except (OSError, ValueError) as error:
                return HookResult(None, 0.0, f"could not be started: {error}")
            while process.poll() is None:
                now = time.monotonic()
                if now - began > self.timeout or now > self._deadline:
                    _kill(process)
                    problem = f"was killed after {now - began:.0f} s"
                    return HookResult(None, now - began, problem, is_cut_short=now > self._deadline)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            seconds = time.monotonic() - began
            if process.returncode == 0:
                return HookResult(0, seconds)
            output.seek(max(0, output.seek(0, os.SEEK_END) - SHOWN))
            said = printable(" ".join(output.read().decode("utf-8", "replace").split()))
            problem = f"ended with exit code {process.returncode}{': ' if said else ''}{said}"
            return HookResult(process.returncode, seconds, problem)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and what it started, unless that left its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
