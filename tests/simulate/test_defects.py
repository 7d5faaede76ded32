"""Defects against the definition of an affected pixel, and against their documented effect."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aqdask.simulate import defects as d
from aqdask.simulate.camera import bleed
from aqdask.simulate.frame import expose, simulate_frame
from aqdask.simulate.scene import SceneSpec

SPEC = SceneSpec(height=256, width=320, full_well=80_000.0, pixel_response=0.01, dust=2, hot_pixels=1e-4)
EVEN = SceneSpec(height=256, width=320, star_density=0.0, vignetting=0.0, structure=0.0)
LOCAL = [
    d.Background(0.1, scale=8), d.Background(0.3, scale=32), d.Background(1.0, scale=128),
    d.Cloud(0.5, glow=0.0), d.Cloud(0.5, glow=0.3), d.Gradient(0.2), d.Ghost(0.05), d.Trail(200),
    d.CosmicRays(500, density=1e-3), d.HotColumn(100), d.DeadColumn(0.3), d.Banding(20), d.Vignetting(0.2),
    d.SaturatedStars(3e7),
]  # fmt: skip


@pytest.mark.parametrize("full_well", [80_000.0, None])
@pytest.mark.parametrize("defect", LOCAL, ids=lambda one: one.kind)
def test_truth_is_where_the_signal_changes(defect: d.Defect, full_well: float | None) -> None:
    """Frames with and without the defect have the same noise numbers: their difference shows the change.

    It also holds the change of the noise's own size (below 1 e- at the threshold for 6 sigma) and two
    roundings to whole counts; saturated counts tell nothing.
    """
    spec = dataclasses.replace(SPEC, full_well=full_well)
    good, bad = simulate_frame(spec, (), 21), simulate_frame(spec, (defect,), 21)
    charge = bleed(expose(spec, good.stars, 21).total(), full_well)
    edge = d.TRUTH_SIGMA * np.sqrt(charge + spec.read_noise**2)
    difference = np.abs(bad.image.astype(float) - good.image) * spec.gain
    readable = np.maximum(good.image, bad.image) < spec.saturation
    truth, slack = bad.truth[defect.kind], 1 + spec.gain
    assert (difference <= edge + slack)[~truth & readable].all()
    size = np.maximum(difference, edge)  # the noise's change grows with the change
    assert (difference >= edge - slack - 6 * (np.sqrt(size + charge) - np.sqrt(charge)))[
        truth & readable
    ].all()
    assert (truth & readable).any()
    assert not truth.all()


@pytest.mark.parametrize("scale", [8, 32, 128])
@pytest.mark.parametrize("amplitude", [0.1, 0.3])
def test_background_has_its_rms(scale: float, amplitude: float) -> None:
    """Rms over frames: a field of 128 px has few independent places in one."""
    light = expose(EVEN, np.zeros((0, 3)), 0)
    rng = np.random.default_rng(17)
    changes = [d.Background(amplitude, scale=scale).change(light, EVEN, rng) for _ in range(20)]
    assert np.std(changes) == pytest.approx(amplitude * EVEN.sky, rel=0.15)


def test_background_as_strong_as_the_sky_is_never_negative() -> None:
    light = expose(EVEN, np.zeros((0, 3)), 0)
    change = d.Background(1.0).change(light, EVEN, np.random.default_rng(18))
    assert (light.sky + change).min() == pytest.approx(0, abs=1e-3)
    assert change.max() > EVEN.sky


def test_cloud_without_glow_dims_stars_only() -> None:
    spec = dataclasses.replace(EVEN, star_density=1 / 2000)
    good, bad = (simulate_frame(spec, some, 5) for some in ((), (d.Cloud(0.8, glow=0.0),)))
    stars = expose(spec, good.stars, 5).stars
    empty, bright = stars == 0, stars > 300
    assert empty.mean() > 0.1
    assert np.array_equal(good.image[empty], bad.image[empty])
    starlight = [frame.image[bright].mean() - 600 - 1000 / 1.5 for frame in (good, bad)]
    assert 0.2 < starlight[1] / starlight[0] < 0.9
    assert bad.truth["cloud"][bright].mean() > 0.8
    assert not bad.truth["cloud"][stars < 5].any()


def test_gain_error_scales_the_counts_and_not_the_header() -> None:
    good, bad = simulate_frame(EVEN, (), 5), simulate_frame(EVEN, (d.GainError(0.25),), 5)
    ratio = (bad.image.mean() - EVEN.pedestal) / (good.image.mean() - EVEN.pedestal)
    assert ratio == pytest.approx(1.25, rel=1e-3)
    assert bad.header["GAIN"] == good.header["GAIN"] == (EVEN.gain, "[e-/ADU]")
    assert bad.truth["gain_error"].all()


def test_vignetting_takes_its_fraction_in_the_corners() -> None:
    frames = [simulate_frame(EVEN, (d.Vignetting(0.4),), seed).image for seed in range(10)]
    light = np.mean(frames, axis=0) - EVEN.pedestal
    corner = np.mean([light[:5, :5], light[:5, -5:], light[-5:, :5], light[-5:, -5:]])
    centre = light[118:138, 150:170].mean()
    assert corner / centre == pytest.approx(1 - 0.4 * 0.97, abs=0.01)  # r**2 of these pixels: 0.97


def test_partly_dead_column_keeps_the_rest_of_its_response() -> None:
    image = simulate_frame(EVEN, (d.DeadColumn(0.3, column=0.5, start=0.25),), 5).image
    column = (image[:, 160] - EVEN.pedestal) * EVEN.gain
    assert column[64:].mean() == pytest.approx(700, abs=10)
    assert column[:64].mean() == pytest.approx(1000, abs=20)


@pytest.mark.parametrize("full_well", [80_000.0, None])
def test_saturated_stars_bleed_along_columns(full_well: float | None) -> None:
    spec = dataclasses.replace(EVEN, full_well=full_well)
    frame = simulate_frame(spec, (d.SaturatedStars(1e7, number=1),), 9)
    well = full_well or (spec.saturation - spec.pedestal) * spec.gain
    full = (frame.image - spec.pedestal) * spec.gain > well - 6 * np.sqrt(well)
    tall, broad = full.any(axis=1).sum(), full.any(axis=0).sum()
    assert tall > 4 * broad > 0
    assert frame.truth["saturated_stars"][full].all()
    # All of the star's charge is there, in the star, its trail and its wings.
    added = ((frame.image - spec.pedestal) * spec.gain - spec.sky).sum()
    assert added == pytest.approx(1e7, rel=0.02)


def test_saturated_stars_shine_through_the_optics() -> None:
    light = expose(EVEN, np.zeros((0, 3)), 0)
    dimmed = dataclasses.replace(light, flat=light.flat / 4)
    stars = d.SaturatedStars(1e7)
    one, other = (stars.change(some, EVEN, np.random.default_rng(3)).sum() for some in (light, dimmed))
    assert other == pytest.approx(one / 4, rel=1e-5)


@pytest.mark.parametrize("full_well", [80_000.0, None])
def test_the_truth_of_each_of_several_defects_is_its_own_change(full_well: float | None) -> None:
    """Hot column through a ghost: the truth of the ghost is unchanged, and both are in the image."""
    ghost, spec = d.Ghost(0.1), dataclasses.replace(EVEN, full_well=full_well)
    alone, both = simulate_frame(spec, (ghost,), 1), simulate_frame(spec, (ghost, d.HotColumn(300)), 1)
    assert np.array_equal(alone.truth["ghost"], both.truth["ghost"])
    assert both.truth["hot_column"].sum() == 256
    assert (both.image[:, 96].astype(float) - alone.image[:, 96]).mean() * 1.5 == pytest.approx(300, abs=20)
