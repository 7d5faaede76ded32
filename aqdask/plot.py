"""Plots of frames, quality maps and masks with matplotlib; every function returns the axes it drew into.

    import aqdask as aq
    from aqdask import plot

    quality = aq.open_quality("night.zarr")
    plot.over_time(quality, "frame_size_ratio")
    plot.quality_map(quality["reason"][0])

Pixel coordinates are those of arrays: whole numbers at pixel centres, from 0, y upwards. Axes are made by
pyplot where none are given.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from astropy.visualization import AsinhStretch, ImageNormalize, ZScaleInterval

from aqdask.errors import UsageError
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_patches, check_alpha
from aqdask.stats.patches import patches_of
from aqdask.text import plural, printable

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

__all__ = ["frame", "light_curve_scatter", "mean_mask", "over_time", "pvalues", "quality_map"]

MAX_SIDE = 1024  # px of the longer side of a shown image; larger ones are averaged in blocks


def frame(image: Any, mask: Any = None, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Plot a frame in grey, zscale limits and asinh stretch, with its mask in red.

    Parameters
    ----------
    image : ndarray or DataArray (y, x)
        Counts of any real type; a ``frame_id`` coordinate becomes the title.
    mask : ndarray or DataArray of bool (y, x), optional
        True = bad, from `aqdask.mask`.
    ax : matplotlib Axes, optional
        Where it is drawn.
    title : str, optional
        Title in place of the frame id.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        Without matplotlib, or for arrays that are not two-dimensional or of different shapes.
    """
    pixels = _two_dimensional(image)
    axes = _axes(ax)
    step = max(1, -(-max(pixels.shape) // MAX_SIDE))
    small = _block_mean(pixels, step)
    extent = (-0.5, small.shape[1] * step - 0.5, -0.5, small.shape[0] * step - 0.5)
    finite = small[np.isfinite(small)]
    low, high = ZScaleInterval().get_limits(finite) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1
    norm = ImageNormalize(vmin=low, vmax=high, stretch=AsinhStretch())
    axes.imshow(small, cmap="gray", norm=norm, origin="lower", extent=extent, interpolation="nearest")
    if mask is not None:
        bad = _two_dimensional(mask)
        if bad.shape != pixels.shape:
            raise UsageError(f"a mask of shape {bad.shape}", expected=f"the frame's shape {pixels.shape}")
        red = np.zeros((*small.shape, 4))
        red[..., 0], red[..., 3] = 1, 0.35 * _block_mean(bad.astype(bool), step)
        axes.imshow(red, origin="lower", extent=extent, interpolation="nearest")
    _labelled(axes, _title_of(image) if title is None else title)
    return axes


def quality_map(values: xr.DataArray, *, ax: Axes | None = None, **options: Any) -> Axes:
    """Plot a map of one frame over the pixels of its patches; a variable with flags in one colour each.

    Parameters
    ----------
    values : DataArray (patch_y, patch_x)
        A variable of one frame from `aqdask.open_quality` or `aqdask.quality_of`, with its coordinates.
    ax : matplotlib Axes, optional
        Where it is drawn.
    **options
        Passed to ``pcolormesh``: ``vmin``, ``vmax``, ``cmap``, ...

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        Without matplotlib, or for anything but a map of one frame.
    """
    if values.dims != ("patch_y", "patch_x") or not {"x0", "x1", "y0", "y1"} <= set(values.coords):
        raise UsageError(
            f"an array of dimensions {values.dims}",
            expected="a map (patch_y, patch_x) of one frame with the bounds of its patches",
            remedy='select a frame first: quality["score"].isel(frame=0)',
        )
    axes = _axes(ax)
    edges = [np.append(values[f"{n}0"].values, values[f"{n}1"].values[-1]) - 0.5 for n in "xy"]
    meanings = _meanings(values)
    if meanings:
        options = _flag_colours(len(meanings)) | options
        codes = {code: place for place, code in enumerate(meanings)}
        numbers = np.vectorize(lambda code: codes.get(int(code), np.nan), otypes=[float])(values.values)
    else:
        numbers = values.values
    drawn = axes.pcolormesh(*edges, numbers, **options)
    bar = axes.figure.colorbar(drawn, ax=axes, label=_label(values))
    if meanings:
        bar.set_ticks(range(len(meanings)), labels=list(meanings.values()))
    axes.set_aspect("equal")
    _labelled(axes, _title_of(values))
    return axes


def over_time(quality: xr.Dataset, name: str = "frame_score", *, ax: Axes | None = None) -> Axes:
    """Plot a value of every frame over time, by camera and filter; crosses are flagged frames.

    Parameters
    ----------
    quality : Dataset
        From `aqdask.open_quality`.
    name : str
        A variable (frame,), such as ``frame_size_ratio`` or ``frame_sky``.
    ax : matplotlib Axes, optional
        Where it is drawn.

    Returns
    -------
    matplotlib Axes
        Against the position in the archive if no frame has a time; else frames without one are left out,
        and counted in the legend.

    Raises
    ------
    UsageError
        Without matplotlib, or for a variable that is not one number a frame.
    """
    if name not in quality or quality[name].dims != ("frame",):
        numbers = [str(n) for n, v in quality.data_vars.items() if v.dims == ("frame",)]
        raise UsageError(f"the variable {name!r}", expected=f"one of {', '.join(numbers) or '(none)'}")
    axes = _axes(ax)
    values = quality[name].values
    times = quality["time"].values if "time" in quality.coords else np.full(len(values), "NaT", "M8[us]")
    timed = ~np.isnat(times)
    at = times if timed.any() else np.arange(len(values))
    shown = timed if timed.any() else np.ones(len(values), bool)
    flagged = quality["frame_flag"].values == 1 if "frame_flag" in quality else np.zeros(len(values), bool)
    groups = _groups(quality)
    lines = {}
    for group in sorted(set(groups.tolist())):
        mine = shown & (groups == group)
        [lines[printable(group)]] = axes.plot(at[mine & ~flagged], values[mine & ~flagged], ".")
        colour = lines[printable(group)].get_color()
        axes.plot(at[mine & flagged], values[mine & flagged], "x", color=colour)
    if timed.any() and not timed.all():
        [lines[f"{np.count_nonzero(~timed)} without a time"]] = axes.plot([], [], " ")
    axes.set(xlabel="time (UTC)" if timed.any() else "frame", ylabel=_label(quality[name]))
    for text in axes.legend([*lines.values()], [*lines]).get_texts():
        text.set_parse_math(False)  # a filter may hold dollar signs
    if timed.any():
        axes.tick_params("x", rotation=30)
    return axes


def pvalues(quality: xr.Dataset, *, bins: int = 20, ax: Axes | None = None) -> Axes:
    """Plot the distribution of the p-values of patches in good frames, against the uniform one.

    Frames that are flagged or labelled bad are left out, and counted in the title; so are patches in boxes
    labelled bad. The steps follow the dashed line where the calibration is sound; defects of single patches
    raise the first step. The smallest p-value depends on the number of reference patches.

    Parameters
    ----------
    quality : Dataset
        From `aqdask.open_quality`; all its p-values are read.
    bins : int
        Number of bins in (0, 1].
    ax : matplotlib Axes, optional
        Where it is drawn.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        Without matplotlib.
    """
    axes = _axes(ax)
    known = quality["pvalue"].values
    boxes = json.loads(quality.attrs.get("boxes_labelled_bad", "{}"))
    if boxes:
        known = np.where(_labelled_bad(quality, boxes), np.nan, known)
    known = known.reshape(-1, known.shape[-2] * known.shape[-1])
    bad = np.zeros(len(known), bool)
    for name, value in (("frame_flag", 1), ("label", "bad")):
        if name in quality:
            bad |= np.ravel(quality[name].values == value)
    found = known[~bad]
    scored = int(np.isfinite(found).any(axis=1).sum())
    found = found[~np.isnan(found)]
    counts, edges = np.histogram(found, bins=bins, range=(0, 1))
    axes.stairs(counts / max(len(found), 1) * bins, edges, label=plural(len(found), "patch", "patches"))
    axes.axhline(1, color="gray", linestyle="--", label="uniform")
    axes.set(xlabel="p-value of the patch", ylabel="density", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    left_out = f"\n{np.count_nonzero(bad)} flagged or labelled bad left out" if bad.any() else ""
    axes.set_title(f"{plural(scored, 'good frame')}{left_out}")
    axes.legend()
    return axes


def mean_mask(quality: xr.Dataset, alpha: float = 0.01, *, ax: Axes | None = None, **options: Any) -> Axes:
    """Plot the fraction of frames in which each patch is masked: fixed defects of the detector stand out.

    Parameters
    ----------
    quality : Dataset
        From `aqdask.open_quality`; all its p-values are read. Frames that were not scored are left out.
    alpha : float
        False-mask rate, in (0, 1).
    ax : matplotlib Axes, optional
        Where it is drawn.
    **options
        Passed to ``pcolormesh``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        Without matplotlib, or for alpha outside (0, 1).
    """
    check_alpha(alpha)
    pvalue = quality["pvalue"]
    scored = pvalue.notnull().any(["patch_y", "patch_x"]).values
    masked = bad_patches(pvalue.values[scored], alpha)
    fraction = masked.mean(axis=0) if len(masked) else np.full(masked.shape[1:], np.nan)
    coords = {name: quality[name] for name in ("x0", "x1", "y0", "y1")}
    text = f"fraction of {plural(len(masked), 'frame')} masked at alpha = {alpha:g}"
    values = xr.DataArray(fraction, coords, ("patch_y", "patch_x"), attrs={"long_name": text})
    return quality_map(values, ax=ax, **{"vmin": 0, "cmap": "magma", **options})


def light_curve_scatter(stars: pa.Table, *, ax: Axes | None = None) -> Axes:
    """Plot the scatter of light curves against magnitude, without the mask, with it, and with weights.

    Parameters
    ----------
    stars : pyarrow.Table
        ``stars.parquet`` of `aqdask.light_curves`.
    ax : matplotlib Axes, optional
        Where it is drawn.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    UsageError
        Without matplotlib.
    """
    axes = _axes(ax)
    mag = stars["mag"].to_numpy()
    for case, label, marker in (
        ("no_mask", "without the mask", "x"), ("masked", "with the mask", "o"),
        ("weighted", "and weights", "."),
    ):  # fmt: skip
        scatter = stars[f"scatter_{case}"].to_numpy()
        shown = (stars[f"n_{case}"].to_numpy() > 2) & (scatter > 0)
        axes.plot(mag[shown], scatter[shown], marker, label=label, markersize=4, fillstyle="none", alpha=0.7)
    axes.set(xlabel="instrumental magnitude", ylabel="scatter [mag]", yscale="log")
    axes.legend()
    return axes


def require_matplotlib() -> Any:
    """Return matplotlib's ``Figure``, or raise `UsageError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "matplotlib is not installed",
            expected="matplotlib, for pictures",
            remedy="pip install matplotlib (the extra `plots`)",
        ) from error
    return Figure


def _axes(given: Axes | None) -> Any:
    require_matplotlib()
    if given is not None:
        return given
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def _labelled(axes: Any, title: str) -> None:
    axes.set(xlabel="x [px]", ylabel="y [px]")
    axes.set_title(printable(title), parse_math=False)  # a file name may hold dollar signs


def _title_of(values: Any) -> str:
    coords: Mapping[Any, Any] = getattr(values, "coords", {})
    return str(coords["frame_id"].values) if "frame_id" in coords else ""


def _label(values: xr.DataArray) -> str:
    units = values.attrs.get("units", "1")
    text = str(values.attrs.get("long_name", values.name or "")) + ("" if units == "1" else f" [{units}]")
    return textwrap.fill(text, 45)


def _labelled_bad(quality: xr.Dataset, boxes: Mapping[str, Any]) -> np.ndarray:
    """Return the patches in boxes labelled bad: bool, of the shape of the p-values."""
    height, width = map(int, quality.attrs["frame_shape"])
    grid = PatchGrid(height, width, int(quality.attrs["patch"]))
    ids = np.ravel(quality["frame_id"].values).tolist()
    found = np.zeros((len(ids), *grid.shape), bool)
    for place, frame_id in enumerate(ids):
        for box in boxes.get(frame_id, ()):
            found[place] |= patches_of(box, grid)
    return found.reshape(quality["pvalue"].shape)


def _groups(quality: xr.Dataset) -> np.ndarray:
    """Return camera and filter of each frame as text, ``(frame,)``."""
    empty = [""] * quality.sizes["frame"]
    columns = [quality[n].values.tolist() if n in quality.coords else empty for n in ("camera", "filter")]
    names = [" ".join(filter(None, map(str, pair))) for pair in zip(*columns, strict=True)]
    return np.array([name or "unknown camera" for name in names], object)


def _meanings(values: xr.DataArray) -> dict[int, str]:
    """Return the names of flag values by value; empty for a variable without them."""
    codes = np.atleast_1d(values.attrs.get("flag_values", [])).tolist()
    return dict(zip(map(int, codes), str(values.attrs.get("flag_meanings", "")).split(), strict=False))


def _flag_colours(number: int) -> dict[str, Any]:
    """Return options of ``pcolormesh`` that give each flag one colour."""
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap

    colours = ListedColormap(colormaps["tab20"].colors[:number])  # type: ignore[attr-defined]
    return {"cmap": colours, "norm": BoundaryNorm(np.arange(number + 1) - 0.5, number)}


def _two_dimensional(values: Any) -> np.ndarray:
    found = np.asarray(getattr(values, "values", values))
    if found.ndim != 2:
        raise UsageError(
            f"an array of shape {found.shape}", expected="one frame (y, x)", remedy="select a frame first"
        )
    return found


def _block_mean(values: np.ndarray, step: int) -> np.ndarray:
    """Mean of blocks of ``step`` x ``step`` px, float64; incomplete blocks at the edges are dropped."""
    height, width = (n - n % step for n in values.shape)
    blocks = values[:height, :width].reshape(height // step, step, width // step, step)
    return blocks.mean(axis=(1, 3), dtype=np.float64)
