"""Two models on one archive: how far they agree, and what changes sides at an alpha."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr

from aqdask.errors import UsageError
from aqdask.execution.reporter import Reporter, Silent
from aqdask.products.comparison import Comparison, ReasonChange
from aqdask.stats.masking import bad_patches, check_alpha

BLOCK = 2_000_000  # patches in memory at a time: 18 MB a model
SAMPLE = 1_000_000  # scores that are ranked, at most (about)
CODES = 256  # values of a reason
GRID = ("y0", "y1", "x0", "x1")


def compare(
    quality_a: xr.Dataset, quality_b: xr.Dataset, alpha: float = 0.01, *, reporter: Reporter | None = None
) -> Comparison:
    """Compare two models on the same frames: what a survey looks at before it publishes masks again.

    Parameters
    ----------
    quality_a, quality_b : Dataset
        From `open_quality` or `quality_of`, of the same frames (by ``frame_id``, in any order; by position
        where neither has one) on the same patches.
    alpha : float
        False-mask rate at which both are cut, in (0, 1).
    reporter : Reporter, optional
        Listens to the progress.

    Returns
    -------
    Comparison
        Read in blocks of frames: memory does not grow with the archive, save for six numbers a frame.

    Raises
    ------
    UsageError
        For alpha outside (0, 1), a dataset without ``pvalue`` or ``reason``, other patches or other frames.
    """
    check_alpha(alpha)
    a, b = _as_frames(quality_a), _as_frames(quality_b)
    _check_grid(a, b)
    order = _matching_rows(a, b)
    report = reporter or Silent()
    counts, reasons, frames = np.zeros(7, np.int64), np.zeros((2, CODES), np.int64), []
    sample = _Sample(SAMPLE / max(math.prod(a["pvalue"].shape), 1))
    report.start("compare", a.sizes["frame"])
    for first, second in _blocks(a, b, order):
        block = _Block.of(first, second, alpha)
        counts += block.counts()
        reasons += block.reasons(first["reason"].values, second["reason"].values)
        frames.append(block.by_frame())
        if "score" in first:
            sample.add(first["score"].values, second["score"].values)
        report.advance(first.sizes["frame"])
    report.finish()
    both, only_a, only_b, neither, no_data_a, no_data_b, no_data_both = counts.tolist()
    return Comparison(
        model_a=_model_name(a), model_b=_model_name(b), alpha=alpha, frames=a.sizes["frame"], both=both,
        only_a=only_a, only_b=only_b, neither=neither, no_data_a=no_data_a, no_data_b=no_data_b,
        no_data_both=no_data_both, rank_correlation=rank_correlation(*sample.pairs()),
        by_reason=_reason_changes(reasons, _meanings(a), _meanings(b)), by_frame=_frame_table(a, frames),
    )  # fmt: skip


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where one is constant."""
    if len(first) < 2:
        return math.nan
    ranks = [_ranks(values) for values in (first, second)]
    one, two = (rank - rank.mean() for rank in ranks)
    spread = math.sqrt(float(one @ one) * float(two @ two))
    return float(one @ two) / spread if spread > 0 else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


