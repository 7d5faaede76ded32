"""One self-contained HTML page about an archive: summary, plots, gallery and panels of single frames."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from aqdask.errors import UsageError, place_failed
from aqdask.execution.reporter import Reporter, Silent
from aqdask.io.frame_ids import match_frames
from aqdask.monitor.strict_json import strict_json
from aqdask.products.agreement import LabelAgreement, label_agreement
from aqdask.products.mask_summaries import GOOD
from aqdask.products.report.figures import (
    GROUP_COLOURS,
    FrameFigures,
    detector_figure,
    drift_figures,
    embedded,
    panel_figures,
    pvalue_figure,
)
from aqdask.products.report.panels import PLANES, PanelMaker, reason_pictures, reasons_listed
from aqdask.products.report.patterns import LinePattern, pattern_note, pattern_sentences, patterned
from aqdask.products.report.sentences import flags_told
from aqdask.products.report.values import ReportData
from aqdask.specs import PatchGrid
from aqdask.store import labels as stored_labels
from aqdask.store import layout
from aqdask.store.labels import Label
from aqdask.store.ledger import open_ledger
from aqdask.text import printable
from aqdask.version import __version__

PANEL_PIXELS = 12 * 4096**2  # that are read for panels, unless their number is given
FEWEST_PANELS, MOST_PANELS = 8, 100
PANEL_BYTES = 35e6  # of all panels, beyond which no more are made unless they were asked for
THUMBNAIL_PIXELS = 60 * 4096**2  # of an archive whose frames all have a picture in the gallery, at most
WORST, BEST = 8, 4  # frames shown above the gallery
WHOLE = 0.995  # fraction of the patches masked, from which a frame is masked as a whole
DIGITS = 5  # significant ones of numbers in the page
MAPS_AT_ONCE = 1024
MOST_FRAMES = 50_000  # in one page; it has about 1 kB a frame beside the panels
COLUMNS = (
    "frame_id", "camera", "filter", "state", "state_reason", "is_flagged", "flag_reason", "main_reason",
    "frame_score", "masked_patches", "frame_size_ratio", "frame_ellipticity", "frame_sky",
    "frame_noise_ratio", "frame_stars", "exptime", "airmass", "ra", "dec", "row", "crc32c",
    "has_pixels",
)  # fmt: skip
FACTS = {
    "frame_score": "score", "masked_patches": "masked fraction", "main_reason": "most masked for",
    "frame_size_ratio": "star size / references", "frame_ellipticity": "ellipticity from references",
    "frame_sky": "sky [counts]", "frame_noise_ratio": "noise / expected", "frame_stars": "stars per patch",
    "exptime": "exposure [s]", "airmass": "airmass", "ra": "RA of the centre [deg]",
    "dec": "Dec of the centre [deg]", "state": "state", "row": "row of the archive",
}  # fmt: skip
"""Values in the panel of a frame, and their names there."""


@dataclass(frozen=True)
class ReportPage:
    """Report that was written.

    Parameters
    ----------
    path : Path
    frames : int
        Frames of the archive.
    panels : tuple of str
        Ids of the frames whose pixels are in it.
    problems : tuple of (str, str)
        Id and reason of each frame whose pixels or maps could not be read.
    summary : tuple of str
        Its first sentences.
    """

    path: Path
    frames: int
    panels: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    summary: tuple[str, ...]


def write_report(
    data: ReportData,
    archive: str,
    out: Path,
    reporter: Reporter,
    *,
    panels: int | None = None,
    named: Sequence[str] = (),
) -> ReportPage:
    """Write the report of an archive.

    Parameters
    ----------
    data : ReportData
    archive : str
        The archive, from which the pixels of the shown frames are read.
    out : Path
        HTML file; an existing one is replaced.
    reporter : Reporter
    panels : int, optional
        Number of frames whose pixels are shown; None: as many as suit the size of the frames.
    named : sequence of str
        Ids or patterns of frames whose pixels are shown in any case.

    Raises
    ------
    UsageError
        For a pattern without a frame. ArchiveError if the file cannot be written.
    """
    root = layout.open_root(archive)
    shape = layout.read_spec(root).shape
    ledger = open_ledger(root)
    labels = stored_labels.valid(root, ledger)
    agreement = label_agreement(archive, data.quality, data.alpha) if labels and data.quality else None
    labelled = {label.frame_id for label in labels}
    has_pixels, ids = data.frames["has_pixels"], data.frames["frame_id"]
    asked, others = panel_frames(data, shape, panels, named, labelled)
    problems = [
        (str(ids[i]), f"no pixels: {data.frames['state_reason'][i]}") for i in asked if not has_pixels[i]
    ]
    asked, others = ([index for index in chosen if has_pixels[index]] for chosen in (asked, others))
    few = len(data) * shape[0] * shape[1] <= THUMBNAIL_PIXELS and panels != 0
    shown = np.flatnonzero(has_pixels).tolist() if few else [*asked, *others]
    maker = PanelMaker(archive, data.quality, data.frames["row"][shown].tolist(), ledger)
    made: dict[int, dict[str, Any]] = {}
    size = 0
    reporter.start("report", len(shown))
    for index in (*asked, *others):
        if index in others and panels is None and size > PANEL_BYTES:
            break
        made[index] = maker.panel(int(data.frames["row"][index]))
        size += sum(len(plane["src"]) for plane in made[index]["planes"].values())
        reporter.advance(1, int(bool(made[index]["problem"])))
    thumbnails: dict[int, tuple[str, str]] = {}
    for index in [index for index in shown if index not in made] if few else ():
        thumbnails[index] = maker.thumbnail(int(data.frames["row"][index]))
        reporter.advance(1, int(bool(thumbnails[index][1])))
    reporter.finish()
    sources = {index: source for index, (source, _) in thumbnails.items()}
    data, notes = _with_patterns(data, maker.patterns)
    text = page(data, shape, maker.patch, made, sources, labels, agreement, notes, reporter)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise place_failed(out, error) from error
    found = {i: panel["problem"] for i, panel in made.items()} | {
        i: text for i, (_, text) in thumbnails.items()
    }
    problems += [(str(ids[i]), str(problem)) for i, problem in found.items() if problem]
    return ReportPage(out, len(data), tuple(str(ids[i]) for i in made), tuple(problems), data.summary)


def _with_patterns(
    data: ReportData, patterns: Mapping[int, LinePattern]
) -> tuple[ReportData, dict[int, str]]:
    """Tell of patterns along lines after the sentences on flags; and in the panels, by position."""
    at = {row: index for index, row in enumerate(data.frames["row"].tolist())}
    found = {at[row]: pattern for row, pattern in patterns.items()}
    told = patterned(found, data.frames["is_flagged"])
    notes = {index: pattern_note(kind, found[index]) for index, kind in told.items()}
    summary = [*data.summary]
    summary[1:1] = pattern_sentences(data.frames, told, len(found))
    return replace(data, summary=tuple(summary)), notes


def check_size(frames: int) -> None:
    """Raise `UsageError` for an archive with more frames than a page can show."""
    if frames > MOST_FRAMES:
        raise UsageError(
            f"an archive of {frames:,} frames",
            expected=f"at most {MOST_FRAMES:,} frames in one page",
            consequence="No report was written",
            remedy="`aqdask export ARCHIVE OUT --table` writes the table of any number of frames",
        )


def panel_frames(
    data: ReportData,
    shape: tuple[int, int],
    panels: int | None = None,
    named: Sequence[str] = (),
    labelled: Collection[str] = (),
) -> tuple[list[int], list[int]]:
    """Choose the frames with panels, as positions: the named ones, then labelled, worst and best ones."""
    ids = [str(frame_id) for frame_id in data.frames["frame_id"]]
    wanted = {*match_frames(ids, named)} if named else set()
    asked = [index for index, frame_id in enumerate(ids) if frame_id in wanted]
    if panels is None:
        panels = int(np.clip(PANEL_PIXELS // (shape[0] * shape[1]), FEWEST_PANELS, MOST_PANELS))
    best = best_frames(data)
    few = min(max(1, panels // 4), BEST) if panels else 0
    ranked = [*best[:few], *worst_frames(data)[: max(panels - few, 0)]]
    first = [index for index, frame_id in enumerate(ids) if frame_id in labelled]
    others = [index for index in dict.fromkeys([*first, *ranked, *range(len(ids))]) if index not in asked]
    return asked, others[:panels]


def worst_frames(data: ReportData) -> list[int]:
    """Return positions of the scored frames, flagged ones first: the worst of each reason, then the next."""
    score, flagged = (np.asarray(data.frames[name], float) for name in ("frame_score", "is_flagged"))
    masked = np.nan_to_num(np.asarray(data.frames["masked_patches"], float))
    order = np.lexsort((-masked, -np.nan_to_num(score, nan=-np.inf), -flagged))
    place: Counter[tuple[bool, str]] = Counter()  # of a frame among those of its reason
    ranks: list[tuple[bool, int, int]] = []
    for index in order.tolist():
        kind = bool(flagged[index]), str(data.frames["flag_reason"][index]) if flagged[index] else ""
        ranks.append((not kind[0], place[kind] if kind[0] else len(ranks), index))
        place[kind] += 1
    return [index for _, _, index in sorted(ranks, key=lambda rank: rank[:2]) if np.isfinite(score[index])]


def ceiling(data: ReportData) -> tuple[float, int] | None:
    """Return the highest score and the number of frames with it, where these are masked as a whole."""
    score, masked = (np.asarray(data.frames[name], float) for name in ("frame_score", "masked_patches"))
    if not np.isfinite(score).any():
        return None
    tied = (score == np.nanmax(score)) & (masked >= WHOLE)
    return (float(np.nanmax(score)), int(tied.sum())) if tied.sum() > 1 else None


def best_frames(data: ReportData) -> list[int]:
    """Return positions of the scored frames that are not flagged, the lowest score first."""
    return [index for index in reversed(worst_frames(data)) if not data.frames["is_flagged"][index]]


@lru_cache(maxsize=1)
def _bokeh_script() -> str:
    """Script of BokehJS without widgets, tables and WebGL."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def _text(name: str) -> str:
    return files("aqdask.products.report").joinpath(name).read_text(encoding="utf-8")


