"""The live page as a Bokeh document: every text that comes from files is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, DataRange1d, FactorRange
from bokeh.models.annotations import Title
from bokeh.models.widgets.markups import Div
from bokeh.plotting import figure

from aqdask.monitor.rate import duration
from aqdask.text import plural, printable

if TYPE_CHECKING:
    from bokeh.document import Document


REFRESH = 1000  # milliseconds
WATCH = "watch"  # stage without an end, whose rate is that of the camera
PARTS = {
    "read": "read", "store": "store pixels", "statistics": "patch statistics", "network": "network",
    "decision": "decision", "write": "write maps",
}  # fmt: skip
STYLE = """<style>
.numbers {display:flex; flex-wrap:wrap; gap:8px 28px; margin:4px 0}
.numbers b {display:block; font-size:22px} .numbers .bad b {color:#b00020}
.bar {height:12px; background:#ddd; border-radius:6px; overflow:hidden; max-width:900px}
.bar div {height:12px; background:#3b7dd8}
table {border-collapse:collapse; font-size:13px} th, td {text-align:left; padding:2px 12px 2px 0;
 overflow-wrap:anywhere; vertical-align:top}
.pictures {display:flex; flex-wrap:wrap; gap:10px} figure {margin:0; max-width:200px}
figure img {max-width:192px; display:block} figcaption {font-size:12px; overflow-wrap:anywhere}
h2 {font-size:16px; margin:10px 0 4px} h1 {font-size:20px; margin:2px 0} p {margin:4px 0} .quiet {color:#555}
</style>"""


def document(live: Runs, extra: dict[str, Any], doc: Document) -> None:
    """Fill a Bokeh document with the page, and keep it up to date.

    Parameters
    ----------
    live : Runs
        Of the scheduler.
    extra : dict
        Variables of the template of Dask's pages.
    doc : bokeh.document.Document
        To be filled.
    """
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    view = PageView(live)
    doc.title = "aqdask"
    doc.add_root(view.root)
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME
    doc.add_periodic_callback(view.update, REFRESH)


class Runs(Protocol):
    """Commands that the page shows."""

    def latest(self) -> list[dict[str, Any]]:
        """Return the snapshots, the one that is shown first."""
        ...

    def workers(self) -> list[dict[str, Any]] | None:
        """Describe the workers; None where the command itself does the work."""
        ...


class PageView:
    """Elements of the page for one browser window."""

    def __init__(self, live: Runs) -> None:
        self.live = live
        self.summary, self.pictures, self.tables = (Div(sizing_mode="stretch_width") for _ in range(3))
        self.rates = ColumnDataSource({"time": [], "rate": []})
        self.parts = ColumnDataSource({"part": [], "seconds": []})
        self.title = Title(text="frames a second")
        self.rate = figure(
            title=self.title, x_axis_type="datetime", height=200, min_width=320, tools="",
            toolbar_location=None, y_range=DataRange1d(start=0), sizing_mode="stretch_width",
            html_attributes={"role": "img", "aria-label": "rate over time"},
        )  # fmt: skip
        self.rate.line("time", "rate", source=self.rates, line_width=2)
        self.part = figure(
            title="milliseconds a frame, by part of the work", height=200, min_width=320, tools="",
            y_range=FactorRange(factors=list(reversed(PARTS.values()))), x_range=DataRange1d(start=0),
            toolbar_location=None, sizing_mode="stretch_width",
            html_attributes={"role": "img", "aria-label": "milliseconds a frame, by part of the work"},
        )  # fmt: skip
        self.part.hbar(y="part", right="seconds", height=0.7, source=self.parts)
        plots = row(self.rate, self.part, sizing_mode="stretch_width")
        self.root = column(self.summary, self.pictures, plots, self.tables, sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """Show the present state; only what has changed goes to the browser."""
        runs = self.live.latest()
        run = runs[0] if runs else None
        self._set(self.summary, "".join(map(summary, runs)) or "<p>No aqdask command has reported yet.</p>")
        self._set(self.pictures, pictures(run["pictures"]) if run else "")
        self._set(self.tables, tables(run, self.live.workers()))
        self.rate.visible = not run or run["stage"] != WATCH
        if run and run["history"]:
            time, rate = zip(*run["history"], strict=True)
            self.rates.data = {"time": [1000 * at for at in time], "rate": list(rate)}
            self.title.text = f"{run['unit']} a second"
        if run:
            seconds = [1000 * run["seconds_a_frame"].get(part, 0.0) for part in PARTS]
            self.parts.data = {"part": list(PARTS.values()), "seconds": seconds}

    @staticmethod
    def _set(element: Div, text: str) -> None:
        if element.text != STYLE + text:
            element.text = STYLE + text


def text(value: object) -> str:
    """Make any value safe to stand in HTML, control characters included."""
    return escape(printable(str(value)))


def number(value: float | None, form: str = ".3g") -> str:
    """Format a number; a dash for none."""
    return "-" if value is None else format(value, form)


def summary(run: dict[str, Any]) -> str:
    """Return the counts of one command as HTML."""
    share = 100 * run["done"] / run["total"] if run["total"] else 0
    is_watch = run["stage"] == WATCH
    numbers = _watched(run) if is_watch else _progress(run)
    cells = "".join(
        f"<span class={'bad' if name == 'quarantined' and value else 'good'}>"
        f"<b>{text(value)}</b> {text(name)}</span>"
        for name, value in numbers.items()
    )
    stages = ", ".join(
        f"{text(stage['stage'])} {stage['done']} of {text(_amount(stage))} in {duration(stage['seconds'])}"
        for stage in run["stages"]
        if stage["seconds"] is not None and stage["total"]
    )
    since = run["started"][:19].replace("T", " ")
    bar = (
        f"<div class=bar role=progressbar aria-label=progress aria-valuemin=0 aria-valuemax=100 "
        f"aria-valuenow={share:.0f}>"
        f"<div style='width:{share:.1f}%'></div></div>"
    )
    return (
        f"<h1>aqdask {text(run['command'])}: {text(run['stage'])}, {text(run['state'])}</h1>"
        f"<div class=numbers>{cells}</div>{'' if is_watch else bar}"
        f"<p class=quiet>since {text(since)} UTC{f'; {stages}' if stages else ''}</p>"
    )


def _progress(run: dict[str, Any]) -> dict[str, Any]:
    left = run["seconds_left"]
    return {
        f"of {_amount(run)} done": run["done"],
        "quarantined": run["quarantined"],
        f"{run['unit']} a second": number(run["per_second"]),
        "left": duration(left) if left is not None else "-",
    }


def _watched(run: dict[str, Any]) -> dict[str, Any]:
    last = max((one["time"] for one in (*run["latest"], *run["failures"])), default="")
    return {
        "frames so far": run["done"],
        "quarantined": run["quarantined"],
        "last frame (UTC)": last[:19].replace("T", " ") or "-",
    }


def _amount(stage: dict[str, Any]) -> str:
    return plural(stage["total"], str(stage["unit"]).removesuffix("s"), str(stage["unit"]))


def pictures(shown: list[dict[str, Any]]) -> str:
    """Return the latest pictures as HTML."""
    if not shown:
        return ""
    parts = []
    others = "Pictures of other frames" if any(one["is_bad"] for one in shown) else "Pictures"
    for title, is_bad in (("Pictures of bad frames", True), (others, False)):
        figures = "".join(
            f"<figure><img src='{text(one['picture'])}' alt='frame {text(one['frame_id'])} with its mask'>"
            f"<figcaption>{text(one['frame_id'])}<br>{_verdict(one)}</figcaption></figure>"
            for one in shown
            if one["is_bad"] == is_bad
        )
        parts += [f"<h2>{title}</h2><div class=pictures>{figures}</div>"] if figures else []
    legend = (
        "<p class=quiet>red: masked at a false-mask rate of 0.01; blue: no data. Some frames are drawn, so "
        "that pictures cost little: the latest frames are in the table.</p>"
    )
    return "".join(parts) + legend


def _verdict(row: dict[str, Any]) -> str:
    if row["masked"] is None:
        return "ingested"
    reason = f", mostly {text(row['reason'])}" if row["reason"] else ""
    return f"score {number(row['score'])}, {100 * row['masked']:.1f} % masked{reason}"


def tables(run: dict[str, Any] | None, workers: list[dict[str, Any]] | None) -> str:
    """Return failures, frames, messages and workers as HTML."""
    parts = []
    if run and run["failures"]:
        failed = ((one["time"][11:19], one["frame_id"], one["reason"]) for one in run["failures"])
        parts.append(table("Quarantined", ("UTC", "frame", "reason"), failed))
    if run and run["latest"]:
        frames = (
            (one["time"][11:19], one["frame_id"], number(one["score"]), number(one["masked"], ".1%"),
             one["reason"], number(sum(one["seconds"].values())))
            for one in run["latest"]
        )  # fmt: skip
        parts.append(table("Frames", ("UTC", "frame", "score", "masked", "main reason", "seconds"), frames))
    if run and run["messages"]:
        parts.append(table("Messages", ("message",), [(message,) for message in run["messages"]]))
    if workers is None:
        return "".join(parts)
    lines = (
        (one["name"], one["status"], one["threads"], one["tasks"], number(one["cpu_percent"], ".0f"),
         number(None if one["memory_bytes"] is None else one["memory_bytes"] / 2**20, ".0f"))
        for one in workers[:50]
    )  # fmt: skip
    title = plural(len(workers), "worker") if len(workers) <= 50 else f"50 of {len(workers)} workers"
    parts.append(table(title, ("worker", "status", "threads", "tasks", "CPU %", "MiB"), lines))
    return "".join(parts)


def table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """Return a table as HTML."""
    head = "".join(f"<th scope=col>{text(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return (
        f"<h2>{text(title)}</h2><table aria-label='{text(title)}'><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
