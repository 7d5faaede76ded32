"""Measures of whole frames against what was simulated, and which frames are proposed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from aqdask.errors import UsageError
from aqdask.sky import measures
from aqdask.sky.defects import Background, Defect, Ghost, Gradient
from aqdask.sky.demo import demo_plan
from aqdask.sky.reference import FrameMeasures, measure, propose
from aqdask.sky.scene import SceneSpec
from aqdask.sky.simulate import simulate_frame

SPEC = SceneSpec(height=512, width=512)
GROUP = ("SIMCAM", "L")


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
    monkeypatch.setattr(measures, "DETECTION", 0.01)  # half of all pixels are detections
    before = measures.sep.get_extract_pixstack()
    measures.sep.set_extract_pixstack(3000)
    try:
        crowded = measure(image)
        assert measures.sep.get_extract_pixstack() == 3000
    finally:
        measures.sep.set_extract_pixstack(before)
    assert crowded.background == expected.background


def test_good_frames_of_the_demonstration_are_proposed() -> None:
    plan = demo_plan(15, 512, seed=3)[:12]  # eight good frames, four bad ones
    found = [measure(simulate_frame(frame.spec, frame.defects, frame.seed).image) for frame in plan]
    proposals = propose([frame.name for frame in plan], found, [GROUP] * 12)
    proposed = [frame for frame, proposal in zip(plan, proposals, strict=True) if proposal.proposed]
    assert len(proposed) >= 4
    assert all(frame.good for frame in proposed)


def frames(fwhm: list[float]) -> list[FrameMeasures]:
    return [FrameMeasures(1000.0, 20.0, 200, width, 0.05, 1.0) for width in fwhm]


def test_an_outlier_is_named_with_its_reason() -> None:
    result = propose(list("abcdef"), frames([5.0, 5.1, 4.9, 5.0, 5.2, 9.1]), [GROUP] * 6)
    assert [proposal.proposed for proposal in result] == [True, False, True, True, False, False]
    assert result[5].worst > 3
    assert result[5].reason.startswith("outlier: at worst fwhm 9.1 px, ")
    assert result[5].reason.endswith("sigma above the group median")


def test_groups_are_judged_apart() -> None:
    """The wide frames are good ones in their own filter."""
    groups = [("cam", "L")] * 3 + [("cam", "R")] * 3
    result = propose(list("abcdef"), frames([3.0, 3.0, 3.0, 8.0, 8.0, 8.0]), groups)
    assert all(proposal.proposed for proposal in result)


def test_keep_and_drop_win() -> None:
    result = propose(list("abcd"), frames([5, 5, 5, 50]), [GROUP] * 4, keep=["d"], drop=["a"])
    assert [proposal.proposed for proposal in result] == [False, True, True, True]
    assert result[0].reason.startswith("dropped by request; ")
    assert result[3].reason.startswith("kept by request; outlier")


def test_frame_that_cannot_be_measured_is_not_proposed() -> None:
    result = propose(list("abc"), [*frames([5, 5]), FrameMeasures()], [GROUP] * 3)
    assert [proposal.proposed for proposal in result] == [True, True, False]
    assert result[2].score == result[2].worst == math.inf
    assert "cannot be measured" in result[2].reason
    assert not any(p.proposed for p in propose(["x"], [FrameMeasures()], [GROUP]))
    assert propose([], [], []) == []


def test_unknown_and_contradictory_lists_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"1 frame\(s\) to keep or drop .* such as 'z'\. Expected: .* What to do"
    ):
        propose(["a"], frames([5]), [GROUP], drop=["z"])
    with pytest.raises(UsageError, match="both to keep and to drop, such as 'a'"):
        propose(["a"], frames([5]), [GROUP], keep=["a"], drop=["a"])


@pytest.mark.real
def test_defocused_real_frames_are_not_proposed(data_dir: Path) -> None:
    """Focus drifts through this night: half-light diameters from under 7 to nearly 12 px."""
    paths = sorted((data_dir / "bsu_2022yid" / "L").glob("*.fit*"))
    result = propose(
        [p.name for p in paths], [measure(fits.getdata(p)) for p in paths], [("STXL", "L")] * len(paths)
    )
    widths = {kind: [p.measures.fwhm for p in result if p.proposed is kind] for kind in (True, False)}
    assert len(widths[True]) == 9
    assert max(widths[True]) < 7.5 < np.median(widths[False])
