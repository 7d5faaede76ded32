"""Commands ``rank`` and ``stack``: the best frames, and their stack."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aqdask.cli.common import Session, command
from aqdask.cli.products import alpha_option, filter_option, frames_option, model_option
from aqdask.errors import EXIT_DONE, EXIT_QUARANTINED, UsageError
from aqdask.text import plural

SHOWN = (
    "rank",
    "frame_id",
    "filter",
    "weight",
    "depth",
    "noise",
    "size",
    "transparency",
    "masked",
    "flag_reason",
)


@click.command()
@click.argument("archive")
@click.option(
    "--for", "purpose", default="stack", show_default=True, type=click.Choice(["stack", "reference"]),
    help="Purpose: a stack, or the reference of difference images.",
)  # fmt: skip
@filter_option
@frames_option
@click.option("--measure", is_flag=True, help="Measure noise, FWHM and transparency on the pixels.")
@click.option(
    "--limit",
    default=20,
    type=click.IntRange(min=0),
    show_default=True,
    help="Number of frames listed of each camera and filter; 0: all.",
)
@click.option("--out", metavar="FILE", help="Write the whole table: .csv, .ecsv or .parquet.")
@alpha_option
@model_option
@command
def rank(
    session: Session,
    archive: str,
    purpose: str,
    band: str | None,
    frames: Sequence[str],
    measure: bool,
    limit: int,
    out: str | None,
    alpha: float,
    model: str | None,
) -> int:
    """Rank the frames of ARCHIVE by quality, those of each camera and filter apart.

    weight: squared signal to noise of a star, T^2 / (noise^2 size^2), times the unmasked fraction, relative
    to the best frame (--for reference: of its peak). depth: gain in magnitudes of a stack of this frame and
    all better ones. Flagged frames come last. Without --measure from stored scores, with T = 1.
    """
    from aqdask import api
    from aqdask.measurements.rank import UNITS
    from aqdask.products.table_files import check_table, write_table

    if out:
        check_table(out)
    with session.executor() as executor:
        table = api.rank_frames(
            archive, purpose=purpose, filter=band, frames=frames or None, alpha=alpha, model=model,
            measure=measure, cluster=executor, reporter=session.reporter,
        )  # fmt: skip
    if not table.num_rows:
        raise UsageError(
            "no scored frame", expected="frames with a score", consequence="There is no rank",
            remedy="`aqdask info ARCHIVE --quarantined` lists frames without one, and the reasons",
        )  # fmt: skip
    if out:
        write_table(table, out)
    rows = [row for row in table.to_pylist() if not limit or row["rank"] <= limit]
    shown = [f"{name} [{UNITS[name]}]" if name in UNITS else name for name in SHOWN]
    columns = SHOWN if session.json else shown
    session.table(
        f"frames for a {purpose}, best first:", columns, [tuple(map(row.get, SHOWN)) for row in rows]
    )
    left = f", {table.num_rows - len(rows)} more with --limit 0" if len(rows) < table.num_rows else ""
    session.emit(f"{plural(table.num_rows, 'frame')}{left}", event="rank", frames=table.num_rows, path=out)
    return EXIT_DONE


@click.command()
@click.argument("archive")
@click.option("--out", required=True, metavar="FITS", help="The stack; an earlier one is replaced.")
@filter_option
@frames_option
@click.option("--best", type=int, metavar="N", help="Stack the N best frames (aqdask rank).")
@click.option(
    "--reference",
    metavar="FRAME",
    help="Frame whose pixels and counts the stack has.  [default: the first of `rank --for reference`]",
)
@click.option("--no-mask", is_flag=True, help="Keep masked pixels.")
@click.option("--no-weights", is_flag=True, help="Weight all frames equally.")
@click.option(
    "--clip", default=4.0, show_default=True, help="Clip pixels this many sigma from their median; 0: none."
)
@click.option(
    "--mesh",
    default=0,
    help="Mesh on which the sky is subtracted, px.  [default: a sixteenth of the frame, 32 to 128]",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Show the depth without mask, and without mask and weights, too; clipped alike.",
)
@alpha_option
@model_option
@command
def stack(
    session: Session,
    archive: str,
    out: str,
    band: str | None,
    frames: Sequence[str],
    best: int | None,
    reference: str | None,
    no_mask: bool,
    no_weights: bool,
    clip: float,
    mesh: int,
    compare: bool,
    alpha: float,
    model: str | None,
) -> int:
    """Stack the frames of one filter of ARCHIVE without their masked pixels, weighted by inverse variance.

    Frames are aligned by WCS, or by matching stars (extra `align`), and scaled to the stars of the reference.
    FITS: mean above the sky, WEIGHT, COVERAGE, CLIPPED and the table FRAMES. While it runs, resampled frames
    lie in FITS.parts, 8 bytes a pixel.
    """
    from aqdask import api

    with session.executor() as executor:
        found = api.stack(
            archive, out, filter=band, frames=frames or None, best=best, reference=reference,
            masked=not no_mask, weighted=not no_weights, clip=clip, mesh=mesh, compare=compare, alpha=alpha,
            model=model, cluster=executor, reporter=session.reporter,
        )  # fmt: skip
    used = sum(found.frames["used"].to_pylist())
    rows = [(name, *one) for name, one in found.depths.items()]
    columns = ("stack", "depth [mag]", "depth, rms [mag]", "noise [count]", "apertures")
    session.table(
        "5 sigma depth of a star, -2.5 log10 of counts of the reference, larger is deeper:", columns, rows
    )
    listed = zip(*(found.frames[name].to_pylist() for name in ("frame_id", "reason")), strict=True)
    left_out = [(name, reason) for name, reason in listed if reason]
    if left_out:
        session.table("frames that are not in the stack:", ("frame", "reason"), left_out)
    session.emit(
        f"{out}: {used} of {plural(found.frames.num_rows, 'frame')} on the pixels of {found.reference}",
        event="stack", path=out, frames=found.frames.num_rows, used=used, reference=found.reference,
        depths={name: one._asdict() for name, one in found.depths.items()},
    )  # fmt: skip
    return EXIT_QUARANTINED if found.problems else EXIT_DONE
