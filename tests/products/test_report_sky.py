"""Words for the sky of flagged frames: on maps whose departure is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aqdask.products.report.places import MapPlaces
from aqdask.products.report.sentences import flag_sentence
from aqdask.products.report.sky import sky_change
from aqdask.specs import PatchGrid

Y, X = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
FLAT = 1000 * (1 - 0.1 * (Y**2 + X**2))  # vignetted, as in all frames
BOX = (Y > 0) & (X < -0.2)


def skies(count, departure=0.0, level=1.0, seed=1):
    """Skies with this departure, and with the noise and the faint tilts that good frames have."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 0.002, (count, 16, 16)) + random.normal(0, 0.003, (count, 2, 1, 1)).sum(1) * X
    return random.uniform(0.9, 1.1, (count, 1, 1)) * level * FLAT * (1 + noise + departure)


def billows(count):
    """Bright patches in `BOX` that are not the same in any two frames."""
    return BOX * (0.1 + np.random.default_rng(3).normal(0, 0.04, (count, 16, 16)))


@pytest.mark.parametrize(
    ("flagged", "kind", "moves"),
    [
        (skies(6, 0.05 * X + 0.08 * Y), "gradient", False),
        (skies(6, billows(6)), "patchy", True),
        (skies(6, 0.1 * BOX), "patchy", False),
        (skies(6, level=2.0), "brighter", False),
        (skies(6, level=0.5), "darker", False),
        (skies(6), "", False),
        (skies(6, 0.1 * (X**2 + Y**2)), "", False),  # a bowl
        (np.concatenate([skies(3, 0.1 * X), skies(3, 0.1 * BOX)]), "", False),  # no shape has two thirds
    ],
)
def test_the_kind_of_a_departure(flagged, kind, moves):
    found = sky_change(flagged, skies(8, seed=2))
    assert (found.kind, found.moves) == (kind, moves)
    if kind == "patchy":
        np.testing.assert_array_equal(found.inside, BOX)
    else:
        assert not found.inside.any()


def test_nothing_is_said_without_enough_good_frames_or_of_a_subtracted_sky():
    gradient = skies(6, 0.1 * X)
    assert sky_change(gradient, skies(8, seed=2)).kind == "gradient"
    assert sky_change(gradient, skies(4, seed=2)).kind == ""
    assert sky_change(gradient - 1000, skies(8, seed=2) - 1000).kind == ""
    assert sky_change(gradient[:0], skies(8, seed=2)).kind == ""


def test_patches_without_data_are_left_out():
    gradient, usual = skies(6, 0.1 * X), skies(8, seed=2)
    gradient[2, 3, 4] = usual[:, 9] = np.nan
    assert sky_change(gradient, usual).kind == "gradient"
    usual[:, :9] = np.nan
    assert sky_change(gradient, usual).kind == ""


def night(maps):
    """Frames of which the last four are flagged for the sky, and their places; one map cannot be read."""
    count = len(maps)
    reasons = np.where(np.arange(count) < count - 4, "", "sky").astype(object)
    frames = {
        "row": np.arange(count), "camera": np.full(count, "cam", object),
        "filter": np.full(count, "L", object), "masked_patches": np.zeros(count),
        "is_flagged": reasons == "sky", "flag_reason": reasons,
        "time": np.datetime64("2024-05-07T01:00", "us") + np.arange(count) * np.timedelta64(5, "m"),
    }  # fmt: skip

    def read_map(name, row):
        if row == 2:
            raise ValueError("damaged")
        return maps[row] if name == "sky" else np.zeros((16, 16))

    store = SimpleNamespace(variables=("score", "sky"), read_map=read_map)
    return frames, MapPlaces(store, PatchGrid(1024, 1024), 0.01, frames, ())


@pytest.mark.parametrize(
    ("flagged", "words"),
    [
        (skies(4, 0.1 * X), "for a gradient of the sky over the whole frame (UTC)."),
        (skies(4, billows(4)), "for patchy sky over rows 512 to 1023, columns 0 to 383 (cloud?) (UTC)."),
        (skies(4, 0.1 * BOX), "for patchy sky over rows 512 to 1023, columns 0 to 383 (UTC)."),
        (skies(4, level=2.0), "for a brighter sky (UTC)."),
        (skies(4), "for the sky (its level or shape) (UTC)."),
    ],
)
def test_the_summary_tells_the_sky_of_flagged_frames(flagged, words):
    frames, places = night(np.concatenate([skies(9, seed=2), flagged]))
    told = flag_sentence(frames, places.of_run, places.sky_of_run)
    assert told == f"4 of 13 frames are flagged: 4 between 01:45 and 02:00 on 2024-05-07 {words}"


def test_places_apart_are_listed_apart():
    _, places = night(skies(9))
    inside = np.zeros((16, 16), bool)
    inside[2:6, 10:13] = inside[13:15, 15] = True
    inside[3, 11] = False  # one other between them
    apart = "rows 128 to 383, columns 640 to 831 and rows 832 to 959, columns 960 to 1023"
    assert places._parts(inside) == apart
    inside[15, 0] = True
    assert places._parts(inside) == f"{apart} and 1 patch elsewhere"
    assert (
        places._parts(np.eye(16, dtype=bool)[:, ::-1] & (Y[3] == Y)) == "rows 192 to 255, columns 768 to 831"
    )
    assert places._parts(np.zeros((16, 16), bool)) == ""


def test_a_run_of_several_reasons_tells_the_sky_of_its_own_frames():
    frames, places = night(np.concatenate([skies(9, seed=2), skies(4, 0.1 * X)]))
    frames["flag_reason"][-1] = "stars"
    told = flag_sentence(frames, places.of_run, places.sky_of_run)
    assert "for a gradient of the sky over the whole frame in 3, missing stars (clouds?) in 1" in told
    places.store.variables = ("score",)  # of a method without the sky
    assert "for the sky (its level or shape) in 3" in flag_sentence(frames, places.of_run, places.sky_of_run)
