"""Calibration for a camera: weights stay, and unsuitable reference frames are refused."""

import math

import numpy as np
import pytest
from simulated import SIDE, TINY, Frames, image

from aqdask.errors import UsageError
from aqdask.methods.base import score_frame
from aqdask.methods.bundle import Bundle, calibration_key
from aqdask.methods.dispatch import calibrate, load_scorer, train
from aqdask.methods.noise_aware import train as noise_train
from aqdask.methods.noise_aware.camera_calibration import CameraCalibration
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS
from aqdask.methods.noise_aware.frame_tests import FRAME_TESTS
from aqdask.methods.noise_aware.reference_split import split_groups
from aqdask.methods.paper.scorer import calibration_of
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import FrameMetadata

FOUR = r".*Expected: .*\. What to do: "
SPEC = TrainSpec(name="adapted", alpha=0.02)


def silent(progress):
    """Tell nobody."""


def adapted(tiny, frames, spec=SPEC, report=silent):
    return calibrate(tiny, frames, spec, progress=report)


def sets_of(frames):
    """Positions of the frames that fit, and of those that are held out."""
    ((fit, tail, threshold),) = split_groups(frames, SPEC).values()
    return fit, (*tail, *threshold)


@pytest.fixture(scope="module")
def new(tiny):
    """The tiny model adapted to a camera with twice the gain."""
    return adapted(tiny, Frames(first=20, camera="new", spoil=halved, gain=3.0))


def halved(index, pixels):
    return ((pixels.astype(float) - 600) / 2 + 300).astype(np.float32)


def test_weights_stay_and_the_camera_is_added(tiny, new):
    assert new.calibrated_for("new", "L")
    assert new.calibrated_for("cam", "L")
    assert not tiny.calibrated_for("new", "L")
    assert new.calibrations[calibration_key("cam", "L")] is tiny.calibrations[calibration_key("cam", "L")]
    assert new.weights.keys() == tiny.weights.keys()
    for name, array in tiny.weights.items():
        np.testing.assert_array_equal(new.weights[name], array)
    assert (new.name, new.digest != tiny.digest) == ("adapted", True)
    assert new.provenance["adapted"][-1]["calibrated"] == ["new|L"]
    assert adapted(tiny, Frames(first=20, camera="new", spoil=halved, gain=3.0)).contents == new.contents


def test_the_adapted_model_knows_the_new_noise_and_the_old(tiny, new):
    scorer, fresh = load_scorer(Bundle.from_bytes(new.contents)), halved(0, image(60))
    right, wrong = (score_frame(scorer, fresh, None, camera, "L") for camera in ("new", "cam"))
    assert right["frame_noise_ratio"] == pytest.approx(1, abs=0.05)
    assert right["out_of_reference"] == 0
    assert (right["pvalue"] <= 0.02).mean() < 0.15
    assert wrong["out_of_reference"] != 0
    old = score_frame(load_scorer(tiny), image(60), None, "cam", "L")
    for name, array in score_frame(scorer, image(60), None, "cam", "L").items():
        assert array.tobytes() == old[name].tobytes(), name


def test_the_noise_model_is_that_of_the_simulation(tiny):
    """Var = I / 1.5 + (8 / 1.5)**2, on a pedestal of 600; wherever b is from, at the sky it is right."""
    noise = CameraCalibration.from_stored(tiny.calibration("cam", "L")).decision.camera.noise
    for counts in (600 + 800 / 1.5, 600 + 1200 / 1.5):
        truth = (8 / 1.5) ** 2 + (counts - 600) / 1.5 + 1 / 12
        assert noise.a + noise.b * counts + noise.c * counts**2 == pytest.approx(truth, rel=0.05)
    assert noise.b == pytest.approx(1 / 1.5, rel=0.25)


def test_a_calibration_comes_back_from_what_is_stored(tiny):
    stored = tiny.calibration("cam", "L")
    again = CameraCalibration.from_stored(stored).stored()
    assert again.facts == stored.facts
    assert again.arrays.keys() == stored.arrays.keys()
    for name, array in stored.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)


def test_frames_of_ten_patches_have_no_slope_and_can_be_stored(tiny):
    """A slope needs 12 patches: no number of these frames."""
    frames = Frames(first=20, spoil=lambda index, pixels: pixels[:128, :320])
    bundle = adapted(tiny, frames, TrainSpec(name="small", alpha=0.1))
    again = Bundle.from_bytes(bundle.contents)
    tests = CameraCalibration.from_stored(again.calibration("cam", "L")).decision.frame_tests
    assert set(tests.predictive) == {"size_frame", "ellipticity_frame", "noise_frame"}
    found = score_frame(load_scorer(again), frames.read(0)[0], None, "cam", "L")
    assert np.isfinite(found["frame_score"])


