"""``quality/<name>-<digest8>/``: what one model says of every frame.

Maps are ``(frame, patch_y, patch_x)``; a stored shard holds K frames and one task owns it whole.
Frame-level variables are ``(frame,)`` and written by the client.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from aqdask.archive import layout
from aqdask.archive.frames import checksum
from aqdask.errors import UsageError
from aqdask.specs import PatchGrid, Variable

SKY = (
    Variable("ra", "float64", float("nan"), {"standard_name": "right_ascension", "units": "degree",
             "long_name": "right ascension of the patch centre (ICRS)"}),
    Variable("dec", "float64", float("nan"), {"standard_name": "declination", "units": "degree",
             "long_name": "declination of the patch centre (ICRS)"}),
)  # fmt: skip
"""Position of patch centres, where the frame has a WCS; stored beside what the scorer gives."""


@dataclass(frozen=True)
class QualityStore:
    """The arrays of one quality group."""

    group: zarr.Group

    @classmethod
    def open(cls, path: str | os.PathLike[str], name: str, *, writable: bool = False) -> QualityStore:
        """Open group ``name`` of the archive at ``path``; `UsageError` if the archive has no such group."""
        root = layout.open_root(path, writable=writable)
        if name not in names(root):
            raise UsageError(
                f"no quality group {name!r} in {path}",
                expected=f"one of {', '.join(names(root)) or '(none yet)'}",
                consequence="There are no scores to read",
                remedy="run `aqdask score` with that model first",
            )
        return cls(layout.subgroup(root, f"quality/{name}"))

    @classmethod
    def create(
        cls,
        root: zarr.Group,
        name: str,
        variables: Sequence[Variable],
        grid: PatchGrid,
        attributes: dict[str, Any],
        bundle: bytes,
    ) -> QualityStore:
        """Make the group with no frame in it, or return it if it is there (with a damaged model mended)."""
        if name in names(root):
            store = cls(layout.subgroup(root, f"quality/{name}"))
            if store.bundle() != bundle:
                store.write_bundle(bundle)
            return store
        per_shard = layout.read_spec(root).frames_per_shard
        group = root.create_group(f"quality/{name}", overwrite=True)
        for variable in (*variables, *SKY):
            _create(group, variable, grid, per_shard)
        store = cls(group)
        store.write_bounds(grid)
        store.write_bundle(bundle)
        # written last: a group without it was cut off while being made and is made anew
        group.attrs.update({"Conventions": layout.CONVENTIONS, **attributes, "complete": True})
        return store

    def write_bounds(self, grid: PatchGrid) -> None:
        """Write where the patches are; the same for all frames."""
        for axis, letter in enumerate("yx"):
            for name, values in bounds(grid, axis).items():
                side = "first pixel" if name.endswith("0") else "one past the last pixel"
                attributes = {"long_name": f"{side} of the patch along {letter}", "units": "pixel"}
                self._write_whole(name, values, f"patch_{letter}", attributes)

    def write_bundle(self, bundle: bytes) -> None:
        """Write the model itself."""
        meaning = {"long_name": "the model bundle itself, a safetensors file"}
        self._write_whole("bundle", np.frombuffer(bundle, dtype="uint8"), "byte", meaning)

    def _write_whole(self, name: str, values: np.ndarray, dimension: str, attributes: dict[str, Any]) -> None:
        array = self.group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=values.shape, dimension_names=(dimension,),
            compressors=[ZstdCodec(level=1, checksum=True)], attributes=attributes, overwrite=True,
        )  # fmt: skip
        array[:] = values

    def bundle(self) -> bytes:
        """The model bundle that made these maps, so that an archive can be repaired; empty if damaged."""
        try:
            return np.asarray(self._array("bundle")[:]).tobytes()
        except (ValueError, RuntimeError, OSError):
            return b""

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the per-patch variables, sorted."""
        return tuple(sorted(name for name, array in self.group.arrays() if array.ndim == 3))

    @property
    def frame_variables(self) -> tuple[str, ...]:
        """Names of the per-frame variables, sorted."""
        return tuple(
            sorted(
                n
                for n, a in self.group.arrays()
                if a.ndim == 1 and a.metadata.to_dict()["dimension_names"] == ("frame",)
            )
        )

    @property
    def frames_per_shard(self) -> int:
        """K: frames in one stored object."""
        return int(self._array(self.variables[0]).shards[0])  # type: ignore[index]

    def grow(self, rows: int) -> None:
        """Make room for ``rows`` frames in all; never shrinks."""
        for name in (*self.variables, *self.frame_variables):
            array = self._array(name)
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Per-patch variables of rows ``start:stop``, by name."""
        return {name: np.asarray(self._array(name)[start:stop]) for name in self.variables}

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """No data for ``rows`` frames, by per-patch variable."""
        arrays = ((name, self._array(name)) for name in self.variables)
        return {name: np.full((rows, *a.shape[1:]), a.fill_value, dtype=a.dtype) for name, a in arrays}

    def write_shard(self, start: int, block: Mapping[str, np.ndarray]) -> None:
        """Replace the shard that begins at row ``start`` in every variable by ``block`` (all its rows)."""
        per_shard = self.frames_per_shard
        for name in self.variables:
            array = self._array(name)
            rows = min(start + per_shard, array.shape[0]) - start
            if start % per_shard or len(block[name]) != rows:
                raise ValueError(f"rows {start}+{len(block[name])} are not one whole shard of {per_shard}")
            layout.delete_shard(array, (start // per_shard, 0, 0))
            array[start : start + rows] = block[name]

    def write_frame_values(self, values: Mapping[int, Mapping[str, float]]) -> None:
        """Write per-frame numbers by row; the client's work."""
        rows = np.array(sorted(values))
        for name in self.frame_variables:
            array = self._array(name)
            column = np.array([values[row].get(name, array.fill_value) for row in rows])
            array.oindex[rows] = column.astype(array.dtype)

    def _array(self, name: str) -> zarr.Array:
        return self.group[name]  # type: ignore[return-value]


