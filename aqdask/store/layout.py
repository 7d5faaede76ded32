"""Creation and opening of archives, each one zarr v3 hierarchy, and writing of whole shards.

The layout is specified in ``LAYOUT.md`` beside this module. Only the client creates and resizes
arrays; workers assign whole shards (`aqdask.store.frame_store`, `aqdask.store.quality_store`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import AsyncGroup, GroupMetadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StorePath

from aqdask.errors import ArchiveError, UsageError, place_failed, place_unreadable
from aqdask.io.places import PARTIAL
from aqdask.paths import is_object
from aqdask.specs import ArchiveSpec, ReadSpec
from aqdask.store.codecs import CODECS
from aqdask.store.stores import open_store

FORMAT = "aqdask"
LAYOUT_VERSION = 4
LEFT_OUT = "left_out"  # attribute of the root
CONVENTIONS = "CF-1.11"
GROUPS = ("frames", "quality", "ledger")
FRAME_SCORE = (
    "frame score: distance from the reference frames in standard deviations, or 25 times the masked fraction "
    "of the patches where that is more, larger is worse"
)
# Long names that earlier releases wrote, and those of today.
REWORDED = {
    "evidence that was worst": "property of the patch with the smallest p-value",
    "how far the frame is from the references in robust sigma, larger is worse": FRAME_SCORE,
    "distance from the reference frames in robust sigma, larger is worse": FRAME_SCORE,
    "distance from the reference frames in standard deviations, larger is worse": FRAME_SCORE,
    "frame is flagged: frame_score above 5 (robust sigma of size, ellipticity, sky or noise, or more than "
    "20 % of the patches masked)": (
        "frame is flagged: frame_score above 5 (standard deviations of size, ellipticity, noise or sky, or "
        "more than 20 % of the patches masked)"
    ),
    "PSF size of the frame over the median of the fitted references, above 1 = wider": (
        "PSF size of the frame relative to that of the reference frames, above 1 = wider"
    ),
    "PSF ellipticity of the frame less that of the reference frames": (
        "modulus of the difference in PSF ellipticity from the reference frames"
    ),
    "conformal p-value of the frame's PSF size, at least 1 / (references + 1)": (
        "p-value of the frame's PSF size"
    ),
    "conformal p-value of the frame's PSF ellipticity, at least 1 / (references + 1)": (
        "p-value of the frame's PSF ellipticity"
    ),
    "conformal p-value of its PSF ellipticity, at least 1 / (references + 1)": (
        "p-value of the frame's PSF ellipticity"
    ),
    "split conformal p-value of the score through both passes": "p-value of the patch, smaller is worse",
    "mean number of stars a patch": "mean number of stars per patch",
    "what of the frame lies outside the range of the reference frames": (
        "quantities outside the range of the reference frames: stars per patch (density), sky, "
        "noise relative to the noise model (gain)"
    ),
}
METADATA = "zarr.json"
REQUIRED = {"group": set(), "array": {"shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs"}}
UNREADABLE = (
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
)  # from zarr, for metadata or chunks that are damaged
ROWS_PER_CHUNK = 4096  # rows of the 1-D arrays that go with the frames


def compressors(codec: str, dtype: Any) -> list[Any]:
    """Return the compressors of an array: Blosc with bitshuffle, then crc32c, which detects flipped bits."""
    if codec not in CODECS:
        raise UsageError(
            f"the codec {codec!r}",
            expected=f"one of {', '.join(CODECS)}",
            consequence="Nothing can be stored with it",
            remedy="leave it out for the default",
        )
    name, level = CODECS[codec]
    size, compressor = np.dtype(dtype).itemsize, cast(Any, name)
    return [BloscCodec(cname=compressor, clevel=level, shuffle="bitshuffle", typesize=size), Crc32cCodec()]


def create(path: str | os.PathLike[str], spec: ArchiveSpec, *, created_by: str) -> zarr.Group:
    """Create an empty archive at ``path`` and return its root group.

    Raises
    ------
    ArchiveError
        If ``path`` holds something else, or cannot be written.
    """
    compressors(spec.codec, spec.dtype)
    with storing(path):
        store = open_store(path, writable=True)
        is_used = _holds_something(path, store)
    if is_used:
        raise ArchiveError(
            f"{path} exists and is not an aqdask archive",
            expected="a new path, or an archive made by `aqdask ingest`",
            consequence="Nothing was written",
            remedy="choose another output path, or remove that one yourself",
        )
    attributes = {
        "format": FORMAT,
        "layout_version": LAYOUT_VERSION,
        "created_by": created_by,
        "archive": dataclasses.asdict(spec),
        "Conventions": CONVENTIONS,
    }
    try:
        root = zarr.create_group(store, attributes=attributes)
        complete(root)
    except OSError as error:
        raise place_failed(path, error) from error
    return root


def _holds_something(path: str | os.PathLike[str], store: Store) -> bool:
    """Return True for a path that cannot become an archive."""
    if is_object(path):

        async def first() -> bool:
            return [name async for name in store.list_dir("")] != []

        return sync(first())
    place = Path(path)
    return place.exists() and (not place.is_dir() or any(p.suffix != PARTIAL for p in place.iterdir()))


@contextlib.contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn an `OSError` while reading the archive at ``path`` into an `ArchiveError`."""
    try:
        yield
    except OSError as error:
        raise place_unreadable(error.filename or path, error) from error


