"""Division of reference frames into fit, tail and threshold sets, by camera, filter and stratum of sky.

Where the references lie under very different skies (Moon, twilight), each stratum of sky has sets, and then a
calibration, of its own: all-sky frames with the Moon are 3 to 8 times as bright as dark ones, and region
statistics over them would span both.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from aqdask.methods.base import FrameSource
from aqdask.methods.noise_aware.camera_noise import patch_levels
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import split_frames
from aqdask.specs import FrameMetadata

MIN_FRAMES = 3  # of one camera and filter: one for each set
STRATUM_FRAMES = 16  # of a stratum: with so many, region groups are enabled
STRATA_FACTOR = 3.0  # in variance, between the middle 80 % of the frames: then skies count as different
GAP_FACTOR = 1.5  # in variance, between neighbours: a gap between two kinds of sky
SKY_WINDOW = 1024  # px of the middle of a frame in which its sky is measured
_MIDDLE = (0.1, 0.9)  # a few outliers make no stratum


@dataclass(frozen=True)
class ReferenceSplit:
    """Positions of the frames of one camera and filter by what they are used for; disjoint.

    Parameters
    ----------
    fit : tuple of int
        Frames that give noise model, sky template and distributions of features.
    tail : tuple of int
        Frames that give the distribution of anomaly distances.
    threshold : tuple of int
        Frames that give the final p-values, and are used for nothing else but, where there are few, the noise
        model.
    strata : tuple of ReferenceSplit
        The same frames by their sky, darkest first; empty where they all have about the same.
    limits : tuple of float
        Sky in counts between each stratum and the next brighter one.
    """

    fit: tuple[int, ...]
    tail: tuple[int, ...]
    threshold: tuple[int, ...]
    strata: tuple[ReferenceSplit, ...] = ()
    limits: tuple[float, ...] = ()

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter((self.fit, self.tail, self.threshold))

    @property
    def every(self) -> list[int]:
        """Positions of the frames of all three sets."""
        return [index for members in self for index in members]


def by_camera_and_filter(frames: FrameSource) -> dict[tuple[str, str], list[int]]:
    """Group positions of frames by camera and filter."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, card in enumerate(frames.metadata):
        groups[card.camera, card.filter].append(index)
    return dict(groups)


def split_groups(frames: FrameSource, spec: TrainSpec) -> dict[tuple[str, str], ReferenceSplit]:
    """Split the frames of each camera and filter that has enough for all three sets.

    Raises
    ------
    UsageError
        If none has.
    """
    groups = {
        key: _split(frames, members, spec)
        for key, members in by_camera_and_filter(frames).items()
        if len(members) >= MIN_FRAMES
    }
    if not groups:
        most = max(map(len, by_camera_and_filter(frames).values()), default=0)
        split_frames(most, spec)  # raises with the number that is missing
    return groups


def _split(frames: FrameSource, members: Sequence[int], spec: TrainSpec) -> ReferenceSplit:
    """Split the frames of one camera and filter, by stratum of sky where there are several."""
    strata, limits = sky_strata(frames, members)
    found = []
    for stratum in strata:
        split = split_frames(len(stratum), spec)
        parts = (split.train, split.validation, split.calibration)
        fit, tail, threshold = (tuple(stratum[k] for k in part) for part in parts)
        found.append(ReferenceSplit(fit, tail, threshold))
    if len(found) == 1:
        return found[0]
    fit, tail, threshold = (tuple(sorted(sum(parts, ()))) for parts in zip(*found, strict=True))
    return ReferenceSplit(fit, tail, threshold, tuple(found), limits)


def sky_strata(frames: FrameSource, members: Sequence[int]) -> tuple[list[list[int]], tuple[float, ...]]:
    """Group frames by their sky, darkest stratum first, and give the skies between strata in counts.

    By the variance of the pixels: unlike counts, it has no pedestal. Frames are read only where there are
    enough for two strata, and then only their middle.
    """
    if len(members) < 2 * STRATUM_FRAMES:
        return [list(members)], ()
    skies = dict(zip(members, frames.map(_sky_and_noise, members, window=SKY_WINDOW), strict=True))
    if not np.isfinite([variance for variance, _ in skies.values()]).all():
        return [list(members)], ()  # frames that cannot be measured are refused by name later
    cuts = _cuts(sorted(members, key=lambda index: skies[index][0]), skies)
    limits = tuple(
        (max(skies[i][1] for i in dark) + min(skies[i][1] for i in bright)) / 2
        for dark, bright in pairwise(cuts)
    )
    return [sorted(stratum, key=list(members).index) for stratum in cuts], limits


def _sky_and_noise(image: np.ndarray, invalid: np.ndarray | None, card: FrameMetadata) -> tuple[float, float]:
    """Measure ln of the variance of the pixels of a frame, and its sky in counts; NaN where unknown."""
    levels = patch_levels(image, invalid, patch=64)
    known = np.isfinite(levels.sky) & (levels.near > 0)
    if not known.any():
        return math.nan, math.nan
    return math.log(float(np.median(levels.near[known]))), float(np.median(levels.sky[known]))


def _cuts(ascending: list[int], skies: dict[int, tuple[float, float]]) -> list[list[int]]:
    """Cut frames, in the order of their variance, at the widest gap, as long as the parts differ.

    Not cut where too few frames lie on one side of the gap; without a gap, cut in the middle of the range.
    """
    values = np.array([skies[index][0] for index in ascending])
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
    return [*_cuts(ascending[:at], skies), *_cuts(ascending[at:], skies)]
