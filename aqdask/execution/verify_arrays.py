"""Verification and repair of the 1-D arrays of an archive, by comparison with its ledger.

These are the coordinates of the frames, frame-level values, the bounds of patches and the stored model. The
client reads and writes them, one chunk of rows at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import zarr

from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.open_archive import OpenArchive
from aqdask.execution.reporter import Reporter
from aqdask.execution.source_registry import probe
from aqdask.store import layout
from aqdask.store.frame_store import COORDINATES, Coordinates, FrameStore, coordinates_of, row_checksum
from aqdask.store.ledger import DONE, Entry, Rows
from aqdask.store.quality_store import QualitySpec, QualityStore, bounds
from aqdask.text import printable

Damage = tuple[str, str, str]  # frame id, where, what
ALL = "(all frames)"
COORDINATES_OF_FRAMES = "frames (coordinates)"


def check_coordinates(
    frames: FrameStore, rows: Sequence[Entry], fraction: float = 1.0, seed: int = 0
) -> list[Damage]:
    """List the frames whose coordinates do not decode or differ from those that were registered.

    With a ``fraction`` below 1, so many of the chunks are read, drawn with ``seed``; one at least.
    """
    damage: list[Damage] = []
    parts = list(planning.slices(rows, layout.ROWS_PER_CHUNK))
    count = min(len(parts), max(1, math.ceil(fraction * len(parts))))
    for number in (
        sorted(np.random.default_rng(seed).choice(len(parts), count, replace=False)) if parts else ()
    ):
        part = parts[number]
        columns, lost = _columns(frames, part)
        for entry, row in zip(part, _rows(columns, len(part)), strict=True):
            if lost:
                damage.append(
                    (entry.frame_id, COORDINATES_OF_FRAMES, f"cannot be decoded: {', '.join(lost)}")
                )
            elif entry.card and row_checksum(row) != entry.card:
                damage.append((entry.frame_id, COORDINATES_OF_FRAMES, "not what was registered"))
    return damage


def repair_coordinates(
    archive: OpenArchive, damaged: set[str], executor: Executor, reporter: Reporter
) -> None:
    """Rewrite the coordinates of chunks with damaged rows from the headers of their sources.

    Where a source is missing or its header has changed, values that still decode are kept, and the others
    come from the ledger.
    """
    rows = archive.ledger.rows()
    for part in planning.slices(rows, layout.ROWS_PER_CHUNK):
        if not any(entry.frame_id in damaged for entry in part):
            continue
        columns, lost = _columns(archive.frames, part)
        found = probe(sorted({entry.path for entry in part}), archive.spec.read, executor, reporter)
        fresh = []
        for entry, row in zip(part, _rows(columns, len(part)), strict=True):
            infos = found[entry.path]
            known = [info for info in infos if info.hdu == entry.hdu] if isinstance(infos, tuple) else []
            new = coordinates_of(entry.frame_id, entry.path, known[0]) if known else None
            if new and entry.state == DONE and entry.card and row_checksum(new) != entry.card:
                new = None
            fresh.append(new or (printable(entry.frame_id), printable(entry.path), entry.hdu, *row[3:]))
        for name in lost:
            _delete_chunk(archive.frames.group, name, part[0].row)
        archive.frames.write_columns(part[0].row, fresh)


def check_quality(store: QualityStore, made: QualitySpec, rows: Rows) -> list[Damage]:
    """List the damage of a quality group's frame-level values, patch bounds and stored model."""
    name = made.name
    damage: list[Damage] = []
    for variable in made.variables:
        if not variable.per_frame:
            continue
        values = layout.read_values(store.group, variable.name)
        if values is None or len(values) != len(rows):
            damage.append((ALL, f"{name} (values)", f"cannot be decoded: {variable.name}"))
            continue
        wanted = rows.value(name, variable.name, variable.fill).astype(values.dtype)
        other = np.flatnonzero((values != wanted) & ~(np.isnan(values) & np.isnan(wanted)))
        damage += [
            (frame_id, f"{name} (values)", f"{variable.name} is {values[at]}, the ledger says {wanted[at]}")
            for at, frame_id in zip(other, rows.take(other).texts("frame_id"), strict=True)
        ]
    for axis in (0, 1):
        for edge, expected in bounds(made.grid, axis).items():
            values = layout.read_values(store.group, edge)
            if values is None or not np.array_equal(values, expected):
                damage.append((ALL, f"{name} (fixed)", f"{edge} is not the bounds of the patches"))
    bundle = layout.read_values(store.group, "bundle")
    digest = "" if bundle is None else hashlib.sha256(bundle.tobytes()).hexdigest()
    if digest != made.attributes["model_sha256"]:
        remedy = "aqdask score with the model file writes it again"
        damage.append((ALL, f"{name} (bundle)", f"the stored model is damaged; {remedy}"))
    return damage


def repair_quality(store: QualityStore, made: QualitySpec, rows: Rows, found: Sequence[Damage]) -> None:
    """Rewrite damaged frame-level values from the ledger, and damaged bounds of the patches."""
    places = {where for _, where, _ in found}
    if f"{made.name} (values)" in places:
        for variable in made.variables:
            if variable.per_frame:
                array: zarr.Array = store.group[variable.name]  # type: ignore[assignment]
                for start in range(0, len(rows), layout.ROWS_PER_CHUNK):
                    _delete_chunk(store.group, variable.name, start)
                array[:] = rows.value(made.name, variable.name, variable.fill).astype(array.dtype)
    if f"{made.name} (fixed)" in places:
        store.write_bounds(made.grid)


def _columns(frames: FrameStore, part: Sequence[Entry]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the coordinates of consecutive rows, by name; return the names that do not decode as well.

    Those have fill values.
    """
    at = slice(part[0].row, part[-1].row + 1)
    columns, lost = {}, []
    for name, (kind, fill, _) in COORDINATES.items():
        values = layout.read_values(frames.group, name, at)
        if values is None or len(values) != len(part):
            lost.append(name)
            values = np.full(len(part), fill, dtype=object if kind is str else kind)
        columns[name] = values
    return columns, lost


def _rows(columns: dict[str, np.ndarray], count: int) -> Iterator[Coordinates]:
    return (tuple(columns[name][position] for name in COORDINATES) for position in range(count))


def _delete_chunk(group: zarr.Group, name: str, row: int) -> None:
    """Delete the chunk that begins at a row: zarr cannot overwrite a damaged one."""
    layout.delete_shard(group[name], (row // layout.ROWS_PER_CHUNK,))  # type: ignore[arg-type]
