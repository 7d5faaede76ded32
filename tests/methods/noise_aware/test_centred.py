"""Position centring of a model: honest on the references' field, the plain model elsewhere."""

import re
from functools import lru_cache

import numpy as np
import pytest
from simulated import Frames

from aqdask.methods.base import load_scorer, score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.noise_aware.calibrate import adapt
from aqdask.methods.noise_aware.camera_calibration import CameraCalibration
from aqdask.methods.noise_aware.reference_split import split_groups
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec

SIDE, COUNT, ALPHA = 512, 16, 0.02
CAMERA = ("cam", "L")


@lru_cache(maxsize=64)
def exposure(seed, field=5, pointing=(0.0, 0.0)):
    """A good frame of a field: the same stars in all frames, fresh noise and sky."""
    spec = SceneSpec(
        height=SIDE, width=SIDE, sky=700 + 600 * ((seed * 0.618) % 1), structure=0.005,
        star_density=1 / 500, field_seed=field, pointing=pointing,
    )  # fmt: skip
    return simulate_frame(spec, seed=seed).image


def adapted(spoil, **changes):
    notes = []
    spec = TrainSpec(**({"name": "model", "alpha": ALPHA, "calibration": 0.4, "centred": True} | changes))
    bundle = adapt(load_shipped(), Frames(COUNT, spoil=spoil), spec, lambda p: notes.append(p.note))
    return bundle, " ".join(notes)


@pytest.fixture(scope="module")
def centred():
    bundle, notes = adapted(lambda index, pixels: exposure(index))
    assert "Not centred" not in notes
    return bundle


@pytest.fixture(scope="module")
def plain():
    return adapted(lambda index, pixels: exposure(index), centred=False)[0]


def same(left, right):
    return all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_good_frames_of_the_field_are_masked_about_as_often_as_asked(centred):
    scorer = load_scorer(centred)
    found = [score_frame(scorer, exposure(n), None, *CAMERA) for n in range(100, 112)]
    assert all(frame["centred"] == 1 for frame in found)
    masked = np.mean([(frame["pvalue"] <= ALPHA).mean() for frame in found])
    assert ALPHA / 4 < masked < 2.5 * ALPHA  # six frames of 64 patches set the threshold


@pytest.mark.parametrize("where", [{"field": 6}, {"pointing": (32.0, 0.0)}, {"pointing": (0.0, -60.0)}])
def test_another_field_or_pointing_is_judged_as_by_the_plain_model(centred, plain, where):
    pixels = exposure(200, **where)
    one, two = (score_frame(load_scorer(bundle), pixels, None, *CAMERA) for bundle in (centred, plain))
    assert one["centred"] == two["centred"] == 0
    assert same(one, two)


def test_another_filter_is_never_centred(centred, plain):
    one, two = (
        score_frame(load_scorer(bundle), exposure(201), None, "cam", "R") for bundle in (centred, plain)
    )
    assert one["centred"] == 0
    assert same(one, two)


def test_a_frame_with_a_third_of_it_spoilt_is_still_of_the_field(centred):
    pixels = exposure(202).astype(np.float32)
    pixels[: SIDE // 3] += np.random.default_rng(0).normal(0, 80, (SIDE // 3, SIDE))
    found = score_frame(load_scorer(centred), pixels, None, *CAMERA)
    assert found["centred"] == 1
    assert (found["pvalue"][:2] <= ALPHA).mean() > 0.9
    assert (found["pvalue"][3:] <= ALPHA).mean() < 0.15


def test_frames_of_another_shape_and_without_data_are_not_centred(centred):
    scorer = load_scorer(centred)
    for pixels in (exposure(203)[:300], np.full((SIDE, SIDE), np.nan, np.float32)):
        assert score_frame(scorer, pixels, None, *CAMERA)["centred"] == 0


def test_a_bundle_comes_back_from_its_bytes(centred):
    again = Bundle.from_bytes(centred.contents)
    pixels = exposure(204)
    assert same(*(score_frame(load_scorer(b), pixels, None, *CAMERA) for b in (centred, again)))
    stored = again.calibration(*CAMERA)
    twice = CameraCalibration.of(stored).calibration()
    assert twice.facts == stored.facts
    assert twice.arrays.keys() == stored.arrays.keys()
    for name, array in stored.arrays.items():
        np.testing.assert_array_equal(twice.arrays[name], array, err_msg=name)


def test_what_is_plain_in_a_bundle_stays_as_it_is(centred, plain):
    with_, without = centred.calibration(*CAMERA), plain.calibration(*CAMERA)
    assert {name for name in with_.arrays if not name.startswith("centred/")} == set(without.arrays)
    for name, array in without.arrays.items():
        np.testing.assert_array_equal(with_.arrays[name], array, err_msg=name)
    assert {name: fact for name, fact in with_.facts.items() if name != "centred"} == without.facts


REFUSED = {
    "fields": ({}, lambda index, pixels: pixels, "do not show one field"),
    "pointings": (
        {},
        lambda index, pixels: exposure(index, pointing=(4.0 * index, 0.0)),
        "show another field or pointing",
    ),
    "few": (
        {"validation": 0.4, "calibration": 0.5},
        lambda index, pixels: exposure(index),
        "2 frames for the mean .* 3 are",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_references_that_cannot_be_centred_give_the_plain_model_and_a_note(case):
    changes, spoil, why = case
    bundle, notes = adapted(spoil, **changes)
    assert re.search(rf"Not centred: .*{why}", notes)
    assert any("Not centred" in note for note in bundle.notes)
    before = adapted(spoil, **changes, centred=False)[0].calibration(*CAMERA)
    assert bundle.calibration(*CAMERA).arrays.keys() == before.arrays.keys()
    assert score_frame(load_scorer(bundle), exposure(205), None, *CAMERA)["centred"] == 0


def test_a_reference_of_another_field_among_the_held_out_is_named(monkeypatch):
    # In so small a frame its patches are refused before; larger ones may get as far as the guard.
    monkeypatch.setattr("aqdask.methods.noise_aware.fit_calibration.check_patches", lambda *given: [])
    sets = split_groups(Frames(COUNT), TrainSpec(calibration=0.4))["cam", "L"]
    stray = sets.threshold[0]
    _, notes = adapted(lambda index, pixels: exposure(index, field=5 + (index == stray)))
    assert re.search(rf"Not centred: night/{stray:03}\.fits \(1 of \d+ held-out", notes)
