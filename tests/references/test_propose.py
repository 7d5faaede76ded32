"""Which frames are proposed as references, and why not the others."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from aqdask.errors import UsageError
from aqdask.references.propose import ImageStatistics, measure, propose, shortfalls
from aqdask.simulate.demo import demo_plan
from aqdask.simulate.frame import simulate_frame

GROUP = ("SIMCAM", "L")


def test_good_frames_of_the_demonstration_are_proposed() -> None:
    plan = demo_plan(12, 512, seed=3)  # eight good frames, four bad ones
    found = [measure(simulate_frame(frame.spec, frame.defects, frame.seed).image) for frame in plan]
    proposals = propose([frame.name for frame in plan], found, [GROUP] * 12)
    proposed = [frame for frame, proposal in zip(plan, proposals, strict=True) if proposal.proposed]
    assert len(proposed) >= 4
    assert all(frame.good for frame in proposed)


@pytest.mark.parametrize("kept", [1.0, 0.01])
@pytest.mark.parametrize("unit", [1e-18, 1e6])
def test_distances_do_not_depend_on_the_unit_of_the_pixels(unit: float, kept: float) -> None:
    """With the sky of the frames, and with a part of it."""
    plan = demo_plan(12, 256, seed=3)
    images = [simulate_frame(one.spec, one.defects, one.seed).image.astype(np.float32) for one in plan]
    images = [image - np.float32((1 - kept) * np.median(image)) for image in images]

    def judged(factor: float) -> list[tuple[bool, float, float]]:
        found = [measure(image * np.float32(factor)) for image in images]
        return [(p.proposed, p.score, p.worst) for p in propose([*map(str, range(12))], found, [GROUP] * 12)]

    counts = judged(1)
    assert sum(math.isfinite(score) for _, score, _ in counts) >= 8
    np.testing.assert_allclose(judged(unit), counts, rtol=0.02)


@pytest.mark.parametrize("unit", [1.0, 1e-18])
@pytest.mark.parametrize("sky", [1000.0, 0.0])
def test_sky_and_noise_are_compared_in_any_unit(unit: float, sky: float) -> None:
    rows = [(sky, 20.0)] * 5 + [(sky + 2000, 20.0), (sky, 40.0)]
    found = [ImageStatistics(level * unit, rms * unit, 200, 5.0, 0.05, 1.0) for level, rms in rows]
    result = propose(list("abcdefg"), found, [GROUP] * 7)
    assert [p.proposed for p in result] == [True] * 5 + [False] * 2
    assert result[5].reason.startswith(f"outlier: at worst background {(sky + 2000) * unit:.4g}, ")
    assert result[6].reason.startswith("outlier: at worst rms / sqrt(background) ")


def frames(fwhm: list[float]) -> list[ImageStatistics]:
    return [ImageStatistics(1000.0, 20.0, 200, width, 0.05, 1.0) for width in fwhm]


def test_an_outlier_is_named_with_its_reason() -> None:
    result = propose(list("abcdef"), frames([5.0, 5.1, 4.9, 5.0, 5.2, 9.1]), [GROUP] * 6)
    assert [proposal.proposed for proposal in result] == [True] * 5 + [False]
    assert result[4].reason.startswith("sound: at worst fwhm 5.2 px, ")
    assert result[5].worst > 3
    assert result[5].reason.startswith("outlier: at worst fwhm 9.1 px, ")
    assert result[5].reason.endswith("sigma above the group median")


def test_the_best_24_of_many_sound_frames_are_proposed() -> None:
    widths = [5.0 + 0.01 * (k * 7 % 31) for k in range(30)]
    result = propose([f"f{k}" for k in range(30)], frames([*widths]), [GROUP] * 30)
    proposed = [widths[k] for k, proposal in enumerate(result) if proposal.proposed]
    assert sorted(proposed) == sorted(widths)[:24]
    others = {proposal.reason.partition(":")[0] for proposal in result if not proposal.proposed}
    assert others == {"sound, but not among the best 24 of its group"}
    assert shortfalls(result, [GROUP] * 30) == []


def test_few_references_are_said_for_each_camera_and_filter() -> None:
    groups = [("cam", "L")] * 3 + [("", "")] * 2 + [("cam", "R"), ("cam", "V")]
    result = propose(list("abcdefg"), [*frames([5.0] * 5), ImageStatistics(), *frames([5.0])], groups)
    assert shortfalls(result, groups) == [
        "cam L: 3 reference frames proposed; 21 more would bring the false-mask rate closer to alpha",
        "an unknown camera: 2 reference frames proposed; `calibrate` needs at least 3, and 22 more would "
        "bring the false-mask rate closer to alpha",
        "cam V: 1 reference frame proposed; `calibrate` needs at least 3, and 23 more would bring the "
        "false-mask rate closer to alpha",
    ]
    many = [(f"cam{k}", "L") for k in range(9)]
    lines = shortfalls(propose(list("abcdefghi"), frames([5.0] * 9), many), many)
    assert len(lines) == 6
    assert lines[-1] == "and 4 more cameras and filters with few reference frames"


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
    result = propose(list("abc"), [*frames([5, 5]), ImageStatistics(0.0, 0.0)], [GROUP] * 3)
    assert [proposal.proposed for proposal in result] == [True, True, False]
    assert result[2].score == result[2].worst == math.inf
    assert "cannot be measured" in result[2].reason
    assert not any(p.proposed for p in propose(["x"], [ImageStatistics()], [GROUP]))
    assert propose([], [], []) == []


def test_unknown_and_contradictory_lists_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"1 frame\(s\) to keep or drop .* such as 'z'\. Expected: .* What to do"
    ):
        propose(["a"], frames([5]), [GROUP], drop=["z"])
    with pytest.raises(UsageError, match="both to keep and to drop, such as 'a'"):
        propose(["a"], frames([5]), [GROUP], keep=["a"], drop=["a"])


@pytest.mark.real
def test_an_elongated_real_frame_is_not_proposed_and_defocused_ones_come_last(data_dir: Path) -> None:
    """Focus drifts through this night: half-light diameters from under 7 to nearly 12 px."""
    paths = sorted((data_dir / "bsu_2022yid" / "L").glob("*.fit*"))
    result = propose(
        [p.name for p in paths], [measure(fits.getdata(p)) for p in paths], [("STXL", "L")] * len(paths)
    )
    (outlier,) = (proposal for proposal in result if not proposal.proposed)
    assert outlier.reason.startswith("outlier: at worst ellipticity 0.16")
    ranked = [p.measures.fwhm for p in sorted(result, key=lambda p: p.score)]
    assert max(ranked[:9]) < 7.5 < min(ranked[-4:])


def test_frames_labelled_good_come_first_even_where_their_statistics_are_odd() -> None:
    widths = [5.0 + 0.01 * k for k in range(29)] + [9.0]
    ids = [f"f{k}" for k in range(30)]
    result = propose(ids, frames(widths), [GROUP] * 30, good=["f29", "f28", "f3"])
    assert {p.id for p in result if p.proposed} == {"f28", "f29", *ids[:22]}
    assert result[29].reason.startswith("labelled good; outlier: at worst fwhm 9.0 px")
    unmeasured = propose(["a", "b"], [*frames([5.0]), ImageStatistics()], [GROUP] * 2, good=["b"])
    assert [p.proposed for p in unmeasured] == [True, False]
