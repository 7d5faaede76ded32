"""Commands on stored p-values, which run no network: ``compare``, ``mask`` and ``export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aqdask.cli.common import Session, command, local_command
from aqdask.errors import EXIT_DONE, EXIT_QUARANTINED, UsageError
from aqdask.text import plural, printable

if TYPE_CHECKING:
    from aqdask.execution.executors import Executor

alpha_option = click.option(
    "--alpha", default=0.01, show_default=True, help="False-mask rate on good patches, in (0, 1)."
)
model_option = click.option(
    "--model", metavar="NAME", help="Model whose maps are used, where the archive has several."
)
frames_option = click.option(
    "--frames", multiple=True, metavar="FRAME", help="Only these frames (ids or patterns); may be repeated."
)
filter_option = click.option("--filter", "band", metavar="NAME", help="Only frames of this filter.")
NO_MASK = "frames without a mask:"


@click.command()
@click.argument("archive")
@alpha_option
@model_option
@click.option("--out", metavar="ZARR", help="Write the mask, bool (frame, y, x); replaces an earlier one.")
@click.option("--pictures", metavar="DIR", help="Write a PNG for each frame, with the mask in red.")
@command
def mask(
    session: Session, archive: str, alpha: float, model: str | None, out: str | None, pictures: str | None
) -> int:
    """Show the masked fraction of each frame of ARCHIVE at ALPHA."""
    from aqdask import api
    from aqdask.products.export import compute_masks
    from aqdask.products.open import check_mask_path, quality_name, write_mask
    from aqdask.stats.masking import check_alpha
    from aqdask.store.frame_store import FrameStore

    check_alpha(alpha)
    quality = quality_name(archive, model)
    if out:
        check_mask_path(out)
    with session.executor() as executor:
        found = compute_masks(archive, quality, alpha, executor, session.reporter)
        if out:
            write_mask(api.mask(api.open_quality(archive, quality), alpha), out)
        if pictures:
            undamaged = [row for row, result in sorted(found.items()) if not result.problem]
            _pictures(session, executor, archive, quality, pictures, alpha, undamaged)
    ids = FrameStore.open(archive).coordinate("frame_id")
    results = [(str(ids[row]), result) for row, result in sorted(found.items())]
    rows = [(frame, result.masked) for frame, result in results if not result.problem]
    session.table(f"masked at alpha = {alpha}:", ("frame", "masked_fraction"), rows)
    damaged = [(frame, result.problem) for frame, result in results if result.problem]
    if damaged:
        session.table(NO_MASK, ("frame", "reason"), damaged)
    if out:
        session.emit(f"mask: {out}", event="mask", path=out, alpha=alpha, quality=quality)
    if pictures:
        session.emit(f"pictures: {pictures}", event="pictures", path=pictures)
    return EXIT_QUARANTINED if damaged else EXIT_DONE


def _pictures(
    session: Session,
    executor: Executor,
    archive: str,
    quality: str,
    folder: str,
    alpha: float,
    rows: Sequence[int],
) -> None:
    from aqdask.errors import place_failed
    from aqdask.execution.pipeline import blame, collect
    from aqdask.execution.work_estimate import seconds
    from aqdask.io.places import absolute
    from aqdask.plot import require_matplotlib
    from aqdask.products.plots import PictureJob
    from aqdask.store import layout
    from aqdask.store.frame_store import Place
    from aqdask.store.ledger import open_ledger

    require_matplotlib()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_failed(folder, error) from error
    job = PictureJob(absolute(archive), quality, str(Path(folder).absolute()), alpha)
    places = {entry.row: entry.place for entry in open_ledger(layout.open_root(archive)).rows()}

    def failed(place: Place, error: Exception) -> str:
        session.reporter.say(f"warning: no picture of {printable(place.path)}: {blame(error)}")
        return ""

    session.reporter.start("pictures", len(rows))
    batches = [(places[row],) for row in rows]
    work = seconds("pictures", len(rows), layout.read_spec(layout.open_root(archive)).shape)
    for batch, _ in collect(executor, job, batches, stage="pictures", failed=failed, work=work):
        session.reporter.advance(len(batch))
    session.reporter.finish()


class FormatName(click.ParamType):
    """Name of an export format; the table of formats is imported only for the help of `export`."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the names of the table."""
        from aqdask.products.export import FORMATS

        return f"[{'|'.join(FORMATS)}]"


