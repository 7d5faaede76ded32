"""Frames are scored with the calibration of their time, wherever they are scored, and the archive says so."""

from __future__ import annotations

import numpy as np
import pytest
from night import OPTIONS, files, same_bytes

import aqdask as aq
from aqdask.errors import UsageError
from aqdask.execution.executors import DaskExecutor, SerialExecutor
from aqdask.execution.reference_frames import choose_frames
from aqdask.execution.reporter import Silent
from aqdask.methods.calibration_spans import TimeSpan
from aqdask.methods.paper.scorer import calibration_of
from aqdask.products.report.data import report_data

EARLY, LATE = "../2024-05-07T01:03:00", "2024-05-07T01:03:00/2024-05-07T01:06:00"
KEYS = [f"tinycam|L@{LATE}", f"tinycam|L@{EARLY}", "tinycam|R"]


@pytest.fixture(scope="module")
def timed(bundle):
    """Frames in L have one of two calibrations: with the early one all are bad, with the late one good."""
    low, high = calibration_of(np.linspace(0, 1e-6, 50)), calibration_of(np.linspace(1e6, 2e6, 50))
    own = {"": bundle.calibration(), "tinycam|R": bundle.calibration(),
           f"tinycam|L@{EARLY}": low.with_span(EARLY), f"tinycam|L@{LATE}": high.with_span(LATE)}  # fmt: skip
    made = {
        name: getattr(bundle, name)
        for name in ("method", "patch", "normalisation", "architecture", "weights")
    }
    return type(bundle)(name="timed", calibrations=own, **made)


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def archive(tmp_path_factory, night, timed):
    place, said = tmp_path_factory.mktemp("timed") / "a.zarr", Said()
    aq.ingest(night, place, cluster="serial", **OPTIONS)
    aq.score(place, timed, cluster="serial", reporter=said)
    return place, said.lines


def test_frames_get_the_calibration_of_their_time_or_the_nearest(archive):
    """Frames f00, f02, ... of the filter L begin at 01:00, 01:02, ...: the last one after both spans."""
    place, lines = archive
    quality = aq.open_quality(place)
    found = {
        name: float(np.nanmedian(p))
        for name, p in zip(quality.frame_id.values, quality.pvalue.values, strict=True)
    }
    assert [found[f"L/f{n:02d}.fits"] < 0.03 for n in (0, 2, 4, 6, 8)] == [True, True, False, False, False]
    assert quality.attrs["calibrations"] == {
        KEYS[0]: {"frames": 3, "outside": 2, "without_time": 0},
        KEYS[1]: {"frames": 2, "outside": 0, "without_time": 0},
        KEYS[2]: {"frames": 5, "outside": 0, "without_time": 0},
    }
    assert "uncalibrated" not in quality.attrs
    (line,) = [line for line in lines if line.startswith("warning")]
    assert line.startswith("warning: of the frames 2 outside every span of the calibrations (the nearest")
    told = dict(report_data(place).provenance)
    assert told[f"calibrated for tinycam L@{LATE}"].endswith("for 3 frames (2 outside of its span)")


def test_arrays_are_scored_like_the_archive(archive, timed):
    place, _ = archive
    stored, frames = aq.open_quality(place), aq.open_frames(place)
    found = aq.quality_of(frames.isel(frame=[0, 4]), timed)
    np.testing.assert_array_equal(found.pvalue.values, stored.pvalue.values[[0, 4]])
    one = aq.quality_of(
        frames.image.values[0], timed, camera="tinycam", filter="L", time="2024-05-07T01:04:00"
    )
    assert np.nanmedian(one.pvalue.values) > 0.5


def test_a_fused_run_gives_the_same_bytes(archive, night, timed, tmp_path):
    aq.run(night, tmp_path / "b.zarr", timed, cluster="serial", **OPTIONS)
    same_bytes(files(archive[0]), files(tmp_path / "b.zarr"))


@pytest.mark.cluster
def test_workers_give_the_same_bytes(archive, client, night, timed, tmp_path):
    aq.run(night, tmp_path / "c.zarr", timed, cluster=DaskExecutor(client), **OPTIONS)
    same_bytes(files(archive[0]), files(tmp_path / "c.zarr"))


def test_references_are_of_the_span(archive):
    said, executor = Said(), SerialExecutor()
    chosen = choose_frames(archive[0], ["*"], executor, said, TimeSpan.parse(LATE))
    assert chosen.ids == ["L/f04.fits", "R/f03.fits", "R/f05.fits"]
    assert said.lines == [f"note: 7 of 10 frames are not of the span {LATE}: left out of the references"]
    with pytest.raises(UsageError, match=r"10 of 10 frames are not of the span.*What to do: check --from"):
        choose_frames(archive[0], ["*"], executor, said, TimeSpan.parse("2025-01-01/.."))
