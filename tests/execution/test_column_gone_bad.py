"""A column that goes bad in the night is not learnt as normal: from `select` to the report."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

import aqdask as aq
from aqdask.execution.reporter import Silent
from aqdask.products.report.data import report_data
from aqdask.references.detector_lines import told_line
from aqdask.simulate.defects import HotColumn, Trail
from aqdask.simulate.demo import demo_plan, write_demo_frame

FRAMES, GOES_BAD, TRAIL = 22, 12, 4
SHAPE, COLUMN = (384, 384), 150
BAD = [f"frame_{k:03d}.fits" for k in range(GOES_BAD, FRAMES)]


class Told(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Archive, scored with a model that is calibrated on the frames that `select` proposes; what was said."""
    folder, place = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("archive") / "a.zarr"
    for number, frame in enumerate(demo_plan(3 * FRAMES // 2, 256, seed=8)[:FRAMES]):
        defects = (HotColumn(150, column=COLUMN / SHAPE[1]),) if number >= GOES_BAD else ()
        defects += (Trail(300, angle=25, through=(0.4, 0.5)),) if number == TRAIL else ()
        scene = replace(frame.spec, height=SHAPE[0], width=SHAPE[1])
        write_demo_frame(folder, replace(frame, spec=scene, defects=defects))
    aq.ingest(folder, place, cluster="serial")
    told = Told()
    model = aq.calibrate(place, "wide-field", name="cam", alpha=0.02, cluster="serial", reporter=told)
    aq.score(place, model, cluster="serial")
    return SimpleNamespace(place=place, model=model, told=told.lines)


def references(model):
    return {
        name for part in model.calibrations["SIMCAM|L"].facts["about"]["frames"].values() for name in part
    }


def test_frames_with_it_and_with_a_trail_are_no_references(night):
    assert not references(night.model) & {*BAD, f"frame_{TRAIL:03d}.fits"}
    assert len(references(night.model)) >= 8
    assert any(
        f"SIMCAM L: column {COLUMN} is brighter than beside it in " in line
        and "from 2024-05-07T20:15 on, and not in the others: those are no references" in line
        for line in night.told
    )


def test_it_is_masked_and_the_report_names_it_with_time_and_place(night):
    quality = aq.open_quality(night.place)
    masked = (quality["pvalue"].values <= 0.02)[:, :, COLUMN // 64]
    assert masked[GOES_BAD:].mean() > 0.8
    assert masked[:GOES_BAD].mean() < 0.2
    summary = report_data(night.place).summary
    (told,) = (
        line
        for line in summary
        if line.startswith(f"Masked again and again: column {COLUMN} (pixel), all rows (6 patches) of SIMCAM")
    )
    assert (
        "mostly for lines or trails, from frame_013.fits on (2024-05-07 20:16 UTC)" in told
    )  # of unflagged frames
    assert any(
        " of 22 frames are the reference frames of the calibration themselves" in line for line in summary
    )


def test_named_references_with_and_without_it_are_noted(night):
    named = ["frame_00[0-35-9].fits", *BAD[:5]]
    model = aq.calibrate(night.place, "wide-field", frames=named, name="b", alpha=0.02, cluster="serial")
    (note,) = (note for note in model.notes if "differs from its neighbours" in note)
    assert told_line(note) == ("column", COLUMN)
    assert note.startswith(
        f"The column {COLUMN} differs from its neighbours in 5 of the 14 reference frames, from 20"
    )
