"""``frames/``: the pixels of every frame, what is not data in them, and the coordinates.

One frame is one shard and has one writer. ``invalid`` marks pixels that are not data (NaN, BLANK, input
mask, bad-pixel map); a frame without any stores nothing there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from aqdask.archive import fits, layout
from aqdask.archive.headers import header_gain, header_saturate
from aqdask.errors import FrameError
from aqdask.escape import printable
from aqdask.specs import ArchiveSpec, Card, FrameInfo

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


Coordinates = tuple[Any, ...]
"""Values of one row, in the order of `COORDINATES`."""


@dataclass(frozen=True)
class FrameStore:
    """The arrays under ``frames/`` of an open archive."""

    group: zarr.Group
    spec: ArchiveSpec

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writable: bool = False) -> FrameStore:
        """Open the frames of the archive at ``path`` (errors as `aqdask.archive.layout.open_root`)."""
        root = layout.open_root(path, writable=writable)
        return cls(layout.subgroup(root, "frames"), layout.read_spec(root))

    @classmethod
    def create(cls, root: zarr.Group) -> FrameStore:
        """Make the arrays, with no frame in them; the client's work, once."""
        store = cls(layout.subgroup(root, "frames"), layout.read_spec(root))
        if store.spec.pixels:
            store._create_plane("image", store.spec.dtype, "pixels in the frame's own type")
        store._create_plane("invalid", "bool", "pixel is not data (NaN, BLANK, input mask, bad-pixel map)")
        for name, (dtype, fill, attributes) in COORDINATES.items():
            store.group.create_array(
                name, shape=(0,), dtype=dtype, chunks=(layout.ROWS_PER_CHUNK,), fill_value=fill,
                compressors=[ZstdCodec(level=1, checksum=True)], attributes=dict(attributes),
                dimension_names=("frame",), overwrite=True,
            )  # fmt: skip
        return store

    def __len__(self) -> int:
        return int(self._array("frame_id").shape[0])

    def grow(self, rows: int) -> None:
        """Make room for ``rows`` frames in all; never shrinks."""
        for name in ("image", "invalid", *COORDINATES):
            if name in self.group:
                array = self._array(name)
                if array.shape[0] < rows:
                    array.resize((rows, *array.shape[1:]))

    def write_coordinates(self, start: int, rows: Sequence[tuple[str, str, FrameInfo]]) -> None:
        """Write ``(frame_id, path, info)`` of consecutive frames from row ``start``."""
        self.write_columns(start, [coordinates_of(*row) for row in rows])

    def write_columns(self, start: int, rows: Sequence[Coordinates]) -> None:
        """Write the coordinates of consecutive frames from row ``start``."""
        for position, (name, (dtype, _, _)) in enumerate(COORDINATES.items()):
            values = [row[position] for row in rows]
            column = np.array(values, dtype=np.dtypes.StringDType() if dtype is str else dtype)
            self._array(name)[start : start + len(rows)] = column

    def coordinate(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """One coordinate of many frames, as stored."""
        return np.asarray(self._array(name)[rows])

    def write(self, row: int, image: np.ndarray, invalid: np.ndarray | None) -> None:
        """Store one frame as its whole shard.

        Raises
        ------
        FrameError
            If the frame is of another shape or type than the archive's: never cast.
        """
        check_fits(self.spec, image.shape, image.dtype)
        for name, pixels in (("image", image), ("invalid", invalid)):
            if name not in self.group:
                continue
            array = self._array(name)
            layout.delete_shard(array, (row, 0, 0))
            if pixels is not None:
                array[row] = pixels

    def erase(self, row: int) -> None:
        """Remove one frame's pixels: it reads as no data."""
        for name in ("image", "invalid"):
            if name in self.group:
                layout.delete_shard(self._array(name), (row, 0, 0))

    def truncate(self, rows: int) -> None:
        """Cut rows that a killed client made but never registered."""
        if len(self) > rows:
            for name in ("image", "invalid", *COORDINATES):
                if name in self.group:
                    array = self._array(name)
                    array.resize((rows, *array.shape[1:]))

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """One frame ``(y, x)`` and its invalid pixels, None where every pixel is data."""
        image = np.asarray(self._array("image")[row])
        invalid = np.asarray(self._array("invalid")[row])
        return image, invalid if invalid.any() else None

    def _create_plane(self, name: str, dtype: str, meaning: str) -> None:
        spec = self.spec
        coordinates = " ".join(name for name in COORDINATES if "header" not in name)
        self.group.create_array(
            name, shape=(0, *spec.shape), dtype=dtype, chunks=spec.chunk_shape, shards=spec.shard_shape,
            fill_value=0, compressors=layout.compressors(spec.codec, dtype),
            dimension_names=("frame", "y", "x"), overwrite=True,
            attributes={"long_name": meaning, "coordinates": coordinates},
        )  # fmt: skip

    def _array(self, name: str) -> zarr.Array:
        return self.group[name]  # type: ignore[return-value]


@dataclass
class ChosenFrames:
    """Some frames of an archive, by row: what training reads from.

    ``cards`` are time, exposure, filter and camera of each frame.
    """

    store: FrameStore
    rows: tuple[int, ...]
    ids: Sequence[str]
    cards: Sequence[Card]

    @classmethod
    def of(cls, store: FrameStore, rows: Sequence[int]) -> ChosenFrames:
        """The frames of these rows, in this order."""
        names = ("frame_id", "time", "exptime", "filter", "camera", "header", "primary_header")
        columns = [store.coordinate(name)[list(rows)] for name in names]
        ids, cards = [], []
        for frame_id, time, exptime, band, camera, *headers in zip(*columns, strict=True):
            ids.append(str(frame_id))
            known = None if time == NO_TIME else int(time)
            texts = [str(text) for text in headers]
            levels = header_gain(*texts), header_saturate(*texts)
            cards.append(Card(known, float(exptime), str(band), str(camera), *levels))
        return cls(store, tuple(rows), ids, cards)

    def read(self, position: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels and invalid mask of one frame; from its source where the archive keeps no pixels."""
        row = self.rows[position]
        if self.store.spec.pixels:
            return self.store.read(row)
        at = slice(row, row + 1)
        path, hdu = str(self.store.coordinate("path", at)[0]), int(self.store.coordinate("hdu", at)[0])
        frame = fits.read_frame(path, hdu, self.store.spec.read)
        return frame.image, frame.invalid


def coordinates_of(frame_id: str, path: str, info: FrameInfo) -> Coordinates:
    """What the coordinates of a frame's row are."""
    card = info.card
    time = NO_TIME if card.time is None else card.time
    names, headers = (printable(frame_id), printable(path)), (info.header, info.primary_header)
    return (*names, info.hdu, time, card.exptime, card.filter, card.camera, *headers)


def row_checksum(row: Coordinates) -> str:
    """crc32c of a row's coordinates as JSON, 8 hex digits; the same of values as given and as read back."""
    plain = [str(v) if kind is str else np.dtype(kind).type(v).item()
             for v, (kind, _, _) in zip(row, COORDINATES.values(), strict=True)]  # fmt: skip
    return f"{google_crc32c.value(json.dumps(plain).encode()):08x}"


def check_fits(spec: ArchiveSpec, shape: tuple[int, ...], dtype: object) -> None:
    """Raise `FrameError` unless a frame has the archive's shape and type."""
    if tuple(shape) != spec.shape:
        raise FrameError(
            f"shape {shape[0]} x {shape[1]}, the archive holds {spec.shape[0]} x {spec.shape[1]}"
            " (--by-shape makes one archive a shape)"
        )
    if str(dtype) != spec.dtype:
        raise FrameError(
            f"type {dtype}, the archive holds {spec.dtype} (--by-shape makes one archive a type)"
        )


def checksum(*arrays: np.ndarray | None) -> str:
    """crc32c of the arrays' bytes in order, 8 hex digits; None counts as nothing."""
    value = 0
    for array in arrays:
        if array is not None:
            value = google_crc32c.extend(value, np.ascontiguousarray(array).view("uint8"))
    return f"{value:08x}"
