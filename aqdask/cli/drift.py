"""Command ``drift``: change points of cameras, and when to calibrate anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import click

from aqdask.cli.common import Session, local_command
from aqdask.cli.products import alpha_option, filter_option, frames_option, model_option
from aqdask.errors import EXIT_DONE
from aqdask.text import plural, shortened


@click.command()
@click.argument("archive")
@click.option("--out", metavar="FILE", help="Write the changes as a table: .csv, .ecsv or .parquet.")
@frames_option
@filter_option
@alpha_option
@model_option
@click.option("--no-maps", is_flag=True, help="Do not follow hot pixels and repeats; no map is read.")
@local_command
def drift(
    session: Session,
    archive: str,
    out: str | None,
    frames: Sequence[str],
    band: str | None,
    alpha: float,
    model: str | None,
    no_maps: bool,
) -> int:
    """Tell when the cameras of ARCHIVE changed, and when to calibrate anew, from stored scores.

    Size, ellipticity, noise, gain, hot pixels, fixed-position repeats and sky are followed by camera, filter
    and calibration: the medians of nights, or frames where there are fewer than 20 nights. Flagged frames
    count only where most of their neighbours in time are flagged, too. A change needs five nights (or frames)
    on each side; most trends are one change. Neighbours that are alike, such as nights of one season, hide
    small changes.
    """
    from aqdask import api
    from aqdask.products.table_files import check_table, write_table

    if out:
        check_table(out)
    found = api.drift(archive, frames=frames or None, filter=band, model=model, alpha=alpha, maps=not no_maps)
    columns = ("camera", "filter", "quantity", "kind", "time (UTC)", "before", "after", "unit", "sigma",
               "frames before", "frames after", "places")  # fmt: skip
    rows = [
        (c.camera, c.filter, c.quantity.replace("_", " "), c.kind, str(c.time)[:19], c.before, c.after,
         c.unit, None if math.isnan(c.sigma) else c.sigma, c.frames_before, c.frames_after, c.places)
        for c in found.changes
    ]  # fmt: skip
    if rows:
        session.table("changes:", columns, rows)
    else:
        session.emit("no changes were found", event="changes", changes=0)
    for use in found.calibrations:
        session.emit(use.text, event="calibration", **asdict(use))
    if missing := found.without_time:
        text = f"without a time, and not followed: {plural(len(missing), 'frame')}, {shortened(missing)}"
        session.emit(text, event="without_time", frames=list(missing))
    for note in found.notes:
        session.emit(f"note: {note}", event="note", text=note)
    if out:
        write_table(found.table, out)
        number = len(found.changes)
        session.emit(f"{out}: {plural(number, 'change')}", event="table", path=out, changes=number)
    return EXIT_DONE
