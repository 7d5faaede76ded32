"""Fixtures: Chromium, pages that fail on errors of the console, and reports to look at."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from night import OPTIONS, night_frame, tiny_bundle, write_frame

import aqdask as aq
from aqdask.simulate.demo import demo_plan, write_demo_frame

READY = "html[data-ready=yes]"
HOSTILE = '<img src=x onerror="window.owned=1">'
HOSTILE_FILTER = "</script><script>window.owned=1</script>"


@pytest.fixture(scope="module")  # its event loop must end before other modules start theirs
def browser(require) -> Iterator[Any]:
    """Headless Chromium of the system, driven by playwright."""
    path = shutil.which("chromium")
    require(path, "no chromium on PATH (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        require(False, "playwright is not installed (the extra `test`)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """``open_page(path, **context)``: a loaded report; errors and warnings of its console fail the test."""
    contexts, complaints = [], []

    def opened(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda request: complaints.append(request.url[:80]) if is_remote(request.url) else None
        )
        page.goto(path.as_uri())
        page.wait_for_selector(READY, state="attached", timeout=60_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def is_remote(url: str) -> bool:
    """Return True for anything but a file or data in the page itself."""
    return not url.startswith(("file:", "data:", "blob:"))


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Path:
    """Report on sixteen simulated frames, six of them with defects of one kind each; three have no panel."""
    folder = tmp_path_factory.mktemp("night")
    for frame in demo_plan(16, 256, 7):
        write_demo_frame(folder / "frames", replace(frame, spec=replace(frame.spec, filter="r")))
    (folder / "frames" / "broken.fits").write_text("no FITS")
    archive = folder / "night.zarr"
    aq.ingest(folder / "frames", archive, cluster="serial")
    model = aq.calibrate(archive, "wide-field", alpha=0.05, cluster="serial")
    aq.score(archive, model, cluster="serial")
    return aq.report(archive, folder / "report.html", alpha=0.05, panels=13).path


@pytest.fixture(scope="session")
def labelled(report) -> Path:
    """Report on the same frames, of which the archive has a label."""
    archive = report.with_name("night.zarr")
    aq.label(archive, "frame_002.fits", "bad")
    page = aq.report(archive, report.with_name("labelled.html"), alpha=0.05, panels=1)
    aq.label(archive, "frame_002.fits", None)
    return page.path


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """Report on frames with markup in name, filter and camera."""
    folder = tmp_path_factory.mktemp("hostile")
    for number in range(3):
        cards = {"FILTER": HOSTILE_FILTER, "INSTRUME": HOSTILE, "DATE-OBS": f"2024-05-07T01:0{number}:00"}
        write_frame(folder / "frames" / f"{HOSTILE}{number}.fits", night_frame(0), **cards)
    (folder / "frames" / f"{HOSTILE}.fits").write_text("no FITS")
    archive = folder / f"{HOSTILE}.zarr"
    aq.ingest(folder / "frames", archive, cluster="serial", **OPTIONS)
    aq.score(archive, tiny_bundle(), cluster="serial")
    return aq.report(archive, folder / "report.html", alpha=0.2).path
