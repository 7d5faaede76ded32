"""The frame as a whole: the stated rule of the flag, and what lies outside the references."""

from dataclasses import replace

import numpy as np
import pytest
from features import CAMERA, changed, good_frame

from aqdask.flags import OUTSIDE
from aqdask.methods.noise_aware.feature_groups import CameraModel, FrameFeatures
from aqdask.methods.noise_aware.frame_score import (
    FLAG_MASKED,
    FLAG_SIGMA,
    MIN_SPREAD,
    FrameStatistics,
    ReferenceStatistics,
    frame_statistics,
)
from aqdask.methods.noise_aware.noise_model import NoiseModel


def statistics(features, camera):
    return frame_statistics(FrameFeatures.of(features, camera))


USUAL = FrameStatistics(size=0.0, ellipticity=0.05, sky=1000.0, brightness=1000.0, noise=0.0, stars=6.0)


@pytest.fixture(scope="module")
def reference():
    """Of 30 frames that differ by less than the least spread that counts."""
    draws = np.random.default_rng(1).uniform(-0.3, 0.3, (30, 5))
    return ReferenceStatistics.fit(
        [
            FrameStatistics(
                size=0.02 * d[0], ellipticity=0.05 + 0.01 * d[1], sky=1000.0,
                brightness=1000 * np.exp(0.05 * d[2]), noise=0.02 * d[3], stars=6 * np.exp(0.1 * d[4]),
            )
            for d in draws
        ]
    )  # fmt: skip


# quantity: a value by how many least spreads
MOVED = {
    "size": lambda s: 0.02 * s,
    "ellipticity": lambda s: 0.05 + 0.01 * s,
    "sky": lambda s: 1000 * np.exp(0.05 * s),
    "noise": lambda s: 0.02 * s,
}


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("side", [1, -1])
def test_a_frame_is_flagged_beyond_five_robust_sigma_of_one_quantity(reference, name, side):
    good_side = side < 0 and name in ("size", "ellipticity")
    field = {"sky": "brightness"}.get(name, name)
    near, far = (replace(USUAL, **{field: float(MOVED[name](side * s))}) for s in (4.5, 5.5))
    assert reference.score(near, 0.0) < FLAG_SIGMA
    assert (reference.score(far, 0.0) > FLAG_SIGMA) is not good_side
    assert reference.sigmas(far)[name] == pytest.approx(0 if good_side else 5.5, abs=0.4)


def test_few_references_are_compared_with_a_wider_spread(reference):
    far = replace(USUAL, size=MOVED["size"](9))
    wide = reference.widened(2.0)
    assert wide.sigmas(far)["size"] == pytest.approx(reference.sigmas(far)["size"] / 2)
    assert wide.outside(far) == reference.outside(far)
    assert reference.widened(0.5) == reference


def test_sharper_stars_count_where_asked(reference):
    sharp = replace(USUAL, size=-0.2)
    assert reference.score(sharp, 0.0) < FLAG_SIGMA < reference.score(sharp, 0.0, two_sided=True)


def test_a_frame_is_flagged_where_more_than_a_fifth_is_masked(reference):
    assert (
        reference.score(USUAL, FLAG_MASKED - 0.01) < FLAG_SIGMA < reference.score(USUAL, FLAG_MASKED + 0.01)
    )


def test_frames_that_are_all_alike_do_not_make_small_differences_large():
    alike = ReferenceStatistics.fit([USUAL] * 12)
    for name, min_effect_size in MIN_SPREAD.items():
        assert alike.quantities[name][1] == min_effect_size
    assert alike.score(replace(USUAL, brightness=1010.0), 0.0) < 1


def test_what_cannot_be_measured_is_nothing_against_a_frame(reference):
    unknown = FrameStatistics(*[float("nan")] * 6)
    assert reference.score(unknown, 0.0) == 0
    assert reference.outside(unknown) == 0
    assert ReferenceStatistics.fit([unknown] * 3).score(USUAL, 0.1) == pytest.approx(2.5)
    assert ReferenceStatistics({}).outside(USUAL) == 0


