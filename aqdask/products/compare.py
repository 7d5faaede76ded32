"""Agreement of the masks of two models on the same frames, and the patches that change at one alpha."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
import xarray as xr

from aqdask.errors import UsageError
from aqdask.execution.reporter import Reporter, Silent
from aqdask.stats.masking import bad_patches, check_alpha
from aqdask.text import plural

BLOCK = 2_000_000  # patches in memory at a time: 10 MB a model
CODES = 256  # possible reason codes (uint8)
PATCH_BOUNDS = ("y0", "y1", "x0", "x1")
FRAME_COLUMNS = {
    "compared": "patches with a p-value in both",
    "masked_a": "of these, patches masked by a",
    "masked_b": "of these, patches masked by b",
    "gained": "patches masked by b and not by a",
    "lost": "patches masked by a and not by b",
    "no_data": "patches without a p-value in a or b",
}


@dataclass(frozen=True)
class ReasonChange:
    """Changed patches of one reason: ``gained`` by the reason of b, ``lost`` by the reason of a."""

    reason: str
    gained: int
    lost: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """Masks of two models, a and b, at one alpha, counted in patches.

    Parameters
    ----------
    model_a, model_b : str
        Model names, each with the first eight digits of its digest.
    alpha : float
        False-mask rate of both masks.
    frames : int
        Number of frames compared.
    both, only_a, only_b, neither : int
        Patches with a p-value in both, by the models that mask them.
    no_data_a, no_data_b, no_data_both : int
        Patches without a p-value in a only, in b only, and in both. Such patches are masked; no other
        number includes them.
    by_reason : tuple of ReasonChange
        Reasons of the changed patches, most changes first.
    by_frame : Dataset
        Dimension ``frame``, most changes first: ``compared``, ``masked_a``, ``masked_b``, ``gained``
        (masked by b only), ``lost`` (by a only) and ``no_data`` (in a or b), int64 patches; coordinate
        ``row``, the position in the datasets, and the coordinates of the frames.
    """

    model_a: str
    model_b: str
    alpha: float
    frames: int
    both: int
    only_a: int
    only_b: int
    neither: int
    no_data_a: int
    no_data_b: int
    no_data_both: int
    by_reason: tuple[ReasonChange, ...]
    by_frame: xr.Dataset = field(repr=False)

    @property
    def patches(self) -> int:
        """Patches with a p-value in both."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def changed(self) -> int:
        """Patches masked by exactly one of the models."""
        return self.only_a + self.only_b

    @property
    def agreement(self) -> float:
        """Fraction of the patches masked by both or by neither; NaN without patches."""
        return 1 - self.changed / self.patches if self.patches else math.nan

    def facts(self) -> dict[str, Any]:
        """Return the numbers of the whole archive as plain JSON values; None for undefined ones."""
        names = (
            "model_a", "model_b", "alpha", "frames", "patches", "both", "only_a", "only_b", "neither",
            "changed", "agreement", "no_data_a", "no_data_b", "no_data_both",
        )  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return {n: None if isinstance(v, float) and math.isnan(v) else v for n, v in found.items()}


