"""Both passes on synthetic columns: honest p-values, and the rules of the passes."""

from dataclasses import replace

import numpy as np
import pytest
from columns import CAMERA, changed, good_frame

from aqdask.kernels.calibration import ScoreTable, conformal_pvalue
from aqdask.kernels.evidence import GROUPS, Field
from aqdask.kernels.grouping import Distance, Tail
from aqdask.kernels.judge import Judge, score_of

FIT, TAILS, THRESHOLD, FRESH = range(0, 24), range(100, 124), range(200, 240), range(300, 360)


def learnt(abstain=(), first_alpha=0.01, moody=0.1):
    """A judge as a calibration makes it: distances, tails and scores from frames of their own."""
    judge = Judge(CAMERA, {}, {}, first_alpha=first_alpha)
    sets = [[Field.of(good_frame(n, moody=moody), CAMERA) for n in part] for part in (FIT, TAILS)]
    for regional in (False, True):
        if regional:
            sets = [[judge.second_field(f, judge.first_pass(f)[1]) for f in part] for part in sets]
        for group in GROUPS:
            if group.regional == regional and group.name not in abstain:
                found = ([np.concatenate(group.function(f)) for f in p] for p in sets)
                fit, held = (np.concatenate([f[:1] for f in p] if group.whole else p) for p in found)
                distance = Distance.fit(fit, group.one_sided)
                tail = (Tail.of_frames if group.whole else Tail.fit)(distance.of(held))
                judge = replace(
                    judge,
                    distances={**judge.distances, group.name: distance},
                    tails={**judge.tails, group.name: tail},
                )
        if not regional:
            scores = [score_of(judge.group_surprise(f, regional=False)) for f in sets[1]]
            judge = replace(judge, first=ScoreTable.from_scores(np.concatenate(scores)))
    return judge.calibrated([good_frame(n, moody=moody) for n in THRESHOLD])


@pytest.fixture(scope="module")
def judge():
    return learnt()


@pytest.mark.parametrize("moody", [0.0, 0.3])
def test_pvalues_of_fresh_good_frames_are_uniform(moody, judge):
    """3840 patches against 2560: one binomial sigma is .0028 at alpha = .01; frames cluster, in both.

    Without the groups of whole frames, of which there are only 60 against 40.
    """
    judge = learnt(moody=moody, abstain=tuple(group.name for group in GROUPS if group.whole))
    pvalues = np.stack([judge.score(good_frame(n, moody=moody))[1] for n in FRESH])
    for alpha in (0.01, 0.05, 0.2, 0.5, 0.8):
        masked = (pvalues <= alpha).mean(axis=(1, 2))
        clustered = masked.std() * np.sqrt(1 / len(FRESH) + 1 / len(THRESHOLD))
        sigma = np.hypot(clustered, np.sqrt(alpha * (1 - alpha) / 2560))
        assert masked.mean() == pytest.approx(alpha, abs=3.5 * sigma + 0.002), alpha
    assert pvalues.min() >= judge.smallest


def test_with_groups_of_whole_frames_no_more_than_alpha_is_masked(judge):
    """60 frames against 40, each masked as a whole or not: one sigma is .02 at alpha = .01."""
    pvalues = np.stack([judge.score(good_frame(n))[1] for n in FRESH])
    for alpha in (0.01, 0.05, 0.2):
        sigma = np.sqrt(alpha * (1 - alpha) * (1 / len(FRESH) + 1 / len(THRESHOLD)))
        assert (pvalues <= alpha).mean() <= alpha + 2.5 * sigma, alpha


def test_an_odd_frame_among_those_of_the_threshold_leaves_single_patches_their_power(judge):
    """Its regions are odd all over: what regions may say shrinks, what patches say stays."""
    odd = changed(good_frame(THRESHOLD[0]), np.s_[:], size_sum=60.0)
    other = judge.calibrated([odd, *(good_frame(n) for n in THRESHOLD[1:])])
    frame = good_frame(1000)
    loud = changed(frame, np.s_[4, 4], noise=8 * float(frame["noise"][4, 4]))
    assert other.score(loud)[1][4, 4] == judge.score(loud)[1][4, 4] <= 0.01
    wide = changed(frame, np.s_[:], size_sum=60.0)
    assert (judge.score(wide)[1] <= 0.01).mean() > 0.9
    assert (other.score(wide)[1] <= 0.01).mean() < 0.5


def test_without_regions_the_pvalue_is_that_of_the_patches():
    judge = learnt(abstain=tuple(group.name for group in GROUPS if group.regional))
    found, _ = judge.surprise(good_frame(1000))
    (table,) = judge.final
    np.testing.assert_allclose(judge.pvalue(found), conformal_pvalue(score_of(found), table), rtol=1e-6)


