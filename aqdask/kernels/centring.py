"""Position centring: where a frame shows the references' own field, a patch is compared with its own place.

The statistics of a patch depend on the stars that happen to be in it. Frames of one field at one pointing
have the same stars at the same places, so that the references' mean at a place can be subtracted. On another
field, or some pixels away, that mean is of other stars: hence `Guard`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aqdask.kernels.pooling import Columns
from aqdask.kernels.statistics import CELLS

# Groups that find more so on real frames; a PSF that varies over the field is then normal where it is normal.
# Not background and spikes: with their mean subtracted fewer trails were found. Not the noise and stars of
# regions: it made no difference.
CENTRED = ("noise", "sky", "size", "latent", "line", "size_region", "ellipticity_region")
LEAST_FIT = 3  # reference frames of which a mean is subtracted
SAME_FIELD = 0.3  # agreement of the references among themselves, below which they show no common field
AS_GOOD = 0.8  # of their median agreement: what a frame must reach
LEAST_SEEN = 0.25  # of the patches: with fewer that count, nothing can be said of the field


def place_mean(statistics: np.ndarray) -> np.ndarray:
    """Mean over reference frames at every place, float32 ``(n_y, n_x, k)``.

    ``statistics`` are ``(frame, n_y, n_x, k)``; what is not finite does not count, and a place without any
    has the mean of all places.
    """
    known, total, count = _sums(statistics)
    return _mean(total, count, _everywhere(known, statistics)).astype(np.float32)


def leave_one_out(statistics: np.ndarray) -> np.ndarray:
    """Each frame less the mean of the *others* at every place, same shape, float64; NaN stays.

    So the frames that make the mean are as far from it as frames that do not.
    """
    known, total, count = _sums(statistics)
    others = _mean(total - np.where(known, statistics, 0), count - known, _everywhere(known, statistics))
    return statistics - others


def _sums(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = np.isfinite(statistics)
    return known, np.where(known, statistics, 0).sum(axis=0, dtype=np.float64), known.sum(axis=0)


def _everywhere(known: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """Mean of each statistic over all frames and places, ``(k,)``; 0 where there is none."""
    places = tuple(range(known.ndim - 1))
    total = np.where(known, statistics, 0).sum(axis=places, dtype=np.float64)
    return total / np.maximum(known.sum(axis=places), 1)


def _mean(total: np.ndarray, count: np.ndarray, without: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), without)


def star_pattern(columns: Columns) -> np.ndarray:
    """Where a patch has stars: light of its sub-patches less a plane, ``(n_y, n_x, 16)``.

    In sigma of a pixel; NaN without data. A plane through the patch is what the flat field is, which all
    fields of a camera share. Sub-patches are of 16 px: a shift of half of that changes the pattern.
    """
    cells = np.stack([columns[f"cell_{n}"] for n in range(CELLS**2)], axis=-1).astype(np.float64)
    return cells @ _without_plane()


@lru_cache
def _without_plane() -> np.ndarray:
    """Projection that takes mean and slopes out of the sub-patches of a patch, ``(16, 16)``."""
    y, x = np.indices((CELLS, CELLS)).reshape(2, -1) - (CELLS - 1) / 2
    plane = np.linalg.qr(np.stack([np.ones(CELLS**2), y, x], axis=1))[0]
    return np.eye(CELLS**2) - plane @ plane.T


def agreement(pattern: np.ndarray, other: np.ndarray, usable: np.ndarray) -> float:
    """Correlation of two star patterns ``(n_y, n_x, 16)`` over the usable patches, bool ``(n_y, n_x)``.

    0 where fewer than `LEAST_SEEN` of the patches are usable and known in both.
    """
    both = usable & np.isfinite(pattern).all(axis=-1) & np.isfinite(other).all(axis=-1)
    if both.mean() < LEAST_SEEN:
        return 0.0
    return float(np.corrcoef(pattern[both].ravel(), other[both].ravel())[0, 1])


@dataclass(frozen=True, eq=False)
class Guard:
    """Tells whether a frame shows the references' field at their pointing.

    Parameters
    ----------
    pattern : ndarray (n_y, n_x, 16)
        Mean `star_pattern` of the fit set, float32.
    least : float
        `agreement` that a frame must have with it.
    """

    pattern: np.ndarray
    least: float

    @classmethod
    def fit(cls, frames: Sequence[Columns], usable: Sequence[np.ndarray]) -> tuple[Guard, float]:
        """From at least two fit frames, and the median agreement of each with the mean of the others.

        ``usable`` are the patches of each that count, bool ``(n_y, n_x)``: not what is flagged.
        """
        patterns = np.stack([star_pattern(columns) for columns in frames])
        patterns[~np.stack(usable)] = np.nan
        others = patterns - leave_one_out(patterns)
        found = float(np.median([agreement(*three) for three in zip(patterns, others, usable, strict=True)]))
        return cls(place_mean(patterns), AS_GOOD * found), found

    def passes(self, columns: Columns, usable: np.ndarray) -> bool:
        """Whether a frame may be centred, by its ``usable`` patches, bool ``(n_y, n_x)``.

        Those that are flagged say nothing of where stars are: with a third of the frame spoilt the rest says
        it. A frame of another shape never passes.
        """
        if usable.shape != self.pattern.shape[:2]:
            return False
        return agreement(star_pattern(columns), self.pattern, usable) >= self.least
