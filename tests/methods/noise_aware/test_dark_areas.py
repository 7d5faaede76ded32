"""Dark areas of a camera are found in its reference frames; vignetted corners and dark skies are not."""

import numpy as np
import pytest
from scipy import ndimage
from simulated import TINY, Frames, image

from aqdask.methods.base import score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import calibrate, load_scorer
from aqdask.methods.noise_aware.camera_calibration import CameraCalibration
from aqdask.methods.noise_aware.dark_areas import CELL, cell_levels, dark_cells, dark_map, dark_note
from aqdask.methods.training.settings import TrainSpec

SHAPE = (200, 331)  # no multiples of a cell
FRAMES = 6
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]


def frames(dark, level=0.0, read_noise=5.0, light=1.0):
    """Frames in electrons above a bias of 600; ``dark`` pixels see ``level`` of the sky."""
    found = []
    for number in range(FRAMES):
        rng = np.random.default_rng(number)
        sky = np.where(dark, level, light) * (600 + 100 * number)
        for y, x in rng.integers(0, SHAPE, (30, 2)):
            sky[y - 1 : y + 2, x - 1 : x + 2] += 3000 * ~dark[y - 1 : y + 2, x - 1 : x + 2]
        found.append((600 + rng.poisson(sky) + rng.normal(0, read_noise, SHAPE)).astype("f4"))
    return found


def found_in(images, invalid=None):
    return dark_map(dark_cells([cell_levels(one, invalid) for one in images]), SHAPE)


AREAS = {
    "left": X < 30,
    "right": SHAPE[1] - 11 <= X,
    "bottom": Y < 9,
    "both": (X < 20) | (SHAPE[1] - 50 <= X),
    "corners": np.hypot(Y - 100, X - 165) > 170,
}


@pytest.mark.parametrize("name", AREAS)
def test_a_dark_area_is_found_with_a_rim_of_two_cells_at_most(name):
    found = found_in(frames(AREAS[name]))
    missed = AREAS[name] & ~found
    assert missed.sum() <= (0.05 * AREAS[name].sum() if name == "corners" else 0)  # thin tips
    near = ndimage.binary_dilation(AREAS[name], np.ones((3, 3)), iterations=2 * CELL)
    assert not (found & ~near).any()
    assert "show no sky in any reference frame" in dark_note(found)


@pytest.mark.parametrize(
    ("dark", "settings"),
    [
        (np.zeros(SHAPE, bool), {}),
        (AREAS["corners"], {"level": 0.5}),  # vignetting
        (AREAS["left"], {"read_noise": 60.0}),  # nothing tells overscan from a dark sky
        (X < 200, {}),  # most of the frame
        (np.zeros(SHAPE, bool), {"light": 0.001}),
    ],
)
def test_what_is_no_dark_area_or_cannot_be_told_is_left(dark, settings):
    assert found_in(frames(dark, **settings)) is None


def test_one_frame_with_sky_there_and_invalid_pixels_say_that_a_place_is_not_dark():
    images = frames(AREAS["left"])
    images[2] = frames(np.zeros(SHAPE, bool))[2]
    assert found_in(images) is None
    assert found_in(frames(AREAS["left"]), invalid=X < 40) is None


def test_constant_and_tiny_frames_have_no_dark_areas():
    assert np.isnan(cell_levels(np.ones((40, 40), "u2"), None)).all()
    assert np.isnan(cell_levels(np.ones((4, 40), "u2"), None)).all()
    assert not len(dark_cells([cell_levels(np.ones((40, 40), "u2"), None)]))


def with_overscan(index, pixels):
    noise = np.random.default_rng(900 + index).normal(600, 5, (len(pixels), 24))
    return np.hstack([noise.astype(pixels.dtype), pixels[:, 24:]])


def test_a_calibration_leaves_the_dark_area_out_and_frames_are_scored_without_it(tiny):
    told = []
    bundle = calibrate(
        tiny, Frames(first=20, camera="raw", spoil=with_overscan), TrainSpec(name="raw", alpha=0.02),
        progress=lambda progress: told.append(progress.note),
    )  # fmt: skip
    assert any("show no sky" in note for note in told)
    bundle = Bundle.from_bytes(bundle.contents)
    calibration = CameraCalibration.from_stored(bundle.calibration("raw", "L"))
    unusable = calibration.unusable_map()
    assert unusable[:, :24].all()
    assert not unusable[:, 40:].mean() > 0.01
    one = with_overscan(0, image(61))
    two = one.copy()
    two[:, :24] = 20000
    maps = [score_frame(load_scorer(bundle), pixels, None, "raw", "L") for pixels in (one, two)]
    assert all(maps[0][name].tobytes() == maps[1][name].tobytes() for name in maps[0])
    assert np.isfinite(maps[0]["pvalue"]).all()
    other = calibration.transferred(same_camera=False)
    assert other.unusable_map() is None
    assert TINY.patch == bundle.patch
