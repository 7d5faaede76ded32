"""Both passes on synthetic columns: honest p-values, and the rules of the passes."""

from dataclasses import replace

import numpy as np
import pytest
from features import CAMERA, changed, good_frame

from aqdask.methods.noise_aware.anomaly_distance import AnomalyDistance, Tail
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS, FrameFeatures
from aqdask.methods.noise_aware.two_pass import TwoPassDecision, score_of
from aqdask.stats.conformal import ScoreTable, conformal_pvalue

FIT, TAILS, THRESHOLD, FRESH = range(0, 24), range(100, 124), range(200, 240), range(300, 360)


def learnt(disabled=(), first_alpha=0.01, moody=0.1):
    """A decision as a calibration makes it: distances, tails and scores from frames of their own."""
    decision = TwoPassDecision(CAMERA, {}, {}, first_alpha=first_alpha)
    sets = [[FrameFeatures.of(good_frame(n, moody=moody), CAMERA) for n in part] for part in (FIT, TAILS)]
    for regional in (False, True):
        if regional:
            sets = [[decision._without(f, decision.first_pass(f)[1]) for f in part] for part in sets]
        for group in FEATURE_GROUPS:
            if group.regional == regional and not group.retired and group.name not in disabled:
                fit, held = (np.concatenate([np.concatenate(group.function(f)) for f in p]) for p in sets)
                distance = AnomalyDistance.fit(fit, group.one_sided)
                tail = Tail.fit(distance.of(held))
                decision = replace(
                    decision,
                    distances={**decision.distances, group.name: distance},
                    tails={**decision.tails, group.name: tail},
                )
        if not regional:
            scores = [score_of(decision.group_neg_log10_p(f, regional=False)) for f in sets[1]]
            decision = replace(decision, first=ScoreTable.from_scores(np.concatenate(scores)))
    return decision.calibrated([good_frame(n, moody=moody) for n in THRESHOLD])


@pytest.fixture(scope="module")
def decision():
    return learnt()


@pytest.mark.parametrize("moody", [0.0, 0.3])
def test_pvalues_of_fresh_good_frames_are_uniform(moody, decision):
    """3840 patches against 2560: one binomial sigma is .0028 at alpha = .01; frames cluster, in both."""
    decision = learnt(moody=moody)
    pvalues = np.stack([decision.score(good_frame(n, moody=moody))[1] for n in FRESH])
    for alpha in (0.01, 0.05, 0.2, 0.5, 0.8):
        masked = (pvalues <= alpha).mean(axis=(1, 2))
        clustered = masked.std() * np.sqrt(1 / len(FRESH) + 1 / len(THRESHOLD))
        sigma = np.hypot(clustered, np.sqrt(alpha * (1 - alpha) / 2560))
        assert masked.mean() == pytest.approx(alpha, abs=3.5 * sigma + 0.002), alpha
    assert pvalues.min() >= decision.smallest


def test_with_groups_of_whole_frames_no_more_than_alpha_is_masked(decision):
    """60 frames against 40, each masked as a whole or not: one sigma is .02 at alpha = .01."""
    pvalues = np.stack([decision.score(good_frame(n))[1] for n in FRESH])
    for alpha in (0.01, 0.05, 0.2):
        sigma = np.sqrt(alpha * (1 - alpha) * (1 / len(FRESH) + 1 / len(THRESHOLD)))
        assert (pvalues <= alpha).mean() <= alpha + 2.5 * sigma, alpha


def test_an_odd_frame_among_those_of_the_threshold_leaves_single_patches_their_power(decision):
    """Its regions are odd all over: what regions may say shrinks, what patches say stays."""
    odd = changed(good_frame(THRESHOLD[0]), np.s_[:5, :5], size_sum=60.0)
    other = decision.calibrated([odd, *(good_frame(n) for n in THRESHOLD[1:])])
    frame = good_frame(1000)
    loud = changed(frame, np.s_[4, 4], noise=8 * float(frame["noise"][4, 4]))
    assert other.score(loud)[1][4, 4] == decision.score(loud)[1][4, 4] <= 0.01
    wide = changed(frame, np.s_[:5, :5], size_sum=60.0)
    assert (decision.score(wide)[1] <= 0.01)[:4, :4].mean() > 0.9
    assert (other.score(wide)[1] <= 0.01)[:4, :4].mean() < 0.7


def test_without_regions_the_pvalue_is_that_of_the_patches():
    decision = learnt(disabled=tuple(group.name for group in FEATURE_GROUPS if group.regional))
    found, _ = decision.neg_log10_p(good_frame(1000))
    (table,) = decision.final
    np.testing.assert_allclose(decision.pvalue(found), conformal_pvalue(score_of(found), table), rtol=1e-6)


