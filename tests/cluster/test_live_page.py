"""The live page of commands on clusters: as JSON, as metrics, in a browser, and where it cannot be shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dask
import pytest
import screen_reader
from click.testing import CliRunner
from distributed import Client
from distributed.dashboard import core
from live import fetched, started, watched
from night import sky, write_frame, write_night

from aqdask.cli.main import aqdask
from aqdask.monitor import scheduler_page

pytestmark = pytest.mark.cluster
MARKUP = "<img src=x onerror=alert(1)>"


def command(folder: Path, archive: Path, bundle, *more: str) -> list[str]:
    model = archive.with_name("m.safetensors")
    bundle.save(model)
    words = ["run", folder, archive, "--model", model, "--frames-per-shard", "2", *more]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def odd_night(tmp_path_factory) -> Path:
    """A folder of 24 frames, one with markup in its name, and of a file that is no FITS."""
    folder = write_night(tmp_path_factory.mktemp("odd"), 23)
    write_frame(folder / f"A{MARKUP}.fits", sky(1), INSTRUME="tinycam", FILTER="L")
    (folder / f"bad {MARKUP}.fits").write_text("no FITS")
    return folder


def test_json_and_metrics_of_a_scheduler_that_runs_already(pool, odd_night, bundle, tmp_path):
    arguments = command(odd_night, tmp_path / "a.zarr", bundle, "--cluster", pool.scheduler_address)
    process, seen, metrics = started(arguments), [], ""
    with process:
        for address in watched(process):
            assert address.endswith("/aqdask")
            seen += json.loads(fetched(f"{address}.json"))["runs"][:1]
            metrics = fetched(address.replace("/aqdask", "/metrics"))
    assert process.returncode == 1  # one file is quarantined
    assert {"running"} <= {run["state"] for run in seen}
    after = json.loads(fetched(f"{address}.json"))
    last = after["runs"][0]
    assert (last["command"], last["state"], last["quarantined"]) == ("run", "finished", 1)
    assert [(s["done"], s["total"]) for s in last["stages"] if s["stage"] == "run"] == [(24, 24)]
    assert [run["done"] for run in seen if run["stage"] == "run"] == sorted(
        run["done"] for run in seen if run["stage"] == "run"
    )
    assert MARKUP in last["failures"][0]["frame_id"]
    assert last["pictures"]
    assert len(after["workers"]) == 2
    if "aqdask_planned" not in metrics:
        pytest.importorskip("prometheus_client")
    assert 'aqdask_done_total{command="run"' in metrics
    assert "dask_scheduler_workers" in metrics
    page = fetched(address)
    assert "aqdask" in page
    assert 'href="aqdask"' in page  # the tab in Dask's navigation


def test_parts_of_distributed_that_have_moved_give_one_warning(
    scheduler, night, bundle, tmp_path, monkeypatch
):
    def moved(*args, **options):
        raise AttributeError("BokehApplication has moved")

    monkeypatch.setattr(core, "BokehApplication", moved)
    scheduler.scale(1)
    arguments = command(night, tmp_path / "a.zarr", bundle, "--cluster", scheduler.scheduler_address)
    done = CliRunner().invoke(aqdask, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.count("warning: no live page, or only a part of it; the run goes on") == 1
    assert "BokehApplication has moved" in done.output
    address = scheduler.dashboard_link
    assert f"dashboard: {address}" in done.output
    last = json.loads(fetched(address.replace("/status", "/aqdask.json")))["runs"][0]
    assert last["state"] == "finished"


def test_a_scheduler_that_takes_no_functions_gives_one_warning(
    scheduler, night, bundle, tmp_path, monkeypatch
):
    def refused(dask_scheduler):
        raise ModuleNotFoundError("No module named 'aqdask'")

    monkeypatch.setattr("aqdask.monitor.publish.install", refused)
    scheduler.scale(1)
    arguments = command(night, tmp_path / "a.zarr", bundle, "--cluster", scheduler.scheduler_address)
    done = CliRunner().invoke(aqdask, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.count("warning: no live page") == 1


def test_without_a_live_page_nothing_is_set_up(scheduler, night, bundle, tmp_path):
    scheduler.scale(1)
    arguments = command(night, tmp_path / "a.zarr", bundle, "--cluster", scheduler.scheduler_address)
    with dask.config.set({"aqdask.live-page": False}):
        done = CliRunner().invoke(aqdask, arguments)
    assert done.exit_code == 0, done.output
    assert f"dashboard: {scheduler.dashboard_link}" in done.output
    with Client(scheduler.scheduler_address) as client:
        assert not client.run_on_scheduler(has_page)


def has_page(dask_scheduler) -> bool:
    return scheduler_page.NAME in dask_scheduler.extensions


@pytest.mark.browser
def test_the_page_in_a_browser_while_frames_come_in(odd_night, bundle, tmp_path, require):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    require(chromium, "no chromium on PATH")
    arguments = command(odd_night, tmp_path / "a.zarr", bundle, "--cluster", "local:1")
    process, problems = started(arguments), []
    with process, playwright.sync_playwright() as driver:
        address = next(watched(process))
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page()
        view.on("console", lambda message: message.type == "error" and problems.append(message.text))
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.on("dialog", lambda box: (problems.append(f"executed: {box.message}"), box.dismiss()))
        view.goto(address)
        view.get_by_role("heading", name="aqdask run: run, running").wait_for(timeout=60_000)
        picture = view.get_by_role("img", name="with its mask").first
        picture.wait_for(timeout=60_000)
        assert picture.evaluate("image => image.naturalWidth") == 100  # half of the frame
        first = int(view.get_by_role("progressbar").get_attribute("aria-valuenow"))
        bar = view.locator(f"[role=progressbar]:not([aria-valuenow='{first}'])")
        bar.wait_for(timeout=60_000)
        assert view.get_by_role("cell", name=f"bad {MARKUP}.fits").is_visible()
        assert view.get_by_role("link", name="Aqdask").is_visible()
        unnamed = [
            role for role, name, _ in screen_reader.spoken(view) if role in screen_reader.NAMED and not name
        ]
        assert sorted(unnamed) == ["image", "link"]  # Dask's own, with its logo
        assert problems == []
        browser.close()
        process.communicate(timeout=120)
    assert process.returncode == 1