@contextlib.contextmanager
def storing(path: object) -> Iterator[None]:
    """Turn an `OSError` while writing the archive at ``path`` into an `ArchiveError`."""
    try:
        yield
    except OSError as error:
        raise place_failed(path, error) from error


def complete(root: zarr.Group) -> None:
    """Create missing groups: a client may have been killed while creating the archive."""
    for name in GROUPS:
        if not has_metadata(root.store_path / name):
            delete_metadata(root.store_path / name)
            root.require_group(name)


def open_root(path: str | os.PathLike[str], *, writable: bool = False, fsync: bool = True) -> zarr.Group:
    """Open an archive's root group, without consolidated metadata, which may be older than the arrays.

    Without ``fsync``, what is written is left to the operating system to bring to disk.

    Raises
    ------
    UsageError
        If ``path`` does not exist.
    ArchiveError
        If ``path`` is no aqdask archive, or has a newer layout.
    """
    place = str(path)
    if not is_object(path) and not Path(place).exists():
        raise _absent(place)
    try:
        store = open_store(path, writable=writable, fsync=fsync)
        mode: Any = "r+" if writable else "r"
        root = zarr.open_group(store, mode=mode, use_consolidated=False, zarr_format=3)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError) as error:
        if is_object(path) and not _holds_something(path, store):
            raise _absent(place) from error
        raise _foreign(place, "it holds no zarr v3 group") from error
    found = root.attrs.get("format")
    if found != FORMAT:
        raise _foreign(place, f"its attribute format is {found!r}")
    version = root.attrs.get("layout_version")
    if not isinstance(version, int) or version > LAYOUT_VERSION:
        raise ArchiveError(
            f"{place} has layout version {version}",
            expected=f"at most {LAYOUT_VERSION}, which this version of aqdask reads and writes",
            consequence="It was not touched, since the same names may mean other things in a newer layout",
            remedy=f"install a newer aqdask (the archive was made by {root.attrs.get('created_by')})",
        )
    return root


def version_of(root: zarr.Group) -> int:
    """Return the archive's layout version."""
    return int(root.attrs["layout_version"])  # type: ignore[arg-type]


def group(root: zarr.Group, name: str) -> zarr.Group:
    """Open a group below the root, without its consolidated metadata, which may be older than the arrays.

    A group that has lost its metadata is opened without attributes, so that its arrays are still found.
    """
    if not has_metadata(root.store_path / name):
        bare = GroupMetadata(zarr_format=3, attributes={})
        return zarr.Group(AsyncGroup(metadata=bare, store_path=root.store_path / name))
    return zarr.open_group(
        root.store, path=name, mode="r" if root.read_only else "r+", use_consolidated=False, zarr_format=3
    )


