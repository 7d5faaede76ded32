"""Files and objects by one set of functions: paths of file systems, and URLs ``s3://bucket/key``.

Objects are read and written by obstore; keys, region and endpoint come from the environment (``AWS_...``).
Its errors become `OSError` with the URL as file name, so that callers need not tell files from objects.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import io
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aqdask.errors import UsageError, place_failed
from aqdask.paths import OBJECTS, is_object
from aqdask.text import printable

if TYPE_CHECKING:
    from obstore.store import S3Store

Place = str | os.PathLike[str]
PathOrUrl = TypeVar("PathOrUrl", str, Path)
HEAD_BYTES = 2**16  # of an object, fetched at once: the header of most FITS files
PARTIAL = ".partial"  # end of the name of a file that is not renamed yet
# A single request of 32 MB over a slow line; answers of a busy store are waited for a minute.
TIMEOUT, RETRIES, RETRY_SECONDS = "5 minutes", 8, 60
CODE = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)


class Status(NamedTuple):
    """Size in bytes, and a stamp that changes with the content.

    The stamp is the modification time in ns of a file, and a hash of the ETag of an object: servers tell the
    time of an object in seconds only.
    """

    size: int
    stamp: int


def absolute(place: Place) -> str:
    """Return an absolute path, or a URL without a slash at its end."""
    text = os.fspath(place)
    return text.rstrip("/") if is_object(text) else str(Path(text).absolute())


def join(folder: Place, name: str) -> str:
    """Return the place of a name, or of a path with slashes, below a folder."""
    return f"{absolute(folder)}/{name}" if is_object(folder) else str(Path(folder) / name)


def parent(place: str) -> str:
    """Return the folder of a file, or the URL above an object."""
    return place.rpartition("/")[0] if is_object(place) else str(Path(place).parent)


def beside(place: Place, name: str) -> str:
    """Return the place of a name in the folder of another place."""
    return join(parent(absolute(place)), name) if is_object(place) else str(Path(place).with_name(name))


@contextlib.contextmanager
def as_os_errors(place: str) -> Iterator[None]:
    """Turn the errors of obstore into `OSError` that name the place."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        what = "no such bucket" if "NoSuchBucket" in str(error) else "no such object"
        raise FileNotFoundError(errno.ENOENT, what, place) from error
    except exceptions.BaseError as error:
        text = str(error)
        denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
        if "169.254.169.254" in text:  # the service that gives keys to machines of a cloud
            raise OSError(errno.EACCES, "the environment has no keys for it", place) from error
        told = CODE.search(text)
        shown = ": ".join(told.groups()) if told else text.split("\n")[0].split(" - Server")[0][:300]
        number = errno.EACCES if denied or "403 Forbidden" in text else errno.EIO
        raise OSError(number, shown, place) from error


def bucket(place: Place) -> tuple[S3Store, str]:
    """Return the store of an object's bucket, and the object's key.

    Raises
    ------
    UsageError
        Without obstore, or for a URL without a bucket.
    """
    name, _, key = absolute(place)[len(OBJECTS) :].partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return _bucket(name, endpoint, os.environ.get("AWS_ACCESS_KEY_ID", "")), key


@lru_cache(maxsize=16)
def _bucket(name: str, endpoint: str, key_id: str) -> S3Store:
    from datetime import timedelta

    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise UsageError(
            f"{OBJECTS}{name} needs the package obstore",
            expected="aqdask with its extra for object stores, on the workers, too",
            consequence="Nothing was done",
            remedy="pip install 'aqdask[s3]'",
        ) from error
    options: Any = {"timeout": TIMEOUT, "allow_http": endpoint.startswith("http://")}
    retry: Any = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    known: Any = {"endpoint": endpoint} if endpoint else {}
    return S3Store(name, **known, client_options=options, retry_config=retry)


def status(place: Place) -> Status:
    """Return size and stamp of a file or an object.

    Raises
    ------
    OSError
        If there is none, or it cannot be examined.
    """
    if not is_object(place):
        found = os.stat(place)
        return Status(found.st_size, found.st_mtime_ns)
    store, key = bucket(place)
    with as_os_errors(absolute(place)):
        return _status(store.head(key))


def _status(meta: Any) -> Status:
    digest = hashlib.sha256(str(meta["e_tag"]).encode()).digest()
    return Status(int(meta["size"]), int.from_bytes(digest[:7], "big"))


def objects(folder: Place) -> Iterator[tuple[str, Status]]:
    """Yield URL and status of every object below a URL, sorted by key.

    Raises
    ------
    OSError
        If the store cannot be read.
    """
    store, key = bucket(folder)
    root = absolute(folder).removesuffix(key).rstrip("/")
    with as_os_errors(absolute(folder)):
        for page in store.list(prefix=f"{key}/" if key else None):
            for meta in page:
                yield f"{root}/{meta['path']}", _status(meta)


def siblings(place: Place, pattern: str) -> list[str]:
    """Return the files or folders beside a place whose names match a pattern, sorted."""
    if not is_object(place):
        return sorted(map(str, Path(place).parent.glob(pattern)))
    above = parent(absolute(place))
    store, key = bucket(above)
    with as_os_errors(above):
        found = store.list_with_delimiter(prefix=f"{key}/" if key else None)["common_prefixes"]
    names = sorted(path.rstrip("/").rpartition("/")[2] for path in found)
    return [join(above, name) for name in fnmatch.filter(names, pattern)]


