"""The live page as HTML, metrics and Grafana's queries; nothing that a file says is executed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from aqdask.execution.reporter import FrameFacts, Silent
from aqdask.monitor import page
from aqdask.monitor.live_runs import RUNS, LiveRuns
from aqdask.monitor.scheduler_page import METRICS, RunMetrics
from aqdask.monitor.telemetry import Telemetry

ODD = "<img src=x onerror=alert(1)>'\" onload=alert(2) \x1b[31m\udce9&amp;"
ROOT = Path(__file__).parents[2]


def snapshot(started: str = "") -> dict:
    kept = Telemetry(Silent(), ODD)
    kept.start(ODD, 3, ODD)
    kept.say(ODD)
    kept.frame_done(ODD, FrameFacts(3.0, 0.25, ODD, {"read": 0.5, ODD: 1.0}, b"JPEG"))
    kept.frame_failed(ODD, ODD)
    kept.advance(2, 1)
    found = kept.snapshot()
    return found | {"started": started or found["started"]}


@pytest.fixture
def live() -> LiveRuns:
    worker = SimpleNamespace(
        name=ODD, address="tcp://127.0.0.1:1", status=SimpleNamespace(name="running"), nthreads=1,
        processing={}, metrics={"cpu": 99.0, "memory": 2**20}, memory_limit=None,
    )  # fmt: skip
    return LiveRuns(SimpleNamespace(workers={"tcp://127.0.0.1:1": worker}))


class Tags(HTMLParser):
    """Names of all tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_an_inbox_has_a_last_frame_and_no_rate(live):
    live.receive("a", snapshot() | {"stage": "watch", "done": 2})
    view = page.PageView(live)
    last = live.latest()[0]["latest"][0]["time"][:10]
    assert re.search(rf"<b>2</b> frames so far.*<b>{last} [0-9:]{{8}}</b> last frame", view.summary.text)
    assert not re.search("a second|<div class=bar", view.summary.text)
    assert not view.rate.visible
    live.receive("a", snapshot())
    view.update()
    assert view.rate.visible


def test_markup_in_names_is_text(live):
    live.receive("a", snapshot())
    view = page.PageView(live)
    shown = view.summary.text + view.pictures.text + view.tables.text
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    seen = Tags()
    seen.feed(shown)
    known = "style h1 h2 div span b p figure img figcaption br table thead tbody tr th td"
    assert seen.tags <= set(known.split())
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert shown.count("<img") == 1


def test_the_page_of_a_scheduler_without_a_run_says_so(live):
    assert "No aqdask command has reported yet" in page.PageView(live).summary.text


def test_the_page_shows_what_comes_in(live):
    view = page.PageView(live)
    live.receive("a", snapshot())
    view.update()
    assert "of 3 " in view.summary.text
    assert next(iter(view.parts.data["seconds"])) == pytest.approx(500)
    assert "25.0 % masked" in view.pictures.text


def test_running_commands_come_first_and_old_ones_are_forgotten(live):
    for number in range(RUNS + 2):
        live.receive(f"{number}", snapshot(f"2026-01-0{number + 1}") | {"state": "finished"})
    live.receive("3", snapshot("2026-01-04"))
    assert [run["started"][9:] for run in live.latest()] == ["4", "6", "5", "3"]


def test_metrics_and_the_queries_of_the_grafana_dashboard(live):
    pytest.importorskip("prometheus_client")
    collector = RunMetrics()
    assert all(not metric.samples for metric in collector.collect())
    collector.live = live
    live.receive("a", snapshot() | {"seconds_left": 4.0})
    samples = {sample.name: sample for metric in collector.collect() for sample in metric.samples}
    assert len(samples) == len(METRICS)
    assert samples["aqdask_done_total"].value == 2
    assert samples["aqdask_done_total"].labels["command"] == ODD
    panels = json.loads((ROOT / "cluster" / "grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\b(?:aqdask|dask)_\w+", query)}
    assert asked - {"dask_scheduler_workers"} <= samples.keys()  # that one is distributed's own
    labels = {name for sample in samples.values() for name in sample.labels}
    assert {name for query in queries for name in re.findall(r"by \((\w+)\)", query)} <= labels
