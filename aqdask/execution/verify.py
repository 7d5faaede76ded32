"""Verification and repair of an archive: completeness, and checksums of the stored bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aqdask.errors import FrameError
from aqdask.execution import config, planning, quality_groups, verify_arrays, verify_structure
from aqdask.execution.executors import Executor
from aqdask.execution.open_archive import OpenArchive, writing
from aqdask.execution.pipeline import blame, clear_stale, collect, process
from aqdask.execution.reporter import Reporter
from aqdask.execution.tasks import VerifyJob
from aqdask.execution.work_estimate import seconds
from aqdask.io import places, reader
from aqdask.methods.bundle import Bundle
from aqdask.store import labels, layout, quality_store
from aqdask.store.entry_table import CODE
from aqdask.store.frame_store import FrameStore
from aqdask.store.lease import sole_writer
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, Entry, Ledger, Rows, open_ledger
from aqdask.store.quality_store import QualitySpec, QualityStore

FRAMES_PER_TASK = 16  # a quality shard of an archive of some size
Item = tuple[int, str, dict[str, str]]  # row, checksum of pixels, checksums of maps by quality group


@dataclass
class Verification:
    """Result of `verify`.

    Parameters
    ----------
    checked : int
        Number of frames whose stored bytes were read.
    damage : list of (str, str, str)
        ``(frame_id, where, what)``; ``where`` is 'frames' or the name of a quality group.
    incomplete : list of (str, str)
        ``(frame_id, what)``: pending, or not scored by a model that scored others.
    repaired : list of str
        Frame ids that ``repair`` restored.
    lost : list of (str, str)
        ``(frame_id, reason)`` of those that ``repair`` cannot restore.
    given_up : list of (str, str)
        Those of ``lost`` that ``forget`` gave up.
    counts : dict
        Entries by state; a frame counts as quarantined where one of the models could not score it.
    """

    checked: int = 0
    damage: list[tuple[str, str, str]] = field(default_factory=list)
    incomplete: list[tuple[str, str]] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    given_up: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """True if nothing is damaged and nothing is missing."""
        return not self.damage and not self.incomplete


def verify(
    path: str | os.PathLike[str],
    executor: Executor,
    reporter: Reporter,
    *,
    sample: float = 1.0,
    seed: int = 0,
    repair: bool = False,
    forget: bool = False,
) -> Verification:
    """Check completeness, and checksums of all frames or of a random ``sample``; see `aqdask.verify`.

    With ``repair``, damaged data are made again: metadata from the archive's spec and its ledger, pixels from
    their sources, and maps with the stored model; then everything is checked once more.
    With ``forget``, data that cannot be made again are given up: frames are quarantined with that reason, and
    quality groups that have lost both maps and model are removed.

    Raises
    ------
    ArchiveError
        If the archive cannot be read (permissions, a failing disk), which is no damage.
    """
    with layout.reading(path):
        found = _check(path, executor, reporter, sample, seed)
        if repair and found.sound:
            with layout.storing(path), sole_writer(path, config.seconds("lock-timeout")):
                layout.sweep_partials(path, shards=True)
        if not repair or found.sound:
            return found
        broken = {(frame_id, where) for frame_id, where, _ in found.damage}
        root = layout.open_root(path)
        made = quality_groups.known(root, open_ledger(root, damaged=True))
    with writing(path, repairing=True) as archive, layout.storing(path):
        verify_structure.mend(archive, made)
    with layout.reading(path):  # with restored metadata more can be read, and less is damaged
        found = _check(path, executor, reporter)
    broken |= {(frame_id, where) for frame_id, where, _ in found.damage}
    with writing(path) as archive:
        lost = _repair(archive, found, made, executor, reporter)
        given_up = _forget(archive, lost, found, executor) if forget else []
    with layout.reading(path):
        again = _check(path, executor, reporter)
    left = {(frame_id, where) for frame_id, where, _ in again.damage}
    again.repaired = sorted({frame_id for frame_id, _ in broken - left} - {name for name, _ in given_up})
    again.lost = [problem for problem in lost if problem not in given_up]
    again.given_up = given_up
    return again


def _check(
    path: str | os.PathLike[str], executor: Executor, reporter: Reporter, sample: float = 1.0, seed: int = 0
) -> Verification:
    root = layout.open_root(path)
    ledger, frames = open_ledger(root, damaged=True), FrameStore.at(root)
    made = quality_groups.known(root, ledger)
    rows = ledger.rows()
    fraction = sample if sample <= 1 else min(1.0, sample / max(1, len(rows)))
    entries = _chosen(rows, fraction, seed)
    found = Verification(len(entries), counts=ledger.counts(list(made)))
    found.damage = verify_structure.check(root, ledger, frames, made)
    places = {where for _, where, _ in found.damage}
    if "frames (metadata)" in places:
        found.checked = 0
        what = "pixels and coordinates were not read: their metadata come first"
        found.incomplete = [(verify_arrays.ALL, what)]
        return found
    found.damage += verify_arrays.check_coordinates(frames, rows, fraction, seed)
    whole = [name for name in made if f"{name} (metadata)" not in places]
    for name in whole:
        store = QualityStore(layout.group(root, f"quality/{name}"))
        found.damage += verify_arrays.check_quality(store, made[name], rows)
    damage, unchecked = _damage(path, entries, whole, executor, reporter)
    found.damage += damage
    found.incomplete = unchecked + _incomplete(frames, ledger, list(made))
    return found


def _chosen(rows: Rows, fraction: float, seed: int) -> Rows:
    if fraction >= 1:
        return rows
    count = min(len(rows), max(1, round(fraction * len(rows))))
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), size=count, replace=False)))


def _damage(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    names: list[str],
    executor: Executor,
    reporter: Reporter,
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Compare the checksums of entries; return what is damaged, and what could not be checked."""
    items: list[Item] = []
    ids: dict[int, str] = {}
    for entry in entries:
        ids[entry.row] = entry.frame_id
        pixels = entry.crc32c if entry.state == DONE else ""
        scores = {n: s.crc32c for n in names if (s := entry.scores.get(n)) and s.state == DONE}
        items.append((entry.row, pixels, scores))
    reporter.start("verify", len(items))
    job = VerifyJob(places.absolute(path), tuple(names))
    damage: list[tuple[str, str, str]] = []
    unchecked: list[tuple[str, str]] = []

    def failed(item: Item, error: Exception) -> list[tuple[int, str, str]]:
        unchecked.append((ids[item[0]], f"could not be checked: {blame(error)}"))
        return []

    batches = planning.slices(items, FRAMES_PER_TASK)
    work = seconds("verify", len(items), layout.read_spec(layout.open_root(path)).shape)
    for batch, answers in collect(executor, job, batches, stage="verify", failed=failed, work=work):
        found = [answer for answers_of_one in answers for answer in answers_of_one]
        damage += [(ids[row], where, what) for row, where, what in found]
        reporter.advance(len(batch), len({row for row, _, _ in found}))
    reporter.finish()
    return sorted(damage), unchecked


