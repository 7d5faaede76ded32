"""Extension of Dask's scheduler: the page /aqdask, the same as JSON, and metrics for Prometheus.

Some of what it stands on is private to distributed: each part is set up by itself, and a part that fails is
reported to the client, which warns once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Scheduler

from aqdask.monitor.live_runs import LiveRuns
from aqdask.monitor.page import Runs, document
from aqdask.monitor.strict_json import strict_json

NAME, PAGE, JSON, METRICS_PAGE = "aqdask", "/aqdask", "/aqdask.json", "/metrics"
OPERATION = "aqdask_telemetry"  # by which clients send snapshots


def install(dask_scheduler: Scheduler) -> dict[str, str]:
    """Set up page, JSON and metrics on a scheduler, once; return the problems of the parts that failed."""
    live = dask_scheduler.extensions.get(NAME)
    if isinstance(live, _Installed):
        return live.problems
    live = _Installed(LiveRuns(dask_scheduler), {})
    dask_scheduler.extensions[NAME] = live
    for part, set_up in PARTS.items():
        try:
            set_up(live.runs)
        except Exception as error:
            live.problems[part] = f"{type(error).__name__}: {error}"
    return live.problems


class _Installed:
    def __init__(self, runs: LiveRuns, problems: dict[str, str]) -> None:
        self.runs, self.problems = runs, problems


def _add_operation(live: LiveRuns) -> None:
    live.scheduler.handlers[OPERATION] = live.receive


def _add_json(live: LiveRuns) -> None:
    from tornado.web import RequestHandler

    class Report(RequestHandler):
        """All that the page shows, as one object of standard JSON."""

        def get(self) -> None:
            self.set_header("Content-Type", "application/json; charset=utf-8")
            self.set_header("X-Content-Type-Options", "nosniff")
            self.set_header("Cache-Control", "no-store")
            self.write(strict_json(live.report()))

    live.scheduler.http_application.add_handlers(r".*$", [(JSON, Report)])


def _add_page(live: LiveRuns) -> None:
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables
    from tornado.ioloop import IOLoop

    def show(scheduler: Scheduler, extra: dict[str, Any], doc: Any) -> None:
        document(live, extra, doc)

    shared = template_variables(live.scheduler)
    application = BokehApplication({PAGE: show}, live.scheduler, prefix="", template_variables=shared)
    live.scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    if NAME not in shared["pages"]:
        shared["pages"].insert(0, NAME)


class RunMetrics:
    """Collector of prometheus_client: the commands of the scheduler of this process, or of another source."""

    def __init__(self, live: Runs | None = None) -> None:
        self.live = live

    def collect(self) -> Iterator[Any]:
        """Yield every metric, labelled by command, stage and start of the run."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        runs = self.live.latest() if self.live else []
        for name, (kind, text, value) in METRICS.items():
            family = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}[kind]
            extra = ["part"] if name == SECONDS else []
            of_stage = "timed_stage" if name in (SECONDS, TIMED) else "stage"
            metric = family(name, text, labels=["command", "stage", "started", *extra])
            for run in runs:
                labels = [run["command"], run[of_stage], run["started"]]
                values = value(run)
                for part, number in (values if isinstance(values, dict) else {"": values}).items():
                    if number is not None:
                        metric.add_metric([*labels, part] if extra else labels, number)
            yield metric


def _part_seconds(run: dict[str, Any]) -> dict[str, float]:
    return {part: seconds * run["frames_timed"] for part, seconds in run["seconds_a_frame"].items()}


SECONDS, TIMED = "aqdask_part_seconds", "aqdask_frames_timed"
METRICS: dict[str, tuple[str, str, Callable[[dict[str, Any]], Any]]] = {
    "aqdask_planned": ("gauge", "Frames or sources of the present stage", lambda run: run["total"]),
    "aqdask_done": ("counter", "Frames or sources of the stage that are finished", lambda run: run["done"]),
    "aqdask_quarantined": (
        "counter",
        "Frames or sources that are quarantined",
        lambda run: run["quarantined"],
    ),
    "aqdask_per_second": (
        "gauge",
        "Frames or sources that are finished a second",
        lambda run: run["per_second"],
    ),
    "aqdask_left_seconds": ("gauge", "Time left of the stage", lambda run: run["seconds_left"]),
    "aqdask_running": ("gauge", "1 while the command runs", lambda run: int(run["state"] == "running")),
    SECONDS: ("counter", "Time of all workers in a part of the work", _part_seconds),
    TIMED: ("counter", "Frames whose parts of the work were timed", lambda run: run["frames_timed"]),
}
_metrics = RunMetrics()


def _add_metrics(live: LiveRuns) -> None:
    """Add the metrics to those of this process, which distributed serves as /metrics; optional."""
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return
    _metrics.live = live
    with contextlib.suppress(ValueError):  # registered for an earlier scheduler of this process
        REGISTRY.register(_metrics)


PARTS: dict[str, Callable[[LiveRuns], None]] = {
    OPERATION: _add_operation,
    JSON: _add_json,
    PAGE: _add_page,
    METRICS_PAGE: _add_metrics,
}