@pytest.mark.parametrize(
    ("frame", "bits"),
    [
        (USUAL, ()),
        (replace(USUAL, brightness=1200.0), ()),
        (replace(USUAL, brightness=3000.0), ("sky",)),
        (replace(USUAL, brightness=300.0), ("sky",)),
        (replace(USUAL, brightness=-5.0), ("sky",)),
        (replace(USUAL, stars=24.0), ("density",)),
        (replace(USUAL, stars=0.0), ("density",)),
        (replace(USUAL, noise=0.5), ("gain",)),
        (replace(USUAL, noise=-0.5, brightness=3000.0, stars=1.0), ("density", "sky", "gain")),
    ],
)
def test_what_lies_outside_the_references_is_said_bit_by_bit(reference, frame, bits):
    assert reference.outside(frame) == sum(OUTSIDE[name] for name in bits)
    assert len(set(OUTSIDE.values())) == len(OUTSIDE)
    assert all(bit & (bit - 1) == 0 for bit in OUTSIDE.values())


def test_values_of_a_frame_are_those_of_its_patches():
    frame = good_frame(2, moody=0.0)
    found = statistics(frame, CAMERA)
    assert found.size == pytest.approx(0, abs=0.3 * 0.1 / 4)
    assert found.ellipticity < 0.02
    assert found.sky == np.median(frame["sky"])
    assert found.stars == pytest.approx(frame["stars"].mean())
    assert found.noise == pytest.approx(0, abs=0.03)
    wider = dict(frame, size_sum=frame["size_sum"] + frame["size_weight"])  # one unit of SPREAD wider
    assert statistics(wider, CAMERA).size == pytest.approx(0.3, abs=0.02)


def test_a_pedestal_does_not_hide_a_brighter_sky():
    """A pedestal of 10,000 counts: the sky is half as bright again, the counts are 5 % more."""
    noise = NoiseModel(a=64 - 10_000.0, b=1.0, floor=1.0)
    tier = ReferenceStatistics.fit([statistics(_flat(11_000 + k), CameraModel(noise)) for k in range(-5, 6)])
    brighter = statistics(_flat(11_500), CameraModel(noise))
    assert tier.outside(brighter) == OUTSIDE["sky"]
    assert tier.sigmas(brighter)["sky"] > 5
    unknown = CameraModel(replace(noise, b=0.0))
    assert statistics(_flat(11_500), unknown).brightness == 11_500


def _flat(level):
    """A good frame whose sky has one level, with the noise of a gain of 1 above 10,000 counts."""
    frame = good_frame(4)
    return dict(
        frame, sky=np.full_like(frame["sky"], level), noise=np.full_like(frame["noise"], level - 9936)
    )


def test_patches_without_data_have_no_part_in_the_frame():
    frame = good_frame(3)
    holes = changed(frame, np.s_[5:], all=np.nan)
    upper = {name: values[:5] for name, values in frame.items()}
    assert statistics(holes, CAMERA) == statistics(upper, CAMERA)
    nothing = statistics(changed(frame, np.s_[:], all=np.nan), CAMERA)
    assert all(np.isnan(value) for value in vars(nothing).values())


def test_the_pvalue_of_a_shape_counts_references_that_are_as_bad():
    sizes = np.linspace(-0.1, 0.1, 9)
    tier = ReferenceStatistics({}, {"size": tuple(sizes)})
    assert tier.pvalue(replace(USUAL, size=0.5), "size") == pytest.approx(1 / 10)
    assert tier.pvalue(replace(USUAL, size=-0.5), "size") == pytest.approx(1)
    assert tier.pvalue(replace(USUAL, size=-0.5), "size", two_sided=True) == pytest.approx(1 / 10)
    assert tier.pvalue(replace(USUAL, size=float(sizes[6])), "size") == pytest.approx(4 / 10)
    assert np.isnan(tier.pvalue(replace(USUAL, size=float("nan")), "size"))
    assert np.isnan(ReferenceStatistics({}).pvalue(USUAL, "size"))
