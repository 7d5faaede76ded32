"""Point spread functions and galaxies against their formulas, on rendered pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aqdask.simulate.psf import (
    core_radius,
    kolmogorov_profile,
    local_fwhm,
    psf_table,
    stamp_radius,
    wide_stamp,
    zones,
)
from aqdask.simulate.scene import SceneSpec
from aqdask.simulate.sources import draw_galaxies, render_galaxies, render_stars

# 12 px wide: a pixel's own width changes the measured FWHM by 0.2 %.
BROAD = SceneSpec(height=600, width=800, fwhm=12.0, sky=100.0)
KOLMOGOROV = dataclasses.replace(BROAD, psf="kolmogorov")


def star(spec: SceneSpec, x: float, y: float, flux: float = 1e7) -> np.ndarray:
    return render_stars(spec, np.array([[x, y, flux]]))


def radial(image: np.ndarray, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances from a place, in increasing order, and the pixels there."""
    rows, columns = np.indices(image.shape)
    distance = np.hypot(rows - y, columns - x).ravel()
    order = np.argsort(distance)
    return distance[order], image.ravel()[order].astype(float)


def measured_fwhm(image: np.ndarray, x: float, y: float) -> float:
    """Twice the distance at which the profile falls to half of its central pixel; no model is fitted."""
    distance, value = radial(image, x, y)
    near = distance < 30
    return 2 * float(np.interp(-value[0] / 2, -value[near], distance[near]))


@pytest.mark.parametrize("psf", ["moffat", "kolmogorov"])
@pytest.mark.parametrize("fwhm", [6.0, 12.0])
def test_fwhm_is_what_was_asked_for(psf: str, fwhm: float) -> None:
    spec = dataclasses.replace(BROAD, psf=psf, fwhm=fwhm)
    assert measured_fwhm(star(spec, 400, 300), 400, 300) == pytest.approx(fwhm, rel=0.03)


def test_kolmogorov_transfer_function_of_a_rendered_star() -> None:
    """Fourier transform of the pixels: exp(-3.44 (f lambda / r0)**(5/3)) times that of a pixel."""
    image = star(KOLMOGOROV, 400, 300, 1e9)
    measured = np.abs(np.fft.rfft(image.sum(axis=0, dtype=float))) / 1e9
    frequency = np.fft.rfftfreq(800)
    expected = np.exp(-3.44 * (frequency * 12 / 0.976) ** (5 / 3)) * np.sinc(frequency)
    np.testing.assert_allclose(measured[1:120], expected[1:120], atol=0.006)


def test_kolmogorov_against_the_hankel_integral_and_its_wings() -> None:
    """2 pi integral of MTF(q) J0(2 pi q r) q dq, with J0 as the mean of cos(x sin t) over half a turn."""
    frequency = (np.arange(3000) + 0.5) / 1000
    weight = 2 * np.pi * frequency * np.exp(-3.44 * (frequency / 0.97586) ** (5 / 3)) / 1000
    turn = (np.arange(600) + 0.5) / 600 * np.pi
    radius, intensity = kolmogorov_profile()
    for place in (0.0, 0.5, 1.0, 2.0, 4.0):
        bessel = np.cos(2 * np.pi * place * frequency[:, None] * np.sin(turn)).mean(axis=1)
        exact = (weight * bessel).sum()
        assert np.interp(place, radius, intensity) == pytest.approx(exact, rel=2e-3)
    # Far from the centre r**(-11/3); a Gaussian of this FWHM has exp(-25) of its centre at 3 FWHM.
    near, far = np.interp([20, 40], radius, intensity)
    assert np.log2(near / far) == pytest.approx(11 / 3, rel=0.01)
    assert np.interp(3, radius, intensity) > 5e-4 * intensity[0]


def test_fwhm_grows_towards_the_corner_with_the_square_of_the_radius() -> None:
    spec = dataclasses.replace(BROAD, fwhm_variation=0.4)
    half_way = (400 + 400 / np.sqrt(2), 300 + 300 / np.sqrt(2))
    x, y = (round(place) for place in half_way)
    assert measured_fwhm(star(spec, 400, 300), 400, 300) == pytest.approx(12, rel=0.02)
    assert measured_fwhm(star(spec, x, y), x, y) == pytest.approx(12 * 1.2, rel=0.02)
    assert measured_fwhm(star(spec, 799, 599), 799, 599) == pytest.approx(12 * 1.4, rel=0.02)
    assert star(spec, x, y).sum() == pytest.approx(1e7, rel=5e-3)


def test_zones_follow_the_field_without_bias() -> None:
    """FWHM of a zone within half a step of 2.5 % of the true one, without bias."""
    spec = dataclasses.replace(BROAD, fwhm_variation=0.3)
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, 800, 20_000), rng.uniform(0, 600, 20_000)
    zone_fwhm = np.zeros(20_000)
    for zone, chosen in zones(spec, x, y):
        zone_fwhm[chosen] += zone.fwhm
    difference = zone_fwhm / local_fwhm(spec, x, y) - 1
    assert np.abs(difference).max() < 0.0126
    assert difference.mean() == pytest.approx(0, abs=5e-4)


