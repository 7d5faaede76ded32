"""Export of a whole archive: masks written on the workers, then tables of all frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa

from aqdask.errors import UsageError, place_failed
from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.pipeline import blame, collect
from aqdask.execution.reporter import Reporter
from aqdask.execution.work_estimate import seconds
from aqdask.io.places import absolute
from aqdask.products.dq import ExportJob, MaskResult, MaskTask, MaskWriter, write_dq
from aqdask.products.mask_summaries import summarise_masks
from aqdask.products.plain_images import write_flags, write_weight
from aqdask.products.sky_masks import write_moc, write_regions
from aqdask.products.table import frame_table, write_csv, write_ecsv, write_parquet
from aqdask.store import layout
from aqdask.store.ledger import DONE, SKIPPED, Entry, open_ledger
from aqdask.text import plural

PathLike = str | os.PathLike[str]
FRAMES_PER_TASK = 4


@dataclass(frozen=True)
class MaskFormat:
    """Format of one file per frame, ``<folder>/<format>/<file>``.

    Parameters
    ----------
    summary : str
        Name of such files in the plural.
    write : callable
        Takes a `FrameMask` and the folder, returns the name of the file. It runs on the workers.
    package : str
        Package of the extra `sky` that it needs; empty for none.
    """

    summary: str
    write: MaskWriter
    package: str = ""


@dataclass(frozen=True)
class TableFormat:
    """Format of one file per archive, ``<folder>/<file>``.

    Parameters
    ----------
    summary : str
        Name of the file.
    write : callable
        Takes the table of `frame_table` and the folder.
    """

    summary: str
    write: Callable[[pa.Table, Path], object]


# The only table of export formats: `aqdask.export` and `aqdask export --format` read it.
FORMATS: dict[str, MaskFormat | TableFormat] = {
    "dq": MaskFormat("DQ images", write_dq),
    "weight": MaskFormat("weight maps", write_weight),
    "flags": MaskFormat("flag images", write_flags),
    "parquet": TableFormat("frames.parquet", write_parquet),
    "ecsv": TableFormat("frames.ecsv", write_ecsv),
    "csv": TableFormat("frames.csv", write_csv),
    "regions": MaskFormat("region files", write_regions, package="regions"),
    "moc": MaskFormat("MOCs", write_moc, package="mocpy"),
}
DEFAULT_FORMATS = ("dq", "parquet", "ecsv")
TABLE_FORMATS = ("parquet",)  # without masks; ECSV of a million frames takes minutes


def check_formats(formats: Sequence[str], *, masks: bool = True) -> None:
    """Raise `UsageError` for an unknown format, one that needs masks where there are none, or a package."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError(
                f"the export format {name!r}",
                expected=f"one of {', '.join(FORMATS)}",
                consequence="Nothing was written",
            )
        if not masks and isinstance(FORMATS[name], MaskFormat):
            raise UsageError(
                f"the export format {name!r} without masks (--table)",
                expected="formats of tables",
                consequence="Nothing was written",
                remedy="leave out one of both",
            )
        package = getattr(FORMATS[name], "package", "")
        if package and not find_spec(package):
            raise UsageError(
                f"the export format {name!r} without the package {package}",
                expected="aqdask with its extra for positions on the sky, on the workers, too",
                consequence="Nothing was written",
                remedy="pip install 'aqdask[sky]'",
            )


def export_all(
    archive: PathLike,
    quality: str,
    folder: Path,
    alpha: float,
    executor: Executor,
    reporter: Reporter,
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    masks: bool = True,
    reasons: bool = True,
) -> pa.Table:
    """Write masks and tables of an archive in these `FORMATS`; see `aqdask.export`."""
    check_formats(formats, masks=masks)
    chosen = {name: FORMATS[name] for name in formats}
    writers = {name: row.write for name, row in chosen.items() if isinstance(row, MaskFormat)}
    try:
        for place in (folder, *(folder / name for name in writers)):
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_failed(folder, error) from error
    found: dict[int, MaskResult] = {}
    if masks:
        found = compute_masks(archive, quality, alpha, executor, reporter, folder=folder, writers=writers)
    for name, row in chosen.items():
        absent = sum(not result.problem and result.files.get(name) == "" for result in found.values())
        if absent:
            who = f"{absent} of {plural(len(found), 'frame')} {'has' if absent == 1 else 'have'}"
            reporter.say(f"note: {who} no {row.summary}: no WCS, or a part of one")
    summaries = summarise_masks(archive, quality, alpha) if reasons else None
    table = frame_table(archive, quality, found, summaries)
    for row in chosen.values():
        if isinstance(row, TableFormat):
            try:
                row.write(table, folder)
            except OSError as error:
                raise place_failed(folder, error) from error
    return table


def compute_masks(
    archive: PathLike,
    quality: str,
    alpha: float,
    executor: Executor,
    reporter: Reporter,
    *,
    folder: PathLike = "",
    writers: Mapping[str, MaskWriter] | None = None,
) -> dict[int, MaskResult]:
    """Compute the masks of all frames, and write them with ``writers`` below ``folder``.

    Frames that were not scored because they are no lights have no mask.

    Returns
    -------
    dict of int to MaskResult
        Masked fractions, files and problems by row of the archive.
    """
    root = layout.open_root(archive)
    ledger = open_ledger(root)
    entries = [entry for entry in ledger.rows() if entry.standing(quality)[0] != SKIPPED]
    tasks = [MaskTask(e.row, _maps_checksum(e, quality), e.invalid_pixels, e.place) for e in entries]
    stage = "export" if writers else "mask"
    reporter.start(stage, len(tasks))
    places = (absolute(place) for place in (archive, folder))
    job = ExportJob(next(places), quality, alpha, next(places), writers or {})

    def failed(task: MaskTask, error: Exception) -> MaskResult:
        return MaskResult(task.row, problem=blame(error))

    found: dict[int, MaskResult] = {}
    batches = planning.slices(tasks, FRAMES_PER_TASK)
    work = seconds(stage, len(tasks), layout.read_spec(root).shape)
    for batch, results in collect(executor, job, batches, stage=stage, failed=failed, work=work):
        found |= {result.row: result for result in results}
        reporter.advance(len(batch), sum(bool(result.problem) for result in results))
    reporter.finish()
    return found


def _maps_checksum(entry: Entry, quality: str) -> str:
    """Checksum of a frame's stored maps; empty without maps."""
    score = entry.scores.get(quality)
    return score.crc32c if score and score.state == DONE else ""
