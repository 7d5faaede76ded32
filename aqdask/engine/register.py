"""The manifest: new and changed sources get their entries in the ledger, and their frames their rows.

It is fixed page by page, sorted by frame id, before any pixel is stored: who finishes first changes
nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from aqdask.archive import maps
from aqdask.archive.frames import check_fits, coordinates_of, row_checksum
from aqdask.archive.ledger import DONE, PENDING, QUARANTINED, Entry, Ledger, Record
from aqdask.archive.manifest import assign_ids
from aqdask.archive.maps import QualityStore
from aqdask.engine import plan
from aqdask.engine.executors import Executor
from aqdask.engine.reporter import Reporter
from aqdask.engine.runner import OpenArchive, collect
from aqdask.engine.tasks import ProbeJob, hash_sources
from aqdask.errors import FrameError
from aqdask.specs import ArchiveSpec, FrameInfo, ReadSpec, Source

PAGE = 4096  # sources whose headers the client holds at a time
PROBES = 32  # sources a probe task

Found = tuple[FrameInfo, ...] | str  # the frames of a file, or why there are none


def register(
    archive: OpenArchive,
    scanned: Sequence[Source],
    executor: Executor,
    reporter: Reporter,
    retry: bool = False,
    rehash: bool = False,
    probed: Mapping[str, Found] | None = None,
) -> None:
    """Give every new or changed source its entry in the ledger, and its frames their rows.

    Parameters
    ----------
    archive : OpenArchive
        Held for writing.
    scanned : sequence of Source
        All sources of the run, so that ids do not depend on what is known already.
    retry : bool
        Look again into what is quarantined.
    rehash : bool
        Compare the content of known sources, whatever their sizes and times say.
    probed : mapping, optional
        What is known of files already, by path.
    """
    known = defaultdict(list)
    for entry in archive.ledger.entries.values():
        known[entry.path].append(entry)
    ids = assign_ids(scanned, {path: _base_id(entries[0]) for path, entries in known.items()})
    if rehash:
        _rehash(archive.ledger, scanned, known, executor, reporter)
    wanted = [source for source in scanned if _is_new(source, known.get(source.path, ()), retry)]
    wanted.sort(key=lambda source: ids[source.path])
    unseen = [source.path for source in wanted if source.path not in (probed or {})]
    reporter.start("look", len(unseen), "sources")
    for page in plan.slices(wanted, PAGE):
        found = dict(probed or {})
        found |= probe([s.path for s in page if s.path not in found], archive.spec.read, executor, reporter)
        _register_page(archive, page, ids, found, known)
    rows = archive.ledger.row_count
    archive.frames.truncate(rows)
    for name in maps.names(archive.root):
        QualityStore.open(archive.path, name, writable=True).grow(rows)
    reporter.finish()


def _register_page(
    archive: OpenArchive,
    page: Sequence[Source],
    ids: Mapping[str, str],
    found: Mapping[str, Found],
    known: Mapping[str, Sequence[Entry]],
) -> None:
    """Rows and coordinates first, the ledger last: what it names is there."""
    next_row = archive.ledger.row_count
    records: list[Record] = []
    fresh: list[tuple[str, str, FrameInfo]] = []
    for source in page:
        frames = found[source.path]
        base = {"event": "register", "path": source.path, "size": source.size, "mtime_ns": source.mtime_ns}
        stale = {entry.frame_id: entry for entry in known.get(source.path, ())}
        for info in frames if isinstance(frames, tuple) else ():
            frame_id = ids[source.path] + info.suffix
            former = stale.pop(frame_id, None) or archive.ledger.entries.get(frame_id)
            reason, row = _misfit(archive.spec, info), former.row if former else -1
            if not reason and row < 0:
                row = next_row + len(fresh)
                fresh.append((frame_id, source.path, info))
            elif not reason:
                archive.frames.write_coordinates(row, [(frame_id, source.path, info)])
            elif row >= 0:
                archive.frames.erase(row)
            state = QUARANTINED if reason else PENDING
            about = {"hdu": info.hdu, "row": row, "suffix": info.suffix, "state": state, "reason": reason}
            if reason:  # its coordinates stay what they were
                card = former.card if former else ""
            else:
                card = row_checksum(coordinates_of(frame_id, source.path, info))
            records.append({**base, "frame_id": frame_id, **about, "card": card})
        if isinstance(frames, str) and not stale:
            about = {"hdu": -1, "row": -1, "suffix": "", "state": QUARANTINED, "reason": frames}
            records.append({**base, "frame_id": ids[source.path], **about})
        for frame_id, entry in stale.items():  # frames that the file gave once and gives no more
            if entry.row >= 0:
                archive.frames.erase(entry.row)
            reason = frames if isinstance(frames, str) else "the source no longer holds this HDU"
            about = {n: getattr(entry, n) for n in ("hdu", "row", "suffix", "card")} | {"state": QUARANTINED}
            records.append({**base, "frame_id": frame_id, **about, "reason": reason})
    if fresh:
        archive.frames.grow(next_row + len(fresh))
        archive.frames.write_coordinates(next_row, fresh)
    archive.ledger.append(records)
    archive.ledger.flush()


def probe(paths: Sequence[str], read: ReadSpec, executor: Executor, reporter: Reporter) -> dict[str, Found]:
    """Look into the headers of files: their frames, or why there are none, by path."""
    found: dict[str, Found] = {}
    for _, answers in collect(executor, ProbeJob(read), plan.slices(paths, PROBES), stage="look"):
        found.update(answers)
        reporter.advance(len(answers), sum(isinstance(answer, str) for _, answer in answers))
    return found


def _rehash(
    ledger: Ledger,
    scanned: Sequence[Source],
    known: Mapping[str, Sequence[Entry]],
    executor: Executor,
    reporter: Reporter,
) -> None:
    """Compare the content of known files, whatever their times: the changed become new, the touched known."""
    paths = [source.path for source in scanned if any(e.state == DONE for e in known.get(source.path, ()))]
    by_path = {source.path: source for source in scanned}
    reporter.start("hash", len(paths), "sources")
    for _, answers in collect(executor, hash_sources, plan.slices(paths, PROBES), stage="hash"):
        for path, digest in answers:
            # an image of the file that was never taken in has no digest of its own
            same = all(digest == entry.sha256 for entry in known[path] if entry.state == DONE)
            for entry in known[path]:
                stamp = by_path[path].mtime_ns if same else -1
                size = by_path[path].size if same else -1
                if (entry.size, entry.mtime_ns) != (size, stamp):
                    touch = {"event": "touch", "frame_id": entry.frame_id, "mtime_ns": stamp, "size": size}
                    ledger.append([touch])
        reporter.advance(len(answers))
    reporter.finish()


def _is_new(source: Source, entries: Sequence[Entry], retry: bool) -> bool:
    """Whether a source must be looked into: unknown, changed in size or time, or quarantined and retried."""
    if not entries or any((e.size, e.mtime_ns) != (source.size, source.mtime_ns) for e in entries):
        return True
    return retry and any(entry.state == QUARANTINED for entry in entries)


def _base_id(entry: Entry) -> str:
    return entry.frame_id.removesuffix(entry.suffix) if entry.suffix else entry.frame_id


def _misfit(spec: ArchiveSpec, info: FrameInfo) -> str:
    """Why a frame does not belong into the archive; empty where it does."""
    try:
        check_fits(spec, info.shape, info.dtype)
    except FrameError as error:
        return str(error)
    return ""
