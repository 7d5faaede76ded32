"""Entry point: the table of commands, each imported when it is called."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from aqdask.cli.common import Session, failed, interrupted
from aqdask.errors import EXIT_INTERRUPTED
from aqdask.text import printable
from aqdask.version import __version__

# The only table of commands: a name, and the module whose attribute of that name is the `click.Command`.
# `aqdask --help` lists them in this order, that of a user's workflow.
COMMANDS = {
    "run": "aqdask.cli.ingest",
    "ingest": "aqdask.cli.ingest",
    "watch": "aqdask.cli.watch",
    "verify": "aqdask.cli.ingest",
    "info": "aqdask.cli.info",
    "select": "aqdask.cli.model",
    "train": "aqdask.cli.model",
    "calibrate": "aqdask.cli.model",
    "score": "aqdask.cli.model",
    "compare": "aqdask.cli.products",
    "mask": "aqdask.cli.products",
    "export": "aqdask.cli.products",
    "detect": "aqdask.cli.detect",
    "transients": "aqdask.cli.transients",
    "photometry": "aqdask.cli.photometry",
    "label": "aqdask.cli.label",
    "report": "aqdask.cli.report",
    "rank": "aqdask.cli.stack",
    "stack": "aqdask.cli.stack",
    "drift": "aqdask.cli.drift",
    "simulate": "aqdask.cli.demo",
    "demo": "aqdask.cli.demo",
}


class LazyGroup(click.Group):
    """Group of commands that imports a command when it is looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command from its module; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name])
        return getattr(module, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors before its start are reported like errors within."""
        for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows escapes
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        outside = Session(cluster=None, quiet=True, json=False)
        try:
            with sigterm_as_interrupt():
                return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(interrupted(outside))
        except click.exceptions.Exit:
            raise
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)  # the message may quote the command line
            raise
        except Exception as error:
            sys.exit(failed(outside, False, error))


@click.group(
    name="aqdask",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="aqdask")
def aqdask() -> None:
    """Patch quality scores and masks for archives of large astronomical frames, on Dask.

    \b
    A first run:
      aqdask ingest night/ night.zarr
      aqdask calibrate night.zarr --model wide-field --out camera.safetensors
      aqdask score night.zarr --model camera.safetensors
      aqdask export night.zarr masks/ --alpha 0.01

    Exit codes: 0 every frame done; 1 finished, some frames quarantined, or kept as stored; 2 usage; 3 could
    not finish (disk, cluster, archive, unreachable sources); 130 interrupted. A command that was interrupted
    resumes when it is run again.
    Settings are read from Dask's configuration under `aqdask:`.
    """


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP, from batch systems and lost terminals, like Ctrl-C.

    A second signal ends the process at once. Ignored signals (``nohup``) stay ignored. Only the main thread
    can set handlers; in other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(EXIT_INTERRUPTED)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, at_once)
        raise KeyboardInterrupt(signal.Signals(number).name)

    former = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry point of the ``aqdask`` script."""
    aqdask(prog_name="aqdask")