def _incomplete(frames: FrameStore, ledger: Ledger, names: list[str]) -> list[tuple[str, str]]:
    """List unfinished frames, and a number of rows that differs between ledger and arrays."""
    rows = ledger.rows()
    pending, standing = CODE[PENDING], rows.standing()
    found = [
        (e.frame_id, f"not ingested yet (resume the ingest){': ' + e.reason if e.reason else ''}")
        for e in rows.take(standing == pending)
    ]
    for name in names:
        left = (
            (rows.column("state") == CODE[DONE]) & ~rows.column("changed") & (rows.standing(name) == pending)
        )
        what = f"not scored by {name} yet (resume the score)"
        found += [(frame_id, what) for frame_id in rows.take(left).texts("frame_id")]
    stored = len(frames)
    if stored != len(rows) or (rows.column("row") != np.arange(len(rows))).any():
        found.append(("(archive)", f"{stored} rows are stored, the ledger knows {len(rows)}"))
    return found


def _repair(
    archive: OpenArchive,
    found: Verification,
    made: Mapping[str, QualitySpec],
    executor: Executor,
    reporter: Reporter,
) -> list[tuple[str, str]]:
    """Restore the 1-D arrays, which scoring reads, then mark damaged frames as pending, and process them.

    Returns ``(frame_id or name of a quality group, reason)`` of data that cannot be made again. Those stay as
    they are, since a part of them may still be of use.
    """
    lost: list[tuple[str, str]] = []
    entries, rows = archive.ledger.entries, archive.ledger.rows()
    broken = {frame_id for frame_id, where, _ in found.damage if where == verify_arrays.COORDINATES_OF_FRAMES}
    if broken:
        verify_arrays.repair_coordinates(archive, broken, executor, reporter)
    for name, about in made.items():
        store = QualityStore.open(archive.path, name, writable=True)
        verify_arrays.repair_quality(store, about, rows, found.damage)
    for frame_id in sorted({frame_id for frame_id, where, _ in found.damage if where == "frames"}):
        why = _cannot_repair(entries[frame_id])
        if why:
            lost.append((frame_id, why))
        else:
            archive.ledger.append([{"event": "ingest", "frame_id": frame_id, "state": PENDING}])
    if unreadable := [what for _, where, what in found.damage if where == verify_structure.LABELS]:
        lost.append((verify_structure.LABELS, f"{'; '.join(unreadable)}: they are stored nowhere else"))
    archive.ledger.flush()
    process(archive, executor, reporter, ingest=True)
    for name, about in made.items():
        redo = frozenset(entries[frame_id].row for frame_id, where, _ in found.damage if where == name)
        data = QualityStore.open(archive.path, name).bundle()
        if hashlib.sha256(data).hexdigest() != about.attributes["model_sha256"]:
            digest = about.attributes["model_sha256"][:16]
            pending = {"event": "score", "quality": name, "state": PENDING}
            again = sorted({frame_id for frame_id, where, _ in found.damage if where == name})
            archive.ledger.append({**pending, "frame_id": frame_id} for frame_id in again)
            lost.append(
                (name, f"its model is lost: `aqdask score` with the model {digest}... makes it again")
            )
            continue
        process(archive, executor, reporter, ingest=False, bundle=Bundle.from_bytes(data), redo=redo)
    return lost


