"""Quality maps and reconstructions of arrays outside an archive, as a dask graph.

One task for each tile of patches extracts features, a few numbers a patch; one task for each frame scores
them.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from aqdask.errors import UncalibratedWarning, UsageError
from aqdask.execution.coverage import ATTRIBUTE, in_words, uncalibrated
from aqdask.execution.model_cache import default_precision, load_cached, one_thread
from aqdask.execution.pipeline import check_patch
from aqdask.execution.quality_groups import PRECISION
from aqdask.methods.base import reconstruct_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import variables as variables_of
from aqdask.products.open import in_chunks
from aqdask.specs import PatchGrid, Variable
from aqdask.stats.patches import gather
from aqdask.store.quality_store import bounds, centres
from aqdask.text import shortened

TILE = 8  # patches a side: 512 px with patches of 64, two batches of the network


def quality_of(
    image: Any,
    bundle: Bundle,
    *,
    invalid: Any = None,
    camera: str | None = None,
    filter: str | None = None,
    time: Any = None,
) -> xr.Dataset:
    """Build the lazy quality maps of an array; see `aqdask.quality_of`."""
    pixels, dims, coords = _unwrap(image)
    bad = _bad_pixels(image, invalid, pixels.shape)
    height, width = pixels.shape[-2:]
    grid = PatchGrid(height, width, bundle.patch)
    check_patch(bundle, (height, width))
    variables = variables_of(bundle)
    about, calibrations = _calibrations(bundle, pixels.shape[:-2], coords, (camera, filter, time))
    frames = []
    for index, calibration in zip(np.ndindex(pixels.shape[:-2]), calibrations, strict=True):
        part = None if bad is None else bad[index]
        frames.append(_frame_maps(pixels[index], part, grid, bundle, variables, calibration))
    result = xr.Dataset(coords=coords, attrs=_attributes(bundle, grid))
    if found := list(uncalibrated(bundle, about)):
        result.attrs[ATTRIBUTE] = found
    for variable in variables:
        parts = [frame[variable.name] for frame in frames]
        shape = () if variable.per_frame else grid.shape
        stacked = da.stack(parts).reshape((*pixels.shape[:-2], *shape)) if dims else parts[0]
        names = dims if variable.per_frame else (*dims, "patch_y", "patch_x")
        result[variable.name] = xr.Variable(names, stacked, dict(variable.attributes))
    edges = {
        name: (f"patch_{'yx'[axis]}", values)
        for axis in (0, 1)
        for name, values in bounds(grid, axis).items()
    }
    return result.assign_coords(edges | centres(grid))


def reconstruct(
    image: Any,
    bundle: Bundle,
    *,
    invalid: Any = None,
    camera: str | None = None,
    filter: str | None = None,
    time: Any = None,
) -> xr.Dataset:
    """Build the lazy reconstruction and residual of frames; see `aqdask.reconstruct`."""
    pixels, dims, coords = _unwrap(image)
    bad = _bad_pixels(image, invalid, pixels.shape)
    check_patch(bundle, pixels.shape[-2:])
    shape = pixels.shape if dims else (1, *pixels.shape)
    about, calibrations = _calibrations(bundle, pixels.shape[:-2], coords, (camera, filter, time))
    frames = pixels.reshape(shape).rechunk((1, -1, -1))
    planes = [
        frames,
        *(da.from_array(np.array(one)[:, None, None], chunks=1) for one in zip(*calibrations, strict=True)),
    ]
    if bad is not None:
        planes.append(bad.reshape(shape).rechunk((1, -1, -1)))
    contents = dask.delayed(bundle.contents, name=f"model-{bundle.digest[:16]}", pure=True, traverse=False)
    model = {"model": contents, "digest": bundle.digest, "precision": "fp32"}
    kind = np.result_type(pixels.dtype, np.float32)
    counts = da.map_blocks(_reconstruct_frame, *planes, **model, dtype=kind, chunks=frames.chunks)
    axes = (*dims, "y", "x")
    attributes = _attributes(bundle, PatchGrid(shape[1], shape[2], bundle.patch))
    result = xr.Dataset(coords=coords, attrs=attributes | {PRECISION: "fp32"})
    for name, text, values in (
        ("reconstruction", "reconstruction by the autoencoder, not for photometry", counts),
        ("residual", "image less reconstruction", (frames - counts).astype(counts.dtype)),
    ):
        result[name] = xr.Variable(axes, values if dims else values[0], {"long_name": text, "units": "count"})
    if found := list(uncalibrated(bundle, about)):
        result.attrs[ATTRIBUTE] = found
        warnings.warn(
            f"the model {bundle.name} is not calibrated for {shortened(list(map(in_words, found)))}: the "
            "reconstruction is made with the noise of other cameras or filters (`aqdask calibrate`)",
            UncalibratedWarning,
            stacklevel=3,
        )
    return result


def _reconstruct_frame(
    pixels: np.ndarray,
    camera: np.ndarray,
    filter: np.ndarray,
    invalid: np.ndarray | None = None,
    *,
    model: bytes,
    digest: str,
    precision: str,
) -> np.ndarray:
    """Reconstruction of one frame in counts, ``(1, H, W)``."""
    with one_thread():
        scorer = load_cached(model, digest, precision)
        bad = None if invalid is None else invalid[0]
        found = reconstruct_frame(scorer, pixels[0], bad, str(camera.item()), str(filter.item()))
    if found is None or found.counts is None:
        raise UsageError("a model without reconstruction", expected="one with an autoencoder")
    return found.counts[None].astype(np.result_type(pixels.dtype, np.float32))


def _bad_pixels(image: Any, invalid: Any, shape: tuple[int, ...]) -> da.Array | None:
    """Pixels that are not data as a dask array: the argument, else those of the dataset."""
    if isinstance(image, xr.Dataset) and invalid is None and "invalid" in image:
        invalid = image["invalid"]
    if invalid is None:
        return None
    bad = da.asarray(in_chunks(invalid).data if isinstance(invalid, xr.DataArray) else invalid)
    if bad.shape != shape:
        raise UsageError(f"invalid of shape {bad.shape}", expected=f"the image's shape {shape}")
    return bad


def _unwrap(image: Any) -> tuple[da.Array, tuple[Hashable, ...], dict[Hashable, Any]]:
    """Pixels as a dask array, names of the leading dimensions, and coordinates of these dimensions."""
    if isinstance(image, xr.Dataset) and "image" not in image:
        raise UsageError(
            f"a dataset of {', '.join(map(str, image)) or 'nothing'}",
            expected="one with `image`, from `open_frames`",
            consequence="There are no pixels in it",
            remedy="ingest the frames without --no-pixels, or give them as an array",
        )
    array = image["image"] if isinstance(image, xr.Dataset) else image
    pixels = da.asarray(in_chunks(array).data if isinstance(array, xr.DataArray) else array)
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "iuf":
        raise UsageError(
            f"an array of shape {pixels.shape} and type {pixels.dtype}",
            expected="numbers of shape (y, x) or (frame, y, x)",
            consequence="There are no frames in it",
            remedy="select one image, or stack images along a first axis",
        )
    if not isinstance(array, xr.DataArray):
        return pixels, ("frame",) if pixels.ndim == 3 else (), {}
    lead = array.dims[:-2]
    return pixels, lead, {n: c for n, c in array.coords.items() if set(c.dims) <= set(lead)}


def _value(name: str, given: str | None, coords: dict[Hashable, Any], index: tuple[int, ...]) -> str:
    """Camera or filter of one frame: the argument, else the coordinate of the image, else empty."""
    if given is not None:
        return given
    if name not in coords:
        return ""
    values = np.asarray(coords[name].values)
    return str(values[index] if values.ndim else values)


def _time(given: Any, coords: dict[Hashable, Any], index: tuple[int, ...]) -> int | None:
    """Time of one frame in microseconds since 1970: the argument, else the coordinate, else None."""
    found: Any = np.datetime64("NaT")
    if given is not None:
        found = np.datetime64(given, "us")
    elif "time" in coords:
        values = np.asarray(coords["time"].values)
        found = values[index] if values.ndim else values[()]
    return None if np.isnat(found) else int(found.astype("datetime64[us]").astype(np.int64))


def _calibrations(
    bundle: Bundle,
    lead: tuple[int, ...],
    coords: dict[Hashable, Any],
    given: tuple[str | None, str | None, Any],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return camera and filter of each frame, and those of the calibration that it has at its time."""
    camera, band, time = given
    about, calibrations = [], []
    for index in np.ndindex(lead):
        own = _value("camera", camera, coords, index), _value("filter", band, coords, index)
        about.append(own)
        if bundle.spans:
            own = own[0], bundle.spans.filter_at(*own, _time(time, coords, index))
        calibrations.append(own)
    return about, calibrations


