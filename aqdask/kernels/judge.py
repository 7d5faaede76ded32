"""The two passes over a frame: groups of single patches first, then what pools over the unflagged ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aqdask.kernels.calibration import ScoreTable, conformal_pvalue
from aqdask.kernels.evidence import GROUPS, Camera, Field, Group
from aqdask.kernels.grouping import Distance, Tail
from aqdask.kernels.pooling import Columns, box_sum

FIRST_ALPHA = 0.01  # of the first pass; frozen in the bundle, so that a mask for any alpha needs no network
BESIDE = 3  # flagged patches within 3 x 3 from which a patch is taken for the edge of the same defect


@dataclass(frozen=True, eq=False)
class Judge:
    """What a calibration knows of good patches; judges the patches of a frame.

    Parameters
    ----------
    camera : Camera
    distances : mapping of str to Distance
        By name of the group; a group that is not there abstains.
    tails : mapping of str to Tail
        The same groups.
    first : ScoreTable
        Scores of reference patches after the first pass.
    final : tuple of ScoreTable
        Scores of reference patches after both passes, of frames used for nothing else: by the groups of
        single patches, then by those of regions where any speaks. Empty while fitting.
    first_alpha : float
        Share of good patches that the first pass may flag.
    means : mapping of str to ndarray
        By name of the group ``(n_y, n_x, k)``: what the references have at each place, to be subtracted
        (`centring`); groups that are not there are taken as they are.
    """

    camera: Camera
    distances: Mapping[str, Distance]
    tails: Mapping[str, Tail] = field(default_factory=dict)
    first: ScoreTable | None = None
    final: tuple[ScoreTable, ...] = ()
    first_alpha: float = FIRST_ALPHA
    means: Mapping[str, np.ndarray] = field(default_factory=dict)

    def statistics(self, group: Group, frame: Field) -> np.ndarray:
        """Statistics of a group, less what is usual at their places, ``(n_y, n_x, k)``."""
        found = group.function(frame)
        return found - self.means[group.name] if group.name in self.means else found

    def groups(self, *, regional: bool) -> tuple[Group, ...]:
        """The groups of one pass that do not abstain."""
        return tuple(g for g in GROUPS if g.regional == regional and g.name in self.distances)

    def group_surprise(self, frame: Field, *, regional: bool) -> dict[str, np.ndarray]:
        """``-log10 p`` of every patch by group, ``(n_y, n_x)``; NaN without data."""
        return {
            group.name: self.tails[group.name].surprise(
                self.distances[group.name].of(self.statistics(group, frame))
            )
            for group in self.groups(regional=regional)
        }

    def first_pass(self, frame: Field) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """``-log10 p`` by group of single patches, and which patches they flag, bool ``(n_y, n_x)``."""
        found = self.group_surprise(frame, regional=False)
        if self.first is None:
            return found, np.zeros(frame.unflagged.shape, bool)
        return found, conformal_pvalue(score_of(found), self.first) <= self.first_alpha

    def second_field(self, frame: Field, flagged: np.ndarray) -> Field:
        """The frame as the second pass sees it: without what is flagged and the edges of that.

        However much is flagged: if bad patches came back because there are many, they would take the clear
        part of the frame with them. Where a region has nothing left, it says nothing. Flags that lie
        scattered over the whole frame have no edges: if those were most of what is left, they stay.
        """
        left = frame.unflagged & ~flagged
        inside = left & (box_sum(flagged, 3) < BESIDE)
        scattered = inside.sum() < left.sum() / 2
        return replace(frame, unflagged=left if scattered else inside)

    def surprise(self, columns: Columns) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """``-log10 p`` of all groups through both passes, and which patches the first flagged."""
        frame = Field.of(columns, self.camera)
        found, flagged = self.first_pass(frame)
        second = self.second_field(frame, flagged)
        return found | self.group_surprise(second, regional=True), flagged

    def families(self, surprise: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Score of each patch by the groups of single patches, and by those of regions where any speaks."""
        families = [[group.name for group in self.groups(regional=regional)] for regional in (False, True)]
        return [score_of({name: surprise[name] for name in names}) for names in families if names]

    def calibrated(self, reference: Sequence[Columns]) -> Judge:
        """The same with `final` from good frames that were used for nothing else."""
        found = [self.families(self.surprise(columns)[0]) for columns in reference]
        return replace(
            self,
            final=tuple(
                ScoreTable.from_scores(np.concatenate([score.ravel() for score in scores]))
                for scores in zip(*found, strict=True)
            ),
        )

    @property
    def smallest(self) -> float:
        """The smallest p-value that can come out."""
        return float(self._either(min(table.smallest for table in self.final)))

    def _either(self, pvalue: np.ndarray | float) -> np.ndarray:
        """p-value of the smallest of as many as `final` has tables: ``1 - (1 - p)**k`` (Sidak 1967)."""
        return 1 - (1 - np.asarray(pvalue, dtype=np.float64)) ** len(self.final)

    def pvalue(self, surprise: Mapping[str, np.ndarray]) -> np.ndarray:
        """Split conformal p-value of every patch through both passes, float32; NaN without data.

        The smaller of those of single patches and of regions, as the smallest of two. What a region says is
        nearly one number a frame: one odd reference frame makes all its patches odd, and in one table for
        both no single patch could be told from them.
        """
        parts = [conformal_pvalue(s, t) for s, t in zip(self.families(surprise), self.final, strict=True)]
        return self._either(np.fmin.reduce(parts)).astype(np.float32)

    def score(self, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score, final p-value and name of the worst group of every patch, ``(n_y, n_x)`` each.

        The score is ``-log10`` of the smallest group p-value; NaN (and the name '') without data.
        """
        found, _ = self.surprise(columns)
        score = score_of(found)
        names = np.array(["", *found])
        worst = np.stack([np.nan_to_num(s, nan=-1.0) for s in found.values()]).argmax(axis=0) + 1
        pvalue = self.pvalue(found) if self.final else np.full_like(score, np.nan)
        return score, pvalue, names[np.where(np.isnan(score), 0, worst)]


def score_of(surprise: Mapping[str, np.ndarray]) -> np.ndarray:
    """Largest ``-log10 p`` of each patch over the groups, float32; NaN where there is none."""
    largest = np.full(next(iter(surprise.values())).shape, np.nan)
    for values in surprise.values():
        largest = np.fmax(largest, values)
    return largest.astype(np.float32)
