"""Rank of frames by quality: for a stack, or as the reference of difference images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aqdask.errors import UsageError
from aqdask.execution.executors import Executor
from aqdask.execution.reporter import Reporter
from aqdask.io.frame_ids import select_frames
from aqdask.measurements.align import groups, measure_all
from aqdask.methods import dispatch
from aqdask.methods.bundle import Bundle
from aqdask.products.columns import described_schema
from aqdask.products.mask_summaries import summarise_masks
from aqdask.products.table import frame_table
from aqdask.store.quality_store import QualityStore

STACK, REFERENCE = "stack", "reference"
CLEAN = 3.0  # times alpha, of the patches masked: more is more than chance masks on a good frame
COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "rank": (pa.int64(), "place among the frames of its camera and filter, 1 = best"),
    "frame_id": (pa.string(), "id of the frame in the archive"),
    "row": (pa.int64(), "position along `frame` in the archive"),
    "camera": (pa.string(), "instrument"),
    "filter": (pa.string(), "filter"),
    "flag_reason": (pa.string(), "reason why the frame is flagged, empty where it is not"),
    "masked": (pa.float64(), "fraction of its patches that are masked"),
    "noise": (pa.float64(), "standard deviation of a sky pixel"),
    "size": (
        pa.float64(),
        "size of its stars: FWHM in pixels where measured, else relative to the references",
    ),
    "transparency": (pa.float64(), "counts of stars relative to the best frame; null where not measured"),
    "weight": (pa.float64(), "squared signal to noise of a star relative to the best frame"),
    "depth": (pa.float64(), "depth of a stack of this frame and all better ones beyond the best"),
}
UNITS = {"noise": "count", "depth": "mag"}
SCHEMA = described_schema(COLUMNS, UNITS)


def rank_frames(
    archive: str | os.PathLike[str],
    quality: str,
    alpha: float,
    executor: Executor,
    reporter: Reporter,
    *,
    purpose: str = STACK,
    patterns: Sequence[str] | None = None,
    band: str | None = None,
    measure: bool = False,
    needs_rank: bool = True,
) -> pa.Table:
    """Rank the scored frames of an archive; see `aqdask.rank_frames`."""
    if purpose not in (STACK, REFERENCE):
        raise UsageError(f"a rank for {purpose!r}", expected=f"{STACK!r} or {REFERENCE!r}")
    table = frame_table(archive, quality, summaries=summarise_masks(archive, quality, alpha))
    table = table.filter(pc.equal(table["state"], "done"))
    ids, bands = (table[name].to_pylist() for name in ("frame_id", "filter"))
    table = table.filter(pa.array(select_frames(ids, bands, patterns, band), pa.bool_()))
    known = "frame_sky" in table.column_names
    if measure or (needs_rank and not known):
        if not measure:
            reporter.say("the model stores neither sky nor star sizes: they are measured on the pixels")
        noise, size, transparency = measure_all(archive, quality, alpha, table, executor, reporter)
    else:
        noise, size, transparency = np.full((3, table.num_rows), np.nan)
        if known:
            noise, size = _stored(archive, quality, table)
    numbers = {"noise": noise, "size": size, "transparency": transparency}
    columns = {name: table[name] for name in ("frame_id", "row", "camera", "filter", "flag_reason")}
    columns |= {"masked": table["masked_patches"].cast(pa.float64())}
    columns |= {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
    return ranked(pa.table(columns), purpose, alpha)


def ranked(table: pa.Table, purpose: str, alpha: float) -> pa.Table:
    """Rank frames for a purpose by the columns of `COLUMNS` that `rank_frames` reads or measures.

    Where noise and size of no frame are known, those with the least masked patches are the best.
    """
    masked, noise, size, transparency = (
        _numbers(table, name) for name in ("masked", "noise", "size", "transparency")
    )
    light = np.where(np.isnan(transparency), 1, transparency)
    # the area of a star's image for the whole of it, and its square for its peak
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = light**2 / (noise**2 * size ** (2 if purpose == STACK else 4)) * (1 - masked)
    weight = np.nan_to_num(weight, nan=0.0, posinf=0.0)
    spotted = (masked > CLEAN * alpha) & (purpose == REFERENCE)
    order = np.lexsort((masked, -weight, spotted, _flagged(table)))
    parts = [_ranked(table, order[np.isin(order, group)], weight) for group in groups(table)]
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def reference_order(table: pa.Table, alpha: float) -> list[int]:
    """Return rows of the archive, the best reference first: what stacks, light curves and templates take.

    Unflagged frames come first, of these the camera and filter with the most frames, then the rank.

    Parameters
    ----------
    table : pyarrow.Table
        From `rank_frames`, for any purpose.
    alpha : float
        False-mask rate of its masks.
    """
    best = ranked(table, REFERENCE, alpha)
    frames = np.zeros(best.num_rows)
    for group in groups(best):
        frames[group] = len(group)
    order = np.lexsort((best["rank"].to_numpy(), -frames, _flagged(best)))
    return best["row"].take(pa.array(order)).to_pylist()


def _flagged(table: pa.Table) -> np.ndarray:
    return np.array([bool(text) for text in table["flag_reason"].to_pylist()], bool)


def _ranked(table: pa.Table, order: np.ndarray, weight: np.ndarray) -> pa.Table:
    """Build the table of one camera and filter, best first."""
    own = weight[order]
    best = own.max(initial=0) or np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 1.25 * np.log10(np.cumsum(own) / best)
    found = dict(zip(table.column_names, table.take(pa.array(order)).columns, strict=True))
    found |= {
        "rank": pa.array(np.arange(1, len(order) + 1)),
        "weight": pa.array(own / best, from_pandas=True),
        "depth": pa.array(np.where(np.isfinite(depth), depth, np.nan), from_pandas=True),
    }
    return pa.table([found[name] for name in COLUMNS], schema=SCHEMA)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as float64, NaN for null."""
    return table[name].cast(pa.float64()).to_numpy(zero_copy_only=False).copy()


def _stored(archive: str | os.PathLike[str], quality: str, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return noise (by the noise model at the frame's sky, times its noise ratio) and relative star size."""
    bundle = Bundle.from_bytes(QualityStore.open(archive, quality).bundle())
    sky, noise = _numbers(table, "frame_sky"), np.full(table.num_rows, np.nan)
    cameras, bands = (table[name].to_pylist() for name in ("camera", "filter"))
    for group in groups(table):
        about = cameras[group[0]], bands[group[0]]
        found = dispatch.patch_variance(bundle, *about, sky[group], sky[group])
        if found:
            noise[group] = np.sqrt(found[0])
    return noise * _numbers(table, "frame_noise_ratio"), _numbers(table, "frame_size_ratio")
