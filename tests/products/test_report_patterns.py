"""Patterns along rows and columns that a report tells of, and what it does not take for one."""

from __future__ import annotations

import numpy as np
import pytest

import aqdask as aq
from aqdask.products.report.patterns import (
    LinePattern,
    line_pattern,
    pattern_sentences,
    patterned,
)
from aqdask.simulate.defects import Background, Cloud, Defocus, Elongation, Gradient, Trail
from aqdask.simulate.demo import DemoFrame, write_demo_frame
from aqdask.simulate.detector_defects import Banding, DeadColumn
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec

SCENE = SceneSpec(height=256, width=320, sky=1000.0, fwhm=2.5, field_seed=3)


def measured(*defects, turned=False, bad=0.0, seed=5) -> LinePattern:
    image = simulate_frame(SCENE, defects, seed=seed).image
    invalid = np.random.default_rng(1).random(image.shape) < bad
    image = np.where(invalid, 0, image)
    return line_pattern(*(part.T if turned else part for part in (image, invalid)))


@pytest.mark.parametrize("bad", [0.0, 0.05])
def test_banding_is_a_pattern_of_rows_and_of_columns_where_the_frame_is_turned(bad):
    plain, banded = measured(bad=bad), measured(Banding(15.0), bad=bad)
    assert banded.rows > 3 * plain.rows
    assert banded.columns == pytest.approx(plain.columns, rel=0.3)
    assert measured(Banding(15.0), turned=True, bad=bad) == LinePattern(banded.columns, banded.rows)


@pytest.mark.parametrize(
    "defect",
    [
        Background(0.3), Cloud(0.5), Gradient(0.3), Defocus(4.5), Elongation(4.0), Trail(300.0),
        Trail(300.0, angle=0.0), DeadColumn(1.0),
    ],
    ids=lambda defect: defect.kind,
)  # fmt: skip
def test_other_defects_are_none(defect):
    found = {n: measured(seed=n) for n in range(4)} | {4: measured(defect), 5: measured(Banding(15.0))}
    assert patterned(found, np.array([False] * 4 + [True] * 2)) == {5: "rows"}


@pytest.mark.parametrize("noise", [1.5, 3.0, 30.0])
def test_noise_alone_is_one_also_in_whole_counts(noise):
    draws = np.random.default_rng(2)
    for _ in range(5):
        image = np.rint(draws.normal(500, noise, (600, 700))).astype("uint16")
        assert line_pattern(image, None) == pytest.approx((1.0, 1.0), abs=0.25)


def test_a_pattern_of_the_detector_itself_is_none():
    found = {n: LinePattern(9.0, 1.0) for n in range(6)}
    assert patterned(found, np.zeros(6, bool)) == {}
    assert patterned(found, np.ones(6, bool)) == dict.fromkeys(range(6), "rows")  # nothing to compare with


@pytest.mark.parametrize("shape", [(40, 300), (300, 40)])
def test_a_frame_that_is_too_small_or_has_no_pixels_has_none(shape):
    none = line_pattern(np.ones(shape, "int16"), None)
    assert np.isnan(none).all()
    assert np.isnan(line_pattern(np.ones((100, 100)), np.ones((100, 100), bool))).all()
    assert patterned({0: none}, np.zeros(1, bool)) == {}


def test_frames_are_named_one_after_the_other_or_singly():
    times = np.datetime64("2026-02-11T21:00", "us") + np.arange(9) * np.timedelta64(3, "m")
    frames = {"frame_id": np.array([f"n{n}.fits" for n in range(9)], object), "time": times}
    (text,) = pattern_sentences(frames, dict.fromkeys(range(2, 6), "rows"), 9)
    assert text.startswith("4 of 9 frames whose pixels were read for this page have a pattern along rows")
    assert "n2.fits to n5.fits, between 21:06 and 21:15 on 2026-02-11 (UTC)." in text
    (text,) = pattern_sentences(frames, {1: "columns", 7: "columns"}, 9)
    assert "n1.fits, n7.fits" in text
    nat = frames | {"time": np.full(9, np.datetime64("NaT"))}
    assert "(electronic interference?): n1.fits. It" in pattern_sentences(nat, {1: "rows"}, 9)[0]


def test_a_report_tells_of_frames_with_interference(tmp_path, model):
    for n in range(6):
        defects = (Banding(20.0),) if n > 3 else ()
        write_demo_frame(
            tmp_path / "night", DemoFrame(f"n{n}.fits", n, f"2026-02-11T21:0{n}:00.000", SCENE, defects)
        )
    archive, out = tmp_path / "night.zarr", tmp_path / "r.html"
    aq.ingest(tmp_path / "night", archive, cluster="serial")
    aq.score(archive, model, cluster="serial")
    page = aq.report(archive, out)
    (told,) = (text for text in page.summary if "pattern along rows" in text)
    assert "2 of 6 frames" in told
    assert "n4.fits, n5.fits" in told
    assert told in out.read_text()
    assert out.read_text().count("Its rows have a pattern of ") == 2
