"""Reference frames that are no references: a part of one is bad, or they are of two gain settings."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import SIDE, Frames

from aqdask.errors import UsageError
from aqdask.models.adapt import adapt, split_groups
from aqdask.models.settings import TrainSpec

FOUR = r".*Expected: .*\. What to do: "
SPEC = TrainSpec(name="adapted", alpha=0.02)


def silent(progress):
    """Tell nobody."""


def with_a_cloud(pixels, part=0.4, rows=SIDE):
    """The sky of the left ``part`` of a frame is a third brighter, softly; of the first ``rows`` only."""
    glow = np.clip((part - np.linspace(0, 1, SIDE)) / 0.1, 0, 1) * 250
    glow = np.broadcast_to(glow, pixels.shape) * (np.arange(SIDE) < rows)[:, None]
    return (pixels + np.random.default_rng(3).poisson(glow)).astype(np.uint16)


def with_structure(pixels):
    """Blotches over the left two fifths of a frame."""
    rng = np.random.default_rng(4)
    blotches = np.kron(rng.normal(0, 80, (SIDE // 16, SIDE // 16)), np.ones((16, 16)))
    blotches[:, 2 * SIDE // 5 :] = 0
    return np.clip(pixels + blotches, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("part", ["fit", "tail", "threshold"])
@pytest.mark.parametrize(("spoil", "reason"), [(with_a_cloud, "sky"), (with_structure, r"\w+")])
def test_a_frame_of_which_a_part_is_bad_is_named_whichever_set_it_is_in(tiny, part, spoil, reason):
    (sets,) = split_groups(Frames(), SPEC).values()
    bad = getattr(sets, part)[0]
    frames = Frames(spoil=lambda index, pixels: spoil(pixels) if index == bad else pixels)
    named = rf"1 unlike the others: night/{bad:03}\.fits \({reason}, \d\d% of its patches\)"
    with pytest.raises(UsageError, match="of 12 reference frames " + named + FOUR):
        adapt(tiny, frames, SPEC, silent)


def test_a_smaller_part_is_worth_a_note(tiny):
    frames = Frames(
        spoil=lambda index, pixels: with_a_cloud(pixels, 0.12, SIDE // 2) if index == 5 else pixels
    )
    notes = adapt(tiny, frames, SPEC, silent).notes
    (note,) = [note for note in notes if note.startswith("Look at")]
    assert "night/005.fits (sky, " in note
    assert "% of its patches): unlike the other reference frames." in note


@pytest.mark.parametrize("count", [3, 4, 6, 12])
def test_good_frames_are_accepted_without_a_word_about_them(tiny, count):
    notes = adapt(tiny, Frames(count), SPEC, silent).notes
    assert not [note for note in notes if note.startswith("Look at")]
