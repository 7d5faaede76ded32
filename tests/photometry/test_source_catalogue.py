"""Source catalogues against sep by hand, and masked fractions of apertures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sep
from photutils.aperture import CircularAperture, EllipticalAperture

from aqdask.errors import UsageError
from aqdask.photometry.sky_subtraction import SkySubtracted, extract, subtract_sky
from aqdask.photometry.source_catalogue import DetectSpec, masked_fractions, measure_sources
from aqdask.simulate.frame import simulate_frame
from aqdask.simulate.scene import SceneSpec

SCENE = SceneSpec(height=256, width=300, field_seed=3, star_density=1 / 300, flux_minimum=3000.0)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return simulate_frame(SCENE, seed=1).image


@pytest.fixture(scope="module")
def invalid() -> np.ndarray:
    bad = np.zeros(SCENE.shape, bool)
    bad[100:130, 40:90] = True
    return bad


def by_hand(image: np.ndarray, bad: np.ndarray, gain: float) -> dict[str, np.ndarray]:
    """The guide of sep, step by step."""
    data = image.astype(np.float32)
    data[bad] = 0
    background = sep.Background(data, mask=bad)
    data = data - background.back()
    data[bad] = 0
    rms = background.rms()
    objects = sep.extract(data, 3.0, err=rms, mask=bad, minarea=5, clean=False)
    x, y, a, b, theta = (objects[name] for name in ("x", "y", "a", "b", "theta"))
    kron, kron_flag = sep.kron_radius(data, x, y, a, b, theta, 6.0, mask=bad)
    common = {"err": rms, "mask": bad, "gain": gain}
    flux, error, flag = sep.sum_ellipse(data, x, y, a, b, theta, 2.5 * kron, subpix=1, **common)
    flag |= kron_flag
    small = kron * np.sqrt(a * b) < 1.75
    found = sep.sum_circle(data, x[small], y[small], 1.75, subpix=1, **common)
    flux[small], error[small], flag[small] = found
    half, _ = sep.flux_radius(data, x, y, 6.0 * a, 0.5, normflux=flux, subpix=5, mask=bad)
    aper, aper_error, aper_flag = sep.sum_circle(data, x, y, 4.0, **common)
    return {
        "x": x, "y": y, "flux": objects["flux"], "peak": objects["peak"], "npix": objects["npix"], "a": a,
        "b": b, "theta": theta, "kron_radius": kron, "flux_auto": flux, "flux_auto_err": error,
        "flux_radius": half, "flux_aper_4": aper, "flux_aper_4_err": aper_error, "flag_aper_4": aper_flag,
    }  # fmt: skip


def test_columns_are_those_of_sep_by_hand(image, invalid):
    spec = DetectSpec(apertures=(4.0,))
    found = measure_sources(subtract_sky(image, invalid), spec, gain=1.5, segmentation=True)
    wanted = by_hand(image, invalid, 1.5)
    assert len(wanted["x"]) > 100
    for name, values in wanted.items():
        np.testing.assert_array_equal(found.columns[name], values, err_msg=name)
    inside = found.segmentation[found.columns["ypeak"], found.columns["xpeak"]]
    np.testing.assert_array_equal(inside, np.arange(1, len(inside) + 1))
    without = measure_sources(subtract_sky(image, invalid), spec, gain=1.5)
    assert without.segmentation is None
    assert all((without.columns[name] == values).all() for name, values in found.columns.items())


def test_errors_have_photon_noise_only_with_a_gain(image):
    sky, spec = subtract_sky(image), DetectSpec()
    with_gain, without = (measure_sources(sky, spec, gain).columns for gain in (1.5, math.nan))
    for name in ("flux_err", "flux_auto_err", "flux_aper_3_err"):
        assert (with_gain[name] > without[name]).all()
    difference = with_gain["flux_err"] ** 2 - without["flux_err"] ** 2
    np.testing.assert_allclose(difference, with_gain["flux"] / 1.5, rtol=1e-6)


def test_masked_fractions_are_those_of_exact_apertures(image):
    spec = DetectSpec(apertures=(5.0,))
    columns = measure_sources(subtract_sky(image), spec).columns
    mask = np.zeros(SCENE.shape, bool)
    mask[::7] = mask[:, 120:] = True
    found = masked_fractions(mask, columns, spec)
    is_small = columns["kron_radius"] * np.sqrt(columns["a"] * columns["b"]) < 1.75
    major, minor = (np.where(is_small, 1.75, 2.5 * columns["kron_radius"] * columns[axis]) for axis in "ab")
    edges = int(np.argmin(columns["x"])), int(np.argmax(columns["y"])), int(np.argmax(is_small))
    for n in [*range(0, len(major), 10), *edges]:
        at = columns["x"][n], columns["y"][n]
        for name, shape in (
            ("masked_aper_5", CircularAperture(at, 5.0)),
            ("masked_fraction", EllipticalAperture(at, major[n], minor[n], theta=columns["theta"][n])),
        ):
            weights = shape.to_mask(method="exact")
            bad, area = (weights.multiply(plane).sum() for plane in (mask * 1.0, np.ones(mask.shape)))
            assert found[name][n] == pytest.approx(bad / area, abs=2e-3)
    assert all((values == 0).all() for values in masked_fractions(mask & False, columns, spec).values())


def test_limits_of_sep_are_raised_and_come_back(image):
    before = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    sky = subtract_sky(image)
    wanted = extract(sky.pixels, 1.0, err=sky.rms)
    try:
        sep.set_extract_pixstack(1000)
        sep.set_sub_object_limit(2)
        with pytest.raises(Exception, match=r"pixel buffer|deblending"):
            sep.extract(sky.pixels, 1.0, err=sky.rms)
        np.testing.assert_array_equal(extract(sky.pixels, 1.0, err=sky.rms), wanted)
        assert (sep.get_extract_pixstack(), sep.get_sub_object_limit()) == (1000, 2)
    finally:
        sep.set_extract_pixstack(before[0])
        sep.set_sub_object_limit(before[1])


def test_a_detection_of_negative_flux_has_no_shape_and_costs_no_other():
    """Filtered with weights of the noise it is above the threshold; sep itself refuses its ellipse."""
    pixels = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    rms = np.ones_like(pixels)
    pixels[30:35, 30:35] += 20
    pixels[32, 32], rms[32, 32] = -1000, 1000
    pixels[10:15, 50:55] += 20
    found = measure_sources(SkySubtracted(pixels, rms, np.zeros(pixels.shape, bool)), DetectSpec()).columns
    negative = found["flux"] < 0
    assert list(negative) == [False, True]
    for name in ("b", "kron_radius", "flux_radius"):
        assert np.array_equal(np.isnan(found[name]), negative)
    assert np.isfinite(found["flux_auto"]).all()
    assert found["flux_auto"][0] > 300
    masked = masked_fractions(np.ones(pixels.shape, bool), found, DetectSpec())
    assert all(share == pytest.approx([1, 1], abs=1e-6) for share in masked.values())


def test_a_frame_without_sources(image):
    columns = measure_sources(subtract_sky(image), DetectSpec(threshold=1e6)).columns
    assert {len(values) for values in columns.values()} == {0}
    assert len(masked_fractions(np.ones(SCENE.shape, bool), columns, DetectSpec())["masked_aper_3"]) == 0


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 0}, {"minarea": 0}, {"apertures": ()}, {"apertures": (3, 3)}, {"deblend_cont": 2}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        DetectSpec(**settings)