def test_the_first_pass_flags_its_share_of_good_patches(decision):
    flagged = np.stack([decision.first_pass(FrameFeatures.of(good_frame(n), CAMERA))[1] for n in FRESH])
    assert flagged.mean() == pytest.approx(decision.first_alpha, abs=0.01)


def test_a_bad_patch_is_named_and_its_neighbours_are_left_alone(decision):
    frame = good_frame(1000)
    loud = changed(frame, np.s_[4, 4], noise=8 * float(frame["noise"][4, 4]))
    score, pvalue, worst, _ = decision.score(loud)
    clean, *_ = decision.score(frame)
    assert pvalue[4, 4] == decision.smallest
    assert decision.names[worst[4, 4]].startswith("noise")
    around = np.s_[2:7, 2:7]
    others = np.ones((5, 5), bool)
    others[2, 2] = False
    assert (pvalue[around][others] <= 0.01).mean() <= 0.1
    naive = replace(decision, first=None).score(loud)[0]  # nothing is flagged: the neighbours pool it
    assert (naive - clean)[around][others].mean() > 0.3
    assert (score - clean)[around][others].mean() < 0.15


def test_what_is_flagged_is_left_out_however_much_it_is(decision):
    frame = FrameFeatures.of(good_frame(1001), CAMERA)
    for rows in (1, 3, 6, 8):
        flagged = np.zeros((8, 8), bool)
        flagged[:rows] = True
        left = decision._without(frame, flagged).unflagged
        expected = ~flagged
        expected[rows : rows + 1, 1:-1] = False  # beside three flagged ones: the edge of the same defect
        np.testing.assert_array_equal(left, expected)


def test_flags_all_over_a_frame_have_no_edges(decision):
    frame = FrameFeatures.of(good_frame(1001), CAMERA)
    flagged = np.indices((8, 8)).sum(axis=0) % 2 == 0
    np.testing.assert_array_equal(decision._without(frame, flagged).unflagged, ~flagged)


def test_a_flagged_patch_alone_takes_no_neighbour_with_it(decision):
    frame = FrameFeatures.of(good_frame(1001), CAMERA)
    flagged = np.zeros((8, 8), bool)
    flagged[3, 3] = flagged[3, 4] = True
    np.testing.assert_array_equal(decision._without(frame, flagged).unflagged, ~flagged)


def test_a_defect_over_two_fifths_of_a_frame_leaves_the_rest_alone(decision):
    frame = good_frame(1005)
    spoilt = changed(frame, np.s_[:, :3], noise=8 * frame["noise"][:, :3])
    masked = decision.score(spoilt)[1] <= 0.01
    assert masked[:, :3].all()
    assert masked[:, 3:].mean() <= (decision.score(frame)[1] <= 0.01)[:, 3:].mean() + 0.05


def test_patches_without_data_do_not_count_as_flagged_or_unflagged(decision):
    frame = FrameFeatures.of(changed(good_frame(1002), np.s_[:4], all=np.nan), CAMERA)
    flagged = np.zeros((8, 8), bool)
    flagged[4] = True
    left = decision._without(frame, flagged).unflagged
    assert not left[:5].any()
    assert left[6:].all()


def test_a_disabled_group_has_no_effect():
    decision = learnt(disabled=("noise", "noise_region"))
    frame = good_frame(1003)
    loud = changed(frame, np.s_[4, 4], noise=50 * float(frame["noise"][4, 4]))
    found, _ = decision.neg_log10_p(loud)
    assert set(found) == {g.name for g in FEATURE_GROUPS if not g.retired} - {"noise", "noise_region"}
    np.testing.assert_array_equal(decision.score(loud)[0], decision.score(frame)[0])


def test_patches_without_data_stay_without_a_verdict(decision):
    frame = changed(good_frame(1004), np.s_[2:4, 5], all=np.nan)
    score, pvalue, worst, _ = decision.score(frame)
    uninformative = np.zeros((8, 8), bool)
    uninformative[2:4, 5] = True
    np.testing.assert_array_equal(np.isnan(score), uninformative)
    np.testing.assert_array_equal(np.isnan(pvalue), uninformative)
    np.testing.assert_array_equal(worst == 0, uninformative)


def test_a_frame_without_data_has_no_verdict_and_no_warning(decision):
    score, pvalue, worst, _ = decision.score(changed(good_frame(1005), np.s_[:], all=np.nan))
    assert np.isnan(score).all()
    assert np.isnan(pvalue).all()
    assert (worst == 0).all()


def test_the_score_is_that_of_the_worst_group(decision):
    frame = good_frame(1006)
    found, _ = decision.neg_log10_p(frame)
    score, _, worst, _ = decision.score(frame)
    stacked = np.stack(list(found.values()))
    np.testing.assert_allclose(score, stacked.max(axis=0), rtol=1e-6)
    assert (np.array(decision.names)[worst] == np.array(list(found))[stacked.argmax(axis=0)]).all()
