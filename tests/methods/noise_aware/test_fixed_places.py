"""A fixed place that leads the tail of the references is named; good references have none."""

import re

import pytest
from features import CAMERA, changed, good_frame
from test_two_pass import learnt

from aqdask.methods.noise_aware.fixed_places import fixed_place_notes
from aqdask.specs import PatchGrid

GRID = PatchGrid(500, 512)  # 8 x 8 patches, the last row overlaps


@pytest.fixture(scope="module")
def decision():
    return learnt()


def test_good_frames_have_no_such_place(decision):
    assert fixed_place_notes(decision, [good_frame(n) for n in range(400, 424)], GRID) == []


def test_a_place_that_is_always_the_worst_is_named_by_its_pixels(decision):
    frames = [changed(good_frame(n), (7, 0), spike=8.0) for n in range(400, 424)]
    (note,) = fixed_place_notes(decision, frames, GRID)
    assert "rows 436 to 499, columns 0 to 63." in note
    assert "--bad-pixel-map" in note


def test_a_place_of_several_patches_is_named(decision):
    frames = []
    for n in range(400, 414):
        frame = good_frame(n)
        for place in ((3, 3), (3, 4), (4, 3), (4, 4)):
            frame = changed(frame, place, spike=8.0 + 0.1 * (n % 7))
        frames.append(frame)
    (note,) = fixed_place_notes(decision, frames, GRID)
    assert "rows 192 to 319, columns 192 to 319." in note


def test_a_place_that_is_the_worst_in_half_of_the_frames_is_not(decision):
    frames = [changed(good_frame(n), (7, 0), spike=8.0) if n % 2 else good_frame(n) for n in range(400, 424)]
    assert fixed_place_notes(decision, frames, GRID) == []


def test_only_the_largest_of_many_places_are_shown(decision):
    grid = PatchGrid(64 * 32, 64 * 32)
    places = ((0, 0), (4, 4), (8, 8), (12, 12), (12, 13))
    frames = []
    for n in range(400, 406):
        frame = good_frame(n, (32, 32))
        for place in places:
            frame = changed(frame, place, spike=8.0)
        frames.append(frame)
    (note,) = fixed_place_notes(decision, frames, grid)
    assert len(re.findall("rows", note)) == 3
    assert "rows 768 to 831, columns 768 to 895; " in note
    assert ", and 1 more." in note
    assert CAMERA.template is None