@click.command()
@click.argument("archive")
@click.argument("out")
@alpha_option
@model_option
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=FormatName(),
    help="Write this format; may be repeated.  [default: dq, parquet and ecsv]",
)
@click.option("--no-dq", is_flag=True, help="Write no DQ images.")
@click.option(
    "--table",
    "table_only",
    is_flag=True,
    help="Write the table alone, as Parquet unless --format names another; no map is read, so that "
    "masked_fraction and the columns of reasons are empty. For archives of a million frames.",
)
@click.option(
    "--reasons",
    is_flag=True,
    help="With --table: read the p-value maps all the same, for the reasons and shares of the masked patches "
    "at --alpha.",
)
@command
def export(
    session: Session,
    archive: str,
    out: str,
    alpha: float,
    model: str | None,
    formats: Sequence[str],
    no_dq: bool,
    table_only: bool,
    reasons: bool,
) -> int:
    """Write the masks of ARCHIVE as FITS DQ images, and the table of frames, into the folder OUT.

    OUT/dq/<frame>.dq.fits: unsigned, compressed, bit meanings and WCS in the header, with checksums.
    OUT/frames.parquet and OUT/frames.ecsv (--format csv: OUT/frames.csv): one row for each frame or source
    with its time, place on the sky, state, score and the reasons of its mask.
    OUT/regions/<frame>.reg (--format regions): masked patches in the format of DS9's region files.
    OUT/moc/<frame>.moc.fits (--format moc): masked patches as a MOC, where the frame has a WCS.
    """
    from aqdask import api
    from aqdask.products.export import DEFAULT_FORMATS, FORMATS, TABLE_FORMATS, TableFormat
    from aqdask.products.table import frames_without_mask

    if no_dq and "dq" in formats:
        raise UsageError(
            "--format dq beside --no-dq", expected="one of both", consequence="Nothing was written",
            remedy="leave out one of them",
        )  # fmt: skip
    wanted = formats or (TABLE_FORMATS if table_only else DEFAULT_FORMATS)
    chosen = [name for name in wanted if not (no_dq and name == "dq")]
    with session.executor() as executor:
        table = api.export(
            archive,
            out,
            alpha=alpha,
            model=model,
            formats=chosen,
            masks=not table_only,
            reasons=reasons or not table_only,
            cluster=executor,
            reporter=session.reporter,
        )
    damaged = frames_without_mask(table)
    if damaged:
        session.table(NO_MASK, ("frame", "reason"), damaged)
    tables = [FORMATS[name].summary for name in chosen if isinstance(FORMATS[name], TableFormat)]
    columns = {name: f"{name}_file" for name in chosen if not isinstance(FORMATS[name], TableFormat)}
    files = {
        name: sum(bool(file) for file in table[column].to_pylist()) if column in table.column_names else 0
        for name, column in columns.items()
    }
    words = {name: FORMATS[name].summary for name in files}
    parts = [plural(number, words[name].removesuffix("s"), words[name]) for name, number in files.items()]
    if tables:
        parts.append(f"{' and '.join(tables)} with {plural(table.num_rows, 'row')}")
    session.emit(f"{out}: {', '.join(parts)}", event="export", folder=out, dq_images=files.get("dq", 0),
                 files=files, rows=table.num_rows)  # fmt: skip
    return EXIT_QUARANTINED if damaged else EXIT_DONE


@click.command()
@click.argument("archive")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="Give twice: the old model, then the new."
)
@click.option("--alpha", default=0.01, show_default=True, help="False-mask rate of both masks, in (0, 1).")
@click.option(
    "--frames", default=20, show_default=True, type=click.IntRange(0),
    help="Number of frames listed, most changes first.",
)  # fmt: skip
@click.option(
    "--report",
    metavar="FOLDER",
    help="Write compare.html, a page with both masks of the frames that changed most, and a change log to be "
    "published with the masks: changes.md and changes.csv.",
)
@local_command
def compare(
    session: Session, archive: str, models: Sequence[str], alpha: float, frames: int, report: str | None
) -> int:
    """Compare the masks of two models on the frames of ARCHIVE.

    gained: masked by the second model only; lost: by the first only. Patches without a score in either are
    counted separately.
    """
    from aqdask import api
    from aqdask.io.places import check_output
    from aqdask.products.open import quality_name
    from aqdask.stats.masking import check_alpha

    check_alpha(alpha)
    names = [quality_name(archive, model) for model in models]
    if len(names) != 2 or names[0] == names[1]:
        raise UsageError(
            f"--model {' --model '.join(models)}" if models else "no --model",
            expected="two different models of this archive",
            consequence="There is nothing to compare",
            remedy="give --model twice, the old and the new one; `aqdask info` lists them",
        )
    if report:
        check_output(Path(report) / "compare.html")
    a, b = (api.open_quality(archive, name) for name in names)
    found = api.compare(a, b, alpha, reporter=session.reporter)
    facts = found.facts()
    lines = (f"{name.replace('_', ' '):18} {_shown(value)}" for name, value in facts.items())
    session.emit(*lines, "", event="compare", archive=archive, **facts)
    reasons = [(change.reason, change.gained, change.lost) for change in found.by_reason]
    session.table("reasons of changes", ("reason", "gained", "lost"), reasons)
    table = found.by_frame.isel(frame=slice(frames))
    table = table.isel(frame=(table["gained"] + table["lost"]).values > 0)
    columns = ("masked_a", "masked_b", "gained", "lost")
    numbers = (table[name].values.tolist() for name in columns)
    rows = list(zip(map(str, table["frame_id"].values), *numbers, strict=True))
    session.table("frames with the most changes", ("frame", *columns), rows)
    if report:
        from aqdask.products.report.comparison import write_comparison

        path, told = write_comparison(found, archive, (a, b), report, session.reporter)
        session.emit(*told, f"{path}", event="comparison", path=str(path), summary=list(told))
    return EXIT_DONE


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
