"""Group ``frames/`` of an archive: pixels, invalid pixels, and coordinates of the frames.

A frame is one shard and has one writer. ``invalid`` marks pixels that are not data (NaN, BLANK, input mask,
bad-pixel map); a frame without such pixels stores nothing there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from aqdask.errors import ArchiveError, FrameError
from aqdask.io import reader
from aqdask.io.frame_type import header_mosaic
from aqdask.io.metadata import header_gain, header_saturate, header_unit
from aqdask.specs import ArchiveSpec, FrameInfo, FrameMetadata, middle
from aqdask.store import layout
from aqdask.text import printable

NO_TIME = int(np.iinfo("int64").min)  # xarray decodes it as NaT

COORDINATES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    # name: type, fill value, CF attributes
    "frame_id": (
        str,
        "",
        {"long_name": "path below the source root, with the HDU where needed"},
    ),
    "path": (str, "", {"long_name": "source file"}),
    "hdu": ("int32", -1, {"long_name": "index of the HDU in the source file"}),
    "time": (
        "int64",
        NO_TIME,
        {
            "standard_name": "time",
            "long_name": "start of the exposure (UTC)",
            "units": "microseconds since 1970-01-01",
            "calendar": "proleptic_gregorian",
            "_FillValue": NO_TIME,
        },
    ),
    "exptime": ("float64", float("nan"), {"long_name": "exposure time", "units": "s"}),
    "filter": (str, "", {"long_name": "filter"}),
    "camera": (str, "", {"long_name": "instrument, with binning where it is not 1 x 1"}),
    "header": (str, "", {"long_name": "header cards of the HDU, verbatim, 80 characters each"}),
    "primary_header": (str, "", {"long_name": "header cards of the primary HDU where it is another one"}),
}


DAMAGED = (
    "the stored pixels are missing or damaged: `aqdask verify --repair` makes them again from the source"
)

Coordinates = tuple[Any, ...]
"""Values of one row, in the order of `COORDINATES`."""


@dataclass(frozen=True)
class FrameStore:
    """Arrays in the group ``frames/`` of an open archive."""

    group: zarr.Group
    spec: ArchiveSpec

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writable: bool = False, fsync: bool = True) -> FrameStore:
        """Open the frames of the archive at ``path`` (options and errors of `aqdask.store.layout.open_root`).

        An array without metadata raises `ArchiveError` when it is used, and is listed by `problems`.
        """
        return cls.at(layout.open_root(path, writable=writable, fsync=fsync))

    @classmethod
    def at(cls, root: zarr.Group) -> FrameStore:
        """Open the frames below a root group."""
        return cls(layout.group(root, "frames"), layout.read_spec(root))

    @classmethod
    def create(cls, root: zarr.Group) -> FrameStore:
        """Create the arrays without frames; called once, by the client."""
        store = cls.at(root)
        store.mend(0)
        return store

    @cached_property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """Arguments of ``create_array`` for each array, without rows."""
        planes = {"image": (self.spec.dtype, "pixels in the frame's own type")} if self.spec.pixels else {}
        planes["invalid"] = ("bool", "pixel is not data (NaN, BLANK, input mask, bad-pixel map)")
        found = {name: self._plane(*about) for name, about in planes.items()}
        for name, (dtype, fill, attributes) in COORDINATES.items():
            found[name] = {
                "shape": (0,), "dtype": dtype, "chunks": (layout.ROWS_PER_CHUNK,), "fill_value": fill,
                "compressors": [ZstdCodec(level=1, checksum=True)], "attributes": dict(attributes),
                "dimension_names": ("frame",),
            }  # fmt: skip
        return found

    def problems(self, rows: int = 0, *, thorough: bool = True) -> dict[str, str]:
        """Describe, by name, arrays with lost or other metadata, or with fewer than ``rows`` rows."""
        expected = self.arrays.items()
        found = ((n, layout.array_problem(self.group, n, made, rows, thorough)) for n, made in expected)
        return {name: problem for name, problem in found if problem}

    def mend(self, rows: int) -> None:
        """Restore lost metadata of arrays, with room for ``rows`` frames and for those of other arrays.

        Stored chunks stay.
        """
        rows = max(rows, self._length())  # the ledger that counts them may have lost records as well
        for name in self.problems(rows):
            layout.mend_array(self.group, name, self.arrays[name], rows)
            self._opened.pop(name, None)

    def __len__(self) -> int:
        return int(self._array("frame_id").shape[0])

    def grow(self, rows: int) -> None:
        """Resize the arrays to at least ``rows`` frames."""
        for name in self.arrays:
            array = self._array(name)
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))

    def write_columns(self, start: int, rows: Sequence[Coordinates]) -> None:
        """Write the coordinates of consecutive frames from row ``start``."""
        for position, (name, (dtype, _, _)) in enumerate(COORDINATES.items()):
            values = [row[position] for row in rows]
            column = np.array(values, dtype=np.dtypes.StringDType() if dtype is str else dtype)
            self._array(name)[start : start + len(rows)] = column

    def coordinate(self, name: str, rows: slice | Sequence[int] = slice(None)) -> np.ndarray:
        """Read a coordinate of many frames; each chunk of 4,096 rows is decoded once."""
        array = self._array(name)
        if isinstance(rows, slice):
            return np.asarray(array[rows])
        return np.asarray(array.oindex[np.asarray(rows, dtype=np.intp)])

    def recent_coordinate(self, name: str, rows: Sequence[int]) -> list[str]:
        """Read a coordinate of some frames as text, and keep the chunk: following frames lie in it as well.

        For tasks during which no coordinate is written. At most one chunk of each coordinate is kept.
        """
        found = []
        for row in rows:
            chunk = row // layout.ROWS_PER_CHUNK
            recent = self._recent.get(name)  # another thread may replace it meanwhile
            if recent is None or recent[0] != chunk:
                first = chunk * layout.ROWS_PER_CHUNK
                values = self.coordinate(name, slice(first, first + layout.ROWS_PER_CHUNK))
                recent = self._recent[name] = chunk, values
            found.append(str(recent[1][row % layout.ROWS_PER_CHUNK]))
        return found

    @cached_property
    def _recent(self) -> dict[str, tuple[int, Any]]:
        return {}

    def write(self, row: int, image: np.ndarray, invalid: np.ndarray | None) -> None:
        """Store one frame as a whole shard; an earlier one stays until it is replaced.

        Raises
        ------
        FrameError
            If shape or type differ from those of the archive; nothing is cast.
        """
        check_fits(self.spec, image.shape, image.dtype)
        values = {"image": image[np.newaxis], "invalid": None if invalid is None else invalid[np.newaxis]}
        layout.write_shards((row, 0, 0), [(self._array(name), values[name]) for name in self.planes])

    @cached_property
    def _whole_image(self) -> zarr.Array:
        """The array of the images, for reading whole frames; opened before rows are added, once a run."""
        return layout.open_reader(self.group, "image")

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the pixel arrays: ``image``, where the archive keeps it, and ``invalid``."""
        return tuple(name for name in ("image", "invalid") if name in self.arrays)

    def erase(self, row: int) -> None:
        """Delete one frame's pixels, so that they read as no data."""
        layout.write_shards((row, 0, 0), [(self._array(name), None) for name in self.planes])

    def has_pixels(self, row: int) -> bool:
        """Return True if a shard of the frame is stored."""
        return any(layout.has_shard(self._array(name), (row, 0, 0)) for name in self.planes)

    def stored_beyond(self, rows: int) -> list[int]:
        """Return rows from ``rows`` on with stored pixels."""
        return [row for row in range(rows, self._length()) if self.has_pixels(row)]

    def _length(self) -> int:
        """Return the rows of the longest array: a killed client may leave some shorter."""
        lengths = [0]
        for name in self.arrays:
            with contextlib.suppress(ArchiveError):
                lengths.append(self._array(name).shape[0])
        return max(lengths)

    def truncate(self, rows: int) -> None:
        """Remove rows that a killed client added but never registered.

        Raises
        ------
        ArchiveError
            If a row holds pixels: those are stored for registered frames only, so the ledger has lost
            records.
        """
        if self._length() <= rows:
            return
        if stored := self.stored_beyond(rows):
            what = f"{len(stored)} rows from {stored[0]} on hold pixels of which the ledger knows nothing"
            raise layout.damaged(self.group.store_path, {"ledger": what})
        for name in self.arrays:
            array = self._array(name)
            array.resize((rows, *array.shape[1:]))

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read one frame ``(y, x)`` and its invalid pixels, None where all are valid."""
        try:
            image = np.asarray(self._whole_image[row])
        except RuntimeError:  # zarr's own codecs tell a disk that cannot be read from damage
            image = np.asarray(self._array("image")[row])
        if not layout.has_shard(self._array("invalid"), (row, 0, 0)):
            return image, None
        invalid = self.read_invalid(row)
        return image, invalid if invalid.any() else None

    def read_middle(self, row: int, window: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the middle ``window`` pixels of a frame; only the inner chunks have checksums then.

        Raises
        ------
        FrameError
            If stored pixels do not decode.
        """
        y, x = middle(self.spec.shape, window)
        try:
            image = np.asarray(self._array("image")[row, y, x])
            invalid = np.asarray(self._array("invalid")[row, y, x])
        except layout.UNREADABLE as error:
            raise FrameError(DAMAGED) from error
        if not image.any() and not self.has_pixels(row):
            raise FrameError(DAMAGED)
        return image, invalid if invalid.any() else None

    def read_invalid(self, row: int) -> np.ndarray:
        """Read the invalid pixels of one frame, bool ``(y, x)``."""
        return np.asarray(self._array("invalid")[row])

    def read_checked(self, row: int, crc32c: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Read one frame and verify its `checksum`.

        Raises
        ------
        FrameError
            If the stored pixels are missing, do not decode, or have another checksum.
        """
        try:
            found = self.read(row)
        except layout.UNREADABLE as error:
            raise FrameError(DAMAGED) from error
        if checksum(*found) != crc32c:
            raise FrameError(DAMAGED)
        return found

    def _plane(self, dtype: str, meaning: str) -> dict[str, Any]:
        spec = self.spec
        coordinates = " ".join(name for name in COORDINATES if "header" not in name)
        return {
            "shape": (0, *spec.shape), "dtype": dtype, "chunks": spec.chunk_shape, "shards": spec.shard_shape,
            "fill_value": 0, "compressors": layout.compressors(spec.codec, dtype),
            "dimension_names": ("frame", "y", "x"),
            "attributes": {"long_name": meaning, "coordinates": coordinates},
        }  # fmt: skip

    @cached_property
    def _opened(self) -> dict[str, zarr.Array]:
        return {}

    def _array(self, name: str) -> zarr.Array:
        if name not in self._opened:
            self._opened[name] = layout.open_array(self.group, name)
        return self._opened[name]


class Place(NamedTuple):
    """Location of a frame: row, source file and HDU, and checksum of the pixels."""

    row: int
    path: str
    hdu: int
    crc32c: str


@dataclass
class ChosenFrames:
    """Selected frames of an archive, as read for training and calibration.

    ``metadata`` holds the header values of each frame, ``boxes`` the parts ``x0, y0, x1, y1`` that are no
    data for this use, by frame id.
    """

    store: FrameStore
    places: tuple[Place, ...]
    ids: Sequence[str]
    metadata: Sequence[FrameMetadata]
    boxes: Mapping[str, Sequence[tuple[int, int, int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: FrameStore, places: Sequence[Place]) -> ChosenFrames:
        """Select the frames at some places, in their order."""
        names = ("frame_id", "time", "exptime", "filter", "camera", "header", "primary_header")
        columns = [store.coordinate(name, [place.row for place in places]) for name in names]
        ids, metadata = [], []
        for frame_id, time, exptime, band, camera, *headers in zip(*columns, strict=True):
            ids.append(str(frame_id))
            known = None if time == NO_TIME else int(time)
            texts = [str(text) for text in headers]
            levels = header_gain(*texts), header_saturate(*texts), header_unit(*texts)
            plain = FrameMetadata(known, float(exptime), str(band), str(camera), *levels)
            metadata.append(replace(plain, mosaic=header_mosaic(*texts)))
        return cls(store, tuple(places), ids, metadata)

    def only(self, positions: Sequence[int]) -> ChosenFrames:
        """Return some of the frames, by position."""
        places, ids, metadata = (
            [values[k] for k in positions] for values in (self.places, self.ids, self.metadata)
        )
        boxes = {name: self.boxes[name] for name in ids if name in self.boxes}  # type: ignore[index]
        return ChosenFrames(self.store, tuple(places), ids, metadata, boxes)  # type: ignore[arg-type]

    def without(self, ids: Collection[str]) -> ChosenFrames:
        """Return the frames that are not named."""
        return self.only([k for k, frame_id in enumerate(self.ids) if frame_id not in ids])

    def read(self, position: int, window: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """Read one frame as `read_place`; with ``window``, the middle of each axis only.

        Raises
        ------
        ArchiveError
            If the pixels cannot be read, or differ from those that were ingested.
        """
        try:
            image, invalid = self._read(self.places[position], window)
        except FrameError as error:
            raise ArchiveError(
                f"{printable(self.ids[position])}: {error}",
                expected="frames that can be read as they were ingested",
                consequence="The frame was not used",
                remedy="`aqdask verify ARCHIVE`, or leave this frame out",
            ) from error
        boxes = self.boxes.get(self.ids[position])
        if not boxes:
            return image, invalid
        left_out = np.zeros(self.store.spec.shape, bool)
        for x0, y0, x1, y1 in boxes:
            left_out[y0:y1, x0:x1] = True
        left_out = left_out[middle(left_out.shape, window)]
        return image, left_out if invalid is None else invalid | left_out

    def _read(self, place: Place, window: int) -> tuple[np.ndarray, np.ndarray | None]:
        if window and self.store.spec.pixels:
            return self.store.read_middle(place.row, window)
        image, invalid = read_place(self.store, place)
        part = middle(image.shape, window)
        return image[part], None if invalid is None else invalid[part]


def read_place(store: FrameStore, place: Place) -> tuple[np.ndarray, np.ndarray | None]:
    """Read pixels and invalid mask of one frame; from its source where the archive keeps no pixels.

    Raises
    ------
    FrameError
        If the pixels cannot be read, or differ from those that were ingested.
    """
    if store.spec.pixels:
        return store.read_checked(place.row, place.crc32c)
    frame = reader.read_frame(place.path, place.hdu, store.spec.read)
    if checksum(frame.image, frame.invalid) != place.crc32c:
        raise FrameError("its source has changed since the ingest: `aqdask ingest` reads it again")
    return frame.image, frame.invalid


def coordinates_of(frame_id: str, path: str, info: FrameInfo) -> Coordinates:
    """Return the coordinates of a frame's row, with printable text (`aqdask.text`)."""
    known = info.metadata
    time = NO_TIME if known.time is None else known.time
    names, headers = (printable(frame_id), printable(path)), (info.header, info.primary_header)
    return (*names, info.hdu, time, known.exptime, known.filter, known.camera, *headers)


def row_checksum(row: Coordinates) -> str:
    """Return the crc32c of a row's coordinates as JSON, 8 hex digits; the same for stored values."""
    plain = [str(v) if kind is str else np.dtype(kind).type(v).item()
             for v, (kind, _, _) in zip(row, COORDINATES.values(), strict=True)]  # fmt: skip
    return f"{google_crc32c.value(json.dumps(plain).encode()):08x}"


def check_fits(spec: ArchiveSpec, shape: tuple[int, ...], dtype: object) -> None:
    """Raise `FrameError` unless a frame has the archive's shape and type."""
    if tuple(shape) != spec.shape:
        raise FrameError(
            f"shape {shape[0]} x {shape[1]}, the archive holds {spec.shape[0]} x {spec.shape[1]}"
            " (`aqdask ingest --by-shape` makes one archive a shape)"
        )
    if str(dtype) != spec.dtype:
        raise FrameError(
            f"type {dtype}, the archive holds {spec.dtype}"
            " (`aqdask ingest --by-shape` makes one archive a type)"
        )


def checksum(*arrays: np.ndarray | None) -> str:
    """Return the crc32c of the bytes of arrays in order, 8 hex digits; None is skipped."""
    value = 0
    for array in arrays:
        if array is not None:
            value = google_crc32c.extend(value, np.ascontiguousarray(array).view("uint8"))
    return f"{value:08x}"