def compare(
    quality_a: xr.Dataset, quality_b: xr.Dataset, alpha: float = 0.01, *, reporter: Reporter | None = None
) -> Comparison:
    """Compare the masks of two models on the same frames, for example before masks are published again.

    Parameters
    ----------
    quality_a, quality_b : Dataset
        From `open_quality` or `quality_of`, with the same patches of the same frames. Frames are matched
        by ``frame_id``, in any order; by position where neither dataset has one.
    alpha : float
        False-mask rate of both masks, in (0, 1).
    reporter : Reporter, optional
        Receives the progress.

    Returns
    -------
    Comparison
        The datasets are read in blocks of frames, so memory grows by six numbers a frame only.

    Raises
    ------
    UsageError
        For alpha outside (0, 1), a dataset without ``pvalue`` or ``reason``, and different patches or
        frames.
    """
    check_alpha(alpha)
    a, b = _as_frames(quality_a), _as_frames(quality_b)
    _check_grid(a, b)
    order = _matching_rows(a, b)
    report = reporter or Silent()
    counts, reasons, frames = np.zeros(7, np.int64), np.zeros((2, CODES), np.int64), []
    report.start("compare", a.sizes["frame"])
    for first, second in _blocks(a, b, order):
        block = _Block.of(first, second, alpha)
        counts += block.counts()
        reasons += block.reasons(first["reason"].values, second["reason"].values)
        frames.append(block.by_frame())
        report.advance(first.sizes["frame"])
    report.finish()
    both, only_a, only_b, neither, no_data_a, no_data_b, no_data_both = counts.tolist()
    return Comparison(
        model_a=_model_name(a), model_b=_model_name(b), alpha=alpha, frames=a.sizes["frame"], both=both,
        only_a=only_a, only_b=only_b, neither=neither, no_data_a=no_data_a, no_data_b=no_data_b,
        no_data_both=no_data_both, by_reason=_reason_changes(reasons, _meanings(a), _meanings(b)),
        by_frame=_frame_table(a, frames),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Block:
    """Masked and missing patches of some frames, bool ``(frame, patch_y, patch_x)`` each."""

    masked_a: np.ndarray
    masked_b: np.ndarray
    missing_a: np.ndarray
    missing_b: np.ndarray

    @classmethod
    def of(cls, a: xr.Dataset, b: xr.Dataset, alpha: float) -> _Block:
        """Threshold the p-values of the same frames of both datasets."""
        missing = [np.isnan(part["pvalue"].values) for part in (a, b)]
        compared = ~(missing[0] | missing[1])
        masked = [bad_patches(part["pvalue"].values, alpha) & compared for part in (a, b)]
        return cls(*masked, *missing)

    @property
    def compared(self) -> np.ndarray:
        """Patches with a p-value in both."""
        return ~(self.missing_a | self.missing_b)

    def counts(self) -> np.ndarray:
        """Both, only a, only b, neither, no data in a only, in b only, in both."""
        a, b, none_a, none_b = self.masked_a, self.masked_b, self.missing_a, self.missing_b
        parts = (a & b, a & ~b, b & ~a, self.compared & ~a & ~b, none_a & ~none_b, none_b & ~none_a,
                 none_a & none_b)  # fmt: skip
        return np.array([np.count_nonzero(part) for part in parts])

    def reasons(self, reason_a: np.ndarray, reason_b: np.ndarray) -> np.ndarray:
        """Patches gained by the reason of b and lost by the reason of a: int64 ``(2, CODES)``."""
        gained, lost = reason_b[self.masked_b & ~self.masked_a], reason_a[self.masked_a & ~self.masked_b]
        return np.stack([np.bincount(codes, minlength=CODES) for codes in (gained, lost)])

    def by_frame(self) -> dict[str, np.ndarray]:
        """Patches of each frame, int64 ``(frame,)``, by the names of `FRAME_COLUMNS`."""
        parts = (self.compared, self.masked_a, self.masked_b, self.masked_b & ~self.masked_a,
                 self.masked_a & ~self.masked_b, self.missing_a | self.missing_b)  # fmt: skip
        return {name: part.sum(axis=(1, 2)) for name, part in zip(FRAME_COLUMNS, parts, strict=True)}


def _as_frames(quality: xr.Dataset) -> xr.Dataset:
    """Return the compared variables, with ``frame`` as their first dimension."""
    if not {"pvalue", "reason"} <= set(quality):
        raise UsageError(
            f"a dataset of {', '.join(map(str, quality)) or 'nothing'}",
            expected="one with `pvalue` and `reason`, from open_quality or quality_of",
        )
    chosen = quality[["pvalue", "reason"]]
    return chosen if "frame" in chosen.dims else chosen.expand_dims("frame")


def _check_grid(a: xr.Dataset, b: xr.Dataset) -> None:
    """Raise `UsageError` unless both datasets have the same patches."""
    shapes = [(part.sizes["patch_y"], part.sizes["patch_x"]) for part in (a, b)]
    same = shapes[0] == shapes[1]
    same = same and all(np.array_equal(a[n], b[n]) for n in PATCH_BOUNDS if n in a.coords and n in b.coords)
    if not same:
        patches = [f"{y} x {x} patches of {part.attrs.get('patch', '?')} px" for (y, x), part in
                   zip(shapes, (a, b), strict=True)]  # fmt: skip
        raise UsageError(
            f"models that divide a frame into {patches[0]} and into {patches[1]}",
            expected="the same patches",
            consequence="No patch of one has a counterpart in the other",
            remedy="compare models of one patch size on frames of one shape",
        )


def _matching_rows(a: xr.Dataset, b: xr.Dataset) -> np.ndarray | None:
    """Row of b for each row of a, int64 ``(frame,)``; None where the order is the same."""
    named = ["frame_id" in part.coords for part in (a, b)]
    if not all(named):
        if any(named) or a.sizes["frame"] != b.sizes["frame"]:
            lengths = " and ".join(str(part.sizes["frame"]) for part in (a, b))
            raise _different_frames(f"{lengths} frames, of which not all have a `frame_id`")
        return None
    ids = [np.array([*map(str, part["frame_id"].values.ravel())], dtype=str) for part in (a, b)]
    if np.array_equal(ids[0], ids[1]):
        return None
    only = [np.setdiff1d(ids[0], ids[1]), np.setdiff1d(ids[1], ids[0])]
    if len(only[0]) or len(only[1]) or len(ids[0]) != len(ids[1]):
        example = next((str(names[0]) for names in only if len(names)), "a frame twice")
        raise _different_frames(
            f"{plural(len(only[0]), 'frame')} in a only and {len(only[1])} in b only ({example}, ...)"
        )
    back = np.empty(len(ids[0]), np.int64)
    back[np.argsort(ids[0], kind="stable")] = np.argsort(ids[1], kind="stable")
    return back


def _different_frames(got: str) -> UsageError:
    return UsageError(
        got,
        expected="the same frames in both datasets",
        consequence="Changed masks could not be told from added frames",
        remedy="select the common frames of both first",
    )


def _blocks(
    a: xr.Dataset, b: xr.Dataset, order: np.ndarray | None
) -> Iterator[tuple[xr.Dataset, xr.Dataset]]:
    """Yield consecutive frames of both datasets in memory, without coordinates."""
    rows = a.sizes["frame"]
    step = max(BLOCK // max(a.sizes["patch_y"] * a.sizes["patch_x"], 1), 1)
    shard = (a["pvalue"].encoding.get("shards") or (1,))[0]
    step -= step % shard if step > shard else 0  # no shard is read twice
    bare = [part.reset_coords(drop=True) for part in (a, b)]
    for start in range(0, rows, step):
        window = slice(start, min(start + step, rows))
        matching = window if order is None else order[window]
        yield dask.compute(bare[0].isel(frame=window), bare[1].isel(frame=matching))


def _meanings(quality: xr.Dataset) -> dict[int, str]:
    """Names of the reason codes, from the CF attributes."""
    attributes = quality["reason"].attrs
    values = np.atleast_1d(attributes.get("flag_values", [])).tolist()
    return dict(zip(map(int, values), attributes.get("flag_meanings", "").split(), strict=False))


def _reason_changes(
    counts: np.ndarray, names_a: dict[int, str], names_b: dict[int, str]
) -> tuple[ReasonChange, ...]:
    """Changes of every reason that occurs; the model that gave a code also names it."""
    changes: dict[str, list[int]] = {}
    for side, names in enumerate((names_b, names_a)):
        for code in np.flatnonzero(counts[side]).tolist():
            changes.setdefault(names.get(code, f"code {code}"), [0, 0])[side] += int(counts[side, code])
    rows = [ReasonChange(name, *change) for name, change in changes.items()]
    return tuple(sorted(rows, key=lambda row: (-row.gained - row.lost, row.reason)))


def _frame_table(a: xr.Dataset, parts: list[dict[str, np.ndarray]]) -> xr.Dataset:
    """Numbers of all frames, most changes first, in archive order among equals."""
    columns = {
        name: np.concatenate([np.zeros(0, np.int64), *(part[name] for part in parts)])
        for name in FRAME_COLUMNS
    }
    order = np.argsort(-(columns["gained"] + columns["lost"]), kind="stable")
    coords: dict[Any, Any] = {n: c.compute() for n, c in a.coords.items() if c.dims == ("frame",)}
    table = xr.Dataset(
        {n: ("frame", columns[n], {"long_name": text}) for n, text in FRAME_COLUMNS.items()}, coords
    )
    rows = xr.Variable("frame", np.arange(len(order)), {"long_name": "position in the dataset"})
    return table.assign_coords(row=rows).isel(frame=order)


def _model_name(quality: xr.Dataset) -> str:
    digest = str(quality.attrs.get("model_sha256", ""))[:8]
    return "-".join(part for part in (str(quality.attrs.get("model", "")), digest) if part)
