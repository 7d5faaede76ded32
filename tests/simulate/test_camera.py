"""Camera: constant fixed pattern, conserved charge, noise from photons and gain."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aqdask.errors import UsageError
from aqdask.simulate import defects as d
from aqdask.simulate.camera import bleed, dark_current, flat_field
from aqdask.simulate.frame import SimulatedFrame, simulate_frame
from aqdask.simulate.scene import SceneSpec

EVEN = SceneSpec(height=256, width=320, star_density=0.0, vignetting=0.0, structure=0.0)


def electrons(frame: SimulatedFrame, spec: SceneSpec) -> np.ndarray:
    return (frame.image - spec.pedestal) * spec.gain


def test_photon_transfer() -> None:
    """Photon transfer: two frames differ by photon and read noise only; one frame has the fixed pattern."""
    spec = dataclasses.replace(EVEN, sky=20_000.0, gain=0.7, saturation=65535, pixel_response=0.02)
    one, two = (electrons(simulate_frame(spec, seed=seed), spec) for seed in (1, 2))
    noise = 20_000 + 8**2 + 0.7**2 / 12
    assert (one - two).var() / 2 == pytest.approx(noise, rel=0.02)
    assert one.var() == pytest.approx(noise + (0.02 * 20_000) ** 2, rel=0.02)
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] == pytest.approx(0.888, abs=0.01)


def test_hot_pixels_belong_to_the_camera() -> None:
    spec = dataclasses.replace(EVEN, hot_pixels=1e-3, camera_seed=5)
    one, two = (simulate_frame(spec, seed=seed).image for seed in (1, 2))
    dark = dark_current(spec)
    strong = dark > 1000
    assert 30 <= strong.sum() <= 82 == np.count_nonzero(dark)
    for image in (one, two):
        assert (image[strong] > spec.pedestal + (spec.sky + 800) / spec.gain).all()
        assert image[dark == 0].max() < spec.pedestal + (spec.sky + 300) / spec.gain
    other = dark_current(dataclasses.replace(spec, camera_seed=6))
    assert ((other > 0) & (dark > 0)).sum() < 5


def test_dust_is_a_few_percent_deep_and_stays() -> None:
    spec = dataclasses.replace(EVEN, dust=3, camera_seed=2)
    flat = flat_field(spec)
    assert 0.96**3 <= flat.min() <= 0.98
    assert 0.01 < (flat < 1).mean() < 0.3
    assert np.array_equal(flat, flat_field(dataclasses.replace(spec, pointing=(1.0, 1.0), field_seed=9)))
    assert not np.array_equal(flat, flat_field(dataclasses.replace(spec, camera_seed=3)))
    mean = np.mean([electrons(simulate_frame(spec, seed=seed), spec) for seed in range(8)], axis=0)
    assert mean[flat < 0.985].mean() / mean[flat == 1].mean() == pytest.approx(
        flat[flat < 0.985].mean(), abs=2e-3
    )


def spilled_by_packets(column: list[float], full_well: float) -> list[float]:
    """Reference for blooming, by pixel: half of each excess moves up, then half down, to free wells."""
    wells = [min(charge, full_well) for charge in column]
    packets = [(row, max(charge - full_well, 0) / 2) for row, charge in enumerate(column)]
    for step in (1, -1):
        for row, packet in packets:
            place = row
            while packet > 1e-9 and 0 <= (place := place + step) < len(wells):
                moved = min(full_well - wells[place], packet)
                wells[place] += moved
                packet -= moved
            assert packet <= 1e-9, "the example must not reach an edge"
    return wells


def test_bleeding_against_packets_of_charge() -> None:
    rng = np.random.default_rng(4)
    charge = rng.uniform(0, 60, (80, 7)).astype(np.float32)
    charge[38:42] += rng.uniform(50, 300, (4, 7)).astype(np.float32)
    charge[20, 3] = 200
    found = bleed(charge, 100.0)
    for column in range(7):
        expected = spilled_by_packets(charge[:, column].tolist(), 100.0)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5)


def test_bleeding_conserves_charge_and_keeps_other_columns() -> None:
    charge = np.full((400, 6), 100.0, np.float32)
    charge[200, 2] = 50_000.0
    charge[399, 4] = 50_000.0
    found = bleed(charge, 1000.0)
    assert found.sum(dtype=float) == pytest.approx(charge.sum(dtype=float), rel=1e-6)
    assert np.array_equal(found[:, [0, 1, 3, 5]], charge[:, [0, 1, 3, 5]])
    # (50 000 - 1000) / 2 electrons over wells with room for 900: 27.2 rows to each side.
    full = np.flatnonzero(found[:, 2] == 1000)
    assert (full[0], full[-1], len(full)) == (173, 227, 55)
    assert np.flatnonzero(found[:, 4] > 100).min() == 399 - 55  # all of it turns back
    assert charge[200, 2] == 50_000, "the input is left alone"


def test_what_reaches_the_serial_register_is_lost() -> None:
    charge = np.zeros((50, 2), np.float32)
    charge[5, 1] = 1e6
    found = bleed(charge, 100.0)
    assert (found[:, 1] == 100).all()
    assert (found[:, 0] == 0).all()


@pytest.mark.parametrize("full_well", [None, 1000.0])
def test_nothing_spills_below_the_full_well(full_well: float | None) -> None:
    charge = np.full((5, 5), 999.0, np.float32)
    assert bleed(charge, full_well) is charge


def test_a_good_frame_bleeds_and_holds_its_full_well() -> None:
    spec = dataclasses.replace(
        EVEN, star_density=1e-3, flux_minimum=1e6, flux_maximum=2e6, full_well=30_000.0
    )
    held = simulate_frame(spec, seed=3).image
    free = simulate_frame(dataclasses.replace(spec, full_well=None), seed=3).image
    limit = spec.pedestal + 30_000 / spec.gain
    assert held.max() < limit + 6 * np.sqrt(30_000) / spec.gain < free.max()
    elongation = []  # pairs of full pixels along columns over pairs along rows
    for counts in (free, held):
        full = counts > limit - 1000
        elongation.append((full[1:] & full[:-1]).sum() / (full[:, 1:] & full[:, :-1]).sum())
    assert elongation[0] == pytest.approx(1, abs=0.1)
    assert elongation[1] > 1.25


def test_a_dead_column_leaves_the_noise_of_others_alone() -> None:
    good, bad = (simulate_frame(EVEN, defects, 7).image for defects in ((), (d.DeadColumn(1.0, column=0.5),)))
    changed = good != bad
    assert changed[:, 160].all()
    assert not np.delete(changed, 160, axis=1).any()
    assert (bad[:, 160] - EVEN.pedestal).mean() * EVEN.gain == pytest.approx(0, abs=2)


def test_header_has_camera_filter_and_scale() -> None:
    spec = dataclasses.replace(EVEN, camera="CAM7", filter="r", pixel_scale=11.7)
    header = simulate_frame(spec).header
    assert (header["INSTRUME"][0], header["FILTER"][0]) == ("CAM7", "r")
    assert header["CDELT2"][0] * 3600 == pytest.approx(11.7)


@pytest.mark.parametrize(
    "wrong",
    [{"psf": "airy"}, {"full_well": 0.0}, {"full_well": -1.0}, {"hot_pixels": 1.5}, {"dust": -1},
     {"fwhm_variation": -1.0}, {"pixel_response": -0.1}, {"pixel_scale": 0.0}, {"galaxies": -1.0}],
)  # fmt: skip
def test_impossible_camera_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match="No frame can be drawn"):
        SceneSpec(**wrong)
