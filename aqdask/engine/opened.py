"""An archive held by this process for writing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zarr

from aqdask.archive import layout
from aqdask.archive.frames import FrameStore
from aqdask.archive.ledger import Ledger, open_ledger
from aqdask.engine import qualities
from aqdask.specs import ArchiveSpec


@dataclass
class OpenArchive:
    """An archive held by this process for writing."""

    path: str
    root: zarr.Group
    spec: ArchiveSpec
    ledger: Ledger
    frames: FrameStore


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], *, repairing: bool = False) -> Iterator[OpenArchive]:
    """Hold an archive for writing: its lock, its ledger; consolidated metadata last, when all went well.

    Raises
    ------
    ArchiveError
        If another process holds it, the place cannot be written, or (unless ``repairing``) an array or a
        record of it is lost.
    """
    root = layout.open_root(path, writable=True)
    with layout.sole_writer(path):
        with layout.storing(path):
            archive = _opened(path, root)
            if not repairing:
                _refuse_damage(archive)
        try:
            yield archive
        finally:
            with layout.storing(path):
                archive.ledger.flush()
        with layout.storing(path):
            archive.ledger.close()
            layout.consolidate(path, root)


def _opened(path: str | os.PathLike[str], root: zarr.Group) -> OpenArchive:
    """An archive ready to be written: what a kill left half made is completed, an older layout raised."""
    layout.complete(root)
    layout.sweep_partials(path)
    ledger, frames = open_ledger(root), FrameStore.at(root)
    if not ledger.damage:
        ledger.mend_metadata()
        if not ledger.row_count and not frames.stored_beyond(0):
            frames.mend(0)
        if layout.version_of(root) < layout.LAYOUT_VERSION:
            ledger.append(spec.record() for spec in qualities.known(root, ledger).values())
            ledger.compact()
            root.attrs["layout_version"] = layout.LAYOUT_VERSION
    return OpenArchive(str(Path(path).absolute()), root, frames.spec, ledger, frames)


def _refuse_damage(archive: OpenArchive) -> None:
    problems = {text: text for text in archive.ledger.damage} | archive.frames.problems()
    if problems:
        raise layout.damaged(archive.path, problems)
