"""Fixtures of the watch: a tiny model, frames, and a watch with short times that ends by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from night import tiny_bundle, write_night

import aqdask as aq
from aqdask.methods.bundle import Bundle

FRAMES = 6
TIMES: dict[str, Any] = {"settle": 0.05, "poll": 0.02, "patience": 0.4, "idle": 0.8}


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
    """``watch(frame=callable, **settings)``: watch until nothing comes; the records of frames and commands.

    ``frame`` is called with the record of each frame.
    """

    def run(frame=lambda record: None, *, inboxes=None, cluster="serial", options=None, **settings):
        events: list[dict[str, Any]] = []

        def on_event(record):
            events.append(record)
            if record["event"] == "frame":
                frame(record)

        aq.watch(
            inboxes or inbox, archive, bundle, cluster=cluster, on_event=on_event,
            settings=aq.WatchSettings(**(TIMES | settings)), **({"chunk": 64} | (options or {})),
        )  # fmt: skip
        return events

    return run


def frames_of(events: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """Frame id and some fields of every frame, in order."""
    return [tuple(e[name] for name in ("frame_id", *names)) for e in events if e["event"] == "frame"]