def has_metadata(place: StorePath, node_type: str = "group") -> bool:
    """Return True if a group (or an 'array') has readable metadata."""
    found = sync((place / METADATA).get(prototype=default_buffer_prototype()))
    try:
        known = json.loads(found.to_bytes()) if found is not None else {}
        return known["node_type"] == node_type and known.keys() >= REQUIRED[node_type]
    except UNREADABLE:
        return False


def delete_metadata(place: StorePath) -> None:
    """Delete the metadata of a group or an array, and nothing else."""
    sync((place / METADATA).delete())


def open_array(group: zarr.Group, name: str) -> zarr.Array:
    """Open an array of a group; `ArchiveError` where its metadata are missing or damaged."""
    try:
        return group[name]  # type: ignore[return-value]
    except UNREADABLE as error:
        problem = f"{group.path}/{name} has lost its metadata ({METADATA} is missing or damaged)"
        raise damaged(group.store, {name: problem}) from error


def open_reader(group: zarr.Group, name: str) -> zarr.Array:
    """Open an array to read whole shards of it, from local files with zarrs: half the time of zarr's codecs.

    Its writes are not atomic, and are not used. It opens no path that is not UTF-8.
    """
    if isinstance(group.store, LocalStore):
        with (
            contextlib.suppress(ArchiveError),
            zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}),
        ):
            return open_array(group, name)
    return open_array(group, name)


def read_values(group: zarr.Group, name: str, rows: slice = slice(None)) -> np.ndarray | None:
    """Read an array, or rows of it; None where it is missing or does not decode."""
    try:
        return np.asarray(group[name][rows])  # type: ignore[index]
    except UNREADABLE:
        return None


def array_problem(
    group: zarr.Group, name: str, expected: Mapping[str, Any], rows: int = 0, thorough: bool = True
) -> str:
    """Describe how the metadata of an array differ from those it was made with; empty where they agree.

    ``expected`` holds the arguments of ``create_array``; the first axis must have ``rows`` at least. A
    ``thorough`` comparison takes a millisecond; otherwise only shapes are compared.
    """
    if not has_metadata(group.store_path / name, "array"):
        return f"{name} has lost its metadata ({METADATA} is missing or damaged)"
    try:
        array: zarr.Array = group[name]  # type: ignore[assignment]
        found = _made_as(array)
    except UNREADABLE as error:
        return f"{name} has metadata that cannot be read ({type(error).__name__})"
    is_other = array.shape[1:] != expected["shape"][1:]
    if is_other or (thorough and found != _made_as(zarr.create_array(MemoryStore(), **expected))):
        return f"{name} has other metadata than it was made with ({METADATA} is of another array)"
    if array.shape[0] < rows:
        return f"{name} has {array.shape[0]} rows of {rows} ({METADATA} is of an earlier time)"
    return ""


def _made_as(array: zarr.Array) -> tuple[Any, ...]:
    """Return the metadata of an array that determine its values, in a form common to all versions of zarr."""
    metadata: Any = array.metadata.to_dict()
    codecs = [codec["name"] for codec in _all_codecs(metadata["codecs"])]
    shape = (array.shape[1:], array.chunks, array.shards, metadata["dimension_names"])
    long_name = metadata["attributes"].get("long_name")
    return (*shape, str(array.dtype), str(array.fill_value), codecs, REWORDED.get(long_name, long_name))


def _all_codecs(codecs: Iterable[Any]) -> Iterator[Any]:
    """Yield codecs, those inside a shard included."""
    for codec in codecs:
        yield codec
        yield from _all_codecs(codec.get("configuration", {}).get("codecs", ()))


def mend_array(group: zarr.Group, name: str, expected: Mapping[str, Any], rows: int | None = None) -> None:
    """Write the metadata of an array again, with ``rows`` along the first axis; stored chunks stay."""
    delete_metadata(group.store_path / name)
    shape = expected["shape"] if rows is None else (rows, *expected["shape"][1:])
    group.create_array(name, **{**expected, "shape": shape})


