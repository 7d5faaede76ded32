"""Verification and repair of an archive's structure: zarr metadata, and the segments of its ledger.

The expected contents follow from the archive's spec and its ledger, never from the files found. Lost metadata
are written again, which makes the chunks below them readable; lost records of the ledger are made again from
the stored coordinates and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import zarr

from aqdask.errors import FrameError
from aqdask.execution.open_archive import OpenArchive
from aqdask.execution.verify_arrays import ALL, Damage
from aqdask.io import reader
from aqdask.store import labels, layout
from aqdask.store.entry_table import CODE
from aqdask.store.frame_store import FrameStore, checksum
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, Entry, Ledger, Record
from aqdask.store.quality_store import QualitySpec, QualityStore
from aqdask.text import plural, printable

LEDGER = "ledger"
LABELS = "labels"


def check(
    root: zarr.Group, ledger: Ledger, frames: FrameStore, qualities: Mapping[str, QualitySpec]
) -> list[Damage]:
    """List the metadata and records that are lost or differ from those that the archive was made with."""
    damage = [(ALL, LEDGER, what) for what in ledger.damage]
    damage += [
        (printable(name), LEDGER, "has records, but none that registers it") for name in ledger.orphans
    ]
    for name in layout.GROUPS:
        if not layout.has_metadata(root.store_path / name):
            damage.append((ALL, "metadata", f"the group {name} has lost its metadata"))
    problems = frames.problems(ledger.row_count)
    damage += [(ALL, "frames (metadata)", problem) for problem in problems.values()]
    if not problems:
        if beyond := frames.stored_beyond(ledger.row_count):
            damage.append(
                (
                    ALL,
                    LEDGER,
                    f"{plural(len(beyond), 'stored frame')} unknown to it: records are lost",
                )
            )
        given_up = ledger.rows().where(lambda rows: rows.column("state") == CODE[QUARANTINED])
        damage += [
            (entry.frame_id, LEDGER, "its pixels are stored, but it is quarantined: a record is lost")
            for entry in given_up
            if frames.has_pixels(entry.row)
        ]
    damage += [(ALL, LABELS, problem) for problem in labels.problems(root, ledger)]
    for name, made in qualities.items():
        store = QualityStore(layout.group(root, f"quality/{name}"))
        problems = store.problems(made, ledger.row_count, layout.version_of(root)) | store.lost()
        damage += [(ALL, f"{name} (metadata)", problem) for problem in problems.values()]
    return damage


def mend(archive: OpenArchive, qualities: Mapping[str, QualitySpec]) -> None:
    """Restore what `check` lists, as far as the stored data allow."""
    layout.complete(archive.root)
    ledger, frames = archive.ledger, archive.frames
    frames.mend(ledger.row_count)
    labels.mend(archive.root)
    ledger.append(list(_lost_records(ledger, frames)))
    frames.grow(ledger.row_count)
    for name, made in qualities.items():
        store = QualityStore(layout.group(archive.root, f"quality/{name}"))
        if not layout.has_metadata(store.group.store_path):
            layout.delete_metadata(store.group.store_path)
            store = QualityStore(archive.root.create_group(f"quality/{name}"))
        store.mend(made, ledger.row_count)
        store.write_attributes(made)
        store.grow(ledger.row_count)
        if name not in ledger.qualities:
            ledger.append([made.record()])
    ledger.compact()
    ledger.damage.clear()
    ledger.orphans.clear()


def _lost_records(ledger: Ledger, frames: FrameStore) -> Iterator[Record]:
    """Yield records of stored frames that the ledger lacks, or lists as pending.

    Their size is -1, so that the next ingest compares them with their sources.
    """
    known = {entry.row: entry for entry in ledger.rows()}
    for row in range(len(frames)):
        entry = known.get(row)
        if entry is not None and (
            entry.state == DONE or not frames.has_pixels(row) or _is_good(frames, entry)
        ):
            continue
        at = slice(row, row + 1)
        frame_id, path = (str(frames.coordinate(name, at)[0]) for name in ("frame_id", "path"))
        if not frame_id or (entry is None and frame_id in ledger.entries):
            continue
        if entry is None:
            yield {
                "event": "register", "frame_id": frame_id, "path": path, "row": row,
                "size": -1, "mtime_ns": -1, "suffix": _suffix(frame_id, path),
                "hdu": int(frames.coordinate("hdu", at)[0]),
                "state": PENDING, "reason": "its record in the ledger was lost",
            }  # fmt: skip
        yield from _stored_record(frames, frame_id, row, entry)


def _is_good(frames: FrameStore, entry: Entry) -> bool:
    """Return True if the headers of a source still list the frame: then it can be ingested again."""
    try:
        return any(info.hdu == entry.hdu for info in reader.probe(entry.path, frames.spec.read))
    except (FrameError, OSError):
        return False


def _stored_record(frames: FrameStore, frame_id: str, row: int, entry: Entry | None) -> Iterator[Record]:
    if "image" not in frames.planes or not frames.has_pixels(row):
        return
    try:
        pixels = frames.read(row)
    except layout.UNREADABLE:
        return
    about = {"state": DONE, "crc32c": checksum(*pixels), "size": -1, "mtime_ns": -1}
    yield {"event": "ingest", "frame_id": frame_id, **about}


def _suffix(frame_id: str, path: str) -> str:
    """Return the part of an id that names the HDU."""
    if path.endswith(frame_id) or not frame_id.endswith("]"):
        return ""
    return frame_id[frame_id.rindex("[") :]
