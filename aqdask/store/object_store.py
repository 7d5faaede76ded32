"""Store of zarr for an archive in a bucket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

import obstore
import zarr.storage
from obstore.store import S3Store
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from aqdask.io import places
from aqdask.paths import OBJECTS


class ObjectStore(zarr.storage.ObjectStore[S3Store]):
    """Objects below a URL; errors are `OSError` with the URL of the object as file name.

    Each is written by one request: zarr and obstore would send those above 5 MB in parts, nine requests for a
    frame of 32 MB.
    """

    @classmethod
    def at(cls, url: places.Place, *, read_only: bool) -> ObjectStore:
        """Return the store of an archive."""
        bucket, key = places.bucket(url)
        about = {"client_options": bucket.client_options, "retry_config": bucket.retry_config}
        name, endpoint = bucket.config["bucket"], bucket.config.get("endpoint")
        known = {"endpoint": endpoint} if endpoint else {}
        return cls(S3Store(name, prefix=key or None, **known, **about), read_only=read_only)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self._url("")

    def _url(self, key: str) -> str:
        parts = (self.store.config["bucket"], self.store.prefix or "", key)
        return OBJECTS + "/".join(str(part).strip("/") for part in parts if part)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object, or a part of it; None if there is none."""
        with places.as_os_errors(self._url(key)):
            return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read parts of objects."""
        wanted = list(key_ranges)
        with places.as_os_errors(self._url(wanted[0][0] if wanted else "")):
            return await super().get_partial_values(prototype, wanted)

    async def exists(self, key: str) -> bool:
        """Return True if there is an object."""
        with places.as_os_errors(self._url(key)):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object."""
        self._check_writable()
        with places.as_os_errors(self._url(key)):
            await obstore.put_async(self.store, key, value.as_buffer_like(), use_multipart=False)

    async def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        with places.as_os_errors(self._url(key)):
            await super().delete(key)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object unless there is one."""
        with places.as_os_errors(self._url(key)):
            await super().set_if_not_exists(key, value)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the names below a prefix."""
        with places.as_os_errors(self._url(prefix)):
            async for name in super().list_dir(prefix):
                yield name
