"""Masks and the table of frames of a whole archive, cut on the workers."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from aqdask.errors import place_failed
from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.pipeline import blame, collect
from aqdask.execution.reporter import Reporter
from aqdask.products.dq import Cut, ExportJob, Wanted
from aqdask.products.table import frame_table, write_table
from aqdask.store import layout
from aqdask.store.ledger import DONE, Entry, open_ledger

PathLike = str | os.PathLike[str]
FRAMES_PER_TASK = 4


def export_all(
    archive: PathLike,
    quality: str,
    folder: Path,
    alpha: float,
    executor: Executor,
    reporter: Reporter,
    *,
    dq: bool = True,
) -> pa.Table:
    """Write ``frames.parquet``, ``frames.ecsv`` and, with ``dq``, ``dq/<frame>.dq.fits``: `aqdask.export`."""
    images = folder / "dq"
    try:
        (images if dq else folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_failed(folder, error) from error
    masked = masked_fractions(archive, quality, alpha, executor, reporter, folder=images if dq else None)
    table = frame_table(archive, quality, masked)
    write_table(table, folder)
    return table


def masked_fractions(
    archive: PathLike,
    quality: str,
    alpha: float,
    executor: Executor,
    reporter: Reporter,
    *,
    folder: Path | None = None,
) -> dict[int, Cut]:
    """Masks of every frame as they were cut, by row; with ``folder``, DQ images are written there."""
    ledger = open_ledger(layout.open_root(archive))
    items = [Wanted(e.row, _maps_checksum(e, quality), e.invalid_pixels) for e in ledger.rows()]
    stage = "export" if folder else "mask"
    reporter.start(stage, len(items))
    place = str(folder.absolute()) if folder else ""
    job = ExportJob(str(Path(archive).absolute()), quality, place, alpha)

    def failed(item: Wanted, error: Exception) -> Cut:
        return Cut(item.row, problem=blame(error))

    found: dict[int, Cut] = {}
    parts = planning.slices(items, FRAMES_PER_TASK)
    for part, answers in collect(executor, job, parts, stage=stage, failed=failed):
        found |= {cut.row: cut for cut in answers}
        reporter.advance(len(part), sum(bool(cut.problem) for cut in answers))
    reporter.finish()
    return found


def _maps_checksum(entry: Entry, quality: str) -> str:
    """Checksum of a frame's stored maps; empty where it has none."""
    score = entry.scores.get(quality)
    return score.crc32c if score and score.state == DONE else ""
