"""Progress: no markup, no control characters, never more done than the total."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from aqdask.execution.reporter import TrainingReporter
from aqdask.methods.training.progress import TrainProgress
from aqdask.monitor import progress
from aqdask.monitor.progress import BarReporter, JsonReporter, LineReporter, WarningsOnly
from aqdask.text import plural

ODD = "warning: [/b] [red]x\x1b[31m\nM31_\udce9 :smile:"
SHOWN = "warning: [/b] [red]x\\x1b[31m\\x0aM31_\\xe9 :smile:"


def bar(stream):
    reporter = BarReporter()
    reporter.console = Console(file=stream, width=200)
    return reporter


@pytest.mark.parametrize("make", [bar, LineReporter, WarningsOnly])
def test_remarks_are_text(make):
    stream = io.StringIO()
    make(stream).say(ODD)
    assert stream.getvalue() == SHOWN + "\n"


def test_remarks_are_text_in_json():
    stream = io.StringIO()
    JsonReporter(stream).say(ODD)
    assert json.loads(stream.getvalue()) == {"event": "note", "text": SHOWN}


def test_work_that_turns_up_on_the_way_is_added_to_the_total(monkeypatch):
    """Frames whose maps are gone are scored again with those that were to be scored."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines, objects = io.StringIO(), io.StringIO()
    for reporter in (LineReporter(lines), JsonReporter(objects)):
        reporter.start("score", 2)
        reporter.advance(4)
        reporter.finish()
    assert "score: 4 of 4 frames" in lines.getvalue()
    assert "left" not in lines.getvalue()
    told = json.loads(objects.getvalue().splitlines()[-1])
    assert (told["done"], told["total"]) == (4, 4)
    stream = io.StringIO()
    shown = bar(stream)
    shown.start("score", 2)
    shown.advance(4)
    shown.finish()
    assert "4/4" in stream.getvalue()


def test_one_frame_is_one_frame():
    stream = io.StringIO()
    reporter = LineReporter(stream)
    reporter.start("score", 1)
    reporter.advance(1)
    reporter.finish()
    assert stream.getvalue().startswith("score: 1 of 1 frame in ")
    assert [plural(n, "box", "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]


def test_a_training_stage_that_begins_anew_begins_at_nothing():
    reporter = LineReporter(io.StringIO())
    listener = TrainingReporter(reporter)
    for done in (3, 1, 2):
        listener(TrainProgress("calibrate", done=done, total=3))
    assert reporter._done == 2
    reporter.finish()
    assert "-1" not in reporter.stream.getvalue()
