"""Commands that fill and check an archive: ``ingest``, ``run`` and ``verify``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from aqdask.cli.common import Session, all_types_option, command
from aqdask.errors import EXIT_DONE, EXIT_FAILED, EXIT_QUARANTINED, UsageError
from aqdask.store.codecs import CODECS
from aqdask.text import plural

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
STORING: tuple[Decorator, ...] = (
    click.option("--hdu", metavar="N|NAME|all", help="Image HDU.  [default: the first 2-D image]"),
    click.option("--mask-hdu", metavar="NAME[:BITS]",
                 help="Extension whose non-zero pixels are bad, or those with one of BITS: names in its "
                      "header, bit numbers from 0, or values with 0x (MASK:BAD,SAT, DQ:0,3 or DQ:0x9)."),
    click.option("--mask-files", metavar="PATTERN",
                 help="Mask file of each frame, relative to its folder: masks/{name}_mask.fits. "
                      "--mask-hdu NAME:BITS then refers to that file."),
    click.option("--bad-pixel-map", metavar="FITS", help="Image whose non-zero pixels are bad."),
    click.option("--keyword", "keywords", multiple=True, metavar="WHAT=CARD",
                 help="Read time, exptime, filter, camera or (frame) type from this header card."),
    click.option("--no-sections", is_flag=True,
                 help="Ignore DATASEC, TRIMSEC and BIASSEC.  [default: overscan is no data]"),
    click.option("--no-fill", is_flag=True,
                 help="Keep large areas of one value.  [default: they are no data]"),
    click.option("--no-pixels", is_flag=True, help="Store quality maps only; score the files in place."),
)  # fmt: skip
SHARDS: tuple[Decorator, ...] = (
    click.option("--chunk", type=click.IntRange(16), help="Side of a chunk in px.  [default: 512]"),
    click.option("--codec", type=click.Choice(list(CODECS)),
                 help=f"Compression.  [default: {next(iter(CODECS))}]"),
    click.option("--frames-per-shard", type=click.IntRange(1),
                 help="Frames per stored object of a quality map.  [default: 1 to 16, by archive]"),
)  # fmt: skip
SELECTION: tuple[Decorator, ...] = (
    click.option("--rehash", is_flag=True,
                 help="Detect changed files by sha256, not by size and modification time."),
    click.option("--retry", is_flag=True, help="Try quarantined frames again."),
    click.option("--forget", is_flag=True,
                 help="Drop stored frames whose source is gone or no longer holds them."),
)  # fmt: skip
BY_SHAPE = click.option("--by-shape", is_flag=True, help="One archive for each frame shape and type.")


def storing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about reading and storing frames, for `watch`."""
    return _with_options(function, *STORING, *SHARDS)


