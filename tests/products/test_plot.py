"""Plots: axes of matplotlib with the right values at the right places."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import xarray as xr

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import aqdask as aq
from aqdask import flags, plot
from aqdask.errors import UsageError
from aqdask.specs import PatchGrid
from aqdask.store.quality_store import bounds, centres


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.fixture
def quality():
    """Four frames of 5 x 7 patches; the second is flagged and the last not scored."""
    grid = PatchGrid(130, 200, 32)
    pvalue = np.random.default_rng(0).uniform(0.02, 1, (4, *grid.shape))
    pvalue[:3, 2, 3] = 0.001
    pvalue[0, 0, 0] = 0.001
    pvalue[3] = np.nan
    edges = {n: (f"patch_{'yx'[a]}", v) for a in (0, 1) for n, v in bounds(grid, a).items()}
    times = np.array(["2024-05-07T01", "2024-05-07T02", "2024-05-07T03", "NaT"], "M8[us]")
    about = {"camera": ("frame", ["c", "c", "_c", "c"]), "filter": ("frame", ["L", "L", "$R$", "L"])}
    maps = ("frame", "patch_y", "patch_x")
    return xr.Dataset(
        {
            "pvalue": (maps, pvalue, {"long_name": "p-value"}),
            "reason": (maps, np.full(pvalue.shape, 8, "u1"), flags.cf_values(flags.REASONS)),
            "frame_sky": ("frame", np.array([3.0, 4, 5, 6]), {"long_name": "sky", "units": "count"}),
            "frame_flag": ("frame", np.array([0, 1, 0, 255], "u1")),
        },
        {**edges, **centres(grid), **about, "time": ("frame", times), "frame_id": ("frame", list("abcd"))},
    )


def test_a_frame_with_its_mask(ax):
    image = np.random.default_rng(1).normal(100, 5, (60, 90))
    image[0, 0] = np.nan
    mask = np.zeros((60, 90), bool)
    mask[10:20, 30:50] = True
    frame = xr.DataArray(image, dims=("y", "x"), coords={"frame_id": "a_$b$.fits"})
    assert plot.frame(frame, mask, ax=ax) is ax
    grey, red = ax.images
    assert grey.get_extent() == [-0.5, 89.5, -0.5, 59.5]
    assert grey.origin == "lower"
    np.testing.assert_array_equal(red.get_array()[..., 3] > 0, mask)
    assert ax.get_title() == "a_$b$.fits"
    ax.figure.canvas.draw()
    with pytest.raises(UsageError, match=r"a mask of shape \(60, 80\)"):
        plot.frame(frame, mask[:, :80], ax=ax)
    with pytest.raises(UsageError, match=r"shape \(2, 60, 90\)"):
        plot.frame(np.stack([image, image]), ax=ax)


@pytest.mark.parametrize("image", [np.zeros((40, 50)), np.full((40, 50), np.nan), np.zeros((1, 1), "u2")])
def test_frames_of_one_value_or_none_are_drawn(image, ax):
    plot.frame(image, ax=ax).figure.canvas.draw()


def test_a_large_frame_is_averaged(ax):
    plot.frame(np.arange(2100.0 * 30).reshape(30, 2100), ax=ax)
    assert ax.images[0].get_array().shape == (10, 700)
    assert ax.images[0].get_extent() == [-0.5, 2099.5, -0.5, 29.5]


def test_a_map_lies_on_its_pixels_and_reasons_have_names(quality, ax):
    plot.quality_map(quality["pvalue"].isel(frame=0), ax=ax, vmin=0)
    [mesh] = ax.collections
    corners = mesh.get_coordinates()
    assert (corners[0, 0, 0], corners[-1, -1, 0], corners[-1, -1, 1]) == (-0.5, 199.5, 129.5)
    assert ax.get_title() == "a"
    assert ax.figure.axes[1].get_ylabel() == "p-value"
    other = Figure().add_subplot()
    plot.quality_map(quality["reason"].isel(frame=0), ax=other)
    labels = [label.get_text() for label in other.figure.axes[1].get_yticklabels()]
    assert labels == [flag.name for flag in flags.REASONS]
    assert set(np.unique(other.collections[0].get_array())) == {8.0}
    with pytest.raises(UsageError, match="select a frame first"):
        plot.quality_map(quality["pvalue"], ax=ax)


def test_values_over_time_by_filter_with_flagged_frames_as_crosses(quality, ax):
    plot.over_time(quality, "frame_sky", ax=ax)
    points = [list(line.get_ydata()) for line in ax.lines if line.get_marker() == "."]
    assert points == [[5.0], [3.0]]  # "_c $R$" comes first
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert [list(line.get_ydata()) for line in crosses if len(line.get_ydata())] == [[4.0]]
    texts = ax.get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["_c $R$", "c L", "1 without a time"]
    assert not any(text.get_parse_math() for text in texts)
    assert ax.get_ylabel() == "sky [count]"
    plain = plot.over_time(quality.drop_vars("time"), "frame_sky", ax=Figure().add_subplot())
    assert plain.get_xlabel() == "frame"
    with pytest.raises(UsageError, match="one of frame_sky, frame_flag"):
        plot.over_time(quality, "pvalue", ax=ax)


def test_pvalues_against_the_uniform(quality, ax):
    plot.pvalues(quality, bins=10, ax=ax)
    [steps] = ax.patches
    heights = steps.get_data().values
    assert heights.mean() == pytest.approx(1)
    assert ax.lines[0].get_ydata()[0] == 1
    assert ax.get_title() == "2 good frames\n1 flagged or labelled bad left out"
    assert ax.get_legend().get_texts()[0].get_text() == "70 patches"  # the second one is flagged
    labelled = quality.assign_coords(label=("frame", ["bad", "", "good", ""]))
    plot.pvalues(labelled, ax=(other := Figure().add_subplot()))
    assert other.get_title().startswith("1 good frame\n2 flagged or labelled bad")
    boxed = quality.assign_attrs(
        boxes_labelled_bad='{"a": [[0, 0, 32, 32]]}', frame_shape=[130, 200], patch=32
    )
    for chosen, number in ((boxed, 69), (boxed.isel(frame=0), 34)):
        plot.pvalues(chosen, ax=(other := Figure().add_subplot()))
        assert other.get_legend().get_texts()[0].get_text() == f"{number} patches"
    plot.pvalues(quality.isel(frame=[3]), ax=Figure().add_subplot())  # nothing scored
    plot.pvalues(quality.isel(frame=0), ax=Figure().add_subplot())


def test_the_mean_mask_is_over_scored_frames(quality, ax):
    plot.mean_mask(quality, 0.01, ax=ax)
    fraction = ax.collections[0].get_array()
    assert fraction[2, 3] == 1
    assert fraction[0, 0] == pytest.approx(1 / 3)
    assert fraction.sum() == pytest.approx(4 / 3)
    assert "3 frames masked at alpha = 0.01" in ax.figure.axes[1].get_ylabel()
    with pytest.raises(UsageError, match="alpha = 0"):
        plot.mean_mask(quality, 0, ax=ax)


def test_an_archive_is_plotted_on_axes_of_pyplot(archive):
    quality, image = aq.open_quality(archive), aq.open_frames(archive)["image"][0]
    found = [
        plot.frame(image, aq.mask(quality, 0.2)[0]),
        plot.quality_map(quality["reason"].isel(frame=0)),
        plot.over_time(quality),
        plot.pvalues(quality),
        plot.mean_mask(quality, 0.2),
    ]
    for axes in found:
        assert isinstance(axes, Axes)
        axes.figure.canvas.draw()
    pyplot.close("all")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="extra `plots`"):
        plot.frame(np.zeros((4, 4)))
