"""Bokeh figures of a report: quality over time, relations, detector, p-values, drift, and one frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.embed.util import standalone_docs_json_and_render_items
from bokeh.models import (  # type: ignore[attr-defined]
    BoxSelectTool,
    BoxZoomTool,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    DatetimeTickFormatter,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Span,
    TapTool,
)
from bokeh.palettes import Cividis256, Greys256, Viridis256, interp_palette
from bokeh.plotting import figure

from aqdask.products.drift import QUANTITIES
from aqdask.products.report.panels import PLANES
from aqdask.products.report.values import Band, MeanMask, ReportData
from aqdask.text import printable

GROUP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#888888")
"""Colours of cameras and filters after Okabe and Ito; the last one for all others."""
OVER_TIME = (
    "frame_size_ratio", "frame_ellipticity", "frame_sky", "frame_noise_ratio", "masked_patches",
    "frame_score",
)  # fmt: skip
AGAINST = ("frame_sky", "frame_size_ratio", "airmass")
NAMES = {
    "frame_size_ratio": "star size\n/ references", "frame_ellipticity": "ellipticity",
    "frame_sky": "sky\n[counts]", "frame_noise_ratio": "noise\n/ expected",
    "masked_patches": "masked\nfraction", "frame_score": "frame\nscore", "airmass": "airmass",
}  # fmt: skip
TIME_FORMATS: dict[str, Any] = {
    "minutes": "%H:%M", "hourmin": "%H:%M", "hours": "%H:%M", "days": "%d %b", "months": "%b %Y",
    "years": "%Y",
}  # fmt: skip
PALETTES = {
    "grey": Greys256,  # from black to white
    "sequential": Viridis256,
    "diverging": interp_palette(("#2166ac", "#f7f7f7", "#b2182b"), 256),
}
DRIFT_FIGURES = 12
Figures = dict[str, Any]


def embedded(figures: Figures) -> str:
    """Serialise figures as JSON: the document, and ids of the elements by the id of each model.

    An element has the id ``figure-NAME``.
    """
    document = Document()
    with document.models.freeze():  # else Bokeh looks for all models after each of the figures
        for plot in figures.values():
            document.add_root(plot)
    documents, (item,) = standalone_docs_json_and_render_items([*figures.values()])
    roots = {model.id: f"figure-{name}" for name, model in figures.items()}
    where = {**item.to_json(), "roots": roots, "root_ids": [*roots]}
    return json.dumps({"documents": documents, "item": where})


def frame_groups(data: ReportData) -> np.ndarray:
    """Name camera and filter of each frame, object array of str; the filter alone with one camera."""
    cameras, filters = (data.frames[name] for name in ("camera", "filter"))
    several = len(set(cameras)) > 1
    parts = zip(cameras, filters, strict=True)
    names = (" · ".join(p for p in pair if p) if several else pair[1] for pair in parts)
    return np.array([name or "unknown filter" for name in names], object)


class FrameFigures:
    """Figures in which each frame is a point, on one data source; a click opens the frame.

    Parameters
    ----------
    data : ReportData
    """

    def __init__(self, data: ReportData) -> None:
        self.data = data
        groups = frame_groups(data)
        names, counts = np.unique(groups.astype(str), return_counts=True)
        order = names[np.argsort(-counts, kind="stable")].tolist()
        self.groups = order[: len(GROUP_COLOURS) - 1]
        if len(order) > len(self.groups):
            groups = np.array([g if g in self.groups else "others" for g in groups], object)
            self.groups = [*self.groups, "others"]
        self.group_of = groups
        keys = zip(data.frames["camera"], data.frames["filter"], strict=True)
        colours = dict(zip(self.groups, GROUP_COLOURS, strict=False))
        self.colour_of = {key: colours[name] for key, name in zip(keys, groups, strict=True)}
        self.sources = {name: self._source(groups == name) for name in self.groups}
        self.has_times = not np.isnat(data.frames["time"]).all()

    def _source(self, members: np.ndarray) -> ColumnDataSource:
        frames, rows = self.data.frames, np.flatnonzero(members)
        flagged = frames["is_flagged"][rows].astype(bool)
        columns: dict[str, Any] = {n: _floats(frames[n][rows]) for n in {*OVER_TIME, *AGAINST} & {*frames}}
        columns |= {
            "index": rows.astype(np.int32), "frame_id": frames["frame_id"][rows].tolist(),
            "position": rows.astype(np.int32), "time": frames["time"][rows].astype("datetime64[ms]"),
            "marker": np.where(flagged, "x", "circle").tolist(), "size": np.where(flagged, 9, 5).tolist(),
            "why": frames["flag_reason"][rows].tolist(),
        }  # fmt: skip
        source = ColumnDataSource(columns)
        code = "if (cb_obj.indices.length) aqdask.open(source.data.index[cb_obj.indices[0]])"
        source.selected.js_on_change("indices", CustomJS(args={"source": source}, code=code))
        return source

    def shown(self, names: tuple[str, ...]) -> list[str]:
        """Return those variables that have a value of any frame."""
        frames = self.data.frames
        return [n for n in names if n in frames and np.isfinite(_floats(frames[n])).any()]

    def over_time(self) -> Iterator[tuple[str, Any]]:
        """Yield figures of variables over time, or the order of frames without times, on one x axis."""
        axis = "time" if self.has_times else "position"
        shared: Any = None
        variables = self.shown(OVER_TIME)
        for name in variables:
            first, last = name == variables[0], name == variables[-1]
            options: dict[str, Any] = {"x_range": shared} if shared is not None else {}
            if self.has_times:
                options["x_axis_type"] = "datetime"
            plot = _plot(
                height=130 + 30 * first + 40 * last, tools="reset,tap,save", min_border_left=90,
                toolbar_location="above" if first else None, **options,
            )  # fmt: skip
            plot.add_tools(BoxZoomTool(dimensions="width"))
            shared = plot.x_range
            self._points(plot, axis, name)
            plot.yaxis.axis_label = NAMES[name]
            plot.xaxis.visible = last
            plot.xaxis.axis_label = "time (UTC)" if self.has_times else "frame, in the order of the archive"
            if self.has_times:
                plot.xaxis.formatter = DatetimeTickFormatter(**TIME_FORMATS)
            yield f"time-{name}", plot

    def relations(self) -> Iterator[tuple[str, Any]]:
        """Yield figures of the frame score against sky, size and airmass."""
        if not self.shown(("frame_score",)):
            return
        for name in self.shown(AGAINST):
            plot = _plot(height=260, tools="pan,wheel_zoom,box_zoom,reset,tap")
            self._points(plot, name, "frame_score", bands=False)
            plot.xaxis.axis_label, plot.yaxis.axis_label = NAMES[name].replace("\n", " "), "frame score"
            yield f"against-{name}", plot

    def _points(self, plot: Any, x: str, y: str, *, bands: bool = True) -> None:
        for name, colour in zip(self.groups, GROUP_COLOURS, strict=False):
            source = self.sources[name]
            band = self._band(name, y) if bands else None
            if band is not None and len(source.data["index"]):
                values = np.asarray(source.data[x])
                known = values[~np.isnan(values)]
                if len(known):
                    plot.quad(left=known.min(), right=known.max(), bottom=band.low, top=band.high,
                              fill_color=colour, fill_alpha=0.13, line_alpha=0)  # fmt: skip
            plot.scatter(
                x, y, source=source, marker="marker", size="size", color=colour, fill_alpha=0.7,
                line_width=1.6, nonselection_alpha=0.7, selection_line_color="#d55e00",
            )  # fmt: skip
        value = f"@{y}{{0.000 a}}"
        tips = [("frame", "@frame_id"), (NAMES[y].replace("\n", " "), value), ("flagged for", "@why")]
        if x == "time":
            tips.insert(1, ("time", "@time{%F %T}"))
        plot.add_tools(HoverTool(tooltips=tips, formatters={"@time": "datetime"}, limit=5))

    def _band(self, group: str, variable: str) -> Band | None:
        """Span of the references of a group; of the first camera and filter that has one."""
        first = np.flatnonzero(self.group_of == group)[:1]
        if group == "others" or not len(first):
            return None
        camera, band = (str(self.data.frames[name][first[0]]) for name in ("camera", "filter"))
        return self.data.references.get((camera, band), {}).get(variable)


def detector_figure(mask: MeanMask, size: tuple[int, int], *, good: bool) -> Any:
    """Draw the fraction of frames in which each patch is masked, over the detector.

    Parameters
    ----------
    mask : MeanMask
    size : tuple of int
        Pixels of a frame, x and y.
    good : bool
        Of good frames only.
    """
    fraction = mask.of_good if good else mask.fraction
    top = max(float(np.nanmax(fraction, initial=0)), 0.02)
    ratio = size[0] / size[1]
    plot = _plot(
        height=None, sizing_mode="scale_width", aspect_ratio=1.2 * ratio,
        max_width=int(max(240, 480 * min(ratio, 2))),
        tools="pan,wheel_zoom,reset", match_aspect=True,
    )  # fmt: skip
    mapper = LinearColorMapper(palette=Cividis256, low=0, high=top, nan_color="rgba(0,0,0,0)")
    plot.image([np.asarray(fraction, np.float32)], x=0, y=0, dw=size[0], dh=size[1], color_mapper=mapper,
               level="image")  # fmt: skip
    plot.add_tools(HoverTool(tooltips=[("masked in", "@image{0.0%} of frames"), ("x, y", "$x{0}, $y{0} px")]))
    plot.add_layout(ColorBar(color_mapper=mapper, width=10), "right")
    plot.xaxis.axis_label, plot.yaxis.axis_label = "x [px]", "y [px]"
    plot.grid.visible = False
    return plot


def pvalue_figure(data: ReportData) -> Any:
    """Draw the histogram of p-values with the uniform distribution as a line."""
    pvalues = data.pvalues
    share = pvalues.counts / max(int(pvalues.counts.sum()), 1) * len(pvalues.counts)
    plot = _plot(height=280, max_width=800, tools="pan,wheel_zoom,reset", x_range=Range1d(start=0, end=1))
    plot.quad(left=pvalues.edges[:-1], right=pvalues.edges[1:], bottom=0, top=share, fill_color="#0072b2",
              fill_alpha=0.6, line_color="#0072b2")  # fmt: skip
    plot.line([0, 1], [1, 1], color="#d55e00", line_width=2, line_dash="dashed")
    plot.y_range.start = 0
    plot.xaxis.axis_label, plot.yaxis.axis_label = "p-value of a patch", "density (uniform = 1)"
    return plot


def drift_figures(data: ReportData, colour_of: Mapping[Any, str]) -> Iterator[tuple[str, Any]]:
    """Yield one figure a variable of monthly medians, by camera and filter, with the span of references.

    ``colour_of`` gives the colour of a camera and filter.
    """
    for name in [n for n in OVER_TIME if any(drift.variable == n for drift in data.drifts)][:DRIFT_FIGURES]:
        plot = _plot(height=220, tools="pan,wheel_zoom,reset", x_axis_type="datetime")
        drifts = [drift for drift in data.drifts if drift.variable == name]
        for drift in drifts:
            colour = colour_of.get((drift.camera, drift.filter), GROUP_COLOURS[-1])
            months = drift.months.astype("datetime64[ms]")
            band = data.references.get((drift.camera, drift.filter), {}).get(name)
            if band is not None:
                plot.quad(left=months.min(), right=months.max(), bottom=band.low, top=band.high,
                          fill_color=colour, fill_alpha=0.13, line_alpha=0)  # fmt: skip
            columns = {"month": months, "median": drift.medians, "count": drift.counts}
            source = ColumnDataSource(columns | {"group": [f"{drift.camera} {drift.filter}"] * len(months)})
            plot.line("month", "median", source=source, color=colour)
            plot.scatter("month", "median", source=source, color=colour, size=7)
            for change in data.changes:
                about = printable(change.camera), printable(change.filter)
                is_shown = about == (drift.camera, drift.filter)
                if is_shown and QUANTITIES[change.quantity].variable == name:
                    at = change.time.astype("datetime64[ms]").astype(float)
                    plot.add_layout(
                        Span(location=at, dimension="height", line_color=colour, line_dash="dashed")
                    )
        tips = [
            ("", "@group"),
            ("month", "@month{%b %Y}"),
            ("median", "@median{0.000}"),
            ("frames", "@count"),
        ]
        plot.add_tools(HoverTool(tooltips=tips, formatters={"@month": "datetime"}))
        plot.xaxis.formatter = DatetimeTickFormatter(**TIME_FORMATS)
        plot.yaxis.axis_label = NAMES[name].replace("\n", " ")
        yield f"drift-{name}", plot


def panel_figures(size: tuple[int, int]) -> Figures:
    """Make the figures of one frame, empty, with linked ranges; the page fills in their sources.

    Sources are named ``plane-NAME``, ``outlines``, ``patches`` and ``boxes``; ``picture`` is a figure with
    the mask alone.
    """
    width, height = size
    ranges = {"x_range": Range1d(start=0, end=width), "y_range": Range1d(start=0, end=height)}
    empty: Mapping[str, list[Any]] = {"x0": [], "y0": [], "x1": [], "y1": [], "colour": []}
    outlines, patches, boxes = (
        ColumnDataSource(dict(empty), name=n) for n in ("outlines", "patches", "boxes")
    )
    figures: Figures = {}
    for name in ("mask", *PLANES):
        plot = _plot(height=None, sizing_mode="scale_width", aspect_ratio=width / height,
                     toolbar_location=None,
                     tools="pan,wheel_zoom,reset", active_scroll="wheel_zoom", min_border=0,
                     **ranges)  # fmt: skip
        plot.axis.visible = plot.grid.visible = False
        if name == "mask":
            plot.quad(
                left="x0",
                right="x1",
                bottom="y0",
                top="y1",
                fill_color="colour",
                line_alpha=0,
                source=patches,
            )
        else:
            blank = ColumnDataSource({"image": [np.zeros((1, 1), np.uint8)], "dw": [1], "dh": [1]})
            blank.name = f"plane-{name}"
            mapper = LinearColorMapper(
                palette=PALETTES[PLANES[name].palette], low=1, high=255, low_color="rgba(128,128,128,0.25)"
            )
            plot.image("image", x=0, y=0, dw="dw", dh="dh", source=blank, color_mapper=mapper)
        plot.segment("x0", "y0", "x1", "y1", color="colour", line_width=1.6, source=outlines)
        plot.quad(left="x0", right="x1", bottom="y0", top="y1", fill_alpha=0, line_color="colour",
                  line_width=2.5,
                  line_dash="dashed", source=boxes)  # fmt: skip
        plot.js_on_event("mousemove", CustomJS(code="aqdask.point(cb_obj.x, cb_obj.y)"))
        plot.js_on_event("mouseleave", CustomJS(code="aqdask.point()"))
        plot.add_tools(BoxSelectTool(name="draw", persistent=False))
        plot.js_on_event("selectiongeometry", CustomJS(code="aqdask.draw(cb_obj)"))
        figures[f"panel-{name}"] = plot
    return figures


def _plot(**options: Any) -> Any:
    """Make a transparent figure as wide as its place; the page gives it the colours of its theme."""
    defaults: dict[str, Any] = {"sizing_mode": "stretch_width", "toolbar_location": "right"}
    plot = figure(**defaults | options, background_fill_alpha=0, border_fill_alpha=0, output_backend="canvas")
    plot.toolbar.logo = None
    plot.axis.axis_label_text_font_style = "normal"
    for tool in plot.tools:
        if isinstance(tool, TapTool):
            tool.mode = "replace"  # a click chooses one frame
    return plot


def _floats(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64)
