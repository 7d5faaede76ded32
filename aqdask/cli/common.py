"""Options, output and error handling of all commands."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqdask.cli.failures import as_error
from aqdask.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_QUARANTINED, UsageError
from aqdask.execution.cluster_kinds import AUTO, USAGE
from aqdask.monitor.strict_json import strict_json
from aqdask.paths import check_local, check_place, check_regular
from aqdask.text import printable

if TYPE_CHECKING:
    from aqdask.execution.executors import Executor
    from aqdask.execution.pipeline import Summary
    from aqdask.monitor.publish import Publisher
    from aqdask.monitor.telemetry import Telemetry

SHOWN = 20  # quarantined frames listed one by one
all_types_option = click.option(
    "--all-types", is_flag=True, help="Score bias, dark, flat, arc, focus and calibration frames, too."
)
OBJECT_ARGUMENTS = ("sources", "archive", "path", "bad_pixel_map")  # those that may be s3://...
SCHEDULERS = ("tcp", "tls", "ucx", "ucxx", "ws", "wss", "inproc")  # protocols of a scheduler address


@dataclass
class Session:
    """Execution and output of one command.

    Parameters
    ----------
    cluster : str or None
        Value of ``--cluster``; None: that of the configuration.
    quiet, json : bool
        No progress; one JSON object a line on stdout.
    frame_timeout : str, optional
        Value of ``--frame-timeout``, such as ``90s``.
    tls : str, optional
        Value of ``--tls``.
    command : str
        Name of the command.
    """

    cluster: str | None
    quiet: bool
    json: bool
    frame_timeout: str | None = None
    tls: str | None = None
    command: str = ""
    _told_compilation: bool = field(default=False, init=False)

    @functools.cached_property
    def reporter(self) -> Telemetry:
        """Listener that shows the progress, here and on the live page."""
        from aqdask.monitor.progress import reporter_for
        from aqdask.monitor.telemetry import Telemetry

        return Telemetry(reporter_for(quiet=self.quiet, as_json=self.json), self.command)

    @contextlib.contextmanager
    def executor(self) -> Iterator[Executor]:
        """Open the cluster of ``--cluster``, or of the configuration, when the first task is submitted."""
        from aqdask.execution import config
        from aqdask.execution.clusters import Deferred
        from aqdask.monitor.publish import Publisher, stopped_at_end

        given = {"aqdask.frame-timeout": self.frame_timeout, "aqdask.tls": self.tls}
        with config.changed({name: value for name, value in given.items() if value}):
            config.seconds("frame-timeout")  # raises for a bad value before anything starts
            cluster, publishers = self.cluster or config.get("cluster"), list[Publisher]()
            self.reporter.pictures = bool(config.get("live-page")) and cluster != "serial"
            show = functools.partial(self._show_page, publishers)
            with Deferred(cluster, show) as executor, stopped_at_end(publishers):
                yield executor

    def tell_compilation(self, text: str) -> None:
        """Say once that kernels are compiled, in this process or on workers."""
        if not self._told_compilation:
            self._told_compilation = True
            self.reporter.say(text)

    def _show_page(self, publishers: list[Publisher], executor: Executor) -> None:
        """Publish the telemetry on the dashboard of an executor, where it has one, and show the address."""
        from aqdask.compilation import TOPIC
        from aqdask.execution import config
        from aqdask.execution.executors import DaskExecutor
        from aqdask.monitor.publish import PageError, Publisher

        if not isinstance(executor, DaskExecutor):
            if (self.cluster or config.get("cluster")) == AUTO:
                self.reporter.say("in this process, since it is little work (--cluster local starts workers)")
            return
        executor.client.subscribe_topic(TOPIC, lambda event: self.tell_compilation(event[1]))
        if not config.get("live-page"):
            return self._tell_address(executor.dashboard)
        publisher = Publisher(executor.client, self.reporter)
        publishers.append(publisher)
        try:
            self._tell_address(publisher.start())
        except PageError as error:
            self.reporter.say(f"warning: no live page, or only a part of it; the run goes on ({error})")
            self._tell_address(executor.dashboard)

    def _tell_address(self, address: str) -> None:
        if self.json and address:
            self.emit(event="dashboard", url=address)
        elif address:
            self.reporter.say(f"dashboard: {address}")

    def emit(self, *lines: str, **fields: Any) -> None:
        """Print a result: ``lines`` as text, or ``fields`` as one JSON object with ``--json``."""
        for line in [strict_json(fields)] if self.json else map(printable, lines):
            click.echo(line)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table, or one JSON object for each row with ``--json``."""
        if self.json:
            for row in rows:
                self.emit(event="row", table=title, **dict(zip(columns, row, strict=True)))
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(header_style="bold", pad_edge=False, box=None)
        for position, column in enumerate(columns):  # a str would be parsed for markup such as "[b]"
            numeric = all(isinstance(row[position], int | float | None) for row in rows)
            shown.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            shown.add_row(*(Text(_cell(value)) for value in row))
        width = None if sys.stdout.isatty() else 1000  # one line for each row, for grep and less
        console = Console(width=width, highlight=False)
        if title:
            console.print(Text(printable(title), style="italic"))
        console.print(shown)

    def _listed(self, title: str, pairs: Sequence[tuple[str, str]], remedy: str = "") -> None:
        """Print the first `SHOWN` frames with their reasons."""
        if pairs:
            self.table(title, ("frame", "reason"), pairs[:SHOWN])
        if len(pairs) > SHOWN:
            self.emit(f"... and {len(pairs) - SHOWN} more{': ' if remedy else ''}{remedy}")

    def summary(self, summary: Summary, what: str) -> int:
        """Print the state of an archive and return the exit code of the command."""
        from aqdask.execution.coverage import not_lights

        counts = {"done": summary.done, "quarantined": summary.quarantined, "pending": summary.pending}
        parts = ", ".join(f"{number} {state}" for state, number in counts.items())
        if not self.json:
            remedy = f"aqdask info {_shell(summary.archive)} --quarantined"
            self._listed("quarantined:", summary.problems, remedy)
            self._listed("pending, tried again by the same command:", summary.waiting)
            self._listed("kept as stored, since their sources could not be read again:", summary.kept)
        told = not_lights(summary.not_lights)
        if told and not self.json:
            fate = "`score` leaves them out" if what == "taken in" else "not scored"
            self.emit(f"{told}: ingested, {fate}; --all-types scores them")
        if told and what != "taken in":
            parts += f", {sum(summary.not_lights.values())} not lights"
        if summary.left_out:
            parts += f", {sum(summary.left_out.values())} left out"
        fields = {
            "archive": summary.archive,
            "worked": summary.worked,
            **counts,
            "left_out": summary.left_out,
            "not_lights": summary.not_lights,
        }
        lists = {"problems": summary.problems, "waiting": summary.waiting, "kept": summary.kept}
        for name, pairs in lists.items():
            fields[name] = [{"frame_id": frame_id, "reason": reason} for frame_id, reason in pairs]
        if summary.kept:
            parts += f", {len(summary.kept)} of them kept as stored"
        text = f"{summary.archive}: {parts} ({summary.worked} {what} now)"
        self.emit(text, event="summary", **fields)
        if summary.pending:
            return EXIT_FAILED
        return EXIT_QUARANTINED if summary.quarantined or summary.kept else EXIT_DONE


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def local_command(function: Callable[..., int | None]) -> Callable[..., None]:
    """Decorate a command with the common options, a `Session` as first argument, and its exit code.

    Parameters
    ----------
    function : callable
        Takes a `Session` and the options of the command, and returns an exit code or None for success. It
        opens no executor: `command` adds the options of the cluster.
    """

    @click.option("--quiet", is_flag=True, help="Print results, warnings and errors only, no progress.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line on stdout.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapped(
        quiet: bool,
        as_json: bool,
        debug: bool,
        cluster: str | None = None,
        frame_timeout: str | None = None,
        tls: str | None = None,
        **arguments: Any,
    ) -> None:
        session = Session(cluster, quiet, as_json, frame_timeout, tls, function.__name__)
        sys.exit(_guarded(function, session, debug, arguments))

    return wrapped


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """Decorate a command as `local_command` does, with the options of the cluster, too."""
    decorated = local_command(function)
    for option in (
        click.option(
            "--tls",
            metavar="HOW",
            help="Encrypt the cluster's connections: 'temporary', or a folder with ca.pem, cert.pem, "
            "key.pem.",
        ),
        click.option(
            "--frame-timeout",
            metavar="TIME",
            help="Stop a frame that takes longer, for example 90s or 5min.  [default: 10 minutes]",
        ),
        click.option(
            "--cluster",
            metavar="WHERE",
            help=f"{USAGE}  [default: auto: this process for a few seconds of work, else local]",
        ),
    ):
        decorated = option(decorated)
    return decorated


