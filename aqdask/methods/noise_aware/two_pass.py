"""Two-pass decision on the patches of a frame: single patches first, then regions of unflagged ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aqdask.methods.noise_aware.anomaly_distance import AnomalyDistance, Tail
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS, CameraModel, FeatureGroup, FrameFeatures
from aqdask.methods.noise_aware.frame_tests import FrameDistributions, frame_values
from aqdask.methods.noise_aware.line_test import LINE, LineTest
from aqdask.methods.noise_aware.pooling import Features, box_sum
from aqdask.stats.conformal import ScoreTable, conformal_pvalue

FIRST_ALPHA = 0.01  # of the first pass; frozen in the bundle, so that a mask for any alpha needs no network
SHARES = {"patches": 0.4, "regions": 0.25, "frame": 0.3, "lines": 0.05}
"""Share of the false masks of each part of the decision."""
BEYOND = 0.5  # of the score of a patch beyond the threshold set counts
BEYOND_SET = 4.0  # times the number of patches of the threshold set: so far p-values are extrapolated
SMALLEST = 1e-30  # p-value of a whole frame
BESIDE = 3  # flagged patches within 3 x 3 from which a patch counts as the edge of the same defect


@dataclass(frozen=True, eq=False)
class TwoPassDecision:
    """Calibrated decision on the patches of a frame.

    Parameters
    ----------
    camera : CameraModel
    distances : mapping of str to AnomalyDistance
        By name of the group; a group that is not there is disabled.
    tails : mapping of str to Tail
        The same groups.
    first : ScoreTable
        Scores of reference patches after the first pass.
    final : tuple of ScoreTable
        Scores of reference patches after both passes, of frames used for nothing else: by the groups of
        single patches, then by region groups where any is enabled. Empty while fitting.
    first_alpha : float
        Share of good patches that the first pass may flag.
    frame_tests : FrameDistributions or None
        Tests of whole frames; None while fitting, for another filter, and in earlier releases.
    lines : LineTest or None
        Test of lines across a frame; None while fitting, and in earlier releases.
    """

    camera: CameraModel
    distances: Mapping[str, AnomalyDistance]
    tails: Mapping[str, Tail] = field(default_factory=dict)
    first: ScoreTable | None = None
    final: tuple[ScoreTable, ...] = ()
    first_alpha: float = FIRST_ALPHA
    frame_tests: FrameDistributions | None = None
    lines: LineTest | None = None

    def groups(self, *, regional: bool) -> tuple[FeatureGroup, ...]:
        """Return the enabled groups of one pass."""
        return tuple(g for g in FEATURE_GROUPS if g.regional == regional and g.name in self.distances)

    def group_neg_log10_p(self, frame: FrameFeatures, *, regional: bool) -> dict[str, np.ndarray]:
        """Compute ``-log10 p`` of every patch by group, ``(n_y, n_x)``; NaN without data."""
        return {
            group.name: self.tails[group.name].neg_log10_p(
                self.distances[group.name].of(group.function(frame))
            )
            for group in self.groups(regional=regional)
        }

    def first_pass(self, frame: FrameFeatures) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Compute ``-log10 p`` by group of single patches, and the flagged patches, bool ``(n_y, n_x)``."""
        found = self.group_neg_log10_p(frame, regional=False)
        if self.first is None:
            return found, np.zeros(frame.unflagged.shape, bool)
        return found, conformal_pvalue(score_of(found), self.first) <= self.first_alpha

    def after_first_pass(self, frame: FrameFeatures) -> FrameFeatures:
        """Remove the patches that the first pass flags, and the edges of defects, from a frame."""
        return self._without(frame, self.first_pass(frame)[1])

    def _without(self, frame: FrameFeatures, flagged: np.ndarray) -> FrameFeatures:
        """Remove flagged patches and their neighbours at the edges of a defect.

        However many are flagged: if bad patches came back because there are many, regions in the clear part
        of the frame would include them. Flags scattered over the whole frame have no edges: where edges were
        most of what is left, they stay.
        """
        left = frame.unflagged & ~flagged
        inside = left & (box_sum(flagged, 3) < BESIDE)
        scattered = inside.sum() < left.sum() / 2
        return replace(frame, unflagged=left if scattered else inside)

    def neg_log10_p(self, features: Features) -> tuple[dict[str, np.ndarray], FrameFeatures]:
        """Compute ``-log10 p`` of all groups and tests, and the frame as the first pass leaves it.

        The tests of the frame have one value for all patches that have data, that of lines one for the
        patches of each line. Patches of a line count as flagged.
        """
        frame = FrameFeatures.of(features, self.camera)
        found, flagged = self.first_pass(frame)
        if self.lines:
            found[LINE] = self.lines.neg_log10_p(features)
            flagged |= found[LINE] >= -np.log10(self.first_alpha * SHARES["lines"])
        second = self._without(frame, flagged)
        found = found | self.group_neg_log10_p(second, regional=True)
        if self.frame_tests:
            known = np.isfinite(features["sky"])
            distances = self.frame_tests.distances(frame_values(second))
            for name, pvalue in self.frame_tests.pvalues(distances).items():
                found[name] = np.where(known, -np.log10(max(pvalue, SMALLEST)), np.nan)
        return found, second

    def pass_scores(self, neg_log10_p: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Score each patch by the groups of single patches, and by region groups where any is enabled."""
        pass_scores = [[group.name for group in self.groups(regional=regional)] for regional in (False, True)]
        return [score_of({name: neg_log10_p[name] for name in names}) for names in pass_scores if names]

    def calibrated(self, reference: Sequence[Features]) -> TwoPassDecision:
        """Return a copy with `final` from good frames that were used for nothing else."""
        found = [self.pass_scores(self.neg_log10_p(features)[0]) for features in reference]
        return replace(
            self,
            final=tuple(
                ScoreTable.from_scores(np.concatenate([score.ravel() for score in scores]))
                for scores in zip(*found, strict=True)
            ),
        )

    @property
    def shares(self) -> dict[str, float]:
        """Share of the false masks of each part of the decision, by name; they add up to 1.

        Equal ones in a calibration of an earlier release.
        """
        names = ["patches", "regions"][: len(self.final)]
        names += ["frame"] if self.frame_tests else []
        names += ["lines"] if self.lines else []
        parts = {name: SHARES[name] if self.camera.relative else 1.0 for name in names}
        return {name: share / sum(parts.values()) for name, share in parts.items()}

    def frame_limits(self, alpha: float) -> dict[str, float]:
        """Return for each frame test the distance from the references beyond which a frame is masked."""
        if not self.frame_tests:
            return {}
        return self.frame_tests.limits(1 - (1 - alpha) ** self.shares["frame"])

    @property
    def smallest(self) -> float:
        """Smallest p-value that a single patch can have."""
        parts = zip(self.final, self.shares.values(), strict=False)
        return min(float(_corrected(self._least(table, share), share)) for table, share in parts)

    def _least(self, table: ScoreTable, share: float) -> float:
        """Return the least p-value of a part: corrected, that of `BEYOND_SET` times as many patches."""
        if not self.camera.relative:
            return table.smallest
        return 1 - (1 - table.smallest / BEYOND_SET) ** share

    def pvalue(self, neg_log10_p: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute the p-value of every patch, float32; NaN without data.

        The smallest of those of single patches, of regions (split conformal each), of the frame and of lines,
        corrected for their number by Sidak's rule with `shares`, ``p = min_i 1 - (1 - p_i)**(1 / w_i)``.
        Region statistics correlate within a frame; a shared null distribution would hide single-patch
        anomalies.
        """
        tables = zip(self.pass_scores(neg_log10_p), self.final, self.shares.values(), strict=False)
        parts = [_extrapolated(scores, table, self._least(table, w)) for scores, table, w in tables]
        if self.frame_tests:
            shares = self.frame_tests.shares
            tests = [_corrected(10.0 ** -neg_log10_p[name], share) for name, share in shares.items()]
            parts.append(np.fmin.reduce(tests))
        if self.lines:
            parts.append(10.0 ** -neg_log10_p[LINE])
        corrected = [_corrected(part, w) for part, w in zip(parts, self.shares.values(), strict=True)]
        return np.fmin.reduce(corrected).astype(np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of groups and tests in the order of `neg_log10_p`, after '' for none."""
        single, regional = ([group.name for group in self.groups(regional=one)] for one in (False, True))
        tests = self.frame_tests.predictive if self.frame_tests else ()
        return ("", *single, *[LINE] * bool(self.lines), *regional, *tests)

    def score(self, features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray, FrameFeatures]:
        """Compute score, final p-value and worst group (index in `names`) of each patch, ``(n_y, n_x)`` each.

        The score is ``-log10`` of the smallest group p-value; NaN (and no group) without data. Last, the
        frame as the first pass leaves it.
        """
        found, frame = self.neg_log10_p(features)
        score = score_of(found)
        worst = np.nan_to_num(np.stack([*found.values()]), nan=-1.0).argmax(axis=0) + 1
        pvalue = self.pvalue(found) if self.final else np.full_like(score, np.nan)
        return score, pvalue, np.where(np.isnan(score), 0, worst), frame


def _extrapolated(scores: np.ndarray, table: ScoreTable, least: float) -> np.ndarray:
    """Compute `conformal_pvalue`, and beyond the largest reference score less than 1 / (n + 1), float64.

    It falls there with `BEYOND` times the score, which is itself ``-log10 p``, to ``least``. So a threshold
    set that is large enough for some alpha remains so where it has a share of the decision only.
    """
    found = conformal_pvalue(scores, table).astype(np.float64)
    beyond = np.clip(scores - table.values[-1], 0, None)
    return np.where(beyond > 0, np.maximum(found * 10.0 ** (-BEYOND * beyond), least), found)


def _corrected(pvalue: np.ndarray | float, share: float) -> np.ndarray:
    """Correct the p-value of one of several tests (Sidak 1967): its ``share`` of the false alarms of all."""
    return 1 - (1 - np.asarray(pvalue, dtype=np.float64)) ** (1 / share)


def score_of(neg_log10_p: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the largest ``-log10 p`` of each patch over the groups, float32; NaN where there is none."""
    largest = np.full(next(iter(neg_log10_p.values())).shape, np.nan)
    for values in neg_log10_p.values():
        largest = np.fmax(largest, values)
    return largest.astype(np.float32)
