"""Sentences of a report on its own reference frames, and places of defects in frames."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from night import tiny_bundle

from aqdask.methods.bundle import Calibration
from aqdask.methods.calibration_spans import times_of
from aqdask.products.drift_series import FrameSeries
from aqdask.products.report.places import MapPlaces
from aqdask.products.report.references import own_references, reference_sentences
from aqdask.specs import PatchGrid
from aqdask.store import layout

COUNT = 40
IDS = np.array([f"f{k:02}.fits" for k in range(COUNT)], object)
TIMES = np.datetime64("2026-01-05T01:00", "us") + np.arange(COUNT) * np.timedelta64(2, "m")
FRAMES = {
    "frame_id": IDS, "time": TIMES, "row": np.arange(COUNT)[::-1], "masked_patches": np.full(COUNT, 0.01),
}  # fmt: skip


def bundle(ids, times=()):
    pooled = tiny_bundle().calibrations[""]
    about = {"frames": {"fit": list(ids[:4]), "tail": list(ids[4:])}, "times": list(times)}
    stored = Calibration(pooled.arrays, {**pooled.facts, "about": about})
    return tiny_bundle().with_calibrations({"cam|L": stored})


def recorded(chosen):
    return times_of(TIMES[chosen].astype(np.int64).tolist())


def series(**values):
    calm = {name: np.full(COUNT, 1.0) for name in ("frame_size_ratio", "frame_noise_ratio", "frame_sky")}
    about = "cam", "L", "cam|L", FRAMES["row"], TIMES, np.zeros(COUNT, bool)
    return [FrameSeries(*about, calm | values)]


def test_references_are_found_by_id_and_time():
    half = np.arange(COUNT) < 20
    assert (own_references(FRAMES, bundle(IDS[half], recorded(half))) == half).all()
    assert (own_references(FRAMES, bundle(IDS[half])) == half).all()


@pytest.mark.parametrize(
    "other",
    [bundle(IDS[:20], recorded(np.arange(COUNT) < 21)), bundle([*IDS[:20], "g.fits"]), tiny_bundle(), None],
)
def test_those_of_another_archive_are_not(other):
    assert list(reference_sentences(FRAMES, other, series(), 0.01)) == []


def test_those_of_which_much_is_masked_are_named():
    half = np.arange(COUNT) < 20
    frames = FRAMES | {
        "masked_patches": np.where(np.isin(IDS, ["f03.fits", "f05.fits", "f30.fits"]), 0.03, 0.01)
    }
    _, told = reference_sentences(frames, bundle(IDS[half], recorded(half)), series(), 0.01)
    assert told.startswith(
        "In 2 reference frames more than 2.5% of the patches are masked (f03.fits, f05.fits)"
    )


def test_their_number_is_told():
    half = np.arange(COUNT) < 20
    (told,) = reference_sentences(FRAMES, bundle(IDS[half], recorded(half)), series(), 0.01)
    assert told.startswith("20 of 40 frames are the reference frames of the calibration themselves: ")
    (told,) = reference_sentences(FRAMES, bundle(IDS), series(), 0.01)
    assert told.startswith("All 40 frames are the reference")


def test_a_step_within_them_is_told_with_its_time():
    size = 1 + 0.01 * np.random.default_rng(1).standard_normal(COUNT) + 0.3 * (np.arange(COUNT) >= 24)
    _, told = reference_sentences(FRAMES, bundle(IDS), series(frame_size_ratio=size), 0.01)
    assert told.startswith("Within the reference frames: the size of cam L changed from ")
    assert " from 2026-01-05 01:48 UTC on. Both count as normal" in told
    outside = np.arange(COUNT) < 22  # the step is in other frames
    assert len([*reference_sentences(FRAMES, bundle(IDS[outside]), series(frame_size_ratio=size), 0.01)]) == 1


def places_of(score, reasons=("sky",)):
    """Places in frames with this map of scores, flagged for these reasons in turn; the first is damaged."""

    def read_map(name, row):
        if row == 0:
            raise layout.UNREADABLE[0]
        return score

    frames = {"row": np.arange(COUNT), "flag_reason": np.resize(np.array(reasons, object), COUNT)}
    return MapPlaces(SimpleNamespace(read_map=read_map), PatchGrid(512, 640), 0.01, frames, ())


def test_a_run_of_flagged_frames_has_a_place_where_its_scores_are_highest():
    score = np.random.default_rng(1).uniform(3.2, 4, (8, 10))
    assert places_of(score).of_run(range(4)) == ""  # all of a frame
    score[:, 5:] += 5
    assert places_of(score).of_run(range(COUNT)) == ", most of all in rows 0 to 511, columns 320 to 639"
    assert places_of(score).of_run([0]) == ""
    assert places_of(score, ("sky", "sky", "line")).of_run(range(1, 4)).startswith(", most of all in rows")
    assert places_of(score, ("sky", "size", "line")).of_run(range(1, 4)) == ""  # of unlike defects
    score[:] = 9
    score[3, 3] = 1
    assert places_of(score).of_run(range(4)) == ""
    score[:] = np.nan
    assert places_of(score).of_run(range(4)) == ""
