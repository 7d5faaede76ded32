"""Command ``photometry``: light curves, and their scatter with and without the mask."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aqdask.cli.common import Session, command
from aqdask.cli.products import alpha_option, filter_option, frames_option, model_option
from aqdask.errors import EXIT_DONE, EXIT_QUARANTINED, UsageError
from aqdask.text import printable


@click.command()
@click.argument("archive")
@click.option("--out", metavar="FOLDER", required=True, help="Folder of the tables and the plot.")
@click.option(
    "--targets",
    metavar="CSV",
    help="Stars to measure: columns ra,dec (degrees) or x,y (pixels of --reference), and name.",
)
@click.option(
    "--stars",
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Bright stars taken automatically, which make the zero points; auto: up to 1000. With 0 the targets "
    "make them.",
)
@click.option(
    "--reference",
    metavar="FRAME",
    help="Frame on which the stars are chosen.  [default: the first of `rank --for reference`]",
)
@click.option(
    "--radius", type=float, metavar="PX", help="Aperture radius.  [default: 1.7 FWHM of the reference]"
)
@frames_option
@filter_option
@alpha_option
@model_option
@command
def photometry(
    session: Session,
    archive: str,
    out: str,
    targets: str | None,
    stars: str,
    reference: str | None,
    radius: float | None,
    frames: Sequence[str],
    band: str | None,
    alpha: float,
    model: str | None,
) -> int:
    """Measure light curves of the same stars on all scored frames of ARCHIVE, with and without the mask.

    Stars are found by the WCS of each frame, or by their pattern where there is none (extra `align`). Zero
    points come from an ensemble of stars, without the mask, with it, and with weights from the p-values.

    \b
    FOLDER/light_curves   a row for each star and frame, Parquet
    FOLDER/stars.parquet  mean magnitude and scatter of each star, in all three ways
    FOLDER/frames.parquet zero point, extinction and sky of each frame
    FOLDER/scatter.png    scatter against magnitude
    FOLDER/fluxes         what was measured on each frame, from which the rest is made

    Exit code 1: some frames could not be measured; they are named.
    """
    from aqdask import api

    if stars != "auto" and not stars.isdecimal():
        raise UsageError(
            f"--stars {printable(stars)}", expected="auto, or a number of stars",
            consequence="Nothing was measured",
        )  # fmt: skip
    with session.executor() as executor:
        found = api.light_curves(
            archive, out, targets=targets, stars=None if stars == "auto" else int(stars), reference=reference,
            radius=radius, frames=frames or None, filter=band, alpha=alpha, model=model,
            cluster=executor, reporter=session.reporter,
        )  # fmt: skip
    if found.problems:
        session.table("frames without photometry:", ("frame", "reason"), found.problems)
    session.emit(
        *(gain.sentence() for gain in found.gains), f"{out}: reference frame {printable(found.reference)}",
        event="photometry", folder=out, reference=found.reference,
        gains=[gain._asdict() | {"ratio": gain.ratio} for gain in found.gains],
    )  # fmt: skip
    return EXIT_QUARANTINED if found.problems else EXIT_DONE
