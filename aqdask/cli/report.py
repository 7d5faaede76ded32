"""Command ``report``: one HTML page about an archive."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aqdask.cli.common import Session, local_command
from aqdask.cli.products import alpha_option, model_option
from aqdask.errors import EXIT_DONE, EXIT_QUARANTINED
from aqdask.text import plural


@click.command()
@click.argument("archive")
@click.option(
    "--out", metavar="FILE", help="HTML file to write.  [default: report.html in <ARCHIVE>-products]"
)
@alpha_option
@model_option
@click.option(
    "--panels",
    type=click.IntRange(0),
    metavar="N",
    help="Frames whose pixels are shown, the worst and some of the best.  [default: 12 frames of 4096 x 4096 "
    "px, more smaller ones, and a file below 50 MB]",
)
@click.option(
    "--frames", multiple=True, metavar="FRAME", help="Show the pixels of these frames (ids or patterns), too."
)
@local_command
def report(
    session: Session,
    archive: str,
    out: str | None,
    alpha: float,
    model: str | None,
    panels: int | None,
    frames: Sequence[str],
) -> int:
    """Write a page about ARCHIVE for a browser, in one file that needs no network.

    It says in words what is wrong, and shows quality over time, worst and best frames, all frames to sort and
    filter, fixed places of the detector, and each frame with its mask, reconstruction and maps. It is made of
    stored scores; pixels are read of the frames with --panels only. Verdicts given in the page are saved as a
    file. Exit code 1: some frames could not be shown.
    """
    from aqdask import api

    written = api.report(
        archive, out, alpha=alpha, model=model, panels=panels, frames=frames, reporter=session.reporter
    )
    if written.problems:
        session.table("frames that could not be shown:", ("frame", "reason"), written.problems)
    size = written.path.stat().st_size
    frames_in = f"{plural(written.frames, 'frame')}, {len(written.panels)} with pixels"
    text = f"{written.path}: {frames_in}, {size / 1e6:.1f} MB"
    session.emit(
        *written.summary, text, event="report", path=str(written.path), frames=written.frames,
        panels=len(written.panels), bytes=size, summary=list(written.summary),
    )  # fmt: skip
    return EXIT_QUARANTINED if written.problems else EXIT_DONE
