"""Search of an archive for transients: templates, frames, and the files of candidates."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from aqdask.errors import UsageError, place_failed
from aqdask.execution.executors import Executor
from aqdask.execution.reporter import Reporter
from aqdask.io.places import absolute, sweep
from aqdask.measurements.cutouts import WRITERS
from aqdask.measurements.frame_tables import FrameRows, check_folder, measure_frames
from aqdask.measurements.rank import rank_frames, reference_order
from aqdask.measurements.scored_frame import ScoredFrames, scored_places
from aqdask.measurements.templates import choose_templates
from aqdask.measurements.transients import VERDICTS, TransientSearch

BEST = "best"
CANDIDATES, CUTOUTS = "candidates", "cutouts"  # folders
BATCH = 1024  # rows that are read at a time


class SearchedFrame(NamedTuple):
    """Number of candidates of one frame by verdict."""

    frame_id: str
    template: str
    good: int
    masked: int
    masked_in_template: int


@dataclass(frozen=True)
class FoundTransients:
    """Files of a search.

    Parameters
    ----------
    folder : Path
        Parquet dataset of the candidates, for ``dask.dataframe.read_parquet``.
    cutouts : Path or None
        Folder of the cut-outs.
    templates : tuple of str
        Ids of the templates.
    searched : tuple of FrameRows
        Row, number of candidates and file of each frame but the templates, in the order of the archive.
    problems : tuple of (str, str)
        Id and reason of each frame that could not be searched.
    """

    folder: Path
    cutouts: Path | None
    templates: tuple[str, ...]
    searched: tuple[FrameRows, ...]
    problems: tuple[tuple[str, str], ...]

    def candidates(self) -> Iterator[dict[str, Any]]:
        """Yield candidates one by one, in the order of the archive and by significance."""
        for file in dict.fromkeys(one.file for one in self.searched if one.rows):
            with pq.ParquetFile(self.folder / file) as stored:
                for batch in stored.iter_batches(BATCH):
                    yield from batch.to_pylist()

    def by_frame(self) -> Iterator[SearchedFrame]:
        """Yield the counts of each frame with candidates; one file is open at a time."""
        names = ["frame_id", "template", "verdict"]
        for file in dict.fromkeys(one.file for one in self.searched if one.rows):
            table = pq.read_table(self.folder / file, columns=names)
            for frame_id in pc.unique(table["frame_id"]).to_pylist():
                rows = table.filter(pc.equal(table["frame_id"], frame_id))
                verdicts = rows["verdict"].to_pylist()
                yield SearchedFrame(frame_id, rows["template"][0].as_py(), *map(verdicts.count, VERDICTS))


def search_transients(
    archive: str | os.PathLike[str],
    quality: str,
    out: Path,
    executor: Executor,
    reporter: Reporter,
    *,
    template: Sequence[str],
    patterns: Sequence[str] | None,
    band: str | None,
    threshold: float,
    alpha: float,
    gain: float | None,
    cutouts: str,
) -> FoundTransients:
    """Search scored frames for transients; parameters and errors as for `aqdask.api.transients`."""
    _check(threshold, gain, cutouts)
    check_folder(out / CANDIDATES)
    places, without = scored_places(archive, quality)
    is_best = list(template) == [BEST]
    if is_best:
        table = rank_frames(archive, quality, alpha, executor, reporter, band=band, needs_rank=False)
        order = reference_order(table, alpha)
    else:
        named, unusable = scored_places(archive, quality, template)
        if unusable or not named:
            raise UsageError(
                f"the template {': '.join(unusable[0]) if unusable else f'{template[0]} is no scored light'}",
                expected="scored lights",
                consequence="Nothing was searched",
                remedy="`aqdask info ARCHIVE --frames` lists the frames",
            )
        order = [place.frame.row for place in named]
    templates = choose_templates(archive, places, order, each_field=is_best)
    chosen = places
    if patterns is not None or band is not None:
        chosen, without = scored_places(archive, quality, patterns, band)
    folder = out / CUTOUTS if cutouts else None
    try:
        for path in (out, folder):
            if path:
                path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_failed(out, error) from error
    reader = ScoredFrames(absolute(archive), quality, alpha)
    search = TransientSearch(
        reader, templates, float(threshold), math.nan if gain is None else float(gain), cutouts,
        absolute(folder) if folder else "",
    )  # fmt: skip
    found, problems = measure_frames(
        archive,
        quality,
        alpha,
        search,
        out / CANDIDATES,
        executor,
        reporter,
        stage="transients",
        places=chosen,
    )
    if folder:
        sweep(folder, f"*.{cutouts}.*")
    return FoundTransients(
        out / CANDIDATES,
        folder,
        tuple(one.frame_id for one in templates),
        tuple(one for one in found if one.row not in {template.row for template in templates}),
        tuple(problems + without),
    )


def _check(threshold: float, gain: float | None, cutouts: str) -> None:
    for name, value in (("threshold", threshold), ("gain", gain)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(
                f"{name} = {value}", expected="a number above 0", consequence="Nothing was searched"
            )
    if cutouts and cutouts not in WRITERS:
        raise UsageError(
            f"cut-outs as {cutouts!r}",
            expected=f"one of {', '.join(WRITERS)}",
            consequence="Nothing was searched",
        )