def ingest_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of an ingest, for `ingest` and `run`."""
    return _with_options(function, *STORING, BY_SHAPE, *SHARDS, *SELECTION)


def _with_options(function: Callable[..., Any], *options: Decorator) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def ingest_settings(keywords: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Convert the options of the command line to fields of `IngestOptions`."""
    pairs = tuple(tuple(keyword.split("=", 1)) for keyword in keywords)
    allowed = ("time", "exptime", "filter", "camera", "type")
    for pair in pairs:
        if len(pair) != 2 or pair[0] not in allowed:
            raise UsageError(
                f"--keyword {'='.join(pair)}",
                expected=f"WHAT=CARD with WHAT one of {', '.join(allowed)}",
                consequence="Nothing was ingested",
                remedy="for example --keyword time=MJD",
            )
    for name in ("pixels", "sections", "fill"):
        options[name] = False if options.pop(f"no_{name}") else None
    return {**options, "keywords": pairs or None}


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("archive")
@ingest_options
@command
def ingest(session: Session, sources: tuple[str, ...], archive: str, **options: Any) -> int:
    """Ingest FITS frames into a zarr ARCHIVE, in parallel and resumable.

    SOURCES are files, folders (recursive), globs, or @list.txt; they and ARCHIVE may be s3://BUCKET/KEY. A
    second run with the same or more sources adds the new ones only. A file that cannot be used is quarantined
    with its reason. Frames of any type are taken; those that are no lights (bias, dark, flat, arc, focus,
    calibration, by their headers) are counted.
    """
    from aqdask import api

    settings = ingest_settings(**options)
    with session.executor() as executor:
        summaries = api.ingest(sources, archive, cluster=executor, reporter=session.reporter, **settings)
    return max(session.summary(summary, "taken in") for summary in summaries)


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("archive")
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Model bundle, or wide-field, which is first calibrated on the best frames.",
)
@click.option(
    "--products", metavar="DIR", help="Folder of masks, table and report.  [default: <ARCHIVE>-products]"
)
@click.option("--alpha", default=0.01, show_default=True, help="False-mask rate on good patches.")
@click.option(
    "--strict", is_flag=True, help="Refuse cameras and filters that the model is not calibrated for."
)
@all_types_option
@ingest_options
@command
def run(
    session: Session,
    sources: tuple[str, ...],
    archive: str,
    model: str,
    products: str | None,
    alpha: float,
    strict: bool,
    all_types: bool,
    **options: Any,
) -> int:
    """Ingest, score and export in one go, reading each frame once, and write the report.

    SOURCES are files, folders (recursive), globs, or @list.txt. Masks, table and report.html go into the
    folder of --products.
    """
    from aqdask import api

    settings = ingest_settings(**options)
    api.load_model(model)  # a missing model is a usage error, before anything starts
    with session.executor() as executor:
        summaries = api.run(
            sources, archive, model, products=products, alpha=alpha, strict=strict, all_types=all_types,
            cluster=executor, reporter=session.reporter, **settings,
        )  # fmt: skip
    code = max(session.summary(summary, "done") for summary in summaries)
    for summary in summaries:
        folder = products or str(api.products_folder(summary.archive))
        session.emit(f"masks, table and report: {folder}", event="products", folder=folder)
    return code


@click.command()
@click.argument("archive")
@click.option(
    "--sample", default=1.0, metavar="N|FRACTION",
    help="Read again so many frames, or up to 1 that fraction of them.  [default: all]",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of the sample.")
@click.option("--repair", is_flag=True, help="Restore pixels from source files, maps by scoring.")
@click.option("--forget", is_flag=True, help="With --repair: drop what cannot be restored.")
@command
def verify(session: Session, archive: str, sample: float, seed: int, repair: bool, forget: bool) -> int:
    """Check that ARCHIVE is complete and that its bytes match the checksums of what was written."""
    from aqdask import api

    if forget and not repair:
        raise UsageError(
            "--forget without --repair",
            expected="both: what can be restored is restored, and the rest is dropped",
            consequence="Nothing was checked",
            remedy="add --repair",
        )
    with session.executor() as executor:
        found = api.verify(
            archive, sample=sample, seed=seed, repair=repair, forget=forget, cluster=executor,
            reporter=session.reporter,
        )  # fmt: skip
    if found.damage:
        session.table("damaged", ("frame", "where", "what"), found.damage)
    if found.incomplete:
        session.table("incomplete", ("frame", "what"), found.incomplete)
    if found.repaired:
        session.table("repaired", ("frame",), [(name,) for name in found.repaired])
    counts = ", ".join(f"{number} {state}" for state, number in found.counts.items())
    verdict = "sound" if found.sound else "NOT sound"
    fields = {"checked": found.checked, "sound": found.sound, "counts": found.counts}
    text = f"{archive}: {verdict}; {plural(found.checked, 'frame')} read again; {counts}"
    session.emit(text, event="verify", archive=archive, **fields)
    if found.given_up:
        session.table("given up (--forget)", ("frame", "why"), found.given_up)
    if found.lost:
        session.table("cannot be repaired", ("frame", "why"), found.lost)
    if not found.sound:
        remedy = "run again with --repair" if not repair else "see what cannot be repaired above"
        if not found.damage:
            remedy = "resume what is incomplete: run the same ingest or score again"
        session.emit(f"What to do: {remedy}.", event="remedy", remedy=remedy)
        return EXIT_FAILED
    return EXIT_QUARANTINED if found.counts["quarantined"] else EXIT_DONE
