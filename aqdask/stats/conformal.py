"""Split conformal p-values: ranks of scores among those of reference patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aqdask.errors import UsageError
from aqdask.stats.compiled import exact

TABLE_LIMIT = 20_000  # distinct reference scores kept: 240 kB, exact below p = 10,000 / n


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of reference patches, thinned if there are many, but exact in the upper tail.

    For each kept score the number of greater scores among *all* references is stored. Between two kept scores
    the larger number is used, so that thinning only ever raises a p-value, which stays valid.

    Parameters
    ----------
    values : ndarray (k,), float32
        Kept scores, strictly ascending, from the smallest to the largest reference score.
    above : ndarray (k,), int64
        Number of reference scores strictly greater than each.
    total : int
        Number of reference scores before thinning.
    """

    values: np.ndarray
    above: np.ndarray
    total: int

    @classmethod
    def from_scores(cls, scores: np.ndarray, limit: int = TABLE_LIMIT) -> ScoreTable:
        """Tabulate reference scores.

        Parameters
        ----------
        scores : ndarray, any shape
            NaN (no data) is left out.
        limit : int
            Largest number of distinct scores kept: the largest ``limit / 2``, and every m-th of the others.

        Raises
        ------
        UsageError
            If all scores are NaN.
        """
        finite = np.asarray(scores, dtype=np.float32).ravel()
        finite = finite[~np.isnan(finite)]
        if finite.size == 0:
            raise UsageError(
                "no reference patch has a score",
                expected="calibration frames with valid pixels",
                consequence="A p-value would mean nothing",
                remedy="choose reference frames whose patches are at least a quarter valid",
            )
        values, counts = np.unique(finite, return_counts=True)
        above = finite.size - np.cumsum(counts)
        keep = _kept(values.size, limit)
        return cls(values[keep], above[keep].astype(np.int64), int(finite.size))

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Return the arrays ``<prefix>/values``, ``<prefix>/above`` and ``<prefix>/total`` (int64, 0-d).

        Tables of different prefixes fit into one mapping; `of` reads them.
        """
        fields = {"values": self.values, "above": self.above, "total": np.array(self.total, np.int64)}
        return {_name(prefix, field): array for field, array in fields.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> ScoreTable:
        """Build the table from `arrays` with this prefix; `KeyError` names a missing array."""
        values, above, total = (arrays[_name(prefix, field)] for field in ("values", "above", "total"))
        return cls(values, above, int(total))

    @cached_property
    def pvalues(self) -> np.ndarray:
        """p-value of a score by the number of kept scores that are smaller, float32 ``(k + 1,)``."""
        return ((1 + np.array([self.total, *self.above])) / (self.total + 1)).astype(np.float32)

    @cached_property
    def starts(self) -> np.ndarray:
        """Number of kept scores below each of as many equal steps from the smallest to the largest one."""
        return np.searchsorted(self.values, np.linspace(self.values[0], self.values[-1], len(self.values)))

    @property
    def smallest(self) -> float:
        """Smallest possible p-value, 1 / (n + 1): a smaller alpha masks nothing."""
        return 1 / (self.total + 1)


def _name(prefix: str, field: str) -> str:
    return f"{prefix}/{field}" if prefix else field


def _kept(size: int, limit: int) -> np.ndarray:
    """Return indices to keep of ``size`` ascending values: the upper tail, and an even choice below."""
    if size <= limit:
        return np.arange(size)
    tail = limit // 2
    body = np.linspace(0, size - tail - 1, limit - tail).astype(np.int64)
    return np.concatenate([body, np.arange(size - tail, size)])


def conformal_pvalue(scores: np.ndarray, table: ScoreTable) -> np.ndarray:
    """Compute split conformal p-values of scores (larger = worse).

    p = (1 + #{reference >= score}) / (n + 1), with P(p <= alpha) <= alpha if references and input are
    exchangeable (Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World). In a thinned table
    the number is that of the next smaller kept score, hence never too small.

    Parameters
    ----------
    scores : ndarray, any shape
        Compared as float32, the type of stored scores; NaN for no data.
    table : ScoreTable
        Scores of reference patches.

    Returns
    -------
    ndarray of float32
        Same shape, in [1 / (n + 1), 1]; NaN for NaN.
    """
    scores = np.asarray(scores, dtype=np.float32)
    found = table.pvalues[_smaller(table.values, table.starts, scores.ravel())].reshape(scores.shape)
    found[np.isnan(scores)] = np.nan
    return found


@exact
def _smaller(values: np.ndarray, starts: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Count the ascending values that are smaller than each score, from where `ScoreTable.starts` says."""
    found = np.zeros(scores.size, np.int64)
    scale = (starts.size - 1) / max(values[-1] - values[0], 1e-30)
    for n in range(scores.size):
        place = (scores[n] - values[0]) * scale if scores[n] == scores[n] else 0.0
        count = starts[int(min(max(place, 0.0), starts.size - 1.0))]
        while count and values[count - 1] >= scores[n]:
            count -= 1
        while count < values.size and values[count] < scores[n]:
            count += 1
        found[n] = count
    return found
