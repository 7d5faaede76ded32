"""Measures of whole frames against what was simulated."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from aqdask.references import image_statistics
from aqdask.references.image_statistics import measure
from aqdask.simulate.defects import Background, Defect, Ghost, Gradient
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec

SPEC = SceneSpec(height=512, width=512)


@pytest.mark.parametrize("fwhm", [2.4, 3.5, 5.0])
def test_measured_fwhm_is_that_of_the_scene(fwhm: float) -> None:
    """To 10 % of the profile convolved with the pixel (a square of 1 px: 12 sigma**2 = 1, FWHM 0.68)."""
    image = simulate_frame(dataclasses.replace(SPEC, fwhm=fwhm), seed=4).image
    assert measure(image).fwhm == pytest.approx(math.hypot(fwhm, 0.68), rel=0.1)


def test_sky_and_noise_in_the_frames_own_counts() -> None:
    spec = dataclasses.replace(SPEC, structure=0.0, vignetting=0.0)
    found = measure(simulate_frame(spec, seed=4).image)
    assert found.background == pytest.approx(spec.pedestal + spec.sky / spec.gain, rel=0.01)
    assert found.rms == pytest.approx(spec.sky_noise / spec.gain, rel=0.05)
    assert 30 < found.sources < spec.star_density * 512**2


def test_elongated_stars_are_seen() -> None:
    round_, long = (measure(simulate_frame(dataclasses.replace(SPEC, drift=x), seed=4).image) for x in (0, 4))
    assert round_.ellipticity < 0.08
    assert long.ellipticity > 0.2


@pytest.mark.parametrize("defect", [Gradient(0.3), Ghost(0.2, radius=0.2), Background(0.3, scale=32)])
def test_uneven_sky_is_seen(defect: Defect) -> None:
    good, bad = (measure(simulate_frame(SPEC, defects, seed=4).image) for defects in ((), (defect,)))
    assert bad.structure > 1.3 * good.structure


def test_hot_pixels_are_no_stars() -> None:
    image = simulate_frame(SPEC, seed=4).image
    rng = np.random.default_rng(0)
    spoiled = image.copy()
    spoiled[rng.integers(0, 512, 400), rng.integers(0, 512, 400)] += 5000
    clean, found = measure(image), measure(spoiled)
    assert found.fwhm == pytest.approx(clean.fwhm, rel=0.03)
    assert found.sources == pytest.approx(clean.sources, rel=0.15)


def tracks(image: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """Add straight tracks of cosmic rays, a pixel wide and 4 to 12 px long."""
    rng, image = np.random.default_rng(seed), image.astype(float)
    for _ in range(count):
        y, x, angle, length = (
            *rng.uniform(15, np.array(image.shape) - 15),
            rng.uniform(0, 3.1),
            rng.uniform(4, 12),
        )
        for t in np.linspace(0, length, 40):
            image[int(y + t * np.sin(angle)), int(x + t * np.cos(angle))] += 20 * rng.uniform(5, 15)
    return image


def test_tracks_of_a_dark_are_no_stars() -> None:
    dark = tracks(np.random.default_rng(3).normal(600, 10, (512, 512)), 60)
    found = measure(dark)
    assert found.sources > 20
    assert math.isnan(found.fwhm)
    assert math.isnan(found.ellipticity)


def test_stars_among_tracks_and_trailed_stars_are_stars() -> None:
    image = simulate_frame(SPEC, seed=4).image
    assert measure(tracks(image, 10)).fwhm == pytest.approx(measure(image).fwhm, rel=0.05)
    sharp = dataclasses.replace(SPEC, fwhm=2.0, drift=6)
    assert measure(simulate_frame(sharp, seed=4).image).ellipticity > 0.35


def test_any_type_and_byte_order_gives_the_same() -> None:
    image = simulate_frame(SPEC, seed=4).image
    expected = measure(image)
    for dtype in (">u2", ">f4", "<f8", "int32"):
        assert measure(image.astype(dtype)) == expected
    assert measure(np.asfortranarray(image)) == expected


def test_invalid_pixels_do_not_count() -> None:
    image = simulate_frame(SPEC, seed=4).image.astype(np.float32)
    expected = measure(image)
    invalid = np.zeros(image.shape, bool)
    invalid[:100] = True
    masked, nan = image.copy(), image.copy()
    masked[:100], nan[:100] = 60_000, np.nan
    found = measure(masked, invalid)
    assert found == measure(nan)
    assert found.background == pytest.approx(expected.background, rel=0.01)
    assert found.fwhm == pytest.approx(expected.fwhm, rel=0.05)
    assert found.sources < expected.sources


@pytest.mark.parametrize(
    "image",
    [
        np.full((128, 128), np.nan),
        np.zeros((128, 128), np.uint16),
        np.full((128, 128), 65535, np.uint16),
        np.full((3, 5), 7.0),
        np.ones((1, 1)),
    ],
    ids=["nan", "zero", "saturated", "tiny", "pixel"],
)
def test_frames_without_stars_are_not_measurable(image: np.ndarray) -> None:
    found = measure(image)
    assert found.sources == 0
    assert math.isnan(found.fwhm)
    assert math.isnan(found.ellipticity)


def test_noise_alone_has_no_fwhm() -> None:
    found = measure(simulate_frame(dataclasses.replace(SPEC, star_density=0.0), seed=1).image)
    assert math.isnan(found.fwhm)
    assert found.sources < 3


def test_crowded_frame_is_measured() -> None:
    found = measure(simulate_frame(dataclasses.replace(SPEC, star_density=1 / 40), seed=1).image)
    assert math.isfinite(found.background)
    assert found.sources > 300


def test_a_full_pixel_stack_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    image = simulate_frame(SPEC, seed=4).image
    expected = measure(image)
    monkeypatch.setattr(image_statistics, "DETECTION", 0.01)  # half of all pixels are detections
    before = image_statistics.sep.get_extract_pixstack()
    image_statistics.sep.set_extract_pixstack(3000)
    try:
        crowded = measure(image)
        assert image_statistics.sep.get_extract_pixstack() == 3000
    finally:
        image_statistics.sep.set_extract_pixstack(before)
    assert crowded.background == expected.background
