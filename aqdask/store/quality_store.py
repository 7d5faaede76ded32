"""Groups ``quality/<name>-<digest8>/`` of an archive: maps and frame-level values of one model each.

Maps are ``(frame, patch_y, patch_x)``; a shard holds K frames and is written by one task.
Frame-level variables are ``(frame,)`` and written by the client.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from aqdask.errors import UsageError
from aqdask.specs import PatchGrid, Variable
from aqdask.store import layout
from aqdask.store.frame_store import checksum

SKY = (
    Variable("ra", "float64", float("nan"), {"standard_name": "right_ascension", "units": "degree",
             "long_name": "right ascension of the patch centre (ICRS)"}),
    Variable("dec", "float64", float("nan"), {"standard_name": "declination", "units": "degree",
             "long_name": "declination of the patch centre (ICRS)"}),
)  # fmt: skip
"""Position of patch centres, where the frame has a WCS; stored beside what the scorer gives."""
BUNDLE = {"long_name": "the model bundle itself, a safetensors file"}  # attributes of the stored model


@dataclass(frozen=True)
class QualitySpec:
    """Contents of a quality group as it was made, recorded in the ledger.

    Parameters
    ----------
    name : str
        Of the group.
    grid : PatchGrid
        The patches of every frame.
    per_shard : int
        K: frames in one stored object.
    variables : tuple of Variable
        Variables of the scorer.
    attributes : dict
        Of the group: model, method, model_sha256, patch, frame_shape.
    """

    name: str
    grid: PatchGrid
    per_shard: int
    variables: tuple[Variable, ...]
    attributes: dict[str, Any]

    def arrays(self) -> dict[str, dict[str, Any]]:
        """Return the arguments of ``create_array`` of each variable, by name, without rows."""
        variables = (*self.variables, *SKY)
        return {v.name: _array_arguments(v, self.grid, self.per_shard) for v in variables}

    def group_attributes(self) -> dict[str, Any]:
        """Return the attributes of the group, ``complete`` last."""
        listed = sorted(v.name for v in (*self.variables, *SKY))
        return {"Conventions": layout.CONVENTIONS, **self.attributes, "variables": listed, "complete": True}

    def record(self) -> dict[str, Any]:
        """Return the spec as a record of the ledger."""
        variables = [dataclasses.asdict(variable) for variable in self.variables]
        for variable in variables:
            variable["fill"] = None if np.isnan(variable["fill"]) else variable["fill"]
        about = {"size": self.grid.size, "per_shard": self.per_shard, "attributes": self.attributes}
        return {"event": "quality", "name": self.name, **about, "variables": variables}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> QualitySpec:
        """Return the spec in a record of the ledger."""
        height, width = record["attributes"]["frame_shape"]
        variables = tuple(
            Variable(**{**about, "fill": float("nan") if about["fill"] is None else about["fill"]})
            for about in record["variables"]
        )
        grid = PatchGrid(height, width, record["size"])
        return cls(record["name"], grid, record["per_shard"], variables, record["attributes"])


@dataclass(frozen=True)
class QualityStore:
    """Arrays of one quality group."""

    group: zarr.Group

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], name: str, *, writable: bool = False, fsync: bool = True
    ) -> QualityStore:
        """Open group ``name`` of the archive at ``path``; `UsageError` if there is none.

        An array without metadata raises `ArchiveError` when it is used, and is listed by `problems`.
        """
        root = layout.open_root(path, writable=writable, fsync=fsync)
        if name not in names(root):
            raise UsageError(
                f"no quality group {name!r} in {path}",
                expected=f"one of {', '.join(names(root)) or '(none yet)'}",
                consequence="There are no scores to read",
                remedy="run `aqdask score` with that model first; `aqdask verify` lists lost groups",
            )
        return cls(layout.group(root, f"quality/{name}"))

    @classmethod
    def create(cls, root: zarr.Group, made: QualitySpec, bundle: bytes) -> QualityStore:
        """Create the group without frames, or restore missing parts of it; stored maps stay."""
        store = cls(layout.group(root, f"quality/{made.name}"))
        if not layout.has_metadata(store.group.store_path):
            layout.delete_metadata(store.group.store_path)
            store = cls(root.create_group(f"quality/{made.name}"))
        store.mend(made, 0)
        if store.bundle() != bundle:
            store.write_bundle(bundle)
        # written last: a group without it was not finished
        attributes = made.group_attributes()
        if any(store.group.attrs.get(name) != value for name, value in attributes.items()):
            store.group.attrs.update(attributes)
        return store

    def problems(
        self, made: QualitySpec, rows: int = 0, layout_version: int = layout.LAYOUT_VERSION
    ) -> dict[str, str]:
        """Describe, by name, arrays with lost or other metadata, or with fewer than ``rows`` rows."""
        expected = made.arrays().items()
        found = ((name, layout.array_problem(self.group, name, about, rows)) for name, about in expected)
        problems = {name: f"quality/{made.name}/{problem}" for name, problem in found if problem}
        attributes = made.group_attributes()
        if layout_version < 2:
            del attributes["variables"]
        if any(self.group.attrs.get(name) != value for name, value in attributes.items()):
            problems[""] = f"quality/{made.name} has lost its attributes"
        return problems

    def mend(self, made: QualitySpec, rows: int) -> None:
        """Restore lost metadata of arrays, with room for ``rows`` frames; stored chunks stay."""
        expected = made.arrays()
        for name, about in expected.items():
            if layout.array_problem(self.group, name, about, rows):
                layout.mend_array(self.group, name, about, rows)
        vars(self).pop("_opened", None)
        if not layout.has_metadata(self.group.store_path / "bundle", "array"):
            self._mend_bundle(made)
        self.write_bounds(made.grid)

    def described(self) -> tuple[Variable, ...]:
        """Describe the variables from the arrays; those without metadata are left out."""
        listed: Any = self.group.attrs.get("variables") or list(self._opened)
        names = set(listed) - self.lost().keys() - {position.name for position in SKY}
        return tuple(self.describe(name) for name in sorted(names))

    def describe(self, name: str) -> Variable:
        """Return one stored variable as it is found."""
        array = self._array(name)
        fill, attributes = np.asarray(array.fill_value).item(), dict[str, Any](array.attrs.asdict())
        return Variable(name, str(array.dtype), fill, attributes, array.ndim == 1)

    def write_attributes(self, made: QualitySpec) -> None:
        """Write the attributes of the group."""
        self.group.attrs.update(made.group_attributes())

    def write_bounds(self, grid: PatchGrid) -> None:
        """Write the bounds of the patches, the same for all frames, where they are not stored yet."""
        for axis, letter in enumerate("yx"):
            for name, values in bounds(grid, axis).items():
                stored = layout.read_values(self.group, name)
                if stored is None or not np.array_equal(stored, values):
                    side = "first pixel" if name.endswith("0") else "one past the last pixel"
                    attributes = {"long_name": f"{side} of the patch along {letter}", "units": "pixel"}
                    self._write_whole(name, values, f"patch_{letter}", attributes)

    def write_bundle(self, bundle: bytes) -> None:
        """Write the bundle of the model."""
        self._write_whole("bundle", np.frombuffer(bundle, dtype="uint8"), "byte", BUNDLE)

    def _mend_bundle(self, made: QualitySpec) -> None:
        """Restore lost metadata of the stored model, if its bytes are intact."""
        chunk = sync((self.group.store_path / "bundle/c/0").get(prototype=default_buffer_prototype()))
        if chunk is None:
            return
        with contextlib.suppress(*layout.UNREADABLE):
            data = bytes(numcodecs.Zstd().decode(chunk.to_bytes()))
            if hashlib.sha256(data).hexdigest() == made.attributes["model_sha256"]:
                about = _whole_arguments(np.frombuffer(data, dtype="uint8"), "byte", BUNDLE)
                layout.mend_array(self.group, "bundle", about)

    def _write_whole(self, name: str, values: np.ndarray, dimension: str, attributes: dict[str, Any]) -> None:
        array = self.group.create_array(
            name, **_whole_arguments(values, dimension, attributes), overwrite=True
        )
        array[:] = values

    def bundle(self) -> bytes:
        """Read the bundle that made these maps; empty if damaged."""
        found = layout.read_values(self.group, "bundle")
        return b"" if found is None else found.tobytes()

    @cached_property
    def _opened(self) -> dict[str, zarr.Array]:
        """Arrays along the frames, by name."""
        listed: Any = self.group.attrs.get("variables")
        if listed is None:  # a group of layout 1
            found = {name: array for name, array in self.group.arrays() if array.ndim in (1, 3)}
            named: dict[str, Any] = {n: a.metadata.to_dict()["dimension_names"] for n, a in found.items()}
            listed = [name for name, dimensions in named.items() if dimensions[0] == "frame"]
        return {name: self._array(name) for name in sorted(listed)}

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the per-patch variables, sorted."""
        return tuple(name for name, array in self._opened.items() if array.ndim == 3)

    @property
    def frame_variables(self) -> tuple[str, ...]:
        """Names of the per-frame variables, sorted."""
        return tuple(name for name, array in self._opened.items() if array.ndim == 1)

    @property
    def frames_per_shard(self) -> int:
        """K: frames in one stored object."""
        return int(self._opened[self.variables[0]].shards[0])  # type: ignore[index]

    def grow(self, rows: int) -> None:
        """Resize the arrays to at least ``rows`` frames."""
        for name in (*self.variables, *self.frame_variables):
            array = self._opened[name]
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))

    def lost(self) -> dict[str, str]:
        """Describe the variables that have lost their metadata, by name."""
        listed: Any = self.group.attrs.get("variables", [])
        place = self.group.store_path
        gone = [name for name in listed if not layout.has_metadata(place / name, "array")]
        return {name: f"{self.group.path}/{name} has lost its metadata" for name in gone}

    def read_map(self, name: str, rows: int | slice) -> np.ndarray:
        """Read one map of one frame, or of several."""
        return np.array(self._array(name)[rows])

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Read all maps of rows ``start:stop``, by name."""
        return {name: np.asarray(self._opened[name][start:stop]) for name in self.variables}

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Return maps of ``rows`` frames filled with no data, by name."""
        arrays = ((name, self._opened[name]) for name in self.variables)
        return {name: np.full((rows, *a.shape[1:]), a.fill_value, dtype=a.dtype) for name, a in arrays}

    def write_shard(self, start: int, block: Mapping[str, np.ndarray]) -> None:
        """Write the shard that begins at row ``start`` of every map; ``block`` holds all its rows."""
        per_shard = self.frames_per_shard
        arrays = {name: self._opened[name] for name in self.variables}
        for name, array in arrays.items():
            rows = min(start + per_shard, array.shape[0]) - start
            if start % per_shard or len(block[name]) != rows:
                raise ValueError(f"rows {start}+{len(block[name])} are not one whole shard of {per_shard}")
        layout.write_shards((start // per_shard, 0, 0), [(a, block[name]) for name, a in arrays.items()])

    def write_frame_values(self, values: Mapping[int, Mapping[str, float]]) -> None:
        """Write frame-level values by row; called by the client."""
        rows = np.array(sorted(values))
        for name in self.frame_variables:
            array = self._opened[name]
            column = np.array([values[row].get(name, array.fill_value) for row in rows])
            array.oindex[rows] = column.astype(array.dtype)

    def _array(self, name: str) -> zarr.Array:
        return layout.open_array(self.group, name)


def bounds(grid: PatchGrid, axis: int) -> dict[str, np.ndarray]:
    """Return the bounds of the patches along an axis, first and one past the last, int32 ``(n,)``."""
    letter = "yx"[axis]
    return {f"{letter}0": grid.starts(axis).astype("int32"), f"{letter}1": grid.stops(axis).astype("int32")}


def centres(grid: PatchGrid) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    """Return the centres of the patches in pixels as coordinates along ``patch_y`` and ``patch_x``, float64.

    Whole numbers are centres of pixels, from 0, so that maps are plotted over images of the frame.
    """
    found = {}
    for axis, letter in enumerate("yx"):
        attributes = {"long_name": f"{letter} of the patch centre", "units": "pixel"}
        middle = (grid.starts(axis) + grid.stops(axis) - 1) / 2
        found[f"patch_{letter}"] = (f"patch_{letter}", middle, attributes)
    return found


def names(root: zarr.Group) -> list[str]:
    """Return the names of the finished quality groups of an archive, sorted."""

    async def listed() -> list[str]:
        place = root.store_path / "quality"
        return [name async for name in place.store.list_dir(place.path) if name != layout.METADATA]

    found = sorted(sync(listed()))
    return [name for name in found if layout.group(root, f"quality/{name}").attrs.get("complete")]


def remove(root: zarr.Group, name: str) -> None:
    """Delete a quality group."""
    sync((root.store_path / f"quality/{name}").delete_dir())


def row_checksum(block: Mapping[str, np.ndarray], row: int) -> str:
    """Return the crc32c of one frame's maps, in the order of their names."""
    return checksum(*(block[name][row] for name in sorted(block)))


def _whole_arguments(values: np.ndarray, dimension: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``create_array`` for a small array of one chunk."""
    return {
        "shape": values.shape, "dtype": values.dtype, "chunks": values.shape, "dimension_names": (dimension,),
        "compressors": [ZstdCodec(level=1, checksum=True)], "attributes": attributes,
    }  # fmt: skip


def _array_arguments(variable: Variable, grid: PatchGrid, per_shard: int) -> dict[str, Any]:
    """Return the arguments of ``create_array`` for a variable, without rows."""
    if variable.per_frame:
        return {
            "shape": (0,), "dtype": variable.dtype, "chunks": (layout.ROWS_PER_CHUNK,),
            "fill_value": variable.fill, "compressors": [ZstdCodec(level=1, checksum=True)],
            "dimension_names": ("frame",), "attributes": dict[str, Any](variable.attributes),
        }  # fmt: skip
    attributes: dict[str, Any] = dict(variable.attributes)
    if variable.name not in {position.name for position in SKY}:
        attributes["coordinates"] = "ra dec"
    return {
        "shape": (0, *grid.shape), "dtype": variable.dtype, "chunks": (1, *grid.shape),
        "shards": (per_shard, *grid.shape), "fill_value": variable.fill,
        "compressors": layout.compressors("zstd", variable.dtype),
        "dimension_names": ("frame", "patch_y", "patch_x"), "attributes": attributes,
    }  # fmt: skip