def _frame_maps(
    pixels: da.Array,
    invalid: da.Array | None,
    grid: PatchGrid,
    bundle: Bundle,
    variables: tuple[Variable, ...],
    calibration: tuple[str, ...],
) -> dict[str, da.Array]:
    """Lazy variables of one frame, by name; tiles may run on different workers, whatever the chunks."""
    precision = default_precision(bundle)
    token = tokenize(pixels, invalid, grid, bundle.digest, precision, calibration)
    contents = dask.delayed(bundle.contents, name=f"model-{bundle.digest[:16]}", pure=True, traverse=False)
    model = contents, bundle.digest, precision
    n_y, n_x = grid.shape
    rows: list[list[Any]] = []
    for top, bottom in _spans(n_y):
        row = []
        for left, right in _spans(n_x):
            window, tile = _window(grid, top, bottom, left, right)
            block = _whole(pixels[window])
            bad = None if invalid is None else _whole(invalid[window])
            name = f"quality-tile-{token}-{top}-{left}"
            row.append(_tile_features(block, bad, tile, *model, calibration, dask_key_name=name))
        rows.append(row)
    frame = _score_features(rows, *model, calibration, dask_key_name=f"quality-frame-{token}")
    return {
        v.name: da.from_delayed(frame[v.name], () if v.per_frame else grid.shape, v.dtype) for v in variables
    }


