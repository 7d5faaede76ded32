"""Prove that an archive is complete and that its bytes are what was written; redo what is not."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aqdask.archive import fits, layout, maps
from aqdask.archive.frames import FrameStore
from aqdask.archive.ledger import DONE, PENDING, Entry, Ledger
from aqdask.archive.maps import QualityStore
from aqdask.engine import columns, plan
from aqdask.engine.executors import Executor
from aqdask.engine.reporter import Reporter
from aqdask.engine.runner import OpenArchive, collect, process, writing
from aqdask.engine.tasks import VerifyJob
from aqdask.errors import FrameError
from aqdask.models.bundle import Bundle

FRAMES_PER_TASK = 8


@dataclass
class Verification:
    """What `verify` found.

    Parameters
    ----------
    checked : int
        Frames whose stored bytes were read again.
    damage : list of (str, str, str)
        ``(frame_id, where, what)``; ``where`` is 'frames' or the name of a quality group.
    incomplete : list of (str, str)
        ``(frame_id, what)``: pending, or not scored by a model that scored others.
    repaired : list of str
        Frame ids that ``repair`` made good again.
    lost : list of (str, str)
        ``(frame_id, why)`` that ``repair`` cannot make again.
    counts : dict
        Entries by state; a frame counts as quarantined where one of the models could not score it.
    """

    checked: int = 0
    damage: list[tuple[str, str, str]] = field(default_factory=list)
    incomplete: list[tuple[str, str]] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Nothing is damaged and nothing is missing."""
        return not self.damage and not self.incomplete


def verify(
    path: str | os.PathLike[str],
    executor: Executor,
    reporter: Reporter,
    *,
    sample: float = 1.0,
    seed: int = 0,
    repair: bool = False,
) -> Verification:
    """Check completeness, and stored checksums of all frames or of a random ``sample`` of them.

    With ``repair``, what is damaged is made again, pixels from their sources and maps with the model that is
    kept beside them, and checked once more.
    """
    root = layout.open_root(path)
    ledger, names = Ledger(root["ledger"]), maps.names(root)  # type: ignore[arg-type]
    entries = _chosen(ledger.rows(), sample, seed)
    found = Verification(len(entries), counts=ledger.counts(names))
    rows = ledger.rows()
    found.damage = columns.check_coordinates(FrameStore.open(path), rows)
    for name in names:
        found.damage += columns.check_quality(QualityStore.open(path, name), name, rows)
    found.damage += _damage(path, entries, names, executor, reporter)
    found.incomplete = _incomplete(path, ledger, names)
    if repair and not found.sound:
        broken = {(frame_id, where) for frame_id, where, _ in found.damage}
        with writing(path) as archive:
            lost = _repair(archive, found, names, executor, reporter)
        again = verify(path, executor, reporter, sample=1.0)
        left = {(frame_id, where) for frame_id, where, _ in again.damage}
        again.repaired = sorted({frame_id for frame_id, _ in broken - left})
        again.lost = lost
        return again
    return found


def _chosen(rows: list[Entry], sample: float, seed: int) -> list[Entry]:
    if sample >= 1:
        return rows
    count = min(len(rows), max(1, round(sample * len(rows))))
    picked = np.random.default_rng(seed).choice(len(rows), size=count, replace=False)
    return [rows[position] for position in sorted(picked)]


def _damage(
    path: str | os.PathLike[str],
    entries: list[Entry],
    names: list[str],
    executor: Executor,
    reporter: Reporter,
) -> list[tuple[str, str, str]]:
    """Compare every stored checksum of ``entries``."""
    items = []
    for entry in entries:
        pixels = entry.crc32c if entry.state == DONE else ""
        scores = {n: s.crc32c for n in names if (s := entry.scores.get(n)) and s.state == DONE}
        items.append((entry.row, pixels, scores))
    ids = {entry.row: entry.frame_id for entry in entries}
    reporter.start("verify", len(items))
    job = VerifyJob(str(Path(path).absolute()), tuple(names))
    damage = []
    batches = plan.slices(items, FRAMES_PER_TASK)
    for batch, answers in collect(executor, job, batches, stage="verify"):
        damage += [(ids[row], where, what) for row, where, what in answers]
        reporter.advance(len(batch), len({row for row, _, _ in answers}))
    reporter.finish()
    return sorted(damage)


def _incomplete(path: str | os.PathLike[str], ledger: Ledger, names: list[str]) -> list[tuple[str, str]]:
    """Frames that are not finished, and a ledger and arrays that disagree on how many there are."""
    rows = ledger.rows()
    found = [(e.frame_id, "not taken in yet (resume the ingest)") for e in rows if e.state == PENDING]
    for name in names:
        found += [
            (e.frame_id, f"not scored by {name} yet (resume the score)")
            for e in rows
            if e.state == DONE and e.standing(name)[0] == PENDING
        ]
    stored = len(FrameStore.open(path))
    if stored != len(rows) or [e.row for e in rows] != list(range(len(rows))):
        found.append(("(archive)", f"{stored} rows are stored, the ledger knows {len(rows)}"))
    return found


def _repair(
    archive: OpenArchive, found: Verification, names: list[str], executor: Executor, reporter: Reporter
) -> list[tuple[str, str]]:
    """Small arrays first, since scoring reads them; then make damaged frames pending, and run again.

    Returns ``(frame_id, why)`` of what cannot be made again: what is left may be worth more than nothing.
    """
    lost: list[tuple[str, str]] = []
    entries, rows = archive.ledger.entries, archive.ledger.rows()
    broken = {frame_id for frame_id, where, _ in found.damage if where == columns.COORDINATES_OF_FRAMES}
    if broken:
        columns.repair_coordinates(archive, broken, executor, reporter)
    for name in names:
        columns.repair_quality(QualityStore.open(archive.path, name, writable=True), name, rows, found.damage)
    for frame_id, where, _ in found.damage:
        if where != "frames":
            continue
        why = _cannot_repair(entries[frame_id])
        if why:
            lost.append((frame_id, why))
        else:
            archive.ledger.append([{"event": "ingest", "frame_id": frame_id, "state": PENDING}])
    archive.ledger.flush()
    process(archive, executor, reporter, ingest=True)
    for name in names:
        redo = frozenset(entries[frame_id].row for frame_id, where, _ in found.damage if where == name)
        if (columns.ALL, f"{name} (bundle)") in {(frame_id, where) for frame_id, where, _ in found.damage}:
            continue  # there is no model to score with
        bundle = Bundle.from_bytes(QualityStore.open(archive.path, name).bundle())
        process(archive, executor, reporter, ingest=False, bundle=bundle, redo=redo)
    return lost


def _cannot_repair(entry: Entry) -> str:
    """Why the source cannot give back what was stored; empty where it can."""
    try:
        digest = hashlib.sha256(fits.load_bytes(entry.path)).hexdigest()
    except FrameError as error:
        return f"its source {entry.path} cannot be read: {error}"
    if digest != entry.sha256:
        return f"its source {entry.path} has changed; `aqdask ingest --rehash` takes it as it is now"
    return ""