def test_few_calibration_frames_are_noted_and_no_group_is_disabled(tiny):
    told = []
    bundle = adapted(tiny, Frames(first=20), report=lambda progress: told.append(progress.note))
    about = bundle.calibration("cam", "L").facts["about"]
    assert not any("disabled" in note for note in about["notes"])
    assert any("a whole frame is masked at alpha" in note for note in about["notes"])
    assert set(bundle.notes) <= set(told)
    decision = CameraCalibration.from_stored(bundle.calibration("cam", "L")).decision
    assert set(decision.distances) == {group.name for group in FEATURE_GROUPS if not group.retired}
    assert set(decision.frame_tests.predictive) == {test.name for test in FRAME_TESTS}
    assert about["noise_ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("gain", [1.5, math.nan])
def test_without_a_range_of_sky_the_gain_is_the_headers_or_noise_is_disabled(tiny, gain):
    def equal_skies(index, pixels):
        return image(100 + index, sky=1000.0, vignetting=0.0)

    frames = Frames(gain=gain, spoil=equal_skies)
    told = []
    about = adapted(tiny, frames, report=lambda p: told.append(p.note)).calibration("cam", "L").facts
    expected = "none" if math.isnan(gain) else "header"
    assert about["noise"]["source"] == expected
    assert ("noise" in about["about"]["abstain"]) is (expected == "none")
    assert any("gain" in note for note in told)


def test_correlated_noise_is_measured_two_pixels_apart_and_disabled(tiny):
    def smoothed(index, pixels):
        around = [
            np.roll(pixels.astype(np.float32), shift, (0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))
        ]
        return sum(around) / 2

    about = adapted(tiny, Frames(spoil=smoothed, camera="soft")).calibration("soft", "L").facts
    assert about["noise"]["lag"] == 2
    assert {"noise", "noise_region"} <= set(about["about"]["abstain"])
    assert any("correlated" in note for note in about["about"]["notes"])
    assert about["about"]["noise_ratio"] == pytest.approx(1, abs=0.05)


# --- what is refused ---------------------------------------------------------------------------------------


def test_too_few_frames_are_refused_with_their_number(tiny):
    with pytest.raises(UsageError, match="the number of reference frames is 2" + FOUR):
        adapted(tiny, Frames(2))


def test_too_few_patches_for_alpha_are_refused_with_how_many_it_takes(tiny):
    match = (
        r"4 with 256 patches set the threshold.*about 118 reference frames of this size for alpha = 0\.0001"
    )
    with pytest.raises(UsageError, match=match + r".*What to do: "):
        adapted(tiny, Frames(), TrainSpec(alpha=1e-4))


SPOILED = {
    "sky": lambda pixels: image(7, sky=20_000.0),
    "noise": lambda pixels: np.clip(
        pixels + np.random.default_rng(0).normal(0, 25, pixels.shape), 0, 65535
    ).astype(np.uint16),
}


@pytest.mark.parametrize("quantity", SPOILED)
def test_a_frame_that_is_unlike_the_others_is_named_with_what_it_differs_in(tiny, quantity):
    def spoil(index, pixels):
        return SPOILED[quantity](pixels) if index == 7 else pixels

    match = rf"1 of 12 reference frames is an outlier: night/007\.fits \({quantity}, \d+ robust sigma\)"
    with pytest.raises(UsageError, match=match + FOUR):
        adapted(tiny, Frames(spoil=spoil))


def test_a_wide_range_of_focus_is_told_of_with_the_widest_frame(tiny):
    from aqdask.methods.noise_aware.fit_calibration import _focus_notes
    from aqdask.methods.noise_aware.frame_score import FrameStatistics

    def of(size):
        return FrameStatistics(
            **{**dict.fromkeys(FrameStatistics.__dataclass_fields__, 0.0), "size": float(np.log(size))}
        )

    (note,) = _focus_notes(["a", "b", "c"], [of(0.9), of(1.0), of(1.3)])
    assert note.startswith("The PSF size of the reference frames is 0.90 to 1.30 times its median")
    assert "(widest: c)" in note
    assert _focus_notes(["a", "b"], [of(1.0), of(1.2)]) == []


def test_frames_of_two_gains_are_refused(tiny):
    """Those of the sets that did not fit the noise were multiplied by 1.5; the others are fewer."""
    fit, held_out = sets_of(Frames())

    def spoil(index, pixels):
        return (600 + (pixels.astype(np.float32) - 600) * (1.5 if index in held_out else 1)).astype(
            np.float32
        )

    with pytest.raises(UsageError, match=rf"fits 7 of them, and not: night/{min(fit):03}\.fits" + FOUR):
        adapted(tiny, Frames(spoil=spoil))


def test_noise_that_does_not_hold_on_held_out_frames_is_refused_with_the_ratio(tiny):
    _, held_out = sets_of(Frames())
    extra = np.random.default_rng(1)

    def spoil(index, pixels):
        if index in held_out:
            pixels = pixels + extra.normal(0, 18, pixels.shape)
        return pixels.astype(np.float32)

    said = r"(on held-out reference frames the noise is 1\.\d+ times|outliers: night/003\.fits \(noise, \d+)"
    with pytest.raises(UsageError, match=said + FOUR):
        adapted(tiny, Frames(spoil=spoil))


EMPTY = {
    "constant": (lambda pixels: np.full_like(pixels, 700), "below half a count"),
    "constant float": (
        lambda pixels: np.full(pixels.shape, 0.5, np.float32),
        "0 of 768 patches .* have noise",
    ),
    "NaN": (lambda pixels: np.full(pixels.shape, np.nan, np.float32), "0 of 768 patches .* have noise"),
    "masked": (lambda pixels: (pixels, np.ones(pixels.shape, bool)), "below half a count|0 of 768 patches"),
    "8-bit": (lambda pixels: (pixels / 100).astype(np.uint8), "below half a count"),
}


@pytest.mark.parametrize("case", EMPTY.values(), ids=list(EMPTY))
def test_frames_without_noise_are_refused(tiny, case):
    make, match = case
    with pytest.raises(UsageError, match=match + FOUR):
        adapted(tiny, Frames(spoil=lambda index, pixels: make(pixels)))


def test_a_model_of_the_published_method_has_nothing_to_calibrate():
    paper = Bundle(
        name="old", method="paper", patch=64, normalisation="minmax", architecture={}, weights={},
        calibrations={"": calibration_of(np.arange(9.0))},
    )  # fmt: skip
    with pytest.raises(UsageError, match="of the method 'paper'" + FOUR):
        calibrate(paper, Frames(3), SPEC)


def test_a_camera_with_too_few_frames_does_not_spoil_the_others(tiny):
    frames = Frames(14)
    frames.metadata = [
        FrameMetadata(camera="cam" if index < 12 else "rare", filter="L", gain=1.5) for index in range(14)
    ]
    bundle = adapted(tiny, frames)
    assert bundle.calibrated_for("cam", "L")
    assert not bundle.calibrated_for("rare", "L")


def test_notes_say_whose_they_are_where_several_are_calibrated(tiny):
    two = Frames(first=20)
    two.metadata = [FrameMetadata(camera="cam", filter=f, gain=1.5) for f in "RV" for _ in range(6)]
    told = []
    bundle = adapted(load_shipped(), two, report=lambda progress: told.append(progress.note))
    assert list(bundle.notes) == [note for note in told if note]
    for name in ("R", "V"):
        of = [f"cam {name}: {note}" for note in bundle.calibration("cam", name).facts["about"]["notes"]]
        assert of
        assert set(of) <= set(bundle.notes)
    assert all(note.startswith(("cam R: ", "cam V: ")) for note in bundle.notes)
    more = adapted(bundle, Frames(first=20, camera="new")).notes  # earlier ones are kept
    assert set(bundle.notes) < set(more)
    assert {note.split(":")[0] for note in more} == {"cam R", "cam V", "new L"}
    other = adapted(tiny, Frames(first=20, camera="new")).notes  # a trained model has a camera of its own
    assert {note.split(":")[0] for note in other} == {"cam L", "new L"}


def test_what_the_shipped_model_says_of_its_own_references_is_not_passed_on():
    bundle = adapted(load_shipped(), Frames(first=20, camera="new"))
    assert bundle.notes
    assert not [note for note in bundle.notes if "simulat" in note]


def test_a_training_on_unlike_frames_is_refused_before_or_after(monkeypatch):
    monkeypatch.setattr(noise_train, "HELD_OUT_CROPS", 8)

    def spoil(index, pixels):
        return SPOILED["sky"](pixels) if index == 3 else pixels

    with pytest.raises(
        UsageError, match=r"1 of .* reference frames is an outlier: night/003\.fits \(sky, " + FOUR
    ):
        train(Frames(spoil=spoil), TINY)
    with pytest.raises(UsageError, match="the patch is 50 px" + FOUR):
        train(Frames(3), TrainSpec(method="aqdask", patch=50))


def test_hot_pixels_are_learnt_and_in_painted(tiny):
    places = np.random.default_rng(2).integers(4, SIDE - 4, (60, 2))

    def spoil(index, pixels):
        pixels[tuple(places.T)] = np.minimum(pixels[tuple(places.T)].astype(int) + 1500, 60_000)
        return pixels

    bundle = adapted(tiny, Frames(first=20, camera="hot", spoil=spoil))
    found = CameraCalibration.from_stored(bundle.calibration("hot", "L")).unusable_map()
    assert found[tuple(places.T)].mean() > 0.9
    assert found.sum() <= 60
    scorer, clean = load_scorer(bundle), image(61)
    one, two = clean.copy(), clean.copy()
    one[found], two[found] = 0, 65535
    results = [score_frame(scorer, pixels, None, "hot", "L") for pixels in (one, two)]
    assert all(results[0][name].tobytes() == results[1][name].tobytes() for name in results[0])
