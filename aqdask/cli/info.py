"""``aqdask info``: what an archive or a model holds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from aqdask.cli.common import Session, command
from aqdask.errors import EXIT_DONE


@click.command()
@click.argument("path")
@click.option("--quarantined", is_flag=True, help="List every quarantined frame with its reason.")
@click.option("--frames", is_flag=True, help="List every frame.")
@command
def info(session: Session, path: str, quarantined: bool, frames: bool) -> int:
    """Say what an archive, or a model bundle, holds."""
    if Path(path).is_file():
        _model(session, path)
        return EXIT_DONE
    from aqdask.archive import layout, maps
    from aqdask.archive.ledger import QUARANTINED, Ledger

    root = layout.open_root(path)
    ledger, spec = Ledger(root["ledger"]), layout.read_spec(root)  # type: ignore[arg-type]
    names = maps.names(root)
    counts = ledger.counts(names)
    scored = {name: _scored(ledger, name) for name in names}
    facts = {
        "archive": path,
        "layout version": root.attrs["layout_version"],
        "created by": root.attrs["created_by"],
        "frame shape (y, x)": f"{spec.shape[0]} x {spec.shape[1]}",
        "type": spec.dtype,
        "frames": ledger.row_count,
        **counts,
        "pixels": "stored" if spec.pixels else "not stored (--no-pixels)",
        "quality": ", ".join(f"{n} ({done} of {of} frames)" for n, (done, of) in scored.items())
        or "none yet",
    }
    session.emit(
        "\n".join(f"{name:18} {value}" for name, value in facts.items()),
        event="info",
        archive=path,
        layout_version=root.attrs["layout_version"],
        created_by=root.attrs["created_by"],
        shape=list(spec.shape),
        dtype=spec.dtype,
        frames=ledger.row_count,
        **counts,
        pixels=spec.pixels,
        quality={name: {"done": done, "of": of} for name, (done, of) in scored.items()},
    )
    entries = sorted(ledger.entries.values(), key=lambda entry: entry.frame_id)
    bad = [
        (e.frame_id, reason) for e in entries for state, reason in [e.worst(names)] if state == QUARANTINED
    ]
    if quarantined:
        session.table("quarantined", ("frame", "reason"), bad)
    elif bad and not session.json:
        reasons = Counter(reason for _, reason in bad).most_common(10)
        title = "quarantined, by reason (all with --quarantined)"
        session.table(title, ("files", "reason"), [(number, reason) for reason, number in reasons])
    if frames:
        rows = [(e.row, e.frame_id, e.worst(names)[0]) for e in ledger.rows()]
        session.table("frames", ("row", "frame", "state"), rows)
    return EXIT_DONE


def _scored(ledger: Any, name: str) -> tuple[int, int]:
    """How many frames have a score, of how many that could."""
    rows = [entry for entry in ledger.rows() if entry.state == "done"]
    return sum(entry.standing(name)[0] == "done" for entry in rows), len(rows)


def _model(session: Session, path: str) -> None:
    from aqdask.models.bundle import Bundle

    facts = Bundle.load(path).info()
    session.emit(json.dumps(facts, indent=2, ensure_ascii=False), event="model", **facts)
