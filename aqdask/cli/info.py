"""``aqdask info``: what an archive or a model holds."""

from __future__ import annotations

import json
from collections import Counter
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
    if path.endswith(".safetensors"):
        _model(session, path)
        return EXIT_DONE
    from aqdask.archive import layout, maps
    from aqdask.archive.ledger import QUARANTINED, Ledger

    root = layout.open_root(path)
    ledger, spec = Ledger(root["ledger"]), layout.read_spec(root)  # type: ignore[arg-type]
    facts = {
        "archive": path,
        "layout_version": root.attrs["layout_version"],
        "created_by": root.attrs["created_by"],
        "frame shape (y, x)": f"{spec.shape[0]} x {spec.shape[1]}",
        "type": spec.dtype,
        "frames": len(ledger.rows()),
        **ledger.counts(),
        "pixels": "stored" if spec.pixels else "not stored (--no-pixels)",
        "quality": ", ".join(_scored(ledger, name) for name in maps.names(root)) or "none yet",
    }
    session.emit("\n".join(f"{name:18} {value}" for name, value in facts.items()), event="info", **facts)
    bad = [entry for entry in ledger.entries.values() if entry.state == QUARANTINED]
    bad.sort(key=lambda entry: entry.frame_id)
    if quarantined:
        session.table("quarantined:", ("frame", "reason"), [(e.frame_id, e.reason) for e in bad])
    elif bad and not session.json:
        reasons = Counter(entry.reason for entry in bad).most_common(10)
        session.table("quarantined, by reason (all with --quarantined):", ("files", "reason"),
                      [(number, reason) for reason, number in reasons])  # fmt: skip
    if frames:
        rows = [(e.row, e.frame_id, e.state) for e in ledger.rows()]
        session.table("frames:", ("row", "frame", "state"), rows)
    return EXIT_DONE


def _scored(ledger: Any, name: str) -> str:
    rows = [entry for entry in ledger.rows() if entry.state == "done"]
    done = sum(entry.standing(name)[0] == "done" for entry in rows)
    return f"{name} ({done} of {len(rows)} frames)"


def _model(session: Session, path: str) -> None:
    from aqdask.models.bundle import Bundle

    facts = Bundle.load(path).info()
    session.emit(json.dumps(facts, indent=2, ensure_ascii=False), event="model", **facts)