@dataclass(frozen=True, eq=False)
class _Block:
    """Some frames: bool ``(frame, patch_y, patch_x)`` of what each masks, and has no p-value for."""

    masked_a: np.ndarray
    masked_b: np.ndarray
    missing_a: np.ndarray
    missing_b: np.ndarray

    @classmethod
    def of(cls, a: xr.Dataset, b: xr.Dataset, alpha: float) -> _Block:
        missing = [np.isnan(part["pvalue"].values) for part in (a, b)]
        compared = ~(missing[0] | missing[1])
        masked = [bad_patches(part["pvalue"].values, alpha) & compared for part in (a, b)]
        return cls(*masked, *missing)

    @property
    def compared(self) -> np.ndarray:
        return ~(self.missing_a | self.missing_b)

    def counts(self) -> np.ndarray:
        """Both, only a, only b, neither, no data in a only, in b only, in both."""
        a, b, none_a, none_b = self.masked_a, self.masked_b, self.missing_a, self.missing_b
        parts = (a & b, a & ~b, b & ~a, self.compared & ~a & ~b, none_a & ~none_b, none_b & ~none_a,
                 none_a & none_b)  # fmt: skip
        return np.array([np.count_nonzero(part) for part in parts])

    def reasons(self, reason_a: np.ndarray, reason_b: np.ndarray) -> np.ndarray:
        """Gained by b's reason and lost by a's: int64 ``(2, CODES)``."""
        gained, lost = reason_b[self.masked_b & ~self.masked_a], reason_a[self.masked_a & ~self.masked_b]
        return np.stack([np.bincount(codes, minlength=CODES) for codes in (gained, lost)])

    def by_frame(self) -> dict[str, np.ndarray]:
        """Patches a frame, int64 ``(frame,)``, by the names of `FRAME_COLUMNS`."""
        parts = (self.compared, self.masked_a, self.masked_b, self.masked_b & ~self.masked_a,
                 self.masked_a & ~self.masked_b, self.missing_a | self.missing_b)  # fmt: skip
        return {name: part.sum(axis=(1, 2)) for name, part in zip(FRAME_COLUMNS, parts, strict=True)}


FRAME_COLUMNS = {
    "compared": "patches with a p-value in both",
    "masked_a": "of these, patches that a masks",
    "masked_b": "of these, patches that b masks",
    "gained": "patches that b masks and a does not",
    "lost": "patches that a masks and b does not",
    "no_data": "patches without a p-value in a or b",
}


