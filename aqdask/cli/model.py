"""Commands that make and apply a model: ``select``, ``train``, ``calibrate`` and ``score``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqdask.cli.common import Session, all_types_option, command
from aqdask.errors import EXIT_DONE, EXIT_QUARANTINED, UsageError
from aqdask.execution.reporter import TrainingReporter
from aqdask.methods.registry import METHODS
from aqdask.methods.training.losses import LOSSES
from aqdask.methods.training.options import ARCHITECTURES, AUGMENTATIONS, DEPTHS, NORMS
from aqdask.methods.training.schedules import SCHEDULES
from aqdask.paths import write_text
from aqdask.text import plural

if TYPE_CHECKING:
    from aqdask.methods.bundle import Bundle


def _by_method(setting: str) -> str:
    """Write the default of a training setting that each method has of its own."""
    named = {name: method.defaults.get(setting) for name, method in METHODS.items() if method.train}
    return f"[default: {', '.join(f'{name} {value}' for name, value in named.items() if value is not None)}]"


def _rows(table: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {summary}" for name, summary in table.items()) + "."


def network_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of network, loss and optimiser, whose help is that of the tables."""
    losses = {name: loss.summary for name, loss in LOSSES.items()}
    schedules = {name: (row.__doc__ or "").partition(".")[0].lower() for name, row in SCHEDULES.items()}
    plain = "Others than the default are trained from random weights, as is another depth, width or norm."
    options = (
        click.option("--architecture", type=click.Choice([*ARCHITECTURES]), default="plain",
                     show_default=True, help=f"Autoencoder. {_rows(ARCHITECTURES)} {plain}"),
        click.option("--depth", type=click.IntRange(DEPTHS[0], DEPTHS[-1]),
                     help=f"Halvings of a patch by convolutions.  {_by_method('depth')}"),
        click.option("--width", type=int, help=f"Channels at the first of them.  {_by_method('width')}"),
        click.option("--norm", type=click.Choice([*NORMS]), help=f"{_rows(NORMS)}  {_by_method('norm')}"),
        click.option("--dropout", default=0.0, show_default=True, help="Fraction of channels dropped."),
        click.option("--loss", default="mse", show_default=True, metavar="NAME[:WEIGHT][+...]",
                     help=f"Loss, or a weighted sum (ssim:0.2+mse:0.8). {_rows(losses)}"),
        click.option("--augment", metavar="NAME[+...]",
                     help=f"none, or some of {', '.join(AUGMENTATIONS)}.  {_by_method('augment')}"),
        click.option("--schedule", type=click.Choice([*SCHEDULES]), default="cosine", show_default=True,
                     help=f"Learning rate. {_rows(schedules)}"),
        click.option("--warm-up", type=click.IntRange(0),
                     help=f"Steps in which the learning rate rises.  {_by_method('warm_up')}"),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("archive")
@click.option("--keep", multiple=True, metavar="FRAME", help="Propose this light (id or pattern).")
@click.option("--drop", multiple=True, metavar="FRAME", help="Never propose this frame (id or pattern).")
@click.option("--out", metavar="FILE", help="Write the proposed ids, for --frames @FILE.")
@command
def select(session: Session, archive: str, keep: Sequence[str], drop: Sequence[str], out: str | None) -> int:
    """Propose reference frames of ARCHIVE by image statistics, separately for each camera and filter.

    All sound lights are proposed, the best 24 where there are more; frames of other types (by their headers)
    and colour mosaics never, nor those with a streak, or with a column that is bad in a part of the frames; a
    note names that. The best frames come first. FWHM is in px, background and rms are in the unit of
    the pixels. The score is the weighted mean, over all statistics, of the distance from the median of the
    camera and filter in robust sigma, positive towards worse quality. An empty list of --out ends with exit
    code 1.
    """
    from aqdask import api

    with session.executor() as executor:
        found = api.select(archive, keep=keep, drop=drop, cluster=executor, reporter=session.reporter)
    found.sort(key=lambda proposal: (not proposal.proposed, proposal.score))
    columns = ("proposed", "frame", "score", "fwhm", "ellipticity", "background", "rms", "sources", "reason")
    rows = [
        ("yes" if p.proposed else "no", p.id, p.score, p.measures.fwhm, p.measures.ellipticity,
         p.measures.background, p.measures.rms, p.measures.sources, p.reason)
        for p in found
    ]  # fmt: skip
    session.table("", columns, rows)
    chosen = [proposal.id for proposal in found if proposal.proposed]
    if out:
        _write_list(out, sorted(chosen))
    where = "" if not out else f", listed in {out}" if chosen else f": the list {out} is empty"
    session.emit(
        f"{len(chosen)} of {plural(len(found), 'frame')} proposed{where}", event="select", proposed=chosen
    )
    return EXIT_QUARANTINED if out and not chosen else EXIT_DONE


@click.command()
@click.argument("archive")
@click.option(
    "--method",
    type=click.Choice([name for name, method in METHODS.items() if method.train]),
    default="aqdask",
    show_default=True,
    help="; ".join(f"{name}: {method.summary}" for name, method in METHODS.items() if method.train) + ".",
)
@click.option("--out", required=True, metavar="FILE", help="Model bundle to write, one safetensors file.")
@click.option(
    "--frames",
    multiple=True,
    metavar="FRAME",
    help="Reference frames: ids, patterns (L/*), or @FILE.  [default: as `select` proposes]",
)
@click.option("--name", help="Name of the model; part of the quality group's name.  [default: from FILE]")
@click.option("--steps", type=click.IntRange(1), help=f"Optimiser steps.  {_by_method('steps')}")
@network_options
@click.option("--seed", default=0, show_default=True, help="Seed of split, crops, flips and initial weights.")
@click.option(
    "--patch", default=64, show_default=True, type=click.IntRange(16), help="Side of a patch in px."
)
@click.option(
    "--alpha", default=0.01, show_default=True, help="Smallest false-mask rate that masks must allow."
)
@click.option("--two-sided", is_flag=True, help="Count stars sharper than the references' as bad, too.")
@command
def train(session: Session, archive: str, out: str, frames: Sequence[str], **settings: Any) -> int:
    """Train a model on reference frames of ARCHIVE and calibrate it on held-out ones."""
    from aqdask import api

    settings["name"] = settings["name"] or _name_from(out)
    chosen = _named(frames)
    with session.executor() as executor:
        bundle = api.train(
            archive, frames=chosen, out=out, progress=TrainingReporter(session.reporter), cluster=executor,
            reporter=session.reporter, **settings,
        )  # fmt: skip
    return _report_model(session, out, bundle)


@click.command()
@click.argument("archive")
@click.option("--model", required=True, metavar="MODEL", help="Model bundle, or `wide-field`.")
@click.option("--out", required=True, metavar="FILE", help="Calibrated copy of the bundle.")
@click.option(
    "--frames",
    multiple=True,
    metavar="FRAME",
    help="Good frames, 3 or more for each camera and filter (24 are enough); as for `train`.  "
    "[default: as `select` proposes]",
)
@click.option(
    "--from",
    "start",
    metavar="TIME",
    help="Calibrate for frames from TIME on (ISO 8601, UTC), beside the calibrations of other times.",
)
@click.option("--until", "stop", metavar="TIME", help="Calibrate for frames before TIME; see --from.")
@click.option(
    "--span", is_flag=True, help="Calibrate for the span of time of the reference frames; see --from."
)
@click.option("--name", help="Name of the copy; part of the quality group's name.  [default: from FILE]")
@click.option("--seed", default=0, show_default=True, help="Seed of the random split of the frames.")
@click.option(
    "--alpha", default=0.01, show_default=True, help="Smallest false-mask rate that masks must allow."
)
@click.option("--two-sided", is_flag=True, help="Count stars sharper than the references' as bad, too.")
@command
def calibrate(
    session: Session,
    archive: str,
    model: str,
    out: str,
    frames: Sequence[str],
    start: str | None,
    stop: str | None,
    span: bool,
    **settings: Any,
) -> int:
    """Calibrate the p-values of MODEL on good frames of ARCHIVE, by camera and filter, without training.

    Noise model, hot pixels, sky templates and p-values are fitted anew; pixels are not changed (no bias, dark
    or flat correction). Refused are too few frames, outliers, and frames that one noise model does not fit.

    With --from, --until or --span the calibration serves frames of that span of time only, and its
    references are of it; those of other spans are kept. `score` takes for each frame the calibration whose
    span holds its time, else the one without a span, else the nearest. `aqdask drift` tells when to calibrate
    anew.
    """
    from aqdask import api

    if start or stop or span:
        settings["span"] = _span(start, stop, span)
    settings["name"] = settings["name"] or _name_from(out)
    with session.executor() as executor:
        bundle = api.calibrate(
            archive, model, frames=_named(frames), out=out, progress=TrainingReporter(session.reporter),
            cluster=executor, reporter=session.reporter, **settings,
        )  # fmt: skip
    return _report_model(session, out, bundle)


def _span(start: str | None, stop: str | None, of_frames: bool) -> str:
    """Join the options of a span of time."""
    from aqdask.methods.calibration_spans import OF_FRAMES, TimeSpan

    if of_frames and (start or stop):
        raise UsageError(
            "--span beside --from or --until",
            expected="the span of the reference frames, or one with ends that are given",
            consequence="Nothing was calibrated",
            remedy="leave out one of them",
        )
    return OF_FRAMES if of_frames else str(TimeSpan.between(start, stop))


def _named(frames: Sequence[str]) -> list[str] | None:
    """Frame ids and patterns of ``--frames``, with the lines of ``@lists``; None without any."""
    if not frames:
        return None
    from aqdask.io.frame_ids import listed_frames

    named = (listed_frames(entry[1:]) if entry.startswith("@") else [entry] for entry in frames)
    return [line for lines in named for line in lines]


def _name_from(out: str) -> str:
    """Derive the name of a model from the name of its file."""
    from aqdask.methods.bundle import LONGEST_NAME

    name = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", Path(out).stem)
    return name[:LONGEST_NAME].strip("-._") or "model"


def _report_model(session: Session, out: str, bundle: Bundle) -> int:
    """Report a bundle that was just written."""
    session.reporter.finish()
    facts = bundle.info()
    session.emit(
        f"{out}: model {bundle.name}, {facts['parameters']} parameters, sha256 {bundle.digest[:16]}..., "
        f"calibrated on {plural(facts['calibrations']['']['patches'], 'patch', 'patches')}",
        event="model",
        path=out,
        **{name: facts[name] for name in ("name", "digest", "method", "patch", "parameters")},
    )
    return EXIT_DONE


@click.command()
@click.argument("archive")
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Model bundle from `train` or `calibrate`; `wide-field` itself works with a warning.",
)
@all_types_option
@click.option("--retry", is_flag=True, help="Score frames again whose scoring failed.")
@click.option(
    "--strict", is_flag=True, help="Refuse cameras and filters that the model is not calibrated for."
)
@command
def score(session: Session, archive: str, model: str, all_types: bool, retry: bool, strict: bool) -> int:
    """Score every patch of every light of ARCHIVE that MODEL has not scored yet.

    Run `aqdask calibrate` first: alpha is the masked fraction of good patches only for cameras and filters
    that MODEL is calibrated for.
    """
    from aqdask import api

    bundle = api.load_model(model)
    with session.executor() as executor:
        summary = api.score(
            archive, bundle, retry=retry, strict=strict, all_types=all_types, cluster=executor,
            reporter=session.reporter,
        )  # fmt: skip
    return session.summary(summary, "scored")


def _write_list(path: str, ids: Sequence[str]) -> None:
    from aqdask.errors import place_failed
    from aqdask.io.frame_ids import list_line

    try:
        write_text(path, "".join(f"{list_line(frame_id)}\n" for frame_id in ids))
    except OSError as error:
        raise place_failed(path, error) from error
