"""Fixtures of the watch: a tiny model, frames, and a watch with short times that ends by itself."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))
sys.path.append(str(Path(__file__).parents[1] / "browser"))

from night import tiny_bundle, write_night
from short_watch import FRAMES, TIMES

import aqdask as aq
from aqdask.methods.bundle import Bundle


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """A tiny model."""
    return tiny_bundle()


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> list[Path]:
    """Six frames, not to be changed."""
    folder = write_night(tmp_path_factory.mktemp("night"), FRAMES)
    return sorted(folder.rglob("*.fits"), key=lambda path: path.name)


@pytest.fixture
def inbox(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def archive(tmp_path) -> Path:
    return tmp_path / "a.zarr"


@pytest.fixture
def watch(inbox, archive, bundle) -> Callable[..., list[dict[str, Any]]]:
    """``watch(count, frame=callable, **settings)``: the records of frames and commands.

    The watch ends when ``count`` frames have been reported and their commands have ended; without a count,
    when nothing has come for a while. ``frame`` is called with the record of each frame.
    """

    def run(count=0, frame=lambda record: None, *, inboxes=None, options=None, **settings):
        events: list[dict[str, Any]] = []
        stop = threading.Event()

        def on_event(record):
            events.append(record)
            if record["event"] == "frame":
                frame(record)
            wanted = sum(bool(e.get("command")) for e in events if e["event"] == "frame")
            hooks = sum(e["event"] == "hook" for e in events)
            if count and len(events) - hooks == count and hooks == wanted:
                stop.set()

        times = TIMES | ({"idle": 30.0} if count else {})
        aq.watch(
            inboxes or inbox, archive, bundle, cluster="serial", on_event=on_event, stop=stop,
            settings=aq.WatchSettings(**(times | settings)), **({"chunk": 64} | (options or {})),
        )  # fmt: skip
        return events

    return run
