"""Spans of frame-level variables over the reference frames, from the facts of a calibration."""

from __future__ import annotations

from dataclasses import asdict
from math import exp, log

import numpy as np
import pytest
import torch
from simulated import Frames

from aqdask.methods import dispatch
from aqdask.methods.base import score_frame
from aqdask.methods.bundle import Bundle, Calibration
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.reference_spans import reference_spans


def bundle(facts, method="aqdask"):
    calibrations = {key: Calibration({}, facts) for key in ("", "cam|L")}
    return Bundle("m", method, 64, "noise", {}, {}, calibrations)


def facts(model, sky, **quantities):
    brightness = [log(float(model.variance(torch.tensor([counts], dtype=torch.float64)))) for counts in sky]
    low, middle, high = brightness
    return {
        "noise": asdict(model),
        "two_sided": False,
        "frame_tier": {"sky": (middle, 0.1, low, high), **quantities},
    }


@pytest.mark.parametrize("c", [0.0, 1e-5])
def test_spans_are_in_the_units_of_the_variables(c):
    noise = NoiseModel(20.0, 0.7, c, unit=2.0)
    known = facts(noise, (900, 1000, 1500), size=(0.0, 0.1, -0.1, 0.2), noise=(0.0, 0.02, -0.04, 0.06))
    found = reference_spans(bundle(known), "cam", "L")
    assert found["frame_sky"] == pytest.approx((1800, 2000, 3000), rel=1e-6)
    assert found["frame_size_ratio"] == pytest.approx((exp(-0.1), 1, exp(0.2)))
    assert found["frame_noise_ratio"] == pytest.approx((exp(-0.02), 1, exp(0.03)))


def test_the_span_covers_all_strata_of_the_sky():
    noise = NoiseModel(20.0, 0.7)
    dark, bright = facts(noise, (900, 1000, 1100)), facts(noise, (1900, 2000, 2100))
    found = reference_spans(bundle({**dark, "brighter": {"limit": 1500, "facts": bright}}), "cam", "L")
    assert found["frame_sky"] == pytest.approx((900, 1000, 2100), rel=1e-6)


def test_another_camera_and_another_method_have_no_spans():
    known = facts(NoiseModel(20.0, 0.7), (900, 1000, 1100))
    assert reference_spans(bundle(known), "cam", "R") == {}
    assert dispatch.reference_spans(bundle(known, "paper"), "cam", "L") == {}
    assert "frame_sky" in dispatch.reference_spans(bundle(known), "cam", "L")


@pytest.mark.parametrize(
    ("camera", "band", "values", "reason"),
    [
        ("other", "L", {"frame_size_ratio": 1.94}, "size"),
        ("other", "L", {"frame_size_ratio": 0.5}, ""),  # sharper stars are good
        ("other", "L", {"frame_size_ratio": 1.1}, ""),  # below five sigma: the flag is that of the masks
        ("other", "L", {"frame_sky": 2000}, "sky"),
        ("cam", "R", {"frame_sky": 2000}, ""),  # the stratum of a brighter sky of this camera
        ("cam", "R", {"frame_noise_ratio": 0.0}, "noise"),
        ("cam", "R", {"frame_ellipticity": 0.1, "frame_size_ratio": float("nan")}, "ellipticity"),
    ],
)
def test_the_reason_of_a_flag_without_own_calibration(camera, band, values, reason):
    noise, spread = NoiseModel(20.0, 0.7), {"size": (0, 0.04, -0.1, 0.1), "noise": (0, 0.02, 0, 0)}
    spread["ellipticity"] = (0, 0.01, 0, 0)
    dark, bright = (facts(noise, sky, **spread) for sky in ((900, 1000, 1100), (1900, 2000, 2100)))
    known = bundle({**dark, "brighter": {"limit": 1500, "facts": bright}})
    usual = {"frame_sky": 1000, "frame_size_ratio": 1, "frame_noise_ratio": 1, "frame_ellipticity": 0}
    assert dispatch.distant_reason(known, camera, band, usual | values) == reason
    assert dispatch.distant_reason(bundle(known, "paper"), camera, band, usual | values) == ""


def test_without_gain_the_sky_itself_is_stored():
    known = {
        "noise": asdict(NoiseModel(20.0, 0.0, source="none")),
        "frame_tier": {"sky": (log(5), 0.1, log(4), log(6))},
    }
    np.testing.assert_allclose(reference_spans(bundle(known), "cam", "L")["frame_sky"], (4, 5, 6))


def test_the_spans_are_those_of_the_scored_references(tiny, scorer):
    frames = Frames()
    about = tiny.calibrations["cam|L"].facts["about"]["frames"]
    chosen = [frames.ids.index(name) for name in {name for members in about.values() for name in members}]
    scored = [score_frame(scorer, *frames.read(index), "cam", "L") for index in chosen]
    found = reference_spans(tiny, "cam", "L")
    assert set(found) >= {"frame_sky", "frame_size_ratio", "frame_noise_ratio", "frame_ellipticity"}
    for name in ("frame_sky", "frame_size_ratio", "frame_noise_ratio"):
        values = [float(values[name]) for values in scored]
        np.testing.assert_allclose(found[name][::2], (min(values), max(values)), rtol=1e-2)
