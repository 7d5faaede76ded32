"""Which reference frames do what: fit, tail and threshold sets of each camera and filter, disjoint by frame.

Where the references lie under very different skies (Moon, twilight), each stratum of sky has sets, and then a
calibration, of its own (all-sky frames with the Moon are 3 to 8 times as bright as dark ones, and what pools
over them spans both).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from aqdask.models.crops import FrameSource
from aqdask.models.references import levels_of, middle
from aqdask.models.settings import TrainSpec
from aqdask.models.train import split_frames

LEAST_FRAMES = 3  # of one camera and filter: one for each set
STRATUM_FRAMES = 16  # of a stratum: so many let what pools over a frame speak
STRATA_FACTOR = 3.0  # in variance, between the middle 80 % of the frames: then one sky is not like the other
GAP_FACTOR = 1.5  # in variance, between neighbours: a gap between two kinds of sky
_MIDDLE = (0.1, 0.9)  # a few odd frames make no stratum


@dataclass(frozen=True)
class Sets:
    """Positions of the frames of one camera and filter; disjoint.

    Parameters
    ----------
    fit, tail, threshold : tuple of int
    strata : tuple of Sets
        The same frames by their sky, darkest first; empty where they all have about the same.
    limits : tuple of float
        Sky in counts between each stratum and the next brighter one.
    """

    fit: tuple[int, ...]
    tail: tuple[int, ...]
    threshold: tuple[int, ...]
    strata: tuple[Sets, ...] = ()
    limits: tuple[float, ...] = ()

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter((self.fit, self.tail, self.threshold))

    @property
    def every(self) -> list[int]:
        """Positions of the frames of all three sets."""
        return [index for members in self for index in members]


def groups_of(frames: FrameSource) -> dict[tuple[str, str], list[int]]:
    """Positions of the frames by camera and filter."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, card in enumerate(frames.cards):
        groups[card.camera, card.filter].append(index)
    return dict(groups)


def split_groups(frames: FrameSource, spec: TrainSpec) -> dict[tuple[str, str], Sets]:
    """Fit, tail and threshold set of each camera and filter that has frames for all three.

    Raises
    ------
    UsageError
        If none has.
    """
    groups = {
        key: _sets(frames, members, spec)
        for key, members in groups_of(frames).items()
        if len(members) >= LEAST_FRAMES
    }
    if not groups:
        split_frames(max(map(len, groups_of(frames).values()), default=0), spec)  # says what is missing
    return groups


def _sets(frames: FrameSource, members: Sequence[int], spec: TrainSpec) -> Sets:
    """The sets of one camera and filter."""
    strata, limits = strata_of(frames, members)
    found = []
    for stratum in strata:
        split = split_frames(len(stratum), spec)
        parts = (split.train, split.validation, split.calibration)
        fit, tail, threshold = (tuple(stratum[k] for k in part) for part in parts)
        found.append(Sets(fit, tail, threshold))
    if len(found) == 1:
        return found[0]
    fit, tail, threshold = (tuple(sorted(sum(parts, ()))) for parts in zip(*found, strict=True))
    return Sets(fit, tail, threshold, tuple(found), limits)


def strata_of(frames: FrameSource, members: Sequence[int]) -> tuple[list[list[int]], tuple[float, ...]]:
    """Frames by their sky, darkest stratum first, members in their order; and the skies between, in counts.

    By the variance of the pixels: unlike counts, it has no pedestal. Frames are read only where there are
    enough for two strata.
    """
    if len(members) < 2 * STRATUM_FRAMES:
        return [list(members)], ()
    looks = {index: _look(frames, index) for index in members}
    if not np.isfinite([variance for variance, _ in looks.values()]).all():
        return [list(members)], ()  # what cannot be read is refused by name later
    cuts = _cuts(sorted(members, key=lambda index: looks[index][0]), looks)
    limits = tuple(
        (max(looks[i][1] for i in dark) + min(looks[i][1] for i in bright)) / 2
        for dark, bright in pairwise(cuts)
    )
    return [sorted(stratum, key=list(members).index) for stratum in cuts], limits


def _look(frames: FrameSource, index: int) -> tuple[float, float]:
    """ln of the variance of the pixels in the middle of a frame, and its sky in counts; NaN where unknown."""
    image, invalid = frames.read(index)
    window = middle(image.shape)
    levels = levels_of(image[window], None if invalid is None else invalid[window], patch=64)
    known = np.isfinite(levels.sky) & (levels.near > 0)
    if not known.any():
        return math.nan, math.nan
    return math.log(float(np.median(levels.near[known]))), float(np.median(levels.sky[known]))


def _cuts(ascending: list[int], looks: dict[int, tuple[float, float]]) -> list[list[int]]:
    """Strata of frames in the order of their variance: cut at the widest gap, as long as they differ.

    Not elsewhere, if too few frames lie on one side of it; without a gap in the middle of the range.
    """
    values = np.array([looks[index][0] for index in ascending])
    low, high = np.quantile(values, _MIDDLE)
    if len(ascending) < 2 * STRATUM_FRAMES or high - low < math.log(STRATA_FACTOR):
        return [ascending]
    gaps = np.diff(values)
    at = int(gaps.argmax()) + 1
    allowed = STRATUM_FRAMES, len(ascending) - STRATUM_FRAMES
    if gaps.max() < math.log(GAP_FACTOR):
        at = int(np.clip(np.searchsorted(values, (low + high) / 2), *allowed))
    if not allowed[0] <= at <= allowed[1]:
        return [ascending]
    return [*_cuts(ascending[:at], looks), *_cuts(ascending[at:], looks)]