def _forget(
    archive: OpenArchive, lost: list[tuple[str, str]], found: Verification, executor: Executor
) -> list[tuple[str, str]]:
    """Give up data that cannot be made again, and return what was given up; records are written first.

    A quality group that has lost only its model keeps its maps.
    """
    given_up, ledger = [], archive.ledger
    damaged = {where.partition(" ")[0] for _, where, _ in found.damage if not where.endswith("(bundle)")}
    for name, why in lost:
        if name in ledger.qualities:
            if name not in damaged:
                continue
            ledger.append([{"event": "forget_quality", "name": name}])
            ledger.flush()
            quality_store.remove(archive.root, name)
        elif name == verify_structure.LABELS:
            labels.erase(archive.root)
        else:
            about = {"state": QUARANTINED, "reason": f"given up (--forget): {why}"}
            ledger.append([{"event": "ingest", "frame_id": name, **about, "size": -1, "mtime_ns": -1}])
            ledger.flush()
            archive.frames.erase(ledger.entries[name].row)
        given_up.append((name, why))
    for name in quality_store.names(archive.root):
        clear_stale(archive, executor, name)
    return given_up


def _cannot_repair(entry: Entry) -> str:
    """Return the reason why a source cannot replace stored pixels; empty where it can."""
    try:
        digest = hashlib.sha256(reader.load_bytes(entry.path)).hexdigest()
    except FrameError as error:
        return f"its source {entry.path} cannot be read: {error}"
    if digest != entry.sha256:
        return f"its source {entry.path} has changed; `aqdask ingest --rehash` takes it as it is now"
    return ""