def _guarded(
    function: Callable[..., int | None], session: Session, debug: bool, arguments: dict[str, Any]
) -> int:
    from aqdask.compilation import Listener

    try:
        _check_request(session.cluster, arguments)
        with contextlib.closing(Listener(session.tell_compilation)):
            return function(session, **arguments) or EXIT_DONE
    except (click.ClickException, click.exceptions.Exit):
        raise
    except (KeyboardInterrupt, click.Abort):
        return interrupted(session, debug)
    except BaseException as error:
        if isinstance(error, BrokenPipeError | SystemExit) and _reader_gone():  # rich exits then
            # nobody reads the output: end silently, with the exit code of a failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILED
        return failed(session, debug, error)


def _check_request(cluster: str | None, arguments: dict[str, Any]) -> None:
    """Raise `UsageError` for arguments that no command can use: empty text, URLs, files that would block."""
    for name, value in arguments.items():
        for text in value if isinstance(value, tuple) else (value,):
            (check_place if name in OBJECT_ARGUMENTS else check_local)(text)
            if text == "":
                raise UsageError(
                    f"{name.upper()} is an empty text",
                    expected="a value",
                    consequence="Nothing was done",
                    remedy="check the variable of the shell that should hold it, or leave the option out",
                )
    kind, _, place = (cluster or "").partition(":")
    if kind == "slurm" and place:
        check_local(place)
        check_regular(place, "the file of --cluster slurm:")
    elif place.startswith("//") and kind not in SCHEDULERS:
        raise UsageError(
            f"--cluster {cluster}",
            expected=f"the address of a scheduler, with one of {', '.join(f'{s}://' for s in SCHEDULERS)}",
            consequence="Nothing was started",
            remedy="leave it out for workers on this machine",
        )


