"""Power loss: what the ledger tells of is on disk before, and what was torn nevertheless is found."""

from __future__ import annotations

import os
from pathlib import Path

import dask
import pytest
from night import OPTIONS, same_bytes

import aqdask as aq
from aqdask.errors import UsageError
from aqdask.execution import config


@pytest.fixture(autouse=True)
def _default():
    """The default, which `make test` switches off for most tests."""
    with dask.config.set({"aqdask.fsync": "auto"}):
        yield


class Disk:
    """Calls of the operating system in their order: (what, path below the archive)."""

    def __init__(self, archive: Path, monkeypatch) -> None:
        self.archive, self.calls = archive, []
        fsync, replace, link = os.fsync, os.replace, os.link

        def name(path) -> str:
            return os.path.relpath(os.fspath(path), archive)

        def note_fsync(descriptor):
            fsync(descriptor)
            self.calls.append(("fsync", name(os.readlink(f"/proc/self/fd/{descriptor}")).split(".")[0]))

        def note_replace(source, target, **options):
            replace(source, target, **options)
            self.calls.append(("name", name(target)))

        def note_link(source, target, **options):
            link(source, target, **options)
            self.calls.append(("name", name(target)))

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        monkeypatch.setattr(os, "link", note_link)

    def order(self, path: str) -> tuple[int, int, int]:
        """When a file was on disk, when it got its name, and when its folder was on disk."""
        named = max(n for n, call in enumerate(self.calls) if call == ("name", path))
        on_disk = max(n for n, call in enumerate(self.calls[:named]) if call == ("fsync", path.split(".")[0]))
        folder = ("fsync", os.path.dirname(path))
        return on_disk, named, named + 1 + self.calls[named + 1 :].index(folder)


def test_shards_and_their_folders_are_on_disk_before_the_ledger_tells_of_them(
    night, bundle, tmp_path, monkeypatch
):
    archive = tmp_path / "a.zarr"
    disk = Disk(archive, monkeypatch)
    aq.run(night, archive, bundle, cluster="serial", **OPTIONS)
    shards = [
        str(path.relative_to(archive))
        for path in archive.rglob("*")
        if path.is_file() and path.parent.parent.parent.name == "c"
    ]
    assert len(shards) > 20
    segments = sorted(str(path.relative_to(archive)) for path in archive.glob("ledger/*/c/0"))
    first_with_results = disk.order(segments[-1])[1]
    for path in shards:
        on_disk, named, folder_on_disk = disk.order(path)
        assert on_disk < named < folder_on_disk < first_with_results, path
        made = [
            n
            for n, call in enumerate(disk.calls)
            if call == ("fsync", os.path.dirname(os.path.dirname(path)))
        ]
        assert made, f"the folder of {path} may be lost"
        assert made[0] < first_with_results
    for path in segments:
        on_disk, named, folder_on_disk = disk.order(path)
        assert on_disk < named < folder_on_disk


def test_without_fsync_nothing_waits_for_the_disk_and_the_bytes_are_the_same(
    night, undisturbed, bundle, tmp_path, monkeypatch
):
    archive = tmp_path / "a.zarr"
    disk = Disk(archive, monkeypatch)
    with dask.config.set({"aqdask.fsync": "off"}):
        aq.ingest(night, archive, cluster="serial", **OPTIONS)
        aq.score(archive, bundle, cluster="serial")
    waited = {path for what, path in disk.calls if what == "fsync"}
    assert not [path for path in waited if "/c/" in path]
    same_bytes(archive, undisturbed)


@pytest.mark.parametrize("value", ["on", 1, None, "of"])
def test_another_setting_is_refused(value, night, tmp_path):
    with (
        dask.config.set({"aqdask.fsync": value}),
        pytest.raises(UsageError, match=r"aqdask.fsync.*auto or off"),
    ):
        aq.ingest(night, tmp_path / "a.zarr", cluster="serial")


def test_off_as_yaml_reads_it():
    with dask.config.set({"aqdask.fsync": False}):
        assert config.fsync() is False


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_shard_that_was_torn_is_found_and_made_again(scored, undisturbed, cut):
    for path in (scored / "frames/image/c/2/0/0", next(scored.glob("quality/*/pvalue/c/1/0/0"))):
        path.write_bytes(path.read_bytes()[:cut])
    found = aq.verify(scored, cluster="serial")
    assert len({where for _, where, _ in found.damage}) == 2
    assert aq.verify(scored, cluster="serial", repair=True).sound
    same_bytes(scored, undisturbed)


def test_a_shard_of_zeros_is_found(scored):
    path = scored / "frames/image/c/2/0/0"
    path.write_bytes(bytes(path.stat().st_size))
    ((_, where, what),) = aq.verify(scored, cluster="serial").damage
    assert where == "frames"
    assert "damaged" in what