def _whole(array: da.Array) -> Any:
    """Convert an array to one delayed value.

    The graph is not optimised here: fused keys would compute a tile once more for each variable.
    """
    return array.rechunk(-1).to_delayed(optimize_graph=False).item()


def _spans(count: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive tiles of patches along one axis."""
    return ((start, min(start + TILE, count)) for start in range(0, count, TILE))


@dataclass(frozen=True, eq=False)
class _Tile:
    """Rectangle of patches.

    Parameters
    ----------
    tops, lefts : ndarray
        First rows and columns of the patches in the frame, pixels.
    size : int
        Side of a patch, pixels.
    origin : tuple of int
        First row and column of the pixels of the tile in the frame.
    """

    tops: np.ndarray
    lefts: np.ndarray
    size: int
    origin: tuple[int, int]


def _window(
    grid: PatchGrid, top: int, bottom: int, left: int, right: int
) -> tuple[tuple[slice, slice], _Tile]:
    """Window (y, x) of the pixels of a tile, and the tile."""
    tops, lefts = grid.starts(0)[top:bottom], grid.starts(1)[left:right]
    y = slice(int(tops[0]), int(grid.stops(0)[bottom - 1]))
    x = slice(int(lefts[0]), int(grid.stops(1)[right - 1]))
    return (y, x), _Tile(tops, lefts, grid.size, (y.start, x.start))


@dask.delayed(pure=True)
def _tile_features(
    pixels: np.ndarray,
    invalid: np.ndarray | None,
    tile: _Tile,
    model: bytes,
    digest: str,
    precision: str,
    calibration: tuple[str, ...],
) -> np.ndarray:
    """Features of one tile, float32 ``(tile_y, tile_x, k)``."""
    tops, lefts = (axis.ravel() for axis in np.meshgrid(tile.tops, tile.lefts, indexing="ij"))
    y, x = tops - tile.origin[0], lefts - tile.origin[1]
    patches = gather(pixels, y, x, tile.size)
    inside = np.ones(pixels.shape, dtype=bool) if invalid is None else ~invalid
    valid = gather(inside, y, x, tile.size)
    with one_thread():
        scorer = load_cached(model, digest, precision)
        found = scorer.extract_features(patches, valid, tops, lefts, *calibration)
    return found.reshape(len(tile.tops), len(tile.lefts), -1)


@dask.delayed(pure=True)
def _score_features(
    tiles: list[list[np.ndarray]], model: bytes, digest: str, precision: str, calibration: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Variables of one frame from the features of its tiles, by name."""
    features = np.concatenate([np.concatenate(row, axis=1) for row in tiles], axis=0)
    with one_thread():
        return load_cached(model, digest, precision).score_features(features, *calibration)


def _attributes(bundle: Bundle, grid: PatchGrid) -> dict[str, Any]:
    return {
        "model": bundle.name, "method": bundle.method, "model_sha256": bundle.digest,
        "patch": bundle.patch, "frame_shape": [grid.height, grid.width], PRECISION: default_precision(bundle),
    }  # fmt: skip