def matching(pattern: str) -> re.Pattern[str]:
    """Return the expression that a URL with ``*``, ``?``, ``[...]`` and ``**`` stands for."""
    parts = []
    for part in pattern.split("/"):
        if part == "**":
            parts.append("(?:[^/]+/)*")
            continue
        pieces = re.split(r"(\*|\?|\[[^\]]+\])", part)
        text = "".join({"*": "[^/]*", "?": "[^/]"}.get(p, _piece(p)) for p in pieces)
        parts.append(text + "/")
    return re.compile("".join(parts).removesuffix("/"))


def _piece(piece: str) -> str:
    if piece.startswith("[") and piece.endswith("]"):
        return fnmatch.translate(piece).removeprefix("(?s:").removesuffix(r")\Z")
    return re.escape(piece)


def read_object(place: Place) -> tuple[bytes, Status]:
    """Read a whole object by one request.

    Raises
    ------
    OSError
        If there is none, or it cannot be read.
    """
    store, key = bucket(place)
    with as_os_errors(absolute(place)):
        found = store.get(key)
        return bytes(found.bytes()), _status(found.meta)


class ObjectReader(io.RawIOBase):
    """Object as a seekable file, read by ranges of which the first also tells its size.

    Raises
    ------
    OSError
        If there is none, it cannot be read, or it is replaced while it is read (ESTALE).
    """

    def __init__(self, place: Place) -> None:
        self.place, self._at = absolute(place), 0
        self._store, self._key = bucket(place)
        from obstore.exceptions import GenericError

        self._head, self._tag = b"", ""
        with as_os_errors(self.place):
            try:
                first = self._store.get(self._key, options={"range": (0, HEAD_BYTES)})
            except GenericError as error:
                if "416" not in str(error):  # the range of an empty object cannot be satisfied
                    raise
                self.size = self._store.head(self._key)["size"]
                return
            self._head, self._tag = bytes(first.bytes()), str(first.meta["e_tag"])
            self.size = int(first.meta["size"])

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return the number of bytes."""
        stop = min(self._at + len(buffer), self.size)
        data = self._head[self._at : stop] if self._at < len(self._head) else self._range(stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _range(self, stop: int) -> bytes:
        from obstore.exceptions import PreconditionError

        if self._at >= stop:
            return b""
        with as_os_errors(self.place):
            try:
                asked: Any = {"range": (self._at, stop), "if_match": self._tag}
                return bytes(self._store.get(self._key, options=asked).bytes())
            except PreconditionError as error:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.place) from error


def check_output(path: str | os.PathLike[str]) -> None:
    """Check, before anything is computed, that a file can be written; its folder is made.

    Raises
    ------
    UsageError
        For a folder.
    ArchiveError
        If nothing can be written there.
    """
    place = Path(path)
    if place.is_dir():
        raise UsageError(
            f"{printable(os.fspath(path))} is a folder",
            expected="the name of a file",
            consequence="Nothing was written",
            remedy="name a file in it",
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise place_failed(path, error) from error


def write_file(path: Path, data: Any, *, new: bool = False, fsync: bool = True) -> None:
    """Write a file whole; with ``fsync``, it is on disk before it has its name, and the name before the end.

    Parameters
    ----------
    path : Path
        Missing folders are made.
    data : bytes-like
        The content.
    new : bool
        Refuse to replace a file.

    Raises
    ------
    FileExistsError
        With ``new``, if there is one.
    OSError
        If it cannot be written.
    """
    made = _make_folders(path.parent)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with open(partial, "xb") as stream:
            stream.write(data)
            stream.flush()
            if fsync:
                os.fsync(stream.fileno())
        if new:
            os.link(partial, path)
            os.unlink(partial)
        else:
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for folder in (path.parent, *(folder.parent for folder in made)) if fsync else ():
        _sync_folder(folder)


def sweep(folder: Path, pattern: str = "*") -> None:
    """Remove what a killed writer left in a folder of the files whose names match a pattern."""
    for path in folder.glob(f"{pattern}{PARTIAL}"):
        path.unlink(missing_ok=True)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the innermost first."""
    missing = []
    for above in (folder, *folder.parents):
        if above.is_dir():
            break
        missing.append(above)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot, and needs not
            raise
    finally:
        os.close(descriptor)


def fetch(place: str) -> tuple[bytes, str] | None:
    """Read a small file or object, with the tag by which `replace` knows it; None if there is none."""
    try:
        if not is_object(place):
            data = Path(place).read_bytes()
            return data, data.hex()
        store, key = bucket(place)
        with as_os_errors(place):
            found = store.get(key)
            return bytes(found.bytes()), str(found.meta["e_tag"])
    except FileNotFoundError:
        return None


def create(place: str, data: bytes) -> str | None:
    """Write a small file or object if there is none; return its tag, or None if there is one."""
    if not is_object(place):
        try:
            with open(place, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError:
            return None
        return data.hex()
    return _put(place, data, "create")


def replace(place: str, data: bytes, tag: str) -> str | None:
    """Replace a small file or object that still has a tag; return the new tag, or None if it has another.

    Exact for objects. Of two that replace a file within the same instant the later one wins.
    """
    if not is_object(place):
        found = fetch(place)
        if found is None or found[1] != tag:
            return None
        write_file(Path(place), data)
        return data.hex()
    return _put(place, data, {"e_tag": tag})


def _put(place: str, data: bytes, mode: Any) -> str | None:
    store, key = bucket(place)
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    with as_os_errors(place):
        try:
            return str(store.put(key, data, mode=mode)["e_tag"])
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return None


def delete(place: str) -> None:
    """Delete a file or an object, if there is one."""
    if not is_object(place):
        Path(place).unlink(missing_ok=True)
        return
    store, key = bucket(place)
    with as_os_errors(place), contextlib.suppress(FileNotFoundError):
        store.delete(key)
