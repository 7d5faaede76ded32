"""What every command shares: its options, its output, and how errors end it."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqdask.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_QUARANTINED,
    AqdaskError,
    place_failed,
)
from aqdask.monitor.strict_json import strict_json

if TYPE_CHECKING:
    from aqdask.engine.executors import Executor
    from aqdask.engine.reporter import Reporter
    from aqdask.engine.runner import Summary

SHOWN = 20  # quarantined frames that are listed one by one


@dataclass
class Session:
    """One call of a command: where it runs and how it talks."""

    cluster: str | None
    quiet: bool
    json: bool

    @functools.cached_property
    def reporter(self) -> Reporter:
        """Shows progress."""
        from aqdask.monitor.progress import reporter_for

        return reporter_for(quiet=self.quiet, as_json=self.json)

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        """The cluster of ``--cluster``, or of the configuration, once there is something to run."""
        from aqdask.engine import config
        from aqdask.engine.clusters import Deferred

        with Deferred(self.cluster or config.get("cluster"), self._tell_dashboard) as executor:
            yield executor

    def _tell_dashboard(self, executor: Executor) -> None:
        if executor.dashboard:
            self.reporter.say(f"dashboard: {executor.dashboard}")

    def emit(self, text: str, **fields: Any) -> None:
        """A result: ``text`` for people, or ``fields`` as one JSON object a line."""
        if self.json:
            click.echo(strict_json(fields))
        else:
            click.echo(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table for people; with ``--json`` one object a row."""
        if self.json:
            for row in rows:
                self.emit("", event="row", table=title, **dict(zip(columns, row, strict=True)))
            return
        from rich.console import Console
        from rich.table import Table

        shown = Table(header_style="bold", pad_edge=False, box=None)
        for position, column in enumerate(columns):
            numeric = all(isinstance(row[position], (int, float)) for row in rows)
            shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            shown.add_row(*(_cell(value) for value in row))
        width = None if sys.stdout.isatty() else 1000  # one line a row: for grep and less
        console = Console(width=width, highlight=False)
        if title:
            console.print(title, style="italic", markup=False)
        console.print(shown)

    def summary(self, summary: Summary, what: str) -> int:
        """Tell how an archive stands; the exit code that goes with it."""
        counts = {"done": summary.done, "quarantined": summary.quarantined, "pending": summary.pending}
        parts = ", ".join(f"{number} {state}" for state, number in counts.items())
        if summary.problems and not self.json:
            shown = summary.problems[:SHOWN]
            self.table("quarantined:", ("frame", "reason"), shown)
            if len(summary.problems) > SHOWN:
                more = len(summary.problems) - SHOWN
                click.echo(f"... and {more} more: aqdask info {summary.archive} --quarantined")
        fields = {"archive": summary.archive, "worked": summary.worked, **counts}
        problems = [{"frame_id": name, "reason": reason} for name, reason in summary.problems]
        text = f"{summary.archive}: {parts} ({summary.worked} {what} now)"
        self.emit(text, event="summary", **fields, problems=problems)
        return EXIT_FAILED if summary.pending else EXIT_QUARANTINED if summary.quarantined else EXIT_DONE


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """Give a command ``--cluster --quiet --json --debug``, a `Session` first, and its exit code."""

    @click.option(
        "--cluster",
        metavar="WHERE",
        help="serial, local[:WORKERS], cuda, slurm[:FILE], or tcp://HOST:PORT  [default: local]",
    )
    @click.option("--quiet", is_flag=True, help="No progress; results, warnings and errors only.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapped(cluster: str | None, quiet: bool, as_json: bool, debug: bool, **arguments: Any) -> None:
        session = Session(cluster, quiet, as_json)
        sys.exit(_guarded(function, session, debug, arguments))

    return wrapped


def _guarded(
    function: Callable[..., int | None], session: Session, debug: bool, arguments: dict[str, Any]
) -> int:
    try:
        return function(session, **arguments) or EXIT_DONE
    except AqdaskError as error:
        return _failed(session, debug, error)
    except BrokenPipeError:  # the reader of our output has gone: say nothing more, and not that all is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:  # of no frame: those are quarantined
        place = error.filename or "an output"
        return _failed(session, debug, place_failed(place, error))
    except KeyboardInterrupt:
        session.reporter.finish()
        if debug:
            traceback.print_exc()
        click.echo(
            "aqdask: interrupted. What was finished is kept; to resume, run the same command again: "
            + _same_command(),
            err=True,
        )
        return EXIT_INTERRUPTED


def _failed(session: Session, debug: bool, error: AqdaskError) -> int:
    """Say what went wrong, in one paragraph."""
    session.reporter.finish()
    if debug:
        traceback.print_exc()
    if session.json:
        click.echo(strict_json({"event": "error", "message": str(error), "exit_code": error.exit_code}))
    click.echo(f"aqdask: {error}", err=True)
    return error.exit_code


def _same_command() -> str:
    """What the user typed, fit for a shell."""
    program = Path(sys.argv[0]).name
    return shlex.join([program if program in ("aqdask", "dask") else "aqdask", *sys.argv[1:]])
