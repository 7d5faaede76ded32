"""Split conformal p-values: how many reference patches are at least as bad as this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aqdask.errors import UsageError

TABLE_LIMIT = 20_000  # distinct reference scores kept: 240 kB, and exact down to p = 10,000 / n


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The scores of reference patches, thinned where there are many, exact in the upper tail.

    Each kept score carries how many of *all* reference scores are greater. Between two kept scores the
    larger count is used, so that thinning only ever raises a p-value: it stays valid.

    Parameters
    ----------
    values : ndarray (k,), float32
        Kept scores, strictly ascending; the smallest and the largest reference score are among them.
    above : ndarray (k,), int64
        Number of reference scores strictly greater than each.
    total : int
        Number n of reference scores before thinning.
    """

    values: np.ndarray
    above: np.ndarray
    total: int

    @classmethod
    def from_scores(cls, scores: np.ndarray, limit: int = TABLE_LIMIT) -> ScoreTable:
        """Tabulate reference scores ``(n,)``; NaN (no data) is left out.

        The largest ``limit / 2`` distinct scores are all kept; below them every m-th is.

        Raises
        ------
        UsageError
            If no score is left.
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
        """The table as arrays 'values', 'above' and 'total' (int64, 0-d), named ``<prefix>/values``, ...

        Tables of different prefixes lie side by side in one mapping; `of` takes them out again.
        """
        fields = {"values": self.values, "above": self.above, "total": np.array(self.total, np.int64)}
        return {_name(prefix, field): array for field, array in fields.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> ScoreTable:
        """The table that `arrays` named with ``prefix``; `KeyError` names the array that is not there."""
        values, above, total = (arrays[_name(prefix, field)] for field in ("values", "above", "total"))
        return cls(values, above, int(total))

    @property
    def smallest(self) -> float:
        """The smallest p-value that can come out, 1 / (n + 1): no smaller alpha can mask anything."""
        return 1 / (self.total + 1)


def _name(prefix: str, field: str) -> str:
    return f"{prefix}/{field}" if prefix else field


def _kept(size: int, limit: int) -> np.ndarray:
    """Positions kept of ``size`` ascending values: all, or the upper tail whole and an even choice below."""
    if size <= limit:
        return np.arange(size)
    tail = limit // 2
    body = np.linspace(0, size - tail - 1, limit - tail).astype(np.int64)
    return np.concatenate([body, np.arange(size - tail, size)])


def conformal_pvalue(scores: np.ndarray, table: ScoreTable) -> np.ndarray:
    """Split conformal p-value of each score, larger score = worse.

    p = (1 + #{reference >= score}) / (n + 1) (Vovk et al. 2005; exchangeable reference and input give
    P(p <= alpha) <= alpha). Where the table is thinned, the count is that of the next smaller kept score
    and hence never too small.

    Parameters
    ----------
    scores : ndarray, any shape
        Compared as float32, the type in which scores are stored; NaN = no data.

    Returns
    -------
    ndarray, float32
        Same shape, in [1 / (n + 1), 1]; NaN where the score is.
    """
    scores = np.asarray(scores, dtype=np.float32)
    smaller = np.searchsorted(table.values, scores, side="left")
    count = np.where(smaller == 0, table.total, table.above[np.maximum(smaller, 1) - 1])
    pvalue = (1 + count) / (table.total + 1)
    return np.where(np.isnan(scores), np.nan, pvalue).astype(np.float32)