def _reader_gone() -> bool:
    """Return True if the pipe of stdout has lost its reader."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout may have no file number
        watch = select.poll()
        watch.register(sys.stdout.fileno(), select.POLLERR)
        return bool(watch.poll(0))
    return False


def interrupted(session: Session, debug: bool = False) -> int:
    """Report an interruption by the user or the batch system and the command that resumes."""
    _finish(session, debug)
    _say_last(
        "aqdask: interrupted. What was finished is kept; to resume, run the same command again: "
        + " ".join(map(_shell, _same_command()))
    )
    return EXIT_INTERRUPTED


def failed(session: Session, debug: bool, cause: BaseException) -> int:
    """Report an error as one paragraph on stderr, and as one JSON object with ``--json``."""
    _finish(session, debug)
    error = as_error(cause)
    if session.json:
        with contextlib.suppress(OSError):
            session.emit(event="error", message=str(error), exit_code=error.exit_code)
    _say_last(f"aqdask: {error}")
    return error.exit_code


def _finish(session: Session, debug: bool) -> None:
    """Stop the progress display and print the traceback with ``--debug``."""
    with contextlib.suppress(Exception):
        session.reporter.finish()
    if debug:
        with contextlib.suppress(OSError):
            click.echo("\n".join(map(printable, traceback.format_exc().splitlines())), err=True)


def _say_last(text: str) -> None:
    """Print a line on stderr; without stderr the exit code has to suffice."""
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def _same_command() -> list[str]:
    """Words of the command line as the user typed it."""
    program = Path(sys.argv[0]).name
    return [program if program in ("aqdask", "dask") else "aqdask", *sys.argv[1:]]


def _shell(word: str) -> str:
    r"""Quote a word for a shell, as ``$'a\x1b'`` where it is not printable."""
    if printable(word) == word:
        return shlex.quote(word)
    quoted = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(quoted)}'"