def bounds(grid: PatchGrid, axis: int) -> dict[str, np.ndarray]:
    """First pixel and one past the last of the patches along an axis, int32 ``(n,)``, by array name."""
    letter = "yx"[axis]
    return {f"{letter}0": grid.starts(axis).astype("int32"), f"{letter}1": grid.stops(axis).astype("int32")}


def names(root: zarr.Group) -> list[str]:
    """Names of the finished quality groups of an archive, sorted."""
    groups = root["quality"].groups()  # type: ignore[union-attr]
    return sorted(name for name, group in groups if group.attrs.get("complete"))


def row_checksum(block: Mapping[str, np.ndarray], row: int) -> str:
    """crc32c over one frame's maps, in the order of their names."""
    return checksum(*(block[name][row] for name in sorted(block)))


def _create(group: zarr.Group, variable: Variable, grid: PatchGrid, per_shard: int) -> None:
    if variable.per_frame:
        group.create_array(
            variable.name, shape=(0,), dtype=variable.dtype, chunks=(layout.ROWS_PER_CHUNK,),
            fill_value=variable.fill, compressors=[ZstdCodec(level=1, checksum=True)],
            dimension_names=("frame",), attributes=dict[str, Any](variable.attributes),
        )  # fmt: skip
        return
    attributes: dict[str, Any] = dict(variable.attributes)
    attributes["coordinates"] = "ra dec" if variable not in SKY else ""
    group.create_array(
        variable.name, shape=(0, *grid.shape), dtype=variable.dtype, chunks=(1, *grid.shape),
        shards=(per_shard, *grid.shape), fill_value=variable.fill,
        compressors=layout.compressors("zstd", variable.dtype),
        dimension_names=("frame", "patch_y", "patch_x"),
        attributes={k: v for k, v in attributes.items() if v != ""},
    )  # fmt: skip
