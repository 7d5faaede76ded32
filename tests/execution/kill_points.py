"""Death of a process between any two operations on its store: every later operation fails too."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zarr
from night import ledger_of, records_of, sky, touch_later, write_frame, write_night

import aqdask as aq
from aqdask.execution.open_archive import writing
from aqdask.methods.bundle import Bundle
from aqdask.store import layout, quality_store
from aqdask.store import ledger as ledger_module
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import DONE, Entry
from aqdask.store.stores import LocalStore

OPTIONS = {"chunk": 64, "frames_per_shard": 2}
CHANGES = ("set", "set_if_not_exists", "delete", "delete_dir")
FRAMES = 5  # with two frames a quality shard: two whole ones and a half


class Killed(BaseException):
    """Nothing of this process runs after it."""


class KillPoint:
    """Counts the operations that change a store, and kills at one of them.

    Parameters
    ----------
    at : int or None
        Number of the operation before which the process dies; None: never.
    torn : bool
        Leave a half-written neighbour file behind, as a writer does that dies within a write.
    """

    def __init__(self, at: int | None, torn: bool = False) -> None:
        self.at, self.torn, self.count = at, torn, 0

    def reach(self, store: LocalStore, key: str) -> None:
        """Count one operation; die at the chosen one and at every later one."""
        if self.at is not None and self.count >= self.at:
            if self.torn and self.count == self.at:
                partial = store.root / f"{key}.0123.partial"
                partial.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(b"half")
            self.count += 1
            raise Killed
        self.count += 1


@contextlib.contextmanager
def killing(at: int | None, torn: bool = False) -> Iterator[KillPoint]:
    """Operations on local stores inside are counted, and the process dies at number ``at``."""
    point = KillPoint(at, torn)
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            real = getattr(LocalStore, name)

            def wrap(real: Callable) -> Callable:
                async def operation(self, key, *arguments, **options):
                    point.reach(self, key)
                    return await real(self, key, *arguments, **options)

                return operation

            patch.setattr(LocalStore, name, wrap(real))
        yield point


class Scene:
    """A command on an archive: what is there before, what is done, and the same again to resume.

    Parameters
    ----------
    name : str
        ingest, score, run, change (of a source), compaction, repair (of pixels, maps or metadata), migrate.
    folder : Path
        For sources and archives.
    bundle : Bundle
        A tiny model.
    """

    def __init__(self, name: str, folder: Path, bundle: Bundle) -> None:
        self.name, self.folder, self.bundle = name, folder, bundle
        self.night = write_night(folder / "night", FRAMES)
        self.start = folder / "start.zarr"
        self._prepare()
        self.frames_before = _contents(self.start) if self.start.exists() else {}

    def _prepare(self) -> None:
        if self.name in ("ingest", "run"):
            return
        aq.ingest(self.night, self.start, cluster="serial", **OPTIONS)
        if self.name == "score":
            return
        aq.score(self.start, self.bundle, cluster="serial")
        quality = next((self.start / "quality").glob("tiny-*"))
        if self.name == "change":
            write_frame(self.night / "L" / "f02.fits", sky(77), FILTER="B")
            touch_later(self.night / "L" / "f02.fits")
        elif self.name == "migrate":
            to_layout_1(self.start)
        elif self.name == "repair pixels":
            (self.start / "frames/image/c/1/0/0").unlink()
        elif self.name == "repair maps":
            (quality / "pvalue/c/0/0/0").write_bytes(b"")
        elif self.name == "repair metadata":
            for place in (self.start / "frames/image", quality / "score", quality):
                (place / "zarr.json").unlink()

    def act(self, archive: Path) -> None:
        """The command, also to resume it."""
        if self.name in ("run", "change"):
            aq.run(self.night, archive, self.bundle, cluster="serial", **OPTIONS)
        elif self.name == "ingest":
            aq.ingest(self.night, archive, cluster="serial", **OPTIONS)
        elif self.name == "score":
            aq.score(archive, self.bundle, cluster="serial")
        elif self.name == "migrate":
            with writing(archive):
                pass
        elif self.name == "compaction":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ledger_module, "COMPACT_SEGMENTS", 0)
                with writing(archive):
                    pass
        else:
            aq.verify(archive, repair=True, cluster="serial")

    def copy(self, name: str) -> Path:
        """An archive to be worked on."""
        archive = self.folder / f"{name}.zarr"
        shutil.rmtree(archive, ignore_errors=True)
        shutil.rmtree(archive.with_name(f"{name}-products"), ignore_errors=True)
        if self.start.exists():
            shutil.copytree(self.start, archive)
        return archive


def to_layout_1(archive: Path) -> None:
    """Turn an archive into one as 0.2.0.dev0 wrote it: no snapshots, no quality groups in the ledger."""
    ledger = ledger_of(archive)
    records = [r for entry in ledger.entries.values() for r in records_of(entry)]
    shutil.rmtree(archive / "ledger")
    root = zarr.open_group(archive, mode="r+", use_consolidated=False)
    group = root.create_group("ledger")
    for number in (0, 1):
        one = ledger_module.Ledger(group)
        one.append((records[: len(records) // 2], records[len(records) // 2 :])[number])
        one.flush()
    root.attrs["layout_version"] = 1
    for name in quality_store.names(root):
        for attribute in ("variables", "versions"):
            del layout.group(root, f"quality/{name}").attrs[attribute]


def _contents(archive: Path) -> dict[str, tuple]:
    """What the ledger says of every frame, and its stored pixels as far as they can be read."""
    return {name: _known(entry) for name, entry in ledger_of(archive).entries.items()}


def _known(entry: Entry) -> tuple:
    scores = {name: (score.state, score.crc32c, score.values) for name, score in entry.scores.items()}
    return entry.state, entry.row, entry.crc32c, entry.card, scores


def frames_lost(scene: Scene, archive: Path) -> list[str]:
    """Frames that were stored before and are now neither what they were nor what they should become."""
    if scene.name.startswith("repair") or not scene.frames_before:
        return []
    entries, frames = ledger_of(archive).entries, FrameStore.open(archive)
    lost = []
    for name, (state, row, *_) in scene.frames_before.items():
        if state == DONE and (entries[name].state != DONE or not frames.read(row)[0].any()):
            lost.append(name)
    return lost
