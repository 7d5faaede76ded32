"""Opening of an archive for writing: lock, damage checks, ledger, and consolidated metadata at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import zarr

from aqdask.execution import config, quality_groups
from aqdask.io import places
from aqdask.specs import ArchiveSpec
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.lease import Lease, sole_writer
from aqdask.store.ledger import Ledger, open_ledger
from aqdask.store.quality_store import QualityStore
from aqdask.version import __version__


@dataclass
class OpenArchive:
    """Archive that this process has open for writing."""

    path: str
    root: zarr.Group
    spec: ArchiveSpec
    ledger: Ledger
    frames: FrameStore
    lease: Lease


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], *, repairing: bool = False) -> Iterator[OpenArchive]:
    """Open an archive for writing, as the only process; consolidate its metadata where no error occurred.

    Raises
    ------
    ArchiveError
        If another process is writing, the archive cannot be written, or (unless ``repairing``) an array or a
        record is lost.
    """
    root = layout.open_root(path, writable=True, fsync=config.fsync())
    with layout.storing(path), sole_writer(path, config.seconds("lock-timeout")) as lease:
        with layout.storing(path):
            archive = _opened(path, root, repairing, lease)
            if not repairing:
                _refuse_damage(archive)
        try:
            yield archive
        finally:
            with layout.storing(path):
                archive.ledger.flush()
        with layout.storing(path):
            archive.ledger.close()
            layout.consolidate(root)


def _opened(path: str | os.PathLike[str], root: zarr.Group, repairing: bool, lease: Lease) -> OpenArchive:
    """Complete what a killed process left unfinished, and upgrade an older layout."""
    layout.complete(root)
    layout.sweep_partials(path, shards=repairing)
    ledger, frames = open_ledger(root, damaged=True), FrameStore.at(root)
    if not ledger.damage:
        ledger.mend_metadata()
        if not ledger.row_count and not frames.stored_beyond(0):
            frames.mend(0)
        if layout.version_of(root) < layout.LAYOUT_VERSION:
            _raise_layout(root, ledger)
    return OpenArchive(places.absolute(path), root, frames.spec, ledger, frames, lease)


def _raise_layout(root: zarr.Group, ledger: Ledger) -> None:
    """Upgrade an archive of an older layout; the version is written last."""
    for name, made in quality_groups.known(root, ledger).items():
        QualityStore(layout.group(root, f"quality/{name}")).write_attributes(made)
        if name not in ledger.qualities:
            ledger.append([made.record()])
    ledger.compact()
    made_by = f"{root.attrs['created_by']}, raised to layout {layout.LAYOUT_VERSION} by aqdask {__version__}"
    root.attrs.update({"created_by": made_by, "layout_version": layout.LAYOUT_VERSION})


def _refuse_damage(archive: OpenArchive) -> None:
    lost = {text: f"its ledger has lost records ({text})" for text in archive.ledger.damage}
    problems = lost | archive.frames.problems(archive.ledger.row_count, thorough=False)
    if not problems and (beyond := archive.frames.stored_beyond(archive.ledger.row_count)):
        what = f"{len(beyond)} rows from {beyond[0]} on hold pixels of which its ledger knows nothing"
        problems = {"ledger": what}
    if problems:
        raise layout.damaged(archive.path, problems)