def as_script(text: str) -> Markup:
    """Make JSON fit for a ``<script type="application/json">`` element, which no text in it can end."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def page(
    data: ReportData,
    shape: tuple[int, int],
    patch: int,
    panels: Mapping[int, Mapping[str, Any]],
    thumbnails: Mapping[int, str],
    labels: Sequence[Label] = (),
    agreement: LabelAgreement | None = None,
    notes: Mapping[int, str] | None = None,
    reporter: Reporter | None = None,
) -> str:
    """Render the page.

    Parameters
    ----------
    data : ReportData
    shape : tuple of int
        Pixels of a frame, y and x.
    patch : int
        Side of a patch in pixels; 0 without scores.
    panels : mapping of int to mapping
        `PanelMaker.panel` by position in ``data.frames``.
    thumbnails : mapping of int to str
        `PanelMaker.thumbnail` of the other frames, by position.
    labels : sequence of Label
        Labels of the archive.
    agreement : LabelAgreement, optional
        Of masks and flags with them.
    notes : mapping of int to str, optional
        Sentences on single frames, by position.
    reporter : Reporter, optional
        Listens to the progress.
    """
    size = shape[1], shape[0]
    points = FrameFigures(data)
    shown = {
        "time": dict(points.over_time()), "against": dict(points.relations()),
        "drift": dict(drift_figures(data, points.colour_of)),
        "detector": {f"detector-{n}{kind}": detector_figure(mask, size, good=kind == "-good")
                     for n, mask in enumerate(data.mean_masks.values())
                     for kind in ("", "-good") if not kind or mask.good},
        "pvalues": {"pvalues": pvalue_figure(data)} if data.pvalues.counts.sum() else {},
    }  # fmt: skip
    figures = {name: figure for part in shown.values() for name, figure in part.items()}
    viewer = panel_figures(size)
    environment = Environment(loader=PackageLoader("aqdask.products", "report"), autoescape=True)
    ranked = worst_frames(data)
    worst = [i for i in ranked if data.frames["is_flagged"][i]][:WORST]
    highest = [] if worst else ranked[: min(WORST, -(-len(ranked) // 2))]
    return environment.get_template("report.html").render(
        data=data,
        name=printable(Path(data.archive).name),
        version=__version__,
        css=Markup(_text("report.css")),
        script=Markup(_text("report.js")),
        bokeh=Markup(_bokeh_script()),
        payload=as_script(
            strict_json(
                _payload(data, shape, patch, panels, thumbnails, labels, notes or {}, reporter or Silent())
            )
        ),
        figures=as_script(embedded(figures) if figures else "null"),
        viewer=as_script(embedded(viewer)),
        shown={part: [*names] for part, names in shown.items()},
        groups=[*zip(points.groups, GROUP_COLOURS, strict=False)],
        planes=PLANES,
        cameras=[*data.mean_masks.items()],
        counts=counts(data),
        worst=worst,
        ceiling=ceiling(data),
        facts=FACTS,
        several=len({str(data.frames["flag_reason"][index]) for index in worst}) > 1,
        highest=highest,
        best=[i for i in best_frames(data) if i not in highest][:BEST],
        reasons=reasons_listed(),
        agreement=agreement,
    )


def counts(data: ReportData) -> list[tuple[str, int]]:
    """Return labels and numbers of the tiles at the top."""
    states = {state: sum(s.count for s in data.standings if s.state == state)
              for state in ("done", "quarantined", "pending", "skipped")}  # fmt: skip
    flagged = int(np.count_nonzero(data.frames["is_flagged"]))
    scored = int(np.isfinite(data.frames["masked_patches"]).sum())
    found = [("frames and files", sum(states.values())), ("not flagged", scored - flagged)]
    found += [("flagged", flagged), ("quarantined", states["quarantined"])]
    found += [("pending", states["pending"]), ("no lights, not scored", states["skipped"])]
    return [(label, number) for label, number in found if number or label in ("not flagged", "flagged")]


def _payload(
    data: ReportData,
    shape: tuple[int, int],
    patch: int,
    panels: Mapping[int, Mapping[str, Any]],
    thumbnails: Mapping[int, str],
    labels: Sequence[Label],
    notes: Mapping[int, str],
    reporter: Reporter,
) -> dict[str, Any]:
    """Collect what the script of the page works on."""
    frames = {name: _listed(data.frames[name]) for name in COLUMNS if name in data.frames}
    frames["time"] = [None if np.isnat(t) else str(t)[:19] for t in data.frames["time"]]
    why = flags_told(data.frames, data.references)
    frames["why"] = [f"{text} {notes.get(index, '')}".strip() for index, text in enumerate(why)]
    grid = PatchGrid(*shape, patch) if patch else None
    return {
        "archive": printable(Path(data.archive).name),
        "place": printable(os.path.abspath(data.archive)),
        "quality": data.quality,
        "alpha": data.alpha,
        "ceiling": _listed(np.array((ceiling(data) or (np.nan,))[:1]))[0],
        "shape": shape,
        "edges": {axis: grid.owner_bounds(n).tolist() if grid else [] for n, axis in enumerate("yx")},
        "reasons": reasons_listed(),
        "facts": [[name, told, data.labels.get(name, "")] for name, told in FACTS.items() if name in frames],
        "frames": frames,
        "maps": _maps(data, reporter),
        "panels": panels,
        "thumbnails": thumbnails,
        "stored": [{**asdict(label), "told": label.told()} for label in labels],
        "planes": {name: vars(plane) for name, plane in PLANES.items()},
    }


def _maps(data: ReportData, reporter: Reporter) -> list[str]:
    """Encode the masks of all frames; empty where there is nothing to show."""
    reporter.start("page", len(data))
    found, order = [""] * len(data), np.argsort(data.frames["row"])  # stored beside each other
    for first in range(0, len(data) if data.quality else 0, MAPS_AT_ONCE):
        places = order[first : first + MAPS_AT_ONCE]
        pictures = reason_pictures(data.patch_reasons(data.frames["row"][places].tolist()), GOOD)
        for place, picture in zip(places.tolist(), pictures, strict=True):
            found[place] = picture
        reporter.advance(len(places))
    reporter.finish()
    return found


def _listed(values: np.ndarray) -> list[Any]:
    """Return a column as a list; numbers with `DIGITS` significant digits, None for NaN."""
    if values.dtype.kind == "f":
        return [None if value != value else float(f"{value:.{DIGITS}g}") for value in values.tolist()]
    return values.tolist()
