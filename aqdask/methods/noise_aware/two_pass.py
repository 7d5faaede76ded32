"""Two-pass decision on the patches of a frame: single patches first, then regions of unflagged ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aqdask.methods.noise_aware.anomaly_distance import AnomalyDistance, Tail
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS, CameraModel, FeatureGroup, FrameFeatures
from aqdask.methods.noise_aware.pooling import Features, box_sum
from aqdask.stats.conformal import ScoreTable, conformal_pvalue

FIRST_ALPHA = 0.01  # of the first pass; frozen in the bundle, so that a mask for any alpha needs no network
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
    """

    camera: CameraModel
    distances: Mapping[str, AnomalyDistance]
    tails: Mapping[str, Tail] = field(default_factory=dict)
    first: ScoreTable | None = None
    final: tuple[ScoreTable, ...] = ()
    first_alpha: float = FIRST_ALPHA

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

    def neg_log10_p(self, features: Features) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Compute ``-log10 p`` of all groups through both passes, and the patches that the first flagged."""
        frame = FrameFeatures.of(features, self.camera)
        found, flagged = self.first_pass(frame)
        second = self._without(frame, flagged)
        return found | self.group_neg_log10_p(second, regional=True), flagged

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
    def smallest(self) -> float:
        """Smallest possible p-value."""
        return float(self._sidak(min(table.smallest for table in self.final)))

    def _sidak(self, pvalue: np.ndarray | float) -> np.ndarray:
        """Correct the smallest of the p-values of k tables: ``1 - (1 - p)**k`` (Sidak 1967)."""
        return 1 - (1 - np.asarray(pvalue, dtype=np.float64)) ** len(self.final)

    def pvalue(self, neg_log10_p: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute the split conformal p-value of every patch, float32; NaN without data.

        The smaller of those of single patches and of regions, corrected for two tests. Region statistics
        correlate within a frame; a shared null distribution would hide single-patch anomalies.
        """
        parts = [
            conformal_pvalue(s, t) for s, t in zip(self.pass_scores(neg_log10_p), self.final, strict=True)
        ]
        return self._sidak(np.fmin.reduce(parts)).astype(np.float32)

    def score(self, features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute score, final p-value and name of the worst group of every patch, ``(n_y, n_x)`` each.

        The score is ``-log10`` of the smallest group p-value; NaN (and the name '') without data.
        """
        found, _ = self.neg_log10_p(features)
        score = score_of(found)
        names = np.array(["", *found])
        worst = np.stack([np.nan_to_num(s, nan=-1.0) for s in found.values()]).argmax(axis=0) + 1
        pvalue = self.pvalue(found) if self.final else np.full_like(score, np.nan)
        return score, pvalue, names[np.where(np.isnan(score), 0, worst)]


def score_of(neg_log10_p: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the largest ``-log10 p`` of each patch over the groups, float32; NaN where there is none."""
    largest = np.full(next(iter(neg_log10_p.values())).shape, np.nan)
    for values in neg_log10_p.values():
        largest = np.fmax(largest, values)
    return largest.astype(np.float32)
