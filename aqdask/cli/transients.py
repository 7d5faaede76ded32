"""Command ``transients``: candidates of difference images with the verdict of the masks."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aqdask.cli.common import Session, command
from aqdask.cli.products import alpha_option, filter_option, frames_option, model_option
from aqdask.errors import EXIT_DONE, EXIT_QUARANTINED
from aqdask.text import plural


@click.command()
@click.argument("archive")
@click.option(
    "--out", required=True, metavar="FOLDER", help="Folder of the candidates; an earlier search goes on."
)
@click.option(
    "--template",
    multiple=True,
    default=["best"],
    show_default=True,
    metavar="FRAME|best",
    help="Frame (id or pattern; may be repeated, one for each camera, filter and field) that the others are "
    "compared with; best: the first of `rank --for reference`.",
)
@frames_option
@filter_option
@click.option("--threshold", default=5.0, show_default=True, help="Sigma of a candidate.")
@click.option("--gain", type=float, help="Electrons per count.  [default: that of the header]")
@click.option(
    "--cutouts",
    type=click.Choice(["fits", "png"]),
    help="Write frame, template and difference around at most 100 candidates of each frame.",
)
@alpha_option
@model_option
@command
def transients(
    session: Session,
    archive: str,
    out: str,
    template: Sequence[str],
    frames: Sequence[str],
    band: str | None,
    threshold: float,
    gain: float | None,
    cutouts: str | None,
    alpha: float,
    model: str | None,
) -> int:
    """Search the frames of ARCHIVE for what has changed, with the verdict of the masks beside each candidate.

    Each frame is compared with a template of its camera, filter and field, aligned by WCS or by stars.
    FOLDER/candidates is a Parquet dataset: place, significance, flux, nearest star, masked fraction of the
    aperture, p-value and reason of the patch in both frames, and the verdict: good, masked, or masked in the
    template. With --json each candidate is a line. Exit code 1: some frames could not be searched.
    """
    from aqdask import api

    with session.executor() as executor:
        found = api.transients(
            archive, out, template=template, frames=frames or None, filter=band, threshold=threshold,
            alpha=alpha, model=model, gain=gain, cutouts=cutouts or "", cluster=executor,
            reporter=session.reporter,
        )  # fmt: skip
    if session.json:
        for candidate in found.candidates():
            time = candidate.pop("time")
            session.emit(event="candidate", time=time.isoformat() if time else None, **candidate)
    rows = list(found.by_frame())
    if not session.json:
        columns = ("frame", "template", "good", "masked", "masked in the template")
        session.table(f"candidates above {threshold:g} sigma:", columns, rows)
    if found.problems:
        session.table("frames that could not be searched:", ("frame", "reason"), found.problems)
    good, masked = sum(row.good for row in rows), sum(row.masked + row.masked_in_template for row in rows)
    searched = sum(not one.problem for one in found.searched)
    told = (
        f"{good} good and {masked} masked candidates of {plural(searched, 'frame')}, "
        f"against {plural(len(found.templates), 'template')}"
    )
    if not found.searched and not found.problems:
        told = "nothing was searched: every frame chosen is a template itself"
    session.emit(
        f"{found.folder}: {told}",
        event="transients", folder=str(found.folder), cutouts=str(found.cutouts) if found.cutouts else None,
        frames=searched, templates=len(found.templates), good=good, masked=masked,
    )  # fmt: skip
    return EXIT_QUARANTINED if found.problems else EXIT_DONE
