"""Entries of the ledger for source files: new and changed ones are registered, and their frames get rows.

Sources are registered page by page, sorted by frame id, before any pixel is stored. The order of rows thus
does not depend on the order in which tasks finish.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from aqdask.errors import FrameError, SourceUnreachable
from aqdask.execution import planning
from aqdask.execution.executors import Executor
from aqdask.execution.open_archive import OpenArchive
from aqdask.execution.pipeline import blame, collect
from aqdask.execution.reporter import Reporter
from aqdask.execution.tasks import STORED, ProbeJob, hash_sources
from aqdask.execution.work_estimate import seconds
from aqdask.io.frame_ids import assign_ids
from aqdask.specs import ArchiveSpec, FrameInfo, ReadSpec, Source
from aqdask.store import layout, quality_store
from aqdask.store.entry_table import CODE
from aqdask.store.frame_store import Coordinates, check_fits, coordinates_of, row_checksum
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, UNREACHABLE, Entry, Ledger, Record
from aqdask.store.quality_store import QualityStore
from aqdask.text import printable

PAGE = 4096  # sources whose headers the client holds at a time
PROBES = 32  # sources a probe task
GONE = (errno.ENOENT, errno.ENOTDIR)  # what a path that names nothing gives

Found = tuple[FrameInfo, ...] | FrameError  # the frames of a file, or why there are none


def register(
    archive: OpenArchive,
    scanned: Sequence[Source],
    executor: Executor,
    reporter: Reporter,
    retry: bool = False,
    rehash: bool = False,
    forget: bool = False,
    probed: Mapping[str, Found] | None = None,
) -> None:
    """Register new and changed sources in the ledger, and give their frames rows.

    Stored pixels stay, whatever happened to their source: the frame is marked as changed, or reported as
    kept.

    Parameters
    ----------
    archive : OpenArchive
        Held for writing.
    scanned : sequence of Source
        All sources of the run, so that ids do not depend on the registered ones.
    retry : bool
        Probe quarantined sources again.
    rehash : bool
        Compare the content of registered sources, whatever their sizes and times.
    forget : bool
        Give up stored frames whose source is missing, or no longer holds them.
    probed : mapping, optional
        Results of `probe` that are available already, by path.
    """
    known = KnownSources(archive.ledger)
    ids = assign_ids(scanned, known.base_ids())
    if rehash:
        _rehash(archive.ledger, scanned, known, executor, reporter)
    settled = known.settled(scanned)
    _clear_problems(archive.ledger, scanned, settled, known)
    again = retry or forget
    wanted = [
        source
        for source, is_settled in zip(scanned, settled, strict=True)
        if not is_settled and _is_new(source, known.get(source.path, ()), again)
    ]
    wanted.sort(key=lambda source: ids[source.path])
    unseen = [source.path for source in wanted if source.path not in (probed or {})]
    looked_into = {source.path for source in wanted}
    reached = any(source.size >= 0 and source.path not in looked_into for source in scanned)
    reporter.start("look", len(unseen), "sources")
    for page in planning.slices(wanted, PAGE):
        found = dict(probed or {})
        found |= probe([s.path for s in page if s.path not in found], archive.spec.read, executor, reporter)
        with layout.storing(archive.path):
            _Page(archive, ids, known, forget, reached).register(page, found)
    with layout.storing(archive.path):
        rows = archive.ledger.row_count
        archive.frames.truncate(rows)
        for name in quality_store.names(archive.root):
            QualityStore.open(archive.path, name, writable=True).grow(rows)
    reporter.finish()


class KnownSources(Mapping[str, Sequence[Entry]]):
    """Entries of the ledger by path of their source, made when they are asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._rows = ledger.table.all()
        self._at: dict[str, int | list[int]] = {}
        for place, path in enumerate(self._rows.texts("path")):
            former = self._at.setdefault(path, place)
            if former != place:
                self._at[path] = [*([former] if isinstance(former, int) else former), place]

    def __getitem__(self, path: str) -> Sequence[Entry]:
        at = self._at[path]
        return [self._rows[place] for place in ([at] if isinstance(at, int) else at)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def base_ids(self) -> dict[str, str]:
        """Return the id of the first entry of each source, without the part that names an HDU."""
        ids, suffixes = self._rows.texts("frame_id"), self._rows.texts("suffix")
        first = ((path, at if isinstance(at, int) else at[0]) for path, at in self._at.items())
        return {path: ids[n].removesuffix(suffixes[n]) if suffixes[n] else ids[n] for path, n in first}

    def settled(self, scanned: Sequence[Source]) -> list[bool]:
        """Return True for each source of one frame that is stored as the source is now."""
        rows = self._rows
        good = (rows.column("state") == CODE[DONE]) & (rows.words("problem") == "")
        sizes, times = (np.where(good, rows.column(name), -1).tolist() for name in ("size", "mtime_ns"))
        places = [self._at.get(source.path) for source in scanned]
        return [
            isinstance(at, int) and sizes[at] == source.size >= 0 and times[at] == source.mtime_ns
            for source, at in zip(scanned, places, strict=True)
        ]


class _Page:
    """Registration of one page of sources: rows and coordinates first, then the records that name them."""

    def __init__(
        self,
        archive: OpenArchive,
        ids: Mapping[str, str],
        known: Mapping[str, Sequence[Entry]],
        forget: bool,
        reached: bool,
    ) -> None:
        self.archive, self.ids, self.known = archive, ids, known
        self.forget, self.reached = forget, reached
        self.records: list[Record] = []
        self.fresh: list[Coordinates] = []
        self.given_up: list[int] = []
        self.next_row = archive.ledger.row_count

    def register(self, page: Sequence[Source], found: Mapping[str, Found]) -> None:
        """Register the frames found in the sources of a page."""
        unreachable = [isinstance(found[source.path], SourceUnreachable) for source in page]
        # a single missing source is missing; if all are, their disk is out of reach
        outage = not self.reached and len(page) > 1 and all(unreachable)
        for source in page:
            frames = found[source.path]
            stale = {entry.frame_id: entry for entry in self.known.get(source.path, ())}
            if isinstance(frames, FrameError):
                self._without_frames(source, frames, stale, outage)
                continue
            for info in frames:
                frame_id = self.ids[source.path] + printable(info.suffix)
                former = stale.pop(frame_id, None) or self.archive.ledger.entries.get(frame_id)
                self._frame(source, frame_id, info, former)
            for entry in stale.values():  # frames that the file gave once and gives no more
                if entry.row >= 0:
                    self._lost(source, entry, FrameError("the source no longer holds this HDU"))
                else:
                    self.records.append({"event": "drop", "frame_id": entry.frame_id})
        archive = self.archive
        if self.fresh:
            archive.frames.grow(self.next_row + len(self.fresh))
            archive.frames.write_columns(self.next_row, self.fresh)
        archive.ledger.append(self.records)
        archive.ledger.flush()
        for row in self.given_up:
            archive.frames.erase(row)

    def _frame(self, source: Source, frame_id: str, info: FrameInfo, former: Entry | None) -> None:
        reason, row = _misfit(self.archive.spec, info), former.row if former else -1
        if former and former.state == DONE:
            if reason:
                self._lost(source, former, FrameError(reason))
            else:  # its coordinates change with its pixels
                self.records.append({"event": "changed", "frame_id": frame_id, "hdu": info.hdu})
            return
        card = former.card if former else ""
        if not reason:
            coordinates = coordinates_of(frame_id, source.path, info)
            card = row_checksum(coordinates)
            if row < 0:
                row = self.next_row + len(self.fresh)
                self.fresh.append(coordinates)
            else:
                self.archive.frames.write_columns(row, [coordinates])
        state = QUARANTINED if reason else PENDING
        suffix = printable(info.suffix)
        about = {"hdu": info.hdu, "row": row, "suffix": suffix, "state": state, "reason": reason}
        known = {"card": card, "frame_type": info.metadata.frame_type}
        self._register(source, frame_id, about | known)

    def _without_frames(
        self, source: Source, failure: FrameError, stale: Mapping[str, Entry], outage: bool
    ) -> None:
        for entry in stale.values():
            if entry.row >= 0:
                self._lost(source, entry, failure, outage)
        if not any(entry.row >= 0 for entry in stale.values()):
            about: dict[str, object] = {"hdu": -1, "row": -1, "suffix": ""}
            self._register(source, self.ids[source.path], about | _standing(failure, outage))

    def _lost(self, source: Source, entry: Entry, failure: FrameError, outage: bool = False) -> None:
        """Record a frame that its source no longer gives; stored pixels stay, unless ``forget`` is set."""
        unreachable = isinstance(failure, SourceUnreachable)
        certain = not isinstance(failure, SourceUnreachable) or failure.number in GONE
        if entry.state == DONE and self.forget and certain:
            reason = f"given up (--forget): {failure}"
            about = {"frame_id": entry.frame_id, "state": QUARANTINED, "reason": reason}
            self.records.append({"event": "ingest", **about, "size": -1, "mtime_ns": -1})
            self.given_up.append(entry.row)
        elif entry.state == DONE:
            reason = f"{UNREACHABLE}{failure}" if unreachable else str(failure)
            stamp = {} if unreachable else {"size": source.size, "mtime_ns": source.mtime_ns}
            self.records.append({"event": "kept", "frame_id": entry.frame_id, "reason": reason, **stamp})
        else:
            about = {n: getattr(entry, n) for n in ("hdu", "row", "suffix", "card", "frame_type")}
            standing = _standing(failure, outage)
            if self.archive.frames.has_pixels(entry.row):  # of which a lost record told
                standing = {"state": PENDING, "reason": f"{failure}; {STORED}", "size": -1, "mtime_ns": -1}
            self._register(source, entry.frame_id, about | standing)

    def _register(self, source: Source, frame_id: str, about: Mapping[str, object]) -> None:
        base = {"event": "register", "frame_id": frame_id, "path": source.path}
        stamp = {"size": source.size, "mtime_ns": source.mtime_ns}
        self.records.append({**base, **stamp, **about})


def _standing(failure: FrameError, outage: bool) -> dict[str, object]:
    """Return state and reason of a frame without stored pixels whose source cannot be used.

    A source that could not be reached gets the size -1, so that the next run probes it again.
    """
    if not isinstance(failure, SourceUnreachable):
        return {"state": QUARANTINED, "reason": str(failure)}
    state = QUARANTINED if failure.is_about_path and not outage else PENDING
    return {"state": state, "reason": f"{UNREACHABLE}{failure}", "size": -1, "mtime_ns": -1}


def probe(paths: Sequence[str], read: ReadSpec, executor: Executor, reporter: Reporter) -> dict[str, Found]:
    """Read the headers of files on the workers: frames, or the reason why there are none, by path.

    This process reads a file that a worker cannot reach.
    """
    found: dict[str, Found] = {}
    job = ProbeJob(read)

    def failed(path: str, error: Exception) -> tuple[str, Found]:
        return path, FrameError(blame(error))

    work = seconds("look", len(paths))
    for _, answers in collect(
        executor, job, planning.slices(paths, PROBES), stage="look", failed=failed, work=work
    ):
        lost = [path for path, answer in answers if isinstance(answer, SourceUnreachable)]
        found.update(answers)
        if lost:
            found.update(job(lost))
        bad = [path for path, _ in answers if isinstance(found[path], FrameError)]
        # a source out of reach is decided on later: what is stored of it stays
        failures = [path for path in bad if not isinstance(found[path], SourceUnreachable)]
        for path in failures:
            reporter.frame_failed(path, str(found[path]))
        reporter.advance(len(answers), len(failures))
    return found


def _clear_problems(
    ledger: Ledger, scanned: Sequence[Source], settled: Sequence[bool], known: KnownSources
) -> None:
    """Clear the problems of stored frames whose sources are unchanged again."""
    for source, is_settled in zip(scanned, settled, strict=True):
        for entry in () if is_settled else known.get(source.path, ()):
            stamp = {"size": source.size, "mtime_ns": source.mtime_ns}
            if entry.problem and (entry.size, entry.mtime_ns) == (source.size, source.mtime_ns):
                ledger.append([{"event": "touch", "frame_id": entry.frame_id, **stamp}])


def _rehash(
    ledger: Ledger,
    scanned: Sequence[Source],
    known: Mapping[str, Sequence[Entry]],
    executor: Executor,
    reporter: Reporter,
) -> None:
    """Compare the content of registered files: changed files count as new, others get their present times."""
    paths = [source.path for source in scanned if any(e.state == DONE for e in known.get(source.path, ()))]
    by_path = {source.path: source for source in scanned}

    def failed(path: str, error: Exception) -> tuple[str, str]:
        return path, ""

    reporter.start("hash", len(paths), "sources")
    work = seconds("hash", len(paths), (1, sum(max(by_path[path].size, 0) for path in paths)))
    for _, answers in collect(
        executor, hash_sources, planning.slices(paths, PROBES), stage="hash", failed=failed, work=work
    ):
        for path, digest in answers:
            # an image of the file that was never ingested has no digest of its own
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
    """Return True if a source must be probed: unknown, changed in size or time, or to be retried."""
    stamp = source.size, source.mtime_ns
    if retry and any(entry.state == QUARANTINED or entry.problem for entry in entries):
        return True
    return not entries or any(stamp not in ((e.size, e.mtime_ns), e.tried) for e in entries)


def _misfit(spec: ArchiveSpec, info: FrameInfo) -> str:
    """Return the reason why a frame does not fit the archive; empty where it does."""
    try:
        check_fits(spec, info.shape, info.dtype)
    except FrameError as error:
        return str(error)
    return ""
