"""Valid JSON for any number."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from night import sky, write_frame

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.cli.evaluation import DemoResults, FrameResult, write
from aqdask.monitor.progress import JsonReporter
from aqdask.monitor.strict_json import strict_json
from aqdask.simulate.truth import Evaluation, Rate


def strict(text: str) -> object:
    """Parsed; NaN and infinities, which Python reads and JSON does not have, are an error."""

    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refused)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (np.float32("nan"), None),
        (np.float64("inf"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        ({"a": [1, (math.nan, "NaN")], 2: True}, {"a": [1, [None, "NaN"]], "2": True}),
        (1e308, 1e308),
        ("Größe", "Größe"),
    ],
    ids=repr,
)
def test_what_is_not_finite_is_null(value, expected):
    text = strict_json(value)
    assert strict(text) == expected
    assert "\n" not in text


def test_what_is_no_plain_value_is_its_text(tmp_path):
    assert strict(strict_json({"path": tmp_path})) == {"path": str(tmp_path)}


def test_progress_and_the_demonstrations_numbers_too(tmp_path):
    stream = io.StringIO()
    JsonReporter(stream).emit(event="curve", loss=math.nan)
    assert strict(stream.getvalue()) == {"event": "curve", "loss": None}
    line = FrameResult("a.fits", (), masked=1.0, score=math.inf, flagged=True, reasons={})
    none = Rate(0, 0)
    results = DemoResults(0.01, Evaluation({}, none, none), (line,))
    assert strict(write(tmp_path / "evaluation.json", results).read_text())["frames"][0]["score"] is None


def test_select_has_no_score_for_a_frame_that_cannot_be_measured(tmp_path):
    for number in range(4):
        write_frame(tmp_path / "night" / f"{number}.fits", sky(number))
    write_frame(tmp_path / "night" / "flat.fits", np.full_like(sky(0), 100))
    aq.ingest(tmp_path / "night", tmp_path / "a.zarr", cluster="serial")
    command = ["select", str(tmp_path / "a.zarr"), "--json", "--cluster", "serial"]
    lines = [strict(line) for line in CliRunner().invoke(aqdask, command).stdout.splitlines()]
    (flat,) = [line for line in lines if line.get("frame") == "flat.fits"]
    assert (flat["score"], flat["fwhm"]) == (None, None)
