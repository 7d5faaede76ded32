"""Live page of a command that runs in this process, where no Dask scheduler serves it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aqdask.monitor.scheduler_page import JSON, METRICS_PAGE, PAGE, RunMetrics
from aqdask.monitor.strict_json import strict_json
from aqdask.monitor.telemetry import Telemetry

if TYPE_CHECKING:
    from bokeh.document import Document

LOOPBACK, ANYWHERE = "127.0.0.1", ("", "0.0.0.0", "::")
START_SECONDS = 20.0


class LocalRun:
    """The one command of this process, in the form of `aqdask.monitor.live_runs.LiveRuns`."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry

    def latest(self) -> list[dict[str, Any]]:
        """Return the snapshot of the command."""
        return [self.telemetry.snapshot()]

    def workers(self) -> None:
        """Return None: there are no workers."""


@contextlib.contextmanager
def local_page(telemetry: Telemetry, address: str) -> Iterator[str]:
    """Serve the live page, its JSON, and metrics for Prometheus (optional) from a thread; yield the URL.

    Parameters
    ----------
    telemetry : Telemetry
        Of the command.
    address : str
        ``host:port``; another port is taken where that one is in use.

    Raises
    ------
    OSError
        If no port of the host can be used.
    """
    host, _, port = address.rpartition(":")
    number = _free_port(host, int(port))
    loop, started = asyncio.new_event_loop(), threading.Event()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        server = _server(LocalRun(telemetry), host, number)
        server.start()
        loop.call_soon(started.set)
        loop.run_forever()
        server.stop()
        loop.close()

    thread = threading.Thread(target=serve, name="aqdask page", daemon=True)
    thread.start()
    if not started.wait(START_SECONDS):
        raise OSError(f"the page did not start within {START_SECONDS:.0f} s")
    try:
        yield f"http://{LOOPBACK if host in ANYWHERE else host}:{number}{PAGE}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_SECONDS)


def _server(run: LocalRun, host: str, port: int) -> Any:
    from bokeh.application import Application
    from bokeh.application.handlers.function import FunctionHandler
    from bokeh.server.server import Server
    from tornado.ioloop import IOLoop
    from tornado.web import RequestHandler

    from aqdask.monitor.page import REFRESH, PageView

    def show(doc: Document) -> None:
        view = PageView(run)
        doc.title = "aqdask"
        doc.add_root(view.root)
        doc.add_periodic_callback(view.update, REFRESH)

    class Report(RequestHandler):
        """All that the page shows, as one object of standard JSON."""

        def get(self) -> None:
            self.set_header("Content-Type", "application/json; charset=utf-8")
            self.set_header("X-Content-Type-Options", "nosniff")
            self.set_header("Cache-Control", "no-store")
            self.write(strict_json({"runs": run.latest(), "workers": []}))

    class Metrics(RequestHandler):
        """The metrics of `METRICS` in Prometheus's text format; 404 without prometheus_client."""

        def get(self) -> None:
            try:
                from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
            except ImportError:
                self.send_error(404, reason="prometheus_client is not installed (the extra metrics)")
                return
            registry = CollectorRegistry()
            registry.register(RunMetrics(run))
            self.set_header("Content-Type", CONTENT_TYPE_LATEST)
            self.write(generate_latest(registry))

    origins = ["*"] if host in ANYWHERE else [f"{name}:{port}" for name in (host, "localhost")]
    return Server(
        {PAGE: Application(FunctionHandler(show))}, io_loop=IOLoop.current(), address=host, port=port,
        extra_patterns=[(JSON, Report), (METRICS_PAGE, Metrics)], allow_websocket_origin=origins,
    )  # fmt: skip


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one where it is in use."""
    for wanted in (port, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, wanted))
            return int(probe.getsockname()[1])
    raise OSError(f"no port of {host} can be used")
