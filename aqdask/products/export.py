"""Masks and the table of frames of a whole archive, cut on the workers."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from aqdask.archive import layout
from aqdask.archive.ledger import Ledger
from aqdask.engine import plan
from aqdask.engine.executors import Executor
from aqdask.engine.reporter import Reporter
from aqdask.engine.runner import collect
from aqdask.errors import place_failed
from aqdask.products.dq import ExportJob
from aqdask.products.table import frame_table, write_table

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
) -> dict[int, tuple[float, str]]:
    """Row to (masked fraction of the pixels, exported file); with ``folder``, DQ images are written there."""
    ledger = Ledger(layout.open_root(archive)["ledger"])  # type: ignore[arg-type]
    rows = [entry.row for entry in ledger.rows()]
    reporter.start("export" if folder else "mask", len(rows))
    place = str(folder.absolute()) if folder else ""
    job = ExportJob(str(Path(archive).absolute()), quality, place, alpha)
    found: dict[int, tuple[float, str]] = {}
    batches = plan.slices(rows, FRAMES_PER_TASK)
    for part, answers in collect(executor, job, batches, stage="export" if folder else "mask"):
        found |= {row: (fraction, name) for row, fraction, name in answers}
        reporter.advance(len(part))
    reporter.finish()
    return found
