"""Simulated frames against analytic expectation, truth of the defects, and the demonstration."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from aqdask.errors import UsageError
from aqdask.execution.worker import current_work
from aqdask.simulate import defects as d
from aqdask.simulate import demo
from aqdask.simulate.frame import read_out, simulate_frame
from aqdask.simulate.psf import psf_table
from aqdask.simulate.scene import SceneSpec, correlated_field, stream
from aqdask.simulate.sources import draw_stars, render_stars

SMALL = SceneSpec(height=256, width=320)
DARK = dataclasses.replace(SMALL, star_density=0.0, vignetting=0.0, structure=0.0)


@pytest.mark.parametrize("fwhm", [1.8, 2.4, 6.0])
def test_stars_conserve_flux_and_position(fwhm: float) -> None:
    """Flux to 0.1 %, the part outside a stamp, and centroid to 0.001 px."""
    spec = dataclasses.replace(SMALL, fwhm=fwhm)
    image = render_stars(spec, np.array([[150.375, 120.625, 20_000.0]]))
    y, x = np.mgrid[:256, :320]
    assert image.sum() == pytest.approx(20_000, rel=2e-3)
    assert (image * x).sum() / image.sum() == pytest.approx(150.375, abs=0.02)
    assert (image * y).sum() / image.sum() == pytest.approx(120.625, abs=0.02)


def test_psf_against_a_fine_integral() -> None:
    """Central pixel of a centred star against a sum over 400 x 400 midpoints."""
    spec = SceneSpec()
    fine = (np.arange(400) + 0.5) / 400 - 0.5
    alpha = spec.moffat_radius
    surface = (1 + (fine[:, None] ** 2 + fine**2) / alpha**2) ** -spec.beta
    expected = surface.mean() * (spec.beta - 1) / (np.pi * alpha**2)
    assert psf_table(spec, 12)[0, 0, 12, 12] == pytest.approx(expected, rel=2e-3)


def test_shifted_pointing_shifts_the_field() -> None:
    spec = dataclasses.replace(SMALL, field_seed=5)
    moved = dataclasses.replace(spec, pointing=(2.0, -3.0))
    here, there = render_stars(spec, draw_stars(spec, 1)), render_stars(moved, draw_stars(moved, 2))
    np.testing.assert_allclose(there[10:-10, 10:-10], here[8:-12, 13:-7], rtol=1e-4, atol=0.01)


@pytest.mark.parametrize(
    ("sky", "read_noise"),
    [
        (1000.0, 8.0),  # one Gaussian for photons and readout
        (10.0, 3.0),  # Poisson
    ],
)
def test_noise_has_the_expected_mean_and_variance(sky: float, read_noise: float) -> None:
    spec = dataclasses.replace(DARK, sky=sky, read_noise=read_noise)
    electrons = (simulate_frame(spec, seed=3).image - spec.pedestal) * spec.gain
    rounding = spec.gain**2 / 12
    assert electrons.mean() == pytest.approx(sky, abs=0.5)
    assert electrons.var() == pytest.approx(sky + read_noise**2 + rounding, rel=0.02)


def test_read_out_clips_at_saturation_and_zero() -> None:
    spec = dataclasses.replace(SMALL, saturation=4000, pedestal=0.0)
    light = np.array([[1e9, 0.0]], np.float32)
    counts = read_out(spec, np.repeat(light, 100, axis=0), np.random.default_rng(0))
    assert counts.dtype == np.uint16
    assert (counts[:, 0] == 4000).all()
    assert counts[:, 1].max() < 40


def test_same_seed_same_bytes_and_other_seed_other_frame() -> None:
    kinds = (d.Background(0.2), d.CosmicRays(500), d.Cloud(0.5))
    first, again = simulate_frame(SMALL, kinds, 7), simulate_frame(SMALL, kinds, 7)
    assert first.image.tobytes() == again.image.tobytes()
    assert all(np.array_equal(first.truth[kind], again.truth[kind]) for kind in first.truth)
    assert not np.array_equal(first.image, simulate_frame(SMALL, kinds, 8).image)


def test_a_defect_leaves_the_rest_of_the_frame_alone() -> None:
    good, bad = simulate_frame(SMALL, (), 7), simulate_frame(SMALL, (d.HotColumn(400, column=0.5),), 7)
    changed = good.image != bad.image
    assert changed[:, 160].mean() > 0.9
    assert not np.delete(changed, 160, axis=1).any()


@pytest.mark.parametrize("scale", [8, 32, 128])
def test_correlated_field_has_unit_variance_and_its_scale(scale: int) -> None:
    fields = [correlated_field((256, 256), scale, stream(seed, "test")) for seed in range(60)]
    assert np.mean([field**2 for field in fields]) == pytest.approx(1, rel=0.25)
    # A Gaussian of FWHM s, correlated with itself at a lag of s: exp(-s**2 / (4 sigma**2)) = 1/4.
    lagged = np.mean([(field[:-scale] * field[scale:]).mean() for field in fields])
    assert lagged == pytest.approx(0.25, abs=0.15)


# Kind, its truth's fraction of the frame from and to.
TRUTHS = [
    (d.Defocus(5.0), 1.0, 1.0),
    (d.Elongation(2.0), 1.0, 1.0),
    (d.ReadNoise(20.0), 1.0, 1.0),
    (d.Background(0.3, scale=8, region=d.Region(0.1, 0.5, 0.1, 0.5)), 0.05, 0.16),
    (d.Cloud(0.5, region=d.Region(0.5, 1.0, 0.0, 1.0)), 0.2, 0.5),
    (d.Gradient(0.3), 0.9, 0.999),
    (d.Ghost(0.1, radius=0.25), 0.08, 0.14),  # a ring of 0.35 to 1 of a radius of 64 px: 0.138
    (d.Trail(300), 0.01, 0.05),
    (d.CosmicRays(1000, density=1e-4), 2e-4, 2e-3),
    (d.HotColumn(200, start=0.5), 0.5 / 321, 0.5 / 319),
    (d.Banding(30), 0.5, 0.9),
    (d.SaturatedStars(1e7), 0.02, 0.3),
    (d.DeadColumn(0.5, start=0.5), 0.5 / 321, 0.5 / 319),
    (d.Vignetting(0.3), 0.7, 0.97),
    (d.GainError(0.1), 1.0, 1.0),
]


@pytest.mark.parametrize(("defect", "least", "most"), TRUTHS, ids=lambda value: getattr(value, "kind", ""))
def test_truth_covers_what_was_changed(defect: d.Defect, least: float, most: float) -> None:
    frame = simulate_frame(SMALL, (defect,), 11)
    truth = frame.truth[defect.kind]
    assert truth.dtype == bool
    assert truth.shape == frame.image.shape
    assert least <= truth.mean() <= most


def test_every_kind_is_in_the_table_and_in_the_tests() -> None:
    assert {type(defect) for defect, *_ in TRUTHS} == set(d.DEFECTS) == set(d.Defect.__subclasses__())
    assert len(set(d.KINDS)) == len(d.KINDS) < 16


def test_two_defects_of_a_kind_share_their_truth() -> None:
    one, other = d.HotColumn(200, column=0.2), d.HotColumn(200, column=0.8)
    truth = simulate_frame(DARK, (one, other), 1).truth["hot_column"]
    assert np.flatnonzero(truth.any(axis=0)).tolist() == [64, 256]


@pytest.mark.parametrize("wrong", [{"height": 0}, {"beta": 1.0}, {"gain": 0.0}, {"saturation": 70_000}])
def test_impossible_scene_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match="No frame can be drawn"):
        SceneSpec(**wrong)


def test_demo_plan_is_frozen_and_travels() -> None:
    plan = demo.demo_plan(size=256, seed=1)
    assert [frame.good for frame in plan] == [True] * 20 + [False] * 10
    assert pickle.loads(pickle.dumps(plan)) == plan == demo.demo_plan(30, 256, seed=1)
    assert len({frame.seed for frame in plan}) == 30
    assert {defect.kind for frame in plan for defect in frame.defects} == set(d.KINDS)


@pytest.mark.parametrize(("frames", "good"), [(2, 1), (3, 2), (8, 6), (9, 6), (15, 10), (60, 40)])
def test_two_thirds_of_a_demo_are_good(frames: int, good: int) -> None:
    plan = demo.demo_plan(frames, 256)
    assert [frame.good for frame in plan] == [True] * good + [False] * (frames - good)


def test_demo_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 frames of at least 128 px"):
        demo.demo_plan(1)


def test_the_watchdog_knows_the_frame_that_is_drawn(tmp_path, monkeypatch) -> None:
    """So that `simulate --frame-timeout` ends a frame that takes longer."""
    plan = demo.demo_plan(frames=4, size=256, seed=2)[:1]
    at_work = []
    monkeypatch.setattr(demo, "write_demo_frame", lambda *_: at_work.extend(current_work()))
    demo.SimulateJob(str(tmp_path))(plan)
    assert [subject for _, subject, _ in at_work] == [plan[0].name]


def test_demo_archive_on_disk(tmp_path) -> None:
    plan = demo.demo_plan(frames=4, size=256, seed=2)
    seen = [frame.name for frame in plan]
    assert not demo.is_written(tmp_path, plan)
    assert demo.SimulateJob(str(tmp_path))(plan) == [str(tmp_path / name) for name in seen]
    demo.write_truth_table(tmp_path, plan)
    assert demo.is_written(tmp_path, plan)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert files == sorted([*seen, *(f"truth/{Path(name).stem}.truth" for name in seen), "truth.json"])
    bad = plan[-1]
    expected = simulate_frame(bad.spec, bad.defects, bad.seed)
    with fits.open(tmp_path / bad.name) as hdus:
        hdus.verify("exception")
        assert np.array_equal(hdus[0].data, expected.image)
        assert Time(hdus[0].header["DATE-OBS"]).isot == bad.time
        centre = WCS(hdus[0].header).pixel_to_world(128 + bad.spec.pointing[1], 128 + bad.spec.pointing[0])
        assert centre.ra.deg == pytest.approx(210, abs=1e-3)
    truth = demo.read_truth(demo.truth_path(tmp_path, bad.name))
    assert truth.keys() == expected.truth.keys()
    assert all(np.array_equal(truth[kind], expected.truth[kind]) for kind in truth)
    assert demo.read_truth(demo.truth_path(tmp_path, plan[0].name)) == {}
    rows = json.loads((tmp_path / "truth.json").read_text())
    assert [row["good"] for row in rows] == [frame.good for frame in plan]
    assert [row["kind"] for row in rows[-1]["defects"]] == [defect.kind for defect in bad.defects]


def test_demo_frame_alone_equals_the_archive(tmp_path) -> None:
    plan = demo.demo_plan(frames=3, size=128)
    for frame in plan:
        demo.write_demo_frame(tmp_path / "all", frame)
    path = demo.write_demo_frame(tmp_path / "alone", plan[2])
    assert path.read_bytes() == (tmp_path / "all" / plan[2].name).read_bytes()
