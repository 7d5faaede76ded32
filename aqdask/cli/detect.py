"""Command ``detect``: catalogues of the sources of scored frames."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aqdask.cli.common import Session, command
from aqdask.cli.products import alpha_option, filter_option, frames_option, model_option
from aqdask.errors import EXIT_DONE, EXIT_QUARANTINED, UsageError
from aqdask.text import plural, printable

NO_CATALOGUE = "frames without a catalogue:"


def _radii(context: click.Context, option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--apertures {printable(text)}", expected="radii in pixels such as 3,6, without a unit",
            consequence="Nothing was detected",
        ) from error  # fmt: skip


@click.command()
@click.argument("archive")
@click.option(
    "--out",
    metavar="FOLDER",
    help="Parquet dataset to write, or to continue.  [default: sources.parquet in <ARCHIVE>-products]",
)
@frames_option
@filter_option
@alpha_option
@model_option
@click.option("--threshold", default=3.0, show_default=True, help="Sigma of the local sky noise.")
@click.option("--minarea", default=5, show_default=True, help="Least number of pixels above the threshold.")
@click.option(
    "--apertures", default="3,6", show_default=True, metavar="R,...", callback=_radii, help="Radii in px."
)
@click.option("--deblend-nthresh", default=32, show_default=True, help="Number of thresholds for deblending.")
@click.option(
    "--deblend-cont",
    default=0.005,
    show_default=True,
    help="Least contrast of a deblended part; 1: no deblending.",
)
@click.option(
    "--clean",
    is_flag=True,
    help="Remove detections in the wings of bright ones; trails then take stars with them.",
)
@click.option(
    "--segmentation", metavar="FOLDER", help="Write the segmentation map of each frame as FITS, too."
)
@command
def detect(
    session: Session,
    archive: str,
    out: str | None,
    alpha: float,
    model: str | None,
    frames: Sequence[str],
    band: str | None,
    segmentation: str | None,
    **options: object,
) -> int:
    """Detect and measure the sources of the scored frames of ARCHIVE with sep.

    The catalogue is a folder of Parquet files with a row group for each frame, for dask.dataframe and pandas.
    Sources are detected on the unmasked frame: beside position, fluxes, size and shape, each row has the
    masked fraction of its apertures at --alpha, and p-value, reason, size ratio and noise ratio of its patch,
    so that you decide what to believe. Pixels without data are blanked. Every column has its unit and
    description in the metadata of its field. A run that was interrupted is continued by the same command.
    """
    from aqdask import api

    with session.executor() as executor:
        found = api.detect(
            archive, out, alpha=alpha, model=model, frames=frames or None, filter=band,
            segmentation=segmentation, cluster=executor, reporter=session.reporter, **options,
        )  # fmt: skip
    if found.problems:
        session.table(NO_CATALOGUE, ("frame", "reason"), found.problems)
    text = f"{found.path}: {plural(found.sources, 'source')} in {plural(found.frames, 'frame')}"
    session.emit(text, event="detect", folder=str(found.path), frames=found.frames, sources=found.sources)
    return EXIT_QUARANTINED if found.problems else EXIT_DONE
