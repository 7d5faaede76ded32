"""Command ``label``: verdicts of a person on frames and boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from aqdask.cli.common import Session, local_command
from aqdask.errors import EXIT_DONE, UsageError
from aqdask.text import plural

if TYPE_CHECKING:
    from aqdask.products.agreement import LabelAgreement

GOOD, BAD = "good", "bad"


class BoxParameter(click.ParamType):
    """Four whole numbers ``X0,Y0,X1,Y1``."""

    name = "box"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers; the archive checks that they lie in the frame."""
        try:
            found = tuple(int(part) for part in value.split(","))
        except ValueError:
            found = ()
        if len(found) != 4:
            self.fail(f"{value!r} is not X0,Y0,X1,Y1 in whole pixels", param, ctx)
        return found


@click.command()
@click.argument("archive")
@click.argument("frame", required=False)
@click.argument("verdict", required=False, type=click.Choice([GOOD, BAD]))
@click.option(
    "--box", metavar="X0,Y0,X1,Y1", type=BoxParameter(),
    help="Label these pixels only: first and one past the last, from 0.",
)  # fmt: skip
@click.option("--note", metavar="TEXT", help="Remark that is stored with the label.")
@click.option(
    "--from",
    "from_file",
    metavar="FILE",
    help="Add, or take back, what the page of `report` saved: all or none.",
)
@click.option("--remove", is_flag=True, help="Take the label of FRAME, or of its --box, back.")
@click.option("--list", "list_all", is_flag=True, help="List the labels that count.")
@click.option(
    "--model",
    metavar="NAME",
    help="With --list: model that the labels are compared with, where there are several.",
)
@click.option(
    "--alpha", type=float, help="With --list: false-mask rate of the compared mask.  [default: 0.01]"
)
@local_command
def label(
    session: Session,
    archive: str,
    frame: str | None,
    verdict: str | None,
    box: Sequence[int] | None,
    note: str | None,
    from_file: str | None,
    remove: bool,
    list_all: bool,
    model: str | None,
    alpha: float | None,
) -> int:
    """Label FRAME of ARCHIVE (an id or a pattern), or a box of it, as good or bad.

    Frames labelled bad are never references, those labelled good are proposed first, and boxes labelled bad
    are no data for `calibrate`. Scores and masks do not change. The last verdict on a frame or box counts; a
    line says how many were changed.
    --list also compares flags and masks with the labels.
    """
    from aqdask import api

    forms = (frame is not None, from_file is not None, list_all)
    half = (verdict is not None) == remove if frame is not None else remove or note or box
    unused = not list_all and (model is not None or alpha is not None)
    if sum(forms) != 1 or half or unused:
        raise UsageError(
            "no single request",
            expected="FRAME good|bad, FRAME --remove, --from FILE, or --list (with --model, --alpha)",
            consequence="No label was changed",
            remedy="`aqdask label --help` shows all forms",
        )
    if list_all:
        _list(session, archive, model, 0.01 if alpha is None else alpha)
        return EXIT_DONE
    before = _verdicts(archive)
    if from_file is not None:
        number = api.label_from_file(archive, from_file, reporter=session.reporter)
        what = f"written from {from_file}"
    else:
        assert frame is not None
        number = api.label(archive, frame, None if remove else verdict, box=box, note=note or "")
        what = "taken back" if remove else f"{verdict!r} given"
    after = _verdicts(archive)
    changed = Counter(
        (verdict, after[unit]) for unit, verdict in before.items() if after.get(unit, verdict) != verdict
    )
    text = f"{archive}: {plural(number, 'label')} {what}"
    for (old, new), count in sorted(changed.items()):
        text += f"; {plural(count, 'label')} changed from {old!r} to {new!r}"
    session.emit(text, event="label", archive=archive, labels=number, changed=changed.total())
    return EXIT_DONE


def _verdicts(archive: str) -> dict[tuple[Any, ...], str]:
    """Return the verdict on each labelled frame and box."""
    from aqdask import api

    names = ("frame_id", "x0", "y0", "x1", "y1")
    return {tuple(row[name] for name in names): row["verdict"] for row in api.labels(archive).to_pylist()}


def _list(session: Session, archive: str, model: str | None, alpha: float) -> None:
    """Print the labels, and the agreement of flags and masks with them."""
    from aqdask import api
    from aqdask.stats.masking import check_alpha
    from aqdask.store import layout, quality_store

    check_alpha(alpha)
    rows = api.labels(archive).to_pylist()
    is_compared = model is not None or (rows and quality_store.names(layout.open_root(archive)))
    agreement = api.label_agreement(archive, model=model, alpha=alpha) if is_compared else None
    columns = ("frame", "verdict", "box", "by", "time", "note", "valid")
    session.table("labels", columns, [
        (row["frame_id"], row["verdict"], _box(row), row["by"], row["time"], row["note"],
         "yes" if row["valid"] else "no: the pixels were replaced since")
        for row in rows
    ])  # fmt: skip
    if not rows or agreement is None:
        return
    counted = ("of", "reason", "labelled bad", "found", "labelled good", "false", "precision", "recall")
    session.table(f"agreement with {agreement.quality} at alpha = {alpha}", counted, [
        (row.unit, row.reason or "all", row.bad, row.found, row.good, row.false, row.precision, row.recall)
        for row in agreement.rows
    ])  # fmt: skip
    if agreement.unscored:
        number = plural(len(agreement.unscored), "labelled frame")
        text = f"not scored: {number}, such as {agreement.unscored[0]}"
        session.emit(text, event="unscored", frames=list(agreement.unscored))


def _box(row: dict[str, object]) -> str | None:
    return None if row["x0"] is None else ",".join(str(row[name]) for name in ("x0", "y0", "x1", "y1"))


def counted(number: int, verdict: str, unit: str) -> str:
    """Return a number of labelled frames or boxes in words."""
    return plural(number, f"{verdict} {unit}", f"{verdict} {'boxes' if unit == 'box' else 'frames'}")


def in_words(agreement: LabelAgreement) -> str:
    """Return the agreement of all reasons in one line; empty where nothing is compared."""
    parts = []
    for unit, verb in (("frame", "flagged"), ("box", "masked")):
        row = agreement.of(unit)
        if row is not None:
            parts += [f"{row.found} of {counted(row.bad, BAD, unit)} {verb}"] if row.bad else []
            parts += [f"{row.false} of {counted(row.good, GOOD, unit)} {verb}"] if row.good else []
    return ", ".join(parts)
