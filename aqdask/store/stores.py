"""Stores of zarr for archives: files that are written durably, and objects."""

from __future__ import annotations

import asyncio
import errno
import re

import zarr.storage
from zarr.abc.store import Store
from zarr.core.buffer import Buffer

from aqdask.io import places
from aqdask.paths import is_object

# Frame-level values are in the ledger as well, and are written again from there.
DERIVED = re.compile(r"quality/[^/]+/[^/]+/c/\d+")
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def open_store(path: places.Place, *, writable: bool = False, fsync: bool = True) -> Store:
    """Return the store of an archive at a path or URL.

    Parameters
    ----------
    path : path or URL
        Of the archive.
    fsync : bool
        Files are on disk, not only in the memory of the machine, before a write returns.

    Raises
    ------
    UsageError
        For a URL without the package that reads it.
    """
    if is_object(path):
        places.bucket(path)  # says so without the package that the next line needs
        from aqdask.store.object_store import ObjectStore

        return ObjectStore.at(path, read_only=not writable)
    store = LocalStore(places.absolute(path), read_only=not writable)
    store.fsync = fsync
    return store


class LocalStore(zarr.storage.LocalStore):
    """Store of files that are written whole by a rename and, with ``fsync``, durably."""

    fsync = True

    def with_read_only(self, read_only: bool = False) -> LocalStore:
        """Return the same store, read-only or not."""
        store = type(self)(self.root, read_only=read_only)
        store.fsync = self.fsync
        return store

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file."""
        if not self.fsync or DERIVED.fullmatch(key):
            return await super().set(key, value)
        self._check_writable()
        await asyncio.to_thread(places.write_file, self.root / key, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file unless there is one."""
        self._check_writable()
        data = value.as_buffer_like()
        try:
            await asyncio.to_thread(places.write_file, self.root / key, data, new=True, fsync=self.fsync)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if not await self.exists(key):
                await self.set(key, value)