class _Sample:
    """Pairs of scores, each with the same chance to be taken."""

    def __init__(self, chance: float) -> None:
        self.chance, self.random, self.taken = chance, np.random.default_rng(0), [np.zeros((2, 0))]

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Take some of the pairs that are both finite."""
        usable = np.isfinite(first) & np.isfinite(second)
        if self.chance < 1:
            usable &= self.random.random(usable.shape, dtype=np.float32) < self.chance
        self.taken.append(np.stack([first[usable], second[usable]]))

    def pairs(self) -> np.ndarray:
        """All that were taken, ``(2, n)``."""
        return np.concatenate(self.taken, axis=1)


def _as_frames(quality: xr.Dataset) -> xr.Dataset:
    """A dataset with a dimension ``frame`` in front, and what is compared in it."""
    wanted = [name for name in ("pvalue", "reason", "score") if name in quality]
    if not {"pvalue", "reason"} <= set(wanted):
        raise UsageError(
            f"a dataset of {', '.join(map(str, quality)) or 'nothing'}",
            expected="one with `pvalue` and `reason`, from open_quality or quality_of",
        )
    chosen = quality[wanted]
    return chosen if "frame" in chosen.dims else chosen.expand_dims("frame")


def _check_grid(a: xr.Dataset, b: xr.Dataset) -> None:
    """Raise `UsageError` unless both cut frames into the same patches."""
    shapes = [(part.sizes["patch_y"], part.sizes["patch_x"]) for part in (a, b)]
    same = shapes[0] == shapes[1]
    same = same and all(np.array_equal(a[n], b[n]) for n in GRID if n in a.coords and n in b.coords)
    if not same:
        patches = [f"{y} x {x} patches of {part.attrs.get('patch', '?')} px" for (y, x), part in
                   zip(shapes, (a, b), strict=True)]  # fmt: skip
        raise UsageError(
            f"models that see a frame as {patches[0]} and as {patches[1]}",
            expected="the same patches",
            consequence="There is no patch of one that is a patch of the other",
            remedy="compare models of one patch size on frames of one shape",
        )


def _matching_rows(a: xr.Dataset, b: xr.Dataset) -> np.ndarray | None:
    """Row of b for each row of a; None where they stand in the same order."""
    named = ["frame_id" in part.coords for part in (a, b)]
    if not all(named):
        if any(named) or a.sizes["frame"] != b.sizes["frame"]:
            lengths = " and ".join(str(part.sizes["frame"]) for part in (a, b))
            raise _other_frames(f"{lengths} frames, of which not all have a `frame_id`")
        return None
    ids = [np.array([*map(str, part["frame_id"].values.ravel())], dtype=str) for part in (a, b)]
    if np.array_equal(ids[0], ids[1]):
        return None
    only = [np.setdiff1d(ids[0], ids[1]), np.setdiff1d(ids[1], ids[0])]
    if len(only[0]) or len(only[1]) or len(ids[0]) != len(ids[1]):
        example = next((str(names[0]) for names in only if len(names)), "a frame twice")
        raise _other_frames(f"{len(only[0])} frames in a only and {len(only[1])} in b only ({example}, ...)")
    back = np.empty(len(ids[0]), np.int64)
    back[np.argsort(ids[0], kind="stable")] = np.argsort(ids[1], kind="stable")
    return back


def _other_frames(got: str) -> UsageError:
    return UsageError(
        got,
        expected="the same frames in both datasets",
        consequence="What changed could not be told from what was added",
        remedy="select the common frames of both first",
    )


def _blocks(
    a: xr.Dataset, b: xr.Dataset, order: np.ndarray | None
) -> Iterator[tuple[xr.Dataset, xr.Dataset]]:
    """Runs of frames of both, in memory, without their coordinates."""
    rows = a.sizes["frame"]
    step = max(BLOCK // max(a.sizes["patch_y"] * a.sizes["patch_x"], 1), 1)
    shard = (a["pvalue"].encoding.get("shards") or (1,))[0]
    step -= step % shard if step > shard else 0  # whole shards
    bare = [part.reset_coords(drop=True)[[n for n in part.data_vars if n in a and n in b]] for part in (a, b)]
    for start in range(0, rows, step):
        window = slice(start, min(start + step, rows))
        theirs = window if order is None else order[window]
        yield dask.compute(bare[0].isel(frame=window), bare[1].isel(frame=theirs))


def _meanings(quality: xr.Dataset) -> dict[int, str]:
    """Code to name of the reasons, from their CF attributes."""
    attributes = quality["reason"].attrs
    values = np.atleast_1d(attributes.get("flag_values", [])).tolist()
    return dict(zip(map(int, values), attributes.get("flag_meanings", "").split(), strict=False))


def _reason_changes(
    counts: np.ndarray, names_a: dict[int, str], names_b: dict[int, str]
) -> tuple[ReasonChange, ...]:
    """`ReasonChange` of every reason that occurs; codes are named by the model that gave them."""
    gained: dict[str, list[int]] = {}
    for side, names in enumerate((names_b, names_a)):
        for code in np.flatnonzero(counts[side]).tolist():
            gained.setdefault(names.get(code, f"code {code}"), [0, 0])[side] += int(counts[side, code])
    rows = [ReasonChange(name, *changes) for name, changes in gained.items()]
    return tuple(sorted(rows, key=lambda row: (-row.gained - row.lost, row.reason)))


def _frame_table(a: xr.Dataset, parts: list[dict[str, np.ndarray]]) -> xr.Dataset:
    """The numbers of all frames, most changes first, in the archive's order among equals."""
    columns = {
        name: np.concatenate([np.zeros(0, np.int64), *(part[name] for part in parts)])
        for name in FRAME_COLUMNS
    }
    order = np.argsort(-(columns["gained"] + columns["lost"]), kind="stable")
    known: dict[Any, Any] = {n: c.compute() for n, c in a.coords.items() if c.dims == ("frame",)}
    table = xr.Dataset(
        {n: ("frame", columns[n], {"long_name": text}) for n, text in FRAME_COLUMNS.items()}, known
    )
    rows = xr.Variable("frame", np.arange(len(order)), {"long_name": "position in the dataset"})
    return table.assign_coords(row=rows).isel(frame=order)


def _model_name(quality: xr.Dataset) -> str:
    digest = str(quality.attrs.get("model_sha256", ""))[:8]
    return "-".join(part for part in (str(quality.attrs.get("model", "")), digest) if part)
