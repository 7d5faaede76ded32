"""The live page of a command in this process: JSON and page, also where the port is in use."""

from __future__ import annotations

import json
import socket
from urllib.request import urlopen

import pytest

from aqdask.execution.reporter import FrameFacts, Silent
from aqdask.monitor.local_page import local_page
from aqdask.monitor.telemetry import Telemetry

NAME = "<img src=x onerror=alert(1)>.fits"


@pytest.fixture
def telemetry():
    found = Telemetry(Silent(), "watch")
    found.start("watch", 0)
    found.frame_done(NAME, FrameFacts(3.5, 0.25, "size"))
    found.advance(1)
    return found


def get(url):
    with urlopen(url, timeout=20) as answer:
        return answer.headers, answer.read().decode()


def test_json_and_page_are_served_until_the_end(telemetry):
    with local_page(telemetry, "127.0.0.1:0") as url:
        headers, text = get(f"{url}.json")
        (run,) = json.loads(text)["runs"]
        assert (run["command"], run["done"], run["latest"][0]["frame_id"]) == ("watch", 1, NAME)
        assert headers["X-Content-Type-Options"] == "nosniff"
        telemetry.advance(1)
        assert json.loads(get(f"{url}.json")[1])["runs"][0]["done"] == 2
        page = get(url)[1]
        assert "<title>aqdask</title>" in page
        assert "<img" not in page
    with pytest.raises(OSError, match="refused"):
        urlopen(url, timeout=5)


def test_metrics_are_those_of_the_command(telemetry):
    pytest.importorskip("prometheus_client")
    telemetry.start("report", 1)
    with local_page(telemetry, "127.0.0.1:0") as url:
        headers, text = get(url.replace("/aqdask", "/metrics"))
    assert headers["Content-Type"].startswith("text/plain")
    assert 'aqdask_done_total{command="watch",stage="report"' in text
    [timed] = [line for line in text.splitlines() if line.startswith("aqdask_frames_timed_total")]
    assert 'stage="watch"' in timed  # the stage to which the times belong
    assert timed.endswith(" 1.0")


def test_another_port_is_taken_where_the_first_is_in_use(telemetry):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with local_page(telemetry, f"127.0.0.1:{taken}") as url:
            assert f":{taken}/" not in url
            assert json.loads(get(f"{url}.json")[1])["workers"] == []


def test_a_host_that_cannot_be_used_is_an_error(telemetry):
    with pytest.raises(OSError, match=r"no port of 192\.0\.2\.1"), local_page(telemetry, "192.0.2.1:0"):
        pass
