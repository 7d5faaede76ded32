"""Which reference frames do what: sets that share no frame, and strata of sky."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import TINY, Frames, image

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource, score_frame
from aqdask.methods.bundle import POOLED, Bundle
from aqdask.methods.dispatch import load_scorer
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.camera_calibration import CameraCalibration
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.reference_split import STRATUM_FRAMES, sky_strata, split_groups
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import FrameMetadata

SPEC = TrainSpec()
PEDESTAL = 600.0
MOON = 9000.0  # electrons; dark frames have 700 to 1300


class Skies(FrameSource):
    """Frames of pure sky of 128 px; NaN stands for a frame without data."""

    def __init__(self, skies):
        self.skies = list(skies)
        self.ids = [f"{k:03}" for k in range(len(self.skies))]
        self.metadata = [FrameMetadata(camera="cam", filter="L")] * len(self.skies)

    def read(self, index):
        sky = self.skies[index]
        noise = np.random.default_rng(index).normal(size=(128, 128))
        return (PEDESTAL + sky + np.sqrt(sky + 50) * noise).astype(np.float32), None


def strata(skies):
    return sky_strata(Skies(skies), range(len(skies)))


@pytest.mark.parametrize("skies", [
    [1000.0] * 50,
    [1000.0] * 16 + [5000.0] * 15,  # too few for two
    [1000.0] * 22 + [6000.0] * 12,  # the gap leaves too few on one side
    [1000.0] * 38 + [9000.0] * 2,  # odd frames make no stratum
    list(np.linspace(1000, 1800, 40)),  # not that different
    [1000.0] * 16 + [5000.0] * 16 + [np.nan],  # refused by name, elsewhere
], ids=["same", "few", "uneven", "odd", "alike", "unreadable"])  # fmt: skip
def test_one_stratum(skies):
    assert strata(skies) == ([list(range(len(skies)))], ())


def test_frames_are_parted_at_the_widest_gap_darkest_first_with_the_limit_between():
    skies = [5000.0, 1000.0] * 20
    (dark, bright), (limit,) = strata(skies)
    assert dark == list(range(1, 40, 2))
    assert bright == list(range(0, 40, 2))
    assert PEDESTAL + 1000 < limit < PEDESTAL + 5000


def test_three_skies_make_three_strata():
    found, limits = strata([500.0] * 16 + [3000.0] * 16 + [20000.0] * 16)
    assert [len(stratum) for stratum in found] == [16, 16, 16]
    assert limits == tuple(sorted(limits))


@given(st.lists(st.floats(200, 20000), min_size=0, max_size=60))
@settings(max_examples=20, deadline=None)
def test_strata_part_the_frames_and_are_large_enough(skies):
    found, limits = strata(skies)
    assert sorted(index for stratum in found for index in stratum) == list(range(len(skies)))
    assert len(limits) == len(found) - 1
    assert len(found) == 1 or min(map(len, found)) >= STRATUM_FRAMES
    assert list(limits) == sorted(limits)


def test_every_stratum_has_three_sets_that_share_no_frame():
    (sets,) = split_groups(Skies([1000.0, 6000.0] * 18), SPEC).values()
    assert sorted(sets.every) == list(range(36))
    for members, *parts in zip(sets, *sets.strata, strict=True):
        assert members == tuple(sorted(index for part in parts for index in part))
    for part in sets.strata:
        assert min(map(len, part)) >= 1


def test_too_few_frames_are_refused_with_what_is_missing():
    with pytest.raises(UsageError, match="number of reference frames is 2"):
        split_groups(Skies([1000.0] * 2), SPEC)


@pytest.fixture(scope="module")
def nights(tiny):
    """Calibrated on 16 dark frames and 16 under the Moon."""
    frames = Frames(32, spoil=lambda index, dark: dark if index % 2 else image(index, sky=MOON))
    notes = []
    spec = replace(TINY, name="nights")
    return calibrate_bundle(tiny, frames, spec, lambda p: notes.append(p.note)), notes


def sky_of(level: float) -> Features:
    return {"sky": np.array([[level, np.nan], [level, level]], np.float32)}


def test_a_frame_is_judged_by_references_under_a_sky_like_its_own(nights):
    bundle, notes = nights
    calibration = CameraCalibration.from_stored(bundle.calibration("cam", "L"))
    assert any("under a sky like its own" in note for note in notes)
    dark, bright = (calibration.under_sky(sky_of(level)) for level in (PEDESTAL + 700, PEDESTAL + 7000))
    assert dark is calibration
    assert bright is calibration.brighter
    assert len(calibration.facts["frames"]["fit"]) > len(bright.facts["frames"]["fit"])  # of all strata
    nothing = {"sky": np.full((2, 2), np.nan)}
    assert calibration.under_sky(nothing) is calibration
    scorer = load_scorer(bundle)
    for sky in (1000.0, MOON):
        found = score_frame(scorer, image(90, sky=sky), None, "cam", "L")
        assert found["out_of_reference"] == 0
        assert (found["pvalue"] <= 0.02).mean() < 0.15


def test_a_calibration_that_is_replaced_is_told_of(nights, tiny):
    said = []
    calibrate_bundle(nights[0], Frames(12), replace(TINY, name="again"), lambda p: said.append(p.note))
    assert "This replaces the calibration of cam L on 32 frames." in said


def test_strata_come_back_from_the_file_to_the_same_bytes(nights):
    bundle, _ = nights
    again = Bundle.from_bytes(bundle.contents)
    assert again.contents == bundle.contents
    stored = bundle.calibration("cam", "L")
    once_more = CameraCalibration.from_stored(stored).stored()
    assert once_more.facts == stored.facts
    assert once_more.arrays.keys() == stored.arrays.keys()


def test_another_filter_has_the_sky_strata_its_camera_and_another_camera_none(nights):
    calibration = CameraCalibration.from_stored(nights[0].calibration("cam", "L"))
    other = calibration.transferred(same_camera=True)
    assert other.under_sky(sky_of(PEDESTAL + 7000)).decision.camera.template is None
    assert calibration.transferred(same_camera=False).brighter is None
    assert "brighter" not in nights[0].calibrations[POOLED].facts