def test_kolmogorov_wings_go_on_beyond_the_table() -> None:
    spec = dataclasses.replace(KOLMOGOROV, fwhm=1.0)
    core = psf_table(spec, core_radius(spec))[0, 0]
    wing = wide_stamp(spec, np.arange(1), np.arange(201), core, (0, 0))[0]
    assert np.log(wing[50] / wing[200]) / np.log(4) == pytest.approx(11 / 3, rel=0.005)
    assert wing[63] > wing[64] > wing[65] > 0.94 * wing[64]


@pytest.mark.parametrize("psf", ["moffat", "kolmogorov"])
def test_wide_stamps_equal_the_table(psf: str) -> None:
    """Stars too bright for a table: the same pixels within 0.5 %, whatever the drift."""
    spec = dataclasses.replace(BROAD, psf=psf, fwhm=3.3, drift=2.0)
    table, core, pixels = psf_table(spec, 60), psf_table(spec, core_radius(spec)), np.arange(-60, 62)
    assert core_radius(spec) < 30
    stamp = wide_stamp(spec, pixels, pixels, core[3, 5], (3, 5))
    np.testing.assert_allclose(stamp, table[3, 5], rtol=5e-3)


def test_the_brightest_star_keeps_its_flux_and_may_lie_outside() -> None:
    spec = dataclasses.replace(KOLMOGOROV, fwhm=3.0, sky=1000.0)
    assert stamp_radius(spec, np.array([1e9])) > 200
    assert star(spec, 400, 300, 1e9).sum() == pytest.approx(1e9, rel=5e-3)
    whole, cut = star(spec, 400, 300, 1e9), star(spec, -20, 300, 1e9)
    np.testing.assert_allclose(cut[:, :100], whole[:, 420:520], rtol=1e-5)


def disc(radius: float, ratio: float = 1.0, angle: float = 0.0, **changes: float) -> np.ndarray:
    spec = dataclasses.replace(BROAD, **{"fwhm": 2.0, **changes})
    return render_galaxies(spec, np.array([[400.0, 300.0, 1e6, radius, ratio, angle]])).astype(float)


def test_face_on_disc_is_exponential() -> None:
    """Half of the light within the half-light radius, and a straight line in the logarithm."""
    image = disc(20.0)
    distance, value = radial(image, 400, 300)
    assert image.sum() == pytest.approx(1e6, rel=0.015)
    assert value[distance < 20].sum() / 1e6 == pytest.approx(0.5, abs=0.01)
    places = np.array([10.0, 20.0, 40.0, 60.0])
    expected = 1e6 * 1.67835**2 / (2 * np.pi * 20**2) * np.exp(-places * 1.67835 / 20)
    np.testing.assert_allclose(np.interp(places, distance, value), expected, rtol=0.02)


def test_inclined_disc_has_its_axes_and_angle() -> None:
    image = disc(20.0, ratio=0.5, angle=np.radians(30))
    rows, columns = np.indices(image.shape)
    x, y, total = columns - 400, rows - 300, image.sum()
    xx, yy, xy = ((image * moment).sum() / total for moment in (x * x, y * y, x * y))
    small, large = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
    assert np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) == pytest.approx(30, abs=1)
    assert np.sqrt(small / large) == pytest.approx(0.5, abs=0.05)


def test_small_galaxies_are_convolved_with_seeing_and_drift() -> None:
    """A galaxy much smaller than the seeing is as wide as a star; drift adds length**2 / 12."""
    assert measured_fwhm(disc(0.5, fwhm=12.0), 400, 300) == pytest.approx(12, rel=0.03)
    x = np.arange(800) - 400
    variances = [
        (one.sum(axis=0) * x**2).sum() / one.sum()
        for one in (disc(1.0, fwhm=6.0), disc(1.0, fwhm=6.0, drift=6.0))
    ]
    assert variances[1] - variances[0] == pytest.approx(36 / 12, rel=0.1)


def test_galaxies_have_their_density_and_follow_the_field() -> None:
    spec = SceneSpec(height=512, width=512, galaxies=1 / 500, galaxy_radius=2.0, field_seed=3)
    galaxies = draw_galaxies(spec, 1)
    assert len(galaxies) == pytest.approx(640 * 640 / 500, rel=0.15)
    assert np.median(galaxies[:, 3]) == pytest.approx(2.0, rel=0.1)
    moved = draw_galaxies(dataclasses.replace(spec, pointing=(1.0, -2.0)), 2)
    np.testing.assert_allclose(
        moved - galaxies, np.array([[-2.0, 1.0, 0, 0, 0, 0]] * len(galaxies)), atol=1e-9
    )
