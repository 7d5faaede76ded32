"""Table of all frames and sources of an archive, as Parquet, ECSV and CSV."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.table import Table
from astropy.time import Time
from pyarrow import csv

from aqdask import flags
from aqdask.products.columns import described_schema
from aqdask.products.dq import MaskResult
from aqdask.products.flagged import StoredModel, flag_reasons, flagged
from aqdask.products.mask_summaries import MaskSummaries
from aqdask.specs import Variable
from aqdask.store import layout
from aqdask.store.entry_table import POINTING, QUARANTINED, STATES, Rows, decoded
from aqdask.store.frame_store import NO_TIME, FrameStore
from aqdask.store.ledger import Ledger, open_ledger
from aqdask.store.quality_store import QualityStore
from aqdask.text import printable

NO_MASK = "no mask: "  # start of the reason of a frame whose mask failed
UNITS = {"exptime": "s", "ra": "deg", "dec": "deg"}
COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "frame_id": (pa.string(), "path below the source root, with the HDU where needed"),
    "path": (pa.string(), "source file"),
    "row": (pa.int64(), "position along `frame` in the archive, -1 for none"),
    "time": (pa.timestamp("us", tz="UTC"), "start of the exposure"),
    "exptime": (pa.float64(), "exposure time"),
    "filter": (pa.string(), "filter"),
    "camera": (pa.string(), "instrument, with binning where it is not 1 x 1"),
    "frame_type": (
        pa.string(),
        "light, bias, dark, flat, arc, focus or calibration; empty where the header has none",
    ),
    "airmass": (pa.float64(), "airmass"),
    "ra": (pa.float64(), "right ascension of the centre (ICRS)"),
    "dec": (pa.float64(), "declination of the centre (ICRS)"),
    "masked_fraction": (pa.float64(), "fraction of the frame's pixels that are masked"),
    "frame_score": (pa.float64(), "score of the frame, larger = worse"),
    "flag_reason": (pa.string(), "reason why the frame is flagged, empty where it is not"),
    "main_reason": (pa.string(), "most common reason of its masked patches, empty where none is masked"),
    "masked_patches": (pa.float64(), "fraction of the frame's patches that are masked"),
    **{
        f"share_{flag.name}": (pa.float64(), f"fraction of the patches masked because: {flag.meaning}")
        for flag in flags.REASONS
    },
    "state": (pa.string(), "done, quarantined, pending, or skipped: not scored since it is no light"),
    "reason": (pa.string(), "reason where the state is not done"),
    "sha256": (pa.string(), "SHA-256 of the source file"),
    "dq_file": (pa.string(), "name of the exported mask in the folder dq/"),
}


def frame_table(
    archive: str | os.PathLike[str],
    quality: str = "",
    masks: Mapping[int, MaskResult] | None = None,
    summaries: MaskSummaries | None = None,
    ledger: Ledger | None = None,
    frame_ids: Sequence[str] | None = None,
) -> pa.Table:
    """Build the table of frames and sources of an archive, one row each.

    Parameters
    ----------
    archive : path
        The archive.
    quality : str
        Name of the quality group that gives frame score and state; empty: the state of the pixels.
    masks : mapping of int to MaskResult, optional
        Masked fraction and exported files of each frame, by row of the archive; each format but DQ images
        gives a column of its own.
    summaries : MaskSummaries, optional
        Masked patches by reason; without them the columns of reasons and shares are null.
    ledger : Ledger, optional
        The ledger of the archive, where the caller has it open.
    frame_ids : sequence of str, optional
        Ids of registered frames and sources, in the order of the rows; None: all.

    Returns
    -------
    pyarrow.Table
        `COLUMNS` and the other frame-level variables of the quality group. Frames in the order of the
        archive, then the sources that gave no frame.
    """
    frames, ledger = FrameStore.open(archive), ledger or open_ledger(layout.open_root(archive))
    measured, kinds, units = _frame_variables(archive, quality)
    reasons = None
    if summaries is not None:
        reasons = MaskReasons(measured, summaries, StoredModel(QualityStore.open(archive, quality)))
    others = sorted({name for mask in (masks or {}).values() for name in mask.files} - {"dq"})
    for name in others:
        kinds = kinds | {f"{name}_file": (pa.string(), f"name of the file in the folder {name}/")}
    schema = described_schema(kinds, UNITS | units)
    parts = [schema.empty_table()]
    chosen = [ledger.rows(), ledger.rejected()]
    if frame_ids is not None:
        chosen = [Rows(ledger.table, np.array([ledger.table.find(name)])) for name in frame_ids]
    for known in chosen:
        for start in range(0, len(known), layout.ROWS_PER_CHUNK):
            rows = known[start : start + layout.ROWS_PER_CHUNK]
            columns = _columns_of(rows, quality, masks or {}) | _stored_columns(rows, frames, measured)
            if reasons is not None and "camera" in columns:
                about = (columns[name] for name in ("camera", "filter", "time"))
                columns |= reasons.columns(rows.column("row"), *about)
            columns = {name: columns.get(name, pa.nulls(len(rows), kinds[name][0])) for name in kinds}
            parts.append(pa.table(columns, schema=schema))
    return pa.concat_tables(parts)


class MaskReasons:
    """Columns that come from the masks of patches.

    Parameters
    ----------
    values : mapping of str to ndarray
        Frame-level variables by name, ``(frame,)``.
    masks : MaskSummaries
        Masked patches by reason.
    model : StoredModel
        The model that made them.
    """

    def __init__(self, values: Mapping[str, np.ndarray], masks: MaskSummaries, model: StoredModel) -> None:
        self.values, self.masks, self.model = values, masks, model

    def columns(
        self, rows: np.ndarray, cameras: list[str], filters: list[str], times: list[int | None]
    ) -> dict[str, pa.Array]:
        """Return the columns of frames at these rows of the archive, null where nothing is known."""
        masks = self.masks.take(rows)
        values = {name: column[rows] for name, column in self.values.items()}
        is_flagged = flagged(values, masks.masked) & masks.known
        known = np.array([NO_TIME if time is None else time for time in times], np.int64)
        bands = self.model.filters_at(cameras, filters, known)
        reasons = flag_reasons(is_flagged, values, masks, self.model, cameras, bands)
        texts = {"flag_reason": reasons, "main_reason": masks.main_reasons}
        columns = {name: pa.array(text, pa.string(), mask=~masks.known) for name, text in texts.items()}
        columns["masked_patches"] = pa.array(masks.masked, from_pandas=True)
        for flag, share in zip(flags.REASONS, masks.shares.T, strict=True):
            columns[f"share_{flag.name}"] = pa.array(share, from_pandas=True)
        return columns


def _columns_of(rows: Rows, quality: str, masks: Mapping[int, MaskResult]) -> dict[str, Any]:
    """Return the columns that come from the ledger and the masks."""
    states, reasons = np.array(STATES)[rows.standing(quality)].tolist(), rows.reasons(quality).tolist()
    found = [masks.get(row, MaskResult(row)) for row in rows.column("row").tolist()]
    for place, mask in enumerate(found):
        if mask.problem:
            states[place], reasons[place] = QUARANTINED, f"{NO_MASK}{mask.problem}"
    texts = {name: rows.texts(name) for name in ("frame_id", "path", "sha256")} | {
        "state": states, "reason": [decoded(reason) for reason in reasons],
        "dq_file": [""] * len(rows),
        "frame_type": rows.words("frame_type").tolist(),
    }  # fmt: skip
    for name in {name for mask in masks.values() for name in mask.files}:
        texts[f"{name}_file"] = [mask.files.get(name, "") for mask in found]
    columns: dict[str, Any] = {name: list(map(printable, column)) for name, column in texts.items()}
    columns["masked_fraction"] = [mask.masked for mask in found]
    columns |= {name: pa.array(rows.column(name), from_pandas=True) for name in POINTING}
    return columns | {"row": rows.column("row").tolist()}


def _stored_columns(
    rows: Rows, frames: FrameStore, measured: Mapping[str, np.ndarray]
) -> dict[str, list[Any]]:
    """Return the columns that come from the arrays of the archive; none for sources without frames."""
    numbers = rows.column("row")
    if not len(numbers) or numbers[0] < 0:
        return {}
    start = int(numbers[0])
    part, within = slice(start, int(numbers[-1]) + 1), numbers - start
    columns: dict[str, list[Any]] = {}
    for name in ("filter", "camera"):
        columns[name] = list(map(printable, map(str, frames.coordinate(name, part)[within].tolist())))
    columns["time"] = [None if t == NO_TIME else t for t in frames.coordinate("time", part)[within].tolist()]
    stored = {"exptime": frames.coordinate("exptime", part)[within]}
    stored |= {name: column[numbers] for name, column in measured.items()}
    scored = ~np.isnan(stored.get("frame_score", np.zeros(len(numbers))))
    for name, values in stored.items():
        good = ~np.isnan(values) & (scored | (name == "exptime"))
        columns[name] = [v if keep else None for v, keep in zip(values.tolist(), good.tolist(), strict=True)]
    return columns


def frames_without_mask(table: pa.Table) -> list[tuple[str, str]]:
    """Return id and reason of each frame whose mask failed, from a table of `frame_table`."""
    found = table.filter(pc.starts_with(table["reason"], NO_MASK))
    return list(zip(found["frame_id"].to_pylist(), found["reason"].to_pylist(), strict=True))


def columns_of(variables: Sequence[Variable]) -> dict[str, pa.DataType]:
    """Return the columns of `frame_table` for a model of these variables, by name."""
    kinds = {name: kind for name, (kind, _) in COLUMNS.items()}
    for variable in variables:
        if variable.per_frame:
            kinds.setdefault(variable.name, _kind(np.dtype(variable.dtype)))
    return kinds


def _kind(dtype: np.dtype) -> pa.DataType:
    return pa.int64() if dtype.kind in "iu" else pa.float64()


def _frame_variables(
    archive: str | os.PathLike[str], quality: str
) -> tuple[dict[str, np.ndarray], dict[str, tuple[pa.DataType, str]], dict[str, str]]:
    """Return frame-level variables of a quality group, ``(frame,)``, columns of the table, and units."""
    if not quality:
        return {}, COLUMNS, {}
    group = QualityStore.open(archive, quality)
    if "frame_score" not in group.frame_variables:
        return {}, COLUMNS, {}
    found = {name: np.asarray(group.group[name][:]) for name in group.frame_variables}  # type: ignore[index]
    kinds = dict(COLUMNS)
    for name, values in found.items():
        meaning = str(group.group[name].attrs.get("long_name", name))
        meaning = layout.REWORDED.get(meaning, meaning)
        kinds.setdefault(name, (_kind(values.dtype), meaning))
    known = {name: str(group.group[name].attrs.get("units", "1")) for name in found}
    return found, kinds, {name: unit for name, unit in known.items() if unit != "1"}


def write_parquet(table: pa.Table, folder: Path) -> None:
    """Write ``frames.parquet``."""
    with open(folder / "frames.parquet", "wb") as stream:  # pyarrow takes UTF-8 names only
        pq.write_table(table, stream)


def write_csv(table: pa.Table, folder: Path) -> None:
    """Write ``frames.csv``: ISO times (UTC), empty fields for missing values."""
    with open(folder / "frames.csv", "wb") as stream:
        csv.write_csv(table, stream)


def write_ecsv(table: pa.Table, folder: Path) -> None:
    """Write ``frames.ecsv``, with the descriptions of the columns."""
    with open(folder / "frames.ecsv", "w", encoding="utf-8", newline="") as stream:
        as_astropy(table).write(stream, format="ascii.ecsv")


def as_astropy(table: pa.Table) -> Table:
    """Convert to an astropy table: ISO times, NaN and empty strings for missing values."""
    result = Table()
    for field in table.schema:
        values = table[field.name].to_pylist()
        if pa.types.is_timestamp(field.type):
            values = [Time(v.replace(tzinfo=None), scale="utc").isot if v else "" for v in values]
        elif pa.types.is_floating(field.type):
            values = [float("nan") if v is None else v for v in values]
        elif pa.types.is_string(field.type):
            values = [v or "" for v in values]
        result[field.name] = values if values else np.array([], dtype="U1")
        result[field.name].description = field.metadata[b"description"].decode()
        result[field.name].unit = field.metadata.get(b"unit", b"").decode() or None
    return result
