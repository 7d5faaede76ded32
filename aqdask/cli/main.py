"""The group of commands; each is imported when it is called."""

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

COMMANDS = {
    "run": "ingest",
    "ingest": "ingest",
    "verify": "ingest",
    "info": "info",
    "select": "model",
    "train": "model",
    "calibrate": "model",
    "score": "model",
    "compare": "products",
    "mask": "products",
    "export": "products",
    "simulate": "demo",
    "demo": "demo",
}


class LazyGroup(click.Group):
    """A group whose commands load on demand, in the order of a user's way through them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its module."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"aqdask.cli.{COMMANDS[cmd_name]}")
        return getattr(module, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong before it has begun ends like what goes wrong in it."""
        for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows escapes
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        outside = Session(cluster=None, quiet=True, json=False)
        try:
            with ended_like_ctrl_c():
                return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(interrupted(outside))
        except click.exceptions.Exit:
            raise
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)  # it may quote what was typed
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
    not finish (disk, cluster, archive, sources out of reach); 130 interrupted. Every command that was cut
    short resumes when it is run again.
    Settings: Dask's configuration under `aqdask:`.
    """


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """End the command on SIGTERM and SIGHUP, which batch systems and lost terminals send, as on Ctrl-C.

    A second one ends the process at once. Signals that are ignored (``nohup``) stay ignored; only the main
    thread can set any.
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
