"""Columns that are in some frames only, and streaks, keep a frame out of the references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aqdask.references.detector_lines import (
    DetectorLine,
    FrameLines,
    measure_lines,
    told_line,
    uneven_lines,
    when,
)
from aqdask.references.image_statistics import ImageStatistics, measure
from aqdask.references.propose import line_notes, propose
from aqdask.simulate.defect_base import Defect
from aqdask.simulate.defects import DeadColumn, HotColumn, Trail
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec

SPEC = SceneSpec(height=256, width=320, field_seed=1)
COLUMN = 240
TIMES = [1_767_571_200_000_000 + 600_000_000 * k for k in range(14)]  # from 2026-01-05T00:00 on


def taken(number: int, *defects: Defect) -> ImageStatistics:
    scene = replace(SPEC, sky=1000 + 10 * (number % 5), pointing=(float(number % 3), float(number % 4)))
    return measure(simulate_frame(scene, defects, seed=number).image, lines=True)


@pytest.fixture(scope="module")
def good() -> list[ImageStatistics]:
    return [taken(number) for number in range(14)]


@pytest.fixture(scope="module")
def spoilt() -> list[ImageStatistics]:
    return [taken(number, HotColumn(40, column=COLUMN / 320)) for number in range(14)]


def proposed(frames: list[ImageStatistics]) -> tuple[list[bool], list[str], list[str]]:
    """Verdicts, reasons and notes."""
    groups = [("cam", "L")] * len(frames)
    found = propose([f"f{k}" for k in range(len(frames))], frames, groups)
    notes = line_notes(found, groups, TIMES[: len(frames)])
    return [one.proposed for one in found], [one.reason for one in found], notes


def test_good_frames_list_no_line(good: list[ImageStatistics]) -> None:
    assert not any(one.lines.listed for one in good)
    assert max(one.lines.streak for one in good) < 7
    assert proposed(good)[2] == []


@pytest.mark.parametrize(
    ("defect", "is_bright"),
    [
        (HotColumn(40, column=COLUMN / 320), True),
        (HotColumn(60, column=COLUMN / 320, start=0.55), True),
        (DeadColumn(0.3, column=COLUMN / 320), False),
    ],
)
def test_a_column_is_listed_whole_or_in_part(defect: Defect, is_bright: bool) -> None:
    (line,) = taken(3, defect).lines.listed
    assert line[:2] == ("column", COLUMN)
    assert (line.strength > 8) == is_bright


def test_frames_since_a_column_went_bad_are_no_references(
    good: list[ImageStatistics], spoilt: list[ImageStatistics]
) -> None:
    verdicts, reasons, notes = proposed(good[:9] + spoilt[9:])
    assert not any(verdicts[9:])
    assert sum(verdicts) >= 8
    assert all(reason.startswith(("left out: column 240 is brighter", "outlier")) for reason in reasons[9:])
    assert len(notes) == 1
    assert f"cam L: column {COLUMN} is brighter than beside it in " in notes[0]
    assert ", from 2026-01-05T01:30 on, and not in the others: those are no references" in notes[0]
    assert told_line(notes[0]) == ("column", COLUMN)
    assert told_line("cam L: 2 more such columns and rows") is None


def test_where_too_few_are_left_the_column_is_named(
    good: list[ImageStatistics], spoilt: list[ImageStatistics]
) -> None:
    verdicts, _, notes = proposed(good[:4] + spoilt[4:])
    assert sum(verdicts[4:]) >= 8
    assert "from 2026-01-05T00:40 on, and not in the others: normal for" in notes[0]


def test_a_column_of_all_frames_is_the_cameras_own(
    good: list[ImageStatistics], spoilt: list[ImageStatistics]
) -> None:
    verdicts, _, notes = proposed(spoilt)
    assert verdicts == proposed(good)[0]
    assert notes == []


def test_a_trail_drops_a_frame(good: list[ImageStatistics]) -> None:
    trail = taken(5, Trail(120, angle=25, through=(0.4, 0.5)))
    verdicts, reasons, _ = proposed([*good[:5], trail, *good[6:]])
    assert not verdicts[5]
    assert reasons[5].startswith("outlier: at worst streak ")
    assert proposed(good)[0][5]


def test_a_faint_or_unlisted_line_is_no_difference() -> None:
    strong, weak = (FrameLines((DetectorLine("row", 7, value),)) for value in (20.0, 9.0))
    assert [line.members for line in uneven_lines([strong, FrameLines(), strong])] == [(0, 2)]
    assert uneven_lines([strong, FrameLines(floor=11.0), strong]) == []  # it lists others, all stronger
    assert uneven_lines([weak, FrameLines(), weak]) == []
    beside = FrameLines((DetectorLine("row", 8, 20.0),))
    assert uneven_lines([strong, beside]) == []
    dark = FrameLines((DetectorLine("row", 7, -20.0),))
    assert [line.is_bright for line in uneven_lines([strong, dark])] == [True, False]


def test_small_frames_and_pixels_without_data() -> None:
    assert measure_lines(np.zeros((64, 500), np.float32), np.zeros((64, 500), bool), 1.0) == FrameLines()
    rng = np.random.default_rng(0)
    pixels, bad = rng.normal(0, 1, (203, 301)).astype(np.float32), np.zeros((203, 301), bool)
    pixels[:, 100], bad[:, 100] = -1e6, True
    assert measure_lines(pixels, bad, 1.0).listed == ()


def test_times_in_words() -> None:
    assert when(TIMES[7:], TIMES[:7]) == ", from 2026-01-05T01:10 on"
    assert when(TIMES[2:4], TIMES[5:]) == ", from 2026-01-05T00:20 to 2026-01-05T00:30"
    assert when(TIMES[2:3], TIMES[5:]) == ", at 2026-01-05T00:20"
    assert when([None, *TIMES[7:]], TIMES[:7]) == ""
    assert when(TIMES[7:], [None]) == ", from 2026-01-05T01:10 to 2026-01-05T02:10"
