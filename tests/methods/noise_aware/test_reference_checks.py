"""Reference frames that are no references: a part of one is bad, or they are of two gain settings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from simulated import SIDE, Frames

from aqdask.errors import OutlierFramesError, UsageError
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.feature_groups import sky_sigma
from aqdask.methods.noise_aware.frame_score import FrameStatistics
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.reference_checks import check_gains, check_scatter
from aqdask.methods.noise_aware.reference_split import split_groups
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import FrameMetadata

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
    named = (
        rf"1 of 12 reference frames is an outlier: night/{bad:03}\.fits \({reason}, \d\d% of its patches\)"
    )
    with pytest.raises(OutlierFramesError, match=named + FOUR) as raised:
        calibrate_bundle(tiny, frames, SPEC, silent)
    assert raised.value.frames == (f"night/{bad:03}.fits",)


@pytest.mark.parametrize("bad", [(2, 5), (0, 7, 11)])
@pytest.mark.parametrize("spoil", [with_a_cloud, with_structure])
def test_frames_with_the_same_defect_do_not_hide_each_other(tiny, bad, spoil):
    frames = Frames(spoil=lambda index, pixels: spoil(pixels) if index in bad else pixels)
    named = ", ".join(rf"night/{index:03}\.fits \(\w+, \d\d% of its patches\)" for index in bad)
    match = (
        f"{len(bad)} of 12 reference frames {'is an outlier' if len(bad) == 1 else 'are outliers'}: {named}"
    )
    with pytest.raises(OutlierFramesError, match=match + FOUR) as raised:
        calibrate_bundle(tiny, frames, SPEC, silent)
    assert raised.value.frames == tuple(f"night/{index:03}.fits" for index in bad)


def test_a_smaller_part_is_worth_a_note(tiny):
    frames = Frames(
        spoil=lambda index, pixels: with_a_cloud(pixels, 0.12, SIDE // 2) if index == 5 else pixels
    )
    notes = calibrate_bundle(tiny, frames, SPEC, silent).notes
    (note,) = [note for note in notes if note.startswith("Inspect")]
    assert "night/005.fits (sky, " in note
    assert "% of its patches): nearly outliers among the reference frames." in note


@pytest.mark.parametrize("count", [3, 4, 6, 12])
def test_good_frames_are_accepted_without_a_word_about_them(tiny, count):
    notes = calibrate_bundle(tiny, Frames(count), replace(SPEC, alpha=0.08), silent).notes
    assert not [note for note in notes if note.startswith("Inspect")]


# --- two gain settings -------------------------------------------------------------------------------------


def with_gains(frames, gain):
    """The frames with headers that say ``gain(index)``."""
    frames.metadata = [replace(card, gain=gain(index)) for index, card in enumerate(frames.metadata)]
    return frames


def test_headers_that_say_several_gains_are_refused_with_their_values_and_frames(tiny):
    frames = with_gains(Frames(), lambda index: (1.5, 1.9)[index % 3 == 0])
    named = [f"night/{index:03}.fits" for index in (0, 3, 6, 9)]
    match = rf"of cam say gains of 1\.5 \(8 frames\), 1\.9 \(4 frames: {', '.join(named)}\)"
    with pytest.raises(OutlierFramesError, match=match + FOUR) as raised:
        calibrate_bundle(tiny, frames, SPEC, silent)
    assert raised.value.frames == tuple(named)


def cards_of(gains, filter="L"):
    return {
        f"{filter}/{k:02}": FrameMetadata(camera="cam", filter=filter, gain=gain)
        for k, gain in enumerate(gains)
    }


def test_every_gain_but_the_most_frequent_is_named_and_no_more_than_five_frames_of_it():
    cards = cards_of([1.0] * 2 + [2.0, 2.06] * 8 + [3.0, math.nan] + [4.0] * 5)
    with pytest.raises(OutlierFramesError) as raised:
        check_gains("cam", cards)
    four = [f"L/{k}" for k in range(20, 25)]
    assert "1 (2 frames: L/00, L/01), 2 to 2.06 (16 frames), 3 (1 frame: L/18), 4 (5 frames: L/" in str(
        raised.value
    )
    assert raised.value.frames == ("L/00", "L/01", "L/18", *four)
    five = "L/08, L/09, L/10, L/11, L/12"
    with pytest.raises(OutlierFramesError, match=rf"2 \(7 frames: {five} and 2 more\)" + FOUR):
        check_gains("cam", cards_of([1.0] * 8 + [2.0] * 7))


@pytest.mark.parametrize(
    "cards",
    [
        cards_of([1.0] * 4 + [2.0] * 4),  # no minority
        cards_of([1.0] * 20) | cards_of([2.0] * 3, "R"),  # nothing of R would be left
    ],
)
def test_frames_that_are_no_minority_of_their_filter_are_named_but_not_to_be_left_out(cards):
    with pytest.raises(UsageError, match=r"2 \([34] frames: \w/\d") as raised:
        check_gains("cam", cards)
    assert not isinstance(raised.value, OutlierFramesError)


LEVEL = NoiseModel(1000.0, 0.0)


def values_of(ratios):
    """Whole frames whose noise is these ratios times that of the model."""
    return [FrameStatistics(0.0, 0.0, 1000.0, 1000.0, 2 * math.log(ratio), 10.0) for ratio in ratios]


@pytest.mark.parametrize(
    ("ratios", "named"),
    [
        ([0.9, 1.1, 0.93, 1.12, 0.96, 0.9, 1.11], r"beside the widest gap, 1\.10 to 1\.12 times: 1, 3, 6"),
        ([1.1, 0.9, 1.09, 1.1, 1.0, 1.1, 0.9, 1.01], "of 2 of them, beside the widest gap, 0.90 times: 1, 6"),
        ([0.8, math.nan, 1.2, 1.0], "of 1 of them, beside the widest gap, 0.80 times: 0"),
        ([0.9] * 7 + [1.1] * 7, "1.10 times: 10, 11, 12, 13, 7 and 2 more"),
    ],
)
def test_the_frames_on_the_smaller_side_of_two_noises_are_named(ratios, named):
    with pytest.raises(UsageError, match=named + FOUR) as raised:
        check_scatter([str(k) for k in range(len(ratios))], values_of(ratios), LEVEL)
    assert not isinstance(raised.value, OutlierFramesError)  # no choice may leave them out unasked


def test_frames_whose_noise_hardly_scatters_are_accepted():
    assert check_scatter(list("abcd"), values_of([1.0, 1.01, 0.99, 1.3]), LEVEL) is None


@pytest.mark.parametrize("odd", [{2, 9}, {0, 1, 5, 11, 16}])
def test_frames_of_another_gain_are_named_although_they_bent_the_noise_model(odd):
    rng = np.random.default_rng(3)
    sky = rng.uniform(500, 3000, 18)
    variance = np.array([100 + s * (4.0 if k in odd else 1.0) for k, s in enumerate(sky)])
    b, a = np.polyfit(sky, variance, 1)  # what fit_camera_noise would be near to
    bent = NoiseModel(a, b)
    expected = sky_sigma({"sky": sky}, bent) ** 2
    values = [
        FrameStatistics(0.0, 0.0, s, e, math.log(v / e), 10.0)
        for s, e, v in zip(sky, expected, variance * rng.normal(1, 0.005, 18), strict=True)
    ]
    names = [f"{k:02}" for k in range(18)]
    named = ", ".join(names[k] for k in sorted(odd))
    with pytest.raises(UsageError, match=f"one gain fits {18 - len(odd)} of them, and not: {named}" + FOUR):
        check_scatter(names, values, bent)


def test_two_groups_with_a_gap_between_are_parted_there_and_not_by_a_steep_line():
    rng = np.random.default_rng(5)
    sky = np.concatenate([rng.uniform(497, 503, 9), rng.uniform(517, 523, 9)])
    noise = NoiseModel(0.0, 1.7)
    expected = sky_sigma({"sky": sky}, noise) ** 2
    values = [
        FrameStatistics(0.0, 0.0, s, e, math.log(v / e), 10.0)
        for s, e, v in zip(sky, expected, [600.0] * 9 + [1200.0] * 9, strict=True)
    ]
    with pytest.raises(UsageError, match=r"of 9 of them, beside the widest gap, .* 12, 13 and 4 more"):
        check_scatter([f"{k:02}" for k in range(18)], values, noise)


def test_a_noise_model_that_is_wrong_for_all_names_none():
    sky = np.linspace(500, 3000, 120)
    wrong = NoiseModel(1000.0, 0.0)
    values = [FrameStatistics(0.0, 0.0, s, s, math.log((100 + s) / 1000), 10.0) for s in sky]
    with pytest.raises(UsageError, match=r"one gain fits all of them, but not that of the noise model\."):
        check_scatter([str(k) for k in range(120)], values, wrong)


@pytest.mark.parametrize("other", [1.54, math.nan])
def test_a_gain_that_was_measured_twice_or_is_missing_is_one_setting(tiny, other):
    frames = with_gains(Frames(), lambda index: (1.5, other)[index % 2])
    assert calibrate_bundle(tiny, frames, SPEC, silent).calibrated_for("cam", "L")


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("factor", [1.2, 1.5, 2, 3])
def test_two_gains_that_no_header_tells_of_are_refused(tiny, factor, every):
    """The skies range over a factor of two, as in a night; of frames of equal skies no one could tell."""

    def spoil(index, pixels):
        return (600 + (pixels.astype(np.float32) - 600) * (1 if index % every else factor)).astype(np.float32)

    match = "of 12 reference frames is .* times that of the noise model|on held-out .* the noise is|outlier"
    with pytest.raises(UsageError, match=f"({match})" + FOUR):
        calibrate_bundle(tiny, Frames(gain=math.nan, spoil=spoil), SPEC, silent)


@pytest.mark.parametrize("part", ["fit", "tail", "threshold"])
@pytest.mark.parametrize(
    ("value", "said"), [(65535, "100% of its patches are saturated"), (1000, "no noise")]
)
def test_a_full_or_constant_frame_among_good_ones_is_named(tiny, part, value, said):
    (sets,) = split_groups(Frames(), SPEC).values()
    bad = getattr(sets, part)[0]
    frames = Frames(spoil=lambda index, pixels: np.full_like(pixels, value) if index == bad else pixels)
    with pytest.raises(OutlierFramesError, match=said) as raised:
        calibrate_bundle(tiny, frames, SPEC, silent)
    assert raised.value.frames == (f"night/{bad:03}.fits",)


def test_frames_that_are_mostly_saturated_are_refused(tiny):
    def overexposed(index, pixels):
        pixels = pixels.copy()
        pixels[: 4 * SIDE // 5] = 65535
        return pixels

    with pytest.raises(UsageError, match=r"below half a count\..*full.*What to do"):
        calibrate_bundle(tiny, Frames(spoil=overexposed), SPEC, silent)
