"""Lazy xarray datasets of an archive: frames, quality maps, and masks at any alpha."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from aqdask.errors import ArchiveError, UsageError, place_failed
from aqdask.paths import check_local, check_place
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_pixels, check_alpha
from aqdask.store import labels, layout, quality_store
from aqdask.store.entry_table import PENDING, STATES, TEXT
from aqdask.store.frame_store import COORDINATES, FrameStore
from aqdask.store.ledger import open_ledger
from aqdask.store.quality_store import QualityStore, centres

MASK_FORMAT = "aqdask-mask"
TITLE = ("frame_id", "filter", "time")  # what xarray's plots name first
FRAME_CHUNKS = {"frame": 1, "y": -1, "x": -1}  # one frame is one shard
MOST_CHUNKS = 65536  # frames with a Dask chunk each; a million takes seconds and a gigabyte


def open_frames(archive: str | os.PathLike[str]) -> xr.Dataset:
    """Open the frames of an archive lazily.

    Parameters
    ----------
    archive : path
        The archive.

    Returns
    -------
    xarray.Dataset
        ``image`` (frame, y, x) in the type of the frames (absent after ``--no-pixels``) and ``invalid``
        (bool), with one Dask chunk for each frame; above 65,536 frames without Dask, but as lazy: select
        frames, then ``.chunk({"frame": 1})``. Coordinates: ``frame_id``, ``time``, ``exptime``, ``filter``,
        ``camera``, ``path``, ``hdu``, header cards, and from the ledger ``frame_type`` and ``state``.

    Raises
    ------
    UsageError, ArchiveError
        If there is no archive, or one that cannot be read.
    """
    check_place(archive)
    root = layout.open_root(archive)
    if problems := FrameStore.at(root).problems(thorough=False):
        raise layout.damaged(archive, problems)
    frames = xr.open_zarr(root.store, group="frames", consolidated=False, chunks=None)
    planes = [name for name in ("image", "invalid") if name in frames]
    if frames.sizes["frame"] <= MOST_CHUNKS:
        frames = frames.assign({name: frames[name].chunk(FRAME_CHUNKS) for name in planes})
    named = [name for name in (*TITLE, *COORDINATES) if name in frames]
    columns = {
        name: frames[name].variable for name in named
    }  # in this order: xarray's titles begin with them
    known, rows = open_ledger(root).rows(), frames.sizes["frame"]
    columns["frame_type"] = _column(known.words("frame_type"), "", rows, "frame type, empty where unknown")
    columns["state"] = _states(known.column("state"), rows)
    return frames.drop_vars(named).assign_coords(columns)


def quality_name(archive: str | os.PathLike[str], model: str | None = None) -> str:
    """Find the quality group of a model.

    Parameters
    ----------
    archive : path
        The archive.
    model : str, optional
        Name or digest of the model, or the start of either; a complete name has priority. None: the only
        quality group.

    Raises
    ------
    UsageError
        For no group, or several ones.
    """
    check_place(archive)
    names = quality_store.names(layout.open_root(archive))
    exact = [n for n in names if model in (n, n.rpartition("-")[0])]
    found = exact or [
        n for n in names if model is None or n.startswith(model) or n.rpartition("-")[2] == model[:8]
    ]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"{archive} holds {'no' if not found else 'several'} quality groups"
        + (f" for {model!r}" if model else ""),
        expected=f"one of: {', '.join(names)}" if names else "a scored archive",
        consequence="The choice of scores is ambiguous" if found else "There are no scores to read",
        remedy="name one (model=, --model)" if names else "run `aqdask score` first",
    )


def open_quality(archive: str | os.PathLike[str], model: str | None = None) -> xr.Dataset:
    """Open the quality maps of one model lazily.

    Parameters
    ----------
    archive : path
        The archive.
    model : str, optional
        Name or digest of the model; needed where the archive holds several.

    Returns
    -------
    xarray.Dataset
        All variables of the model's method. Per patch (frame, patch_y, patch_x): ``score`` (larger = worse),
        ``pvalue``, ``reason``, ``mae``; with 'aqdask' also ``sky``, ``noise_ratio``, ``size_ratio``, ``e1``,
        ``e2``, ``stars``. Per frame ``frame_score``; with 'aqdask' also ``frame_flag``,
        ``out_of_reference``, ``frame_size_ratio``, ``frame_ellipticity``, their p-values,
        ``frame_sky``, ``frame_noise_ratio``, ``frame_stars``. Each has ``long_name``. Coordinates of frames,
        ``label`` (verdict of a person on the frame: 'good', 'bad' or empty), patch bounds ``y0``, ``y1``,
        ``x0``, ``x1`` and centres ``patch_y``, ``patch_x`` in pixels, ``ra`` and
        ``dec`` of patch centres in degrees (NaN without WCS); and ``invalid`` (frame, y, x) where some pixels
        of the archive are not data. The attribute ``boxes_labelled_bad`` has boxes that a person has labelled
        bad as JSON, ``{frame_id: [[x0, y0, x1, y1], ...]}``, where there are some. Chunks as `open_frames`.
    """
    name = quality_name(archive, model)
    store = QualityStore.open(archive, name)
    if lost := store.lost():
        raise layout.damaged(archive, lost)
    frames = open_frames(archive).drop_vars(["header", "primary_header"])
    chunks: dict[str, int] | None = {} if frames.sizes["frame"] <= MOST_CHUNKS else None
    quality = xr.open_zarr(store.group.store, group=f"quality/{name}", consolidated=False, chunks=chunks)
    quality = quality.drop_vars("bundle").set_coords(["y0", "y1", "x0", "x1", "ra", "dec"])
    quality = quality[sorted(map(str, quality.data_vars))]
    for variable in quality.variables.values():  # in the words of today, whatever release wrote them
        told = variable.attrs.get("long_name")
        if told in layout.REWORDED:
            variable.attrs["long_name"] = layout.REWORDED[told]
    root = layout.open_root(archive)
    ledger = open_ledger(root)
    known, rows = ledger.rows(), frames.sizes["frame"]
    states = _states(known.standing(name), rows)
    judged = labels.valid(root, ledger)
    verdicts = {one.frame_id: one.verdict for one in judged if one.box is None}
    if boxes := labels.bad_boxes(judged):
        quality.attrs["boxes_labelled_bad"] = json.dumps(boxes)
    given = np.array([verdicts.get(frame_id, "") for frame_id in known.texts("frame_id")], TEXT)
    about = {"state": states, "label": _column(given, "", rows, "verdict of a person, empty for none")}
    height, width = (int(n) for n in quality.attrs["frame_shape"])
    grid = PatchGrid(height, width, int(quality.attrs["patch"]))
    quality = quality.assign_coords(dict(frames.coords) | about | centres(grid))
    if known.column("invalid_pixels").any():
        quality["invalid"] = frames["invalid"]
    return quality


def _states(known: np.ndarray, rows: int) -> xr.Variable:
    """States of the ledger as a coordinate; rows that the ledger does not list yet are pending."""
    return _column(np.array(STATES, TEXT)[known], PENDING, rows, "state in the ledger")


def _column(known: np.ndarray, fill: str, rows: int, meaning: str) -> xr.Variable:
    column = np.concatenate([known, np.full(rows - len(known), fill, TEXT)])
    return xr.Variable("frame", column, {"long_name": meaning})


def mask(quality: xr.Dataset, alpha: float) -> xr.DataArray:
    """Mask the bad pixels at a false-mask rate, lazily and without running the network.

    Parameters
    ----------
    quality : Dataset
        From `open_quality` or `aqdask.quality_of`.
    alpha : float
        Fraction of good patches that may be masked, in (0, 1): the mean over patches exchangeable with those
        of the reference frames. Patches of one frame are correlated, so single frames vary more.

    Returns
    -------
    DataArray of bool, (..., y, x)
        True = bad: the p-value of the patch is at or below alpha or missing, or the pixel itself is invalid.
        A frame whose ``state`` is 'skipped' (not scored since it is no light) is True throughout.
        Where patches overlap, each pixel belongs to one of them.

    Raises
    ------
    UsageError
        For an alpha outside (0, 1), or a dataset without ``pvalue``.
    """
    check_alpha(alpha)
    if "pvalue" not in quality:
        raise UsageError(
            f"a dataset of {', '.join(map(str, quality)) or 'nothing'}",
            expected="one with `pvalue`, from open_quality or quality_of",
        )
    pvalue = quality["pvalue"]
    height, width = (int(n) for n in quality.attrs["frame_shape"])
    grid = PatchGrid(height, width, int(quality.attrs["patch"]))
    lead = pvalue.dims[:-2]
    data = in_chunks(pvalue).data
    data = data.rechunk({**dict.fromkeys(range(len(lead)), 1), data.ndim - 2: -1, data.ndim - 1: -1})
    pixels = data.map_blocks(
        bad_pixels, alpha, grid, dtype=bool, chunks=(*data.chunks[:-2], (grid.height,), (grid.width,))
    )
    if "invalid" in quality:
        pixels = pixels | in_chunks(quality["invalid"]).data
    coords: dict[Any, Any] = {n: c for n, c in quality.coords.items() if set(c.dims) <= set(lead)}
    attributes = {"long_name": "pixel is bad", "alpha": alpha}
    return xr.DataArray(pixels, dims=(*lead, "y", "x"), coords=coords, name="mask", attrs=attributes)


def in_chunks(array: xr.DataArray) -> xr.DataArray:
    """Return the array with a Dask chunk for each frame where it has no chunks."""
    return array if array.chunks else array.chunk(dict.fromkeys(array.dims[:-2], 1))


def check_mask_path(path: str | os.PathLike[str]) -> None:
    """Check that `write_mask` may write to a path.

    Raises
    ------
    ArchiveError
        For a path that holds anything but a mask of `write_mask`.
    UsageError
        For a URL.
    """
    check_local(path)
    place = Path(path)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    try:
        found = zarr.open_group(str(place), mode="r", zarr_format=3).attrs.get("format")
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, OSError):
        found = None
    if found != MASK_FORMAT:
        raise ArchiveError(
            f"{path} exists and is not a mask that aqdask wrote",
            expected="a new path, or a mask from an earlier call, which is replaced",
            consequence="Nothing was written",
            remedy="choose another path",
        )


def write_mask(bad: xr.DataArray, path: str | os.PathLike[str]) -> None:
    """Write a mask as a zarr array with one chunk for each frame; an earlier mask is replaced.

    Parameters
    ----------
    bad : DataArray of bool, (..., y, x)
        From `mask`.
    path : path
        The zarr group to write.

    Raises
    ------
    ArchiveError
        If ``path`` cannot be written, or holds anything but an earlier mask.
    """
    check_mask_path(path)
    names = [n for n in ("frame_id", "time", "filter", "camera", "frame_type") if n in bad.coords]
    dataset = bad.reset_coords(drop=True).to_dataset(name="mask")
    dataset = dataset.assign_coords({name: bad.coords[name].compute() for name in names})
    dataset.attrs["format"] = MASK_FORMAT
    for name in names:
        dataset[name].encoding.clear()
    codec = {"mask": {"compressors": layout.compressors("lz4", "bool")}}
    try:
        dataset.to_zarr(str(path), mode="w", zarr_format=3, consolidated=False, encoding=codec)
    except OSError as error:
        raise place_failed(path, error) from error
