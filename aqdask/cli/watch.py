"""Command ``watch``: frames are scored as they arrive."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from types import FrameType
from typing import Any

import click

from aqdask.cli.common import Session, all_types_option, command
from aqdask.cli.ingest import ingest_settings, storing_options
from aqdask.errors import EXIT_DONE
from aqdask.text import plural

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Seconds(click.ParamType):
    """Duration such as ``90s`` or ``5min``, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds of a text."""
        from aqdask.execution.config import duration

        found = duration(value)
        if not 0 < found < float("inf"):
            self.fail(f"{value!r} is no time above 0 such as 90s or 5min", param, ctx)
        return found


def shown_event(record: dict[str, Any]) -> str:
    """Return the line of a frame: time, verdict, frame, score, masked share, reason, seconds from arrival."""
    parts = [datetime.fromisoformat(record["at"]).strftime("%H:%M:%S"), f"{record['verdict']:7}"]
    parts.append(record["frame_id"])
    if record.get("frame_score") is not None:
        parts.append(f"score {record['frame_score']:.3g}")
    if record["masked_fraction"] is not None:
        parts.append(f"masked {record['masked_fraction']:.1%}")
    parts += [record["reason"]] if record["reason"] else []
    parts += [f"{record['seconds']:.1f} s"] if record["seconds"] is not None else []
    return "  ".join(parts)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT, SIGTERM and SIGHUP set; a second signal interrupts the command.

    Ignored signals (``nohup``) stay ignored.
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(signal.Signals(number).name)
        stop.set()

    is_main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in STOPPING if is_main and signal.getsignal(n) != signal.SIG_IGN]
    former = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shown_page(session: Session) -> Iterator[None]:
    """Show the live page of a watch in this process; with a cluster, its dashboard has the page."""
    from aqdask.execution import config
    from aqdask.monitor.local_page import local_page
    from aqdask.monitor.progress import MessagesOnly

    class Announced(MessagesOnly):
        """Tells the address when the watch starts: options that cannot be used end it before."""

        def start(self, stage: str, total: int, unit: str = "frames") -> None:
            self.say(f"live page: {url}")

    telemetry = session.reporter
    telemetry.shown = MessagesOnly(telemetry.shown)  # a line a frame is enough
    with contextlib.ExitStack() as stack:
        if session.cluster == "serial" and config.get("live-page"):
            try:
                url = stack.enter_context(local_page(telemetry, str(config.get("dashboard-address"))))
                telemetry.pictures = True
                telemetry.shown = Announced(telemetry.shown)
            except (OSError, ValueError, ImportError) as error:
                telemetry.say(f"warning: no live page; the watch goes on ({error})")
        yield


@click.command()
@click.argument("inboxes", nargs=-1, required=True)
@click.argument("archive")
@click.option("--model", required=True, metavar="MODEL", help="Model bundle.")
@click.option(
    "--products", metavar="DIR", help="Folder of journal, table and masks.  [default: <ARCHIVE>-products]"
)
@click.option("--alpha", default=0.01, show_default=True, help="False-mask rate on good patches.")
@click.option(
    "--bad-if",
    metavar="CONDITION",
    help="A frame is bad where this holds, such as \"masked_fraction > 0.3 and filter == 'V'\": "
    "columns of frames.parquet, numbers and quoted texts, and, or, not.  "
    "[default: the model flags it]",
)
@click.option(
    "--on-bad",
    metavar="CMD",
    help="Run CMD FRAME_ID SCORE REASON MASK for each bad frame; no shell.",
)
@click.option("--on-good", metavar="CMD", help="The same for each good frame.")
@click.option(
    "--hook-timeout", type=Seconds(), default="60s", show_default=True, help="Kill CMD after this time."
)
@click.option(
    "--settle",
    type=Seconds(),
    default="1s",
    show_default=True,
    help="Read a file when its size and time have stayed the same for so long.",
)
@click.option(
    "--patience",
    type=Seconds(),
    default="60s",
    show_default=True,
    help="Wait so long for an incomplete file, then quarantine it until it changes.",
)
@click.option(
    "--poll", type=Seconds(), default="500ms", show_default=True, help="Look at the inboxes so often."
)
@click.option("--idle", type=Seconds(), help="End after so long without a frame.  [default: never]")
@all_types_option
@storing_options
@command
def watch(
    session: Session,
    inboxes: tuple[str, ...],
    archive: str,
    model: str,
    products: str | None,
    idle: float | None,
    all_types: bool,
    **options: Any,
) -> int:
    """Ingest and score frames as they arrive in the folders INBOXES, until Ctrl-C or SIGTERM.

    A line tells each frame's score, masked share and reason; DIR/watch.jsonl holds them all, and
    DIR/frames.parquet the table. Started again, it goes on where it was. It runs in this process unless
    --cluster is given.
    """
    from aqdask import api

    names = ("alpha", "bad_if", "on_bad", "on_good", "hook_timeout", "settle", "patience", "poll")
    given = {name: options.pop(name) for name in names}
    settings = api.WatchSettings(**given, idle=idle, all_types=all_types)
    session.cluster = session.cluster or "serial"

    def show(record: dict[str, Any]) -> None:
        if session.json:
            session.emit(**record)
        elif record["event"] == "frame" and not session.quiet:
            session.emit(shown_event(record))

    with stopped_by_signals() as stop, session.executor() as executor, shown_page(session):
        counts = api.watch(
            inboxes, archive, model, products=products, stop=stop, on_event=show,
            cluster=executor, reporter=session.reporter, settings=settings, **ingest_settings(**options),
        )  # fmt: skip
    parts = [f"{counts.good} good", f"{counts.bad} bad"]
    parts += [f"{counts.skipped} not lights"] if counts.skipped else []
    parts += [f"{plural(counts.hooks_failed, 'command')} failed"] if counts.hooks_failed else []
    left = plural(counts.hooks_left, "command is", "commands are")
    parts += [f"{left} run at the next start"] if counts.hooks_left else []
    session.emit(f"{archive}: {', '.join(parts)}", event="end", archive=archive, **vars(counts))
    return EXIT_DONE
