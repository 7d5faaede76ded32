"""Columns of the frames of a report, from the ledger and the one-dimensional arrays of an archive."""

from __future__ import annotations

from typing import Any

import numpy as np

from aqdask import flags
from aqdask.products.flagged import StoredModel, flag_reasons, flagged
from aqdask.products.mask_summaries import MaskSummaries
from aqdask.products.table import COLUMNS
from aqdask.store.entry_table import CODE, DONE, POINTING, STATES, decoded
from aqdask.store.frame_store import FrameStore
from aqdask.store.layout import REWORDED
from aqdask.store.ledger import Rows
from aqdask.store.quality_store import QualityStore
from aqdask.text import printable

OWN = {
    "is_flagged": "frame is flagged",
    "crc32c": "checksum of the pixels",
    "has_pixels": "pixels are stored, or can be read from the source",
    "state_reason": "reason where the state is not done",
}


def frame_values(store: QualityStore | None, rows: int) -> dict[str, np.ndarray]:
    """Read the frame-level variables of a quality group, ``(rows,)`` each, of their stored types."""
    if store is None:
        return {}
    return {name: np.asarray(store.group[name][:rows]) for name in store.frame_variables}  # type: ignore[index]


def header_columns(frames: FrameStore, known: Rows) -> dict[str, np.ndarray]:
    """Read the columns that do not depend on scores, in the order of rows."""
    rows = known.column("row")
    columns: dict[str, np.ndarray] = {"row": rows.astype(np.int64)}
    columns["frame_id"] = _texts([printable(decoded(text)) for text in known.column("frame_id").tolist()])
    columns["time"] = frames.coordinate("time")[rows].astype("datetime64[us]")  # its fill value is NaT
    columns["exptime"] = frames.coordinate("exptime")[rows]
    for name in ("camera", "filter"):
        columns[name] = _texts([printable(str(text)) for text in frames.coordinate(name)[rows].tolist()])
    columns["has_pixels"] = known.column("state") == CODE[DONE]
    columns["crc32c"] = _texts(known.texts("crc32c"))
    columns["frame_type"] = _texts(known.words("frame_type").tolist())
    return columns | {name: known.column(name) for name in POINTING}


def score_columns(
    known: Rows,
    quality: str,
    values: dict[str, np.ndarray],
    masks: MaskSummaries | None,
    model: StoredModel,
    columns: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the columns of states, flags, reasons and frame-level variables, in the order of rows.

    ``columns`` are those of `header_columns`.
    """
    count, rows = len(known), known.column("row")
    states = np.array(STATES, object)[known.standing(quality)]
    reasons = _texts([printable(decoded(text)) for text in known.reasons(quality).tolist()])
    found: dict[str, np.ndarray] = {"state": states, "state_reason": reasons}
    if masks is None:
        empty, nothing = np.full(count, "", object), np.full(count, np.nan)
        found |= {"is_flagged": np.zeros(count, bool), "flag_reason": empty, "main_reason": empty}
        found |= {"frame_score": nothing, "masked_patches": nothing}
        return found | {f"share_{flag.name}": nothing for flag in flags.REASONS}
    masks, own = masks.take(rows), {name: column[rows] for name, column in values.items()}
    is_flagged = flagged(own, masks.masked) & masks.known
    found["is_flagged"] = is_flagged
    arguments: Any = own, masks, model, columns["camera"], columns["filter"]
    found["flag_reason"] = flag_reasons(is_flagged, *arguments)
    found["main_reason"] = np.where(masks.known, masks.main_reasons, "").astype(object)
    found["masked_patches"] = masks.masked
    shares = zip(flags.REASONS, masks.shares.T, strict=True)
    found |= {f"share_{flag.name}": np.ascontiguousarray(share) for flag, share in shares}
    for name, column in own.items():
        found[name] = np.where(masks.known, column.astype(np.float64), np.nan)
    return found


def labels(store: QualityStore | None) -> dict[str, str]:
    """Return the meaning of each column, with its unit where it has one."""
    found = {name: text for name, (_, text) in COLUMNS.items()} | OWN
    for name in store.frame_variables if store is not None else ():
        about = store.describe(name).attributes if store is not None else {}
        unit = str(about.get("units", "1"))
        told = str(about.get("long_name", name))
        found[name] = REWORDED.get(told, told) + (f" ({unit})" if unit != "1" else "")
    return found


def _texts(values: list[str]) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = values
    return found