def record_left_out(root: zarr.Group, counts: Mapping[str, int]) -> None:
    """Record the number of files by suffix that the last ingest left out, where it has changed."""
    if counts and root.attrs.get(LEFT_OUT) != dict(counts):
        root.attrs[LEFT_OUT] = dict(counts)
    elif not counts and LEFT_OUT in root.attrs:
        del root.attrs[LEFT_OUT]


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return True if ``path`` holds an archive of any layout version."""
    try:
        return open_root(path) is not None
    except UsageError:
        return False
    except ArchiveError as error:
        return "layout version" in error.got


def read_spec(root: zarr.Group) -> ArchiveSpec:
    """Return the `ArchiveSpec` that the archive was made with.

    An archive that does not state them was made before sections and constant fill were no data.
    """
    stored: dict[str, Any] = dict(root.attrs["archive"])  # type: ignore[arg-type]
    read = {"sections": False, "fill": False, **stored.pop("read")}
    keywords = tuple((name, keyword) for name, keyword in read.pop("keywords"))
    stored["shape"] = tuple(stored["shape"])
    return ArchiveSpec(**stored, read=ReadSpec(**read, keywords=keywords))


def consolidate(root: zarr.Group) -> None:
    """Write consolidated metadata of every group that is opened on its own, and finally of the root.

    Nothing is written where they are up to date, nor where an array or a group has lost its metadata, which
    `aqdask verify` reports.
    """
    if not _is_whole(root.store_path, root):
        return
    groups = ["frames", *(f"quality/{name}" for name in sorted(root["quality"].group_keys()))]  # type: ignore[union-attr]
    with warnings.catch_warnings():
        # zarr announces on every call that consolidated metadata is xarray's custom and not in the v3 text
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        warnings.filterwarnings("ignore", message="Object at lock.json", category=UserWarning)
        if _is_consolidated(root):
            return
        for group in groups:
            zarr.consolidate_metadata(root.store, path=group, zarr_format=3)
        zarr.consolidate_metadata(root.store, zarr_format=3)


def _is_whole(place: StorePath, root: zarr.Group) -> bool:
    """Return True if all groups and arrays have metadata."""

    async def names(name: str) -> list[str]:
        return [found async for found in place.store.list_dir(f"{place.path}/{name}".strip("/"))]

    groups = [*GROUPS, *(f"quality/{name}" for name in sync(names("quality")) if name != METADATA)]
    arrays = [f"{group}/{n}" for group in groups if group != "quality" for n in sync(names(group))]
    return all(has_metadata(place / name) for name in groups) and all(
        has_metadata(place / name, "array") for name in arrays if not name.endswith(METADATA)
    )


def _is_consolidated(root: zarr.Group) -> bool:
    try:
        known = zarr.open_group(root.store, mode="r", use_consolidated=True, zarr_format=3)
    except ValueError:  # it has none
        return False

    def stated(group: zarr.Group) -> dict[str, Any]:
        # only arrays and attributes: a group's own consolidated metadata is what is asked about
        return {
            name: item.attrs.asdict() if isinstance(item, zarr.Group) else item.metadata.to_dict()
            for name, item in group.members(max_depth=None, use_consolidated_for_children=group is known)
        }

    return stated(known) == stated(root)


def delete_shard(array: zarr.Array, index: tuple[int, ...]) -> None:
    """Delete one stored shard, if it exists."""
    key = array.metadata.encode_chunk_key(index)
    sync((array.store_path / key).delete())


def has_shard(array: zarr.Array, index: tuple[int, ...]) -> bool:
    """Return True if a shard is stored."""
    return sync((array.store_path / array.metadata.encode_chunk_key(index)).exists())


def write_new(place: StorePath, data: bytes) -> None:
    """Write an object that nobody has written yet.

    Raises
    ------
    ArchiveError
        If there is one with other contents: another client writes to the archive as well.
    """
    prototype = default_buffer_prototype()
    sync(place.set_if_not_exists(prototype.buffer.from_bytes(data)))
    found = sync(place.get(prototype=prototype))
    if found is None or found.to_bytes() != data:
        raise ArchiveError(
            f"{place} was written by another process",
            expected="one writing client an archive",
            consequence="This run stops; its unwritten records are lost, and their frames are done again",
            remedy="stop the other run, then run `aqdask verify` and the same command again",
        )


def write_shards(index: tuple[int, ...], shards: Iterable[tuple[zarr.Array, np.ndarray | None]]) -> None:
    """Store one whole shard of each array by a rename; None, or only fill values, deletes the shard.

    The shards are encoded here rather than assigned to the arrays: zarr (3.1) would read the former
    shard first, and fail where it is damaged. Unfinished files of a killed writer are removed.

    Parameters
    ----------
    index : tuple of int
        The shard's position, the same in every array.
    shards : iterable of (zarr.Array, ndarray or None)
        Values of the array's type, padded with the fill value to a whole shard.
    """
    encoded = [(array, None if values is None else _padded(array, values)) for array, values in shards]
    sync(_write_shards(index, encoded))


async def _write_shards(
    index: tuple[int, ...], shards: Iterable[tuple[zarr.Array, np.ndarray | None]]
) -> None:
    prototype = default_buffer_prototype()
    for array, values in shards:
        data = None
        if values is not None:
            pipeline, config = array.async_array.codec_pipeline, array.async_array.config
            if _is_filled(array, values):  # zarr would compare every pixel with the fill value
                config = dataclasses.replace(config, write_empty_chunks=True)
            spec = array.metadata.get_chunk_spec(index, config, prototype)
            [data] = await pipeline.encode([(prototype.nd_buffer.from_numpy_array(values), spec)])
        place = array.store_path / array.metadata.encode_chunk_key(index)
        if isinstance(place.store, LocalStore):
            stored = place.store.root / place.path
            _remove(stored.parent.glob(f"{stored.name}.*{PARTIAL}") if stored.parent.exists() else ())
        await (place.delete() if data is None else place.set(data))


def _is_filled(array: zarr.Array, values: np.ndarray) -> bool:
    """Return True if the first value of every chunk is not the fill value, so that no chunk is left out."""
    first = values[tuple(slice(None, None, side) for side in array.chunks)]
    return bool(array.fill_value == array.fill_value and (first != array.fill_value).all())  # not NaN


def _padded(array: zarr.Array, values: np.ndarray) -> np.ndarray:
    """Pad values to a whole shard, C-contiguous."""
    if values.shape == array.shards:
        return np.ascontiguousarray(values)
    beyond = [(0, side - length) for side, length in zip(array.shards, values.shape, strict=True)]  # type: ignore[arg-type]
    return np.pad(values, beyond, constant_values=array.fill_value)


def sweep_partials(path: str | os.PathLike[str], *, shards: bool) -> None:
    """Remove ``*.partial`` files that a killed writer left in a local store.

    Those of ``shards`` are removed on request only: `write_shards` does it when the shard is written again,
    and there are as many folders of shards as frames.
    """
    if not is_object(path):
        _remove(_partials(str(path), shards))


def _partials(folder: str, shards: bool) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if os.path.basename(folder) == "c" and not shards:
                    return  # of an array of several dimensions
                yield from _partials(entry.path, shards)
            elif entry.name.endswith(PARTIAL):
                yield entry.path


def _remove(paths: Iterable[str | Path]) -> None:
    for path in list(paths):
        Path(path).unlink(missing_ok=True)


def damaged(path: object, problems: Mapping[str, str]) -> ArchiveError:
    """Make the error for an archive that has lost an essential part."""
    place = str(path).removeprefix("file://")
    shown = "; ".join(list(problems.values())[:5]) + ("; and more" if len(problems) > 5 else "")
    return ArchiveError(
        f"{place} is damaged: {shown}",
        expected="every array and record that the archive was made with",
        consequence="Nothing was changed, since missing parts could be mistaken for parts that never existed",
        remedy="`aqdask verify ARCHIVE` lists everything, and `aqdask verify ARCHIVE --repair` restores it",
    )


def _absent(place: str) -> UsageError:
    return UsageError(
        f"no archive at {place}",
        expected="a folder or an address that `aqdask ingest` made",
        consequence="There is nothing to work on",
        remedy="check it, or ingest frames first",
    )


def _foreign(place: str, why: str) -> ArchiveError:
    return ArchiveError(
        f"{place} is not an aqdask archive: {why}",
        expected="a zarr v3 group made by `aqdask ingest` or `aqdask run`",
        consequence="It was not touched",
        remedy="check the path, or give a new one to `aqdask ingest`",
    )
