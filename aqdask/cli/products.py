"""``aqdask mask`` and ``export``: from stored p-values to masks, without running a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aqdask.cli.common import Session, command
from aqdask.errors import EXIT_DONE

if TYPE_CHECKING:
    from aqdask.engine.executors import Executor


@click.command()
@click.argument("archive")
@click.option("--alpha", default=0.01, show_default=True, help="False-mask rate on good patches, in (0, 1).")
@click.option("--model", metavar="NAME", help="Which model's maps, where there are several.")
@click.option("--out", metavar="ZARR", help="Write the mask, bool (frame, y, x); replaces an earlier one.")
@click.option("--pictures", metavar="DIR", help="Write a PNG a frame: the mask in red over the frame.")
@command
def mask(
    session: Session, archive: str, alpha: float, model: str | None, out: str | None, pictures: str | None
) -> int:
    """Cut the mask of ARCHIVE at ALPHA and say how much of each frame it takes."""
    from aqdask import api
    from aqdask.archive.frames import FrameStore
    from aqdask.kernels.masking import check_alpha
    from aqdask.products.export import masked_fractions
    from aqdask.products.quality import check_mask_path, quality_name, write_mask

    check_alpha(alpha)
    quality = quality_name(archive, model)
    if out:
        check_mask_path(out)
    with session.executor() as executor:
        found = masked_fractions(archive, quality, alpha, executor, session.reporter)
        if out:
            write_mask(api.mask(api.open_quality(archive, quality), alpha), out)
        if pictures:
            _pictures(session, executor, archive, quality, pictures, alpha, sorted(found))
    ids = FrameStore.open(archive).coordinate("frame_id")
    rows = [(str(ids[row]), fraction) for row, (fraction, _) in sorted(found.items())]
    session.table(f"masked at alpha = {alpha}:", ("frame", "masked_fraction"), rows)
    if out:
        session.emit(f"mask: {out}", event="mask", path=out, alpha=alpha, quality=quality)
    if pictures:
        session.emit(f"pictures: {pictures}", event="pictures", path=pictures)
    return EXIT_DONE


def _pictures(
    session: Session,
    executor: Executor,
    archive: str,
    quality: str,
    folder: str,
    alpha: float,
    rows: Sequence[int],
) -> None:
    from aqdask.engine.runner import collect
    from aqdask.errors import place_failed
    from aqdask.products.plots import PictureJob, require_matplotlib

    require_matplotlib()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_failed(folder, error) from error
    job = PictureJob(str(Path(archive).absolute()), quality, str(Path(folder).absolute()), alpha)
    session.reporter.start("pictures", len(rows))
    for part, _ in collect(executor, job, [(row,) for row in rows], stage="pictures"):
        session.reporter.advance(len(part))
    session.reporter.finish()


@click.command()
@click.argument("archive")
@click.argument("out")
@click.option("--alpha", default=0.01, show_default=True, help="False-mask rate on good patches, in (0, 1).")
@click.option("--model", metavar="NAME", help="Which model's maps, where there are several.")
@click.option("--no-dq", is_flag=True, help="The table of frames only, no DQ images.")
@command
def export(session: Session, archive: str, out: str, alpha: float, model: str | None, no_dq: bool) -> int:
    """Write masks of ARCHIVE as FITS DQ images, and the table of frames, into the folder OUT.

    OUT/dq/<frame>.dq.fits: unsigned, compressed, bit meanings and WCS in the header, with checksums.
    OUT/frames.parquet and OUT/frames.ecsv: one row a frame or source.
    """
    from aqdask import api

    with session.executor() as executor:
        table = api.export(
            archive, out, alpha=alpha, model=model, dq=not no_dq, cluster=executor, reporter=session.reporter
        )
    written = sum(bool(name) for name in table["dq_file"].to_pylist())
    text = f"{out}: {written} DQ images, frames.parquet and frames.ecsv with {table.num_rows} rows"
    session.emit(text, event="export", folder=out, dq_images=written, rows=table.num_rows)
    return EXIT_DONE