def test_the_first_pass_flags_its_share_of_good_patches(judge):
    flagged = np.stack([judge.surprise(good_frame(n))[1] for n in FRESH])
    assert flagged.mean() == pytest.approx(judge.first_alpha, abs=0.01)


def test_a_bad_patch_is_named_and_its_neighbours_are_left_alone(judge):
    frame = good_frame(1000)
    loud = changed(frame, np.s_[4, 4], noise=8 * float(frame["noise"][4, 4]))
    score, pvalue, worst = judge.score(loud)
    clean, _, _ = judge.score(frame)
    assert pvalue[4, 4] == judge.smallest
    assert worst[4, 4].startswith("noise")
    around = np.s_[2:7, 2:7]
    others = np.ones((5, 5), bool)
    others[2, 2] = False
    assert (pvalue[around][others] <= 0.01).mean() <= 0.1
    naive = replace(judge, first=None).score(loud)[0]  # nothing is flagged: the neighbours pool it
    assert (naive - clean)[around][others].mean() > 0.3
    assert (score - clean)[around][others].mean() < 0.1


def test_what_is_flagged_is_left_out_however_much_it_is(judge):
    frame = Field.of(good_frame(1001), CAMERA)
    for rows in (1, 3, 6, 8):
        flagged = np.zeros((8, 8), bool)
        flagged[:rows] = True
        left = judge.second_field(frame, flagged).unflagged
        expected = ~flagged
        expected[rows : rows + 1, 1:-1] = False  # beside three flagged ones: the edge of the same defect
        np.testing.assert_array_equal(left, expected)


def test_flags_all_over_a_frame_have_no_edges(judge):
    frame = Field.of(good_frame(1001), CAMERA)
    flagged = np.indices((8, 8)).sum(axis=0) % 2 == 0
    np.testing.assert_array_equal(judge.second_field(frame, flagged).unflagged, ~flagged)


def test_a_flagged_patch_alone_takes_no_neighbour_with_it(judge):
    frame = Field.of(good_frame(1001), CAMERA)
    flagged = np.zeros((8, 8), bool)
    flagged[3, 3] = flagged[3, 4] = True
    np.testing.assert_array_equal(judge.second_field(frame, flagged).unflagged, ~flagged)


def test_a_defect_over_two_fifths_of_a_frame_leaves_the_rest_alone(judge):
    frame = good_frame(1005)
    spoilt = changed(frame, np.s_[:, :3], noise=8 * frame["noise"][:, :3])
    masked = judge.score(spoilt)[1] <= 0.01
    assert masked[:, :3].all()
    assert masked[:, 3:].mean() <= (judge.score(frame)[1] <= 0.01)[:, 3:].mean() + 0.05


def test_patches_without_data_do_not_count_as_flagged_or_unflagged(judge):
    frame = Field.of(changed(good_frame(1002), np.s_[:4], all=np.nan), CAMERA)
    flagged = np.zeros((8, 8), bool)
    flagged[4] = True
    left = judge.second_field(frame, flagged).unflagged
    assert not left[:5].any()
    assert left[6:].all()


def test_a_group_that_abstains_has_no_say():
    judge = learnt(abstain=("noise", "noise_region"))
    frame = good_frame(1003)
    loud = changed(frame, np.s_[4, 4], noise=50 * float(frame["noise"][4, 4]))
    found, _ = judge.surprise(loud)
    assert set(found) == {g.name for g in GROUPS} - {"noise", "noise_region"}
    np.testing.assert_array_equal(judge.score(loud)[0], judge.score(frame)[0])


def test_patches_without_data_stay_without_a_verdict(judge):
    frame = changed(good_frame(1004), np.s_[2:4, 5], all=np.nan)
    score, pvalue, worst = judge.score(frame)
    mute = np.zeros((8, 8), bool)
    mute[2:4, 5] = True
    np.testing.assert_array_equal(np.isnan(score), mute)
    np.testing.assert_array_equal(np.isnan(pvalue), mute)
    np.testing.assert_array_equal(worst == "", mute)


def test_a_frame_without_data_has_no_verdict_and_no_warning(judge):
    score, pvalue, worst = judge.score(changed(good_frame(1005), np.s_[:], all=np.nan))
    assert np.isnan(score).all()
    assert np.isnan(pvalue).all()
    assert (worst == "").all()


def test_the_score_is_that_of_the_worst_group(judge):
    frame = good_frame(1006)
    found, _ = judge.surprise(frame)
    score, _, worst = judge.score(frame)
    stacked = np.stack(list(found.values()))
    np.testing.assert_allclose(score, stacked.max(axis=0), rtol=1e-6)
    assert (worst == np.array(list(found))[stacked.argmax(axis=0)]).all()
