"""Page and change log of the masks of two models on one archive, for users of published masks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import xarray as xr
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from aqdask.errors import place_failed
from aqdask.execution.reporter import Reporter
from aqdask.products.compare import FRAME_COLUMNS, Comparison, ReasonChange
from aqdask.products.mask_summaries import GOOD
from aqdask.products.report.page import _text
from aqdask.products.report.panels import PanelMaker, reason_pictures, reasons_listed
from aqdask.stats.masking import bad_patches
from aqdask.text import printable
from aqdask.version import __version__

PICTURED = 8  # frames with pictures, most changes first
LISTED = 50  # frames in the tables of the page and the change log; the CSV has all that changed
NAMED = 3  # reasons in a sentence
SIDE = 512  # px of the longer side of a picture
PAGE, TABLE = "compare.html", "changes.csv"
TEMPLATES = {PAGE: "report.compare.html", "changes.md": "report.changes.txt"}


class Group(NamedTuple):
    """Changes of the frames of one camera and filter, in patches."""

    camera: str
    filter: str
    frames: int
    changed_frames: int
    compared: int
    masked_a: int
    masked_b: int
    gained: int
    lost: int

    @property
    def changed(self) -> float:
        """Fraction of its patches whose mask has changed."""
        return (self.gained + self.lost) / max(self.compared, 1)


@dataclass(frozen=True)
class Picture:
    """Pictures of a frame (data URLs or empty): pixels and both masks; ``problem`` if the pixels are lost."""

    frame_id: str
    gained: int
    lost: int
    pixels: str
    mask_a: str
    mask_b: str
    problem: str


def write_comparison(
    found: Comparison,
    archive: str | os.PathLike[str],
    qualities: tuple[xr.Dataset, xr.Dataset],
    folder: str | os.PathLike[str],
    reporter: Reporter,
) -> tuple[Path, tuple[str, ...]]:
    """Write ``compare.html``, ``changes.md`` and ``changes.csv`` about the masks of two models.

    Parameters
    ----------
    found : Comparison
        Of two models of ``archive``.
    archive : path
        Its pixels are read of the frames with pictures.
    qualities : tuple of Dataset
        From `open_quality`, of the first and the second model.
    folder : path
        Receives the files; earlier ones are replaced.
    reporter : Reporter
        Listens to the progress.

    Returns
    -------
    tuple of Path and tuple of str
        The page and its first sentences.

    Raises
    ------
    ArchiveError
        If a file cannot be written.
    """
    frames = changed_frames(found)
    groups, told = changes_by_group(found), tuple(sentences(found))
    shape = qualities[0].attrs["frame_shape"]
    pictures = list(_pictures(found, os.fspath(archive), qualities, reporter))
    about = {
        "found": found, "name": printable(Path(archive).name), "version": __version__, "sentences": told,
        "groups": groups, "frames": frames.slice(0, LISTED).to_pylist(), "changed": frames.num_rows,
        "pictures": pictures, "reasons": reasons_listed(), "css": Markup(_text("report.css")),
        "alpha": f"{found.alpha:g}", "ratio": " / ".join(str(n) for n in shape[::-1]),
    }  # fmt: skip
    environment = Environment(
        loader=PackageLoader("aqdask.products", "report"), autoescape=select_autoescape()
    )
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, template in TEMPLATES.items():
            _replace(place / name, environment.get_template(template).render(about).encode())
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(frames, sink)
        _replace(place / TABLE, sink.getvalue().to_pybytes())
    except OSError as error:
        raise place_failed(folder, error) from error
    return place / PAGE, told


def _replace(path: Path, contents: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(contents)
    partial.replace(path)


def changed_frames(found: Comparison) -> pa.Table:
    """Return the frames whose mask has changed, most changes first: id, time, camera, filter and patches."""
    table = found.by_frame.isel(frame=(found.by_frame["gained"] + found.by_frame["lost"]).values > 0)
    columns: dict[str, Any] = {"frame_id": [printable(str(name)) for name in table["frame_id"].values]}
    if "time" in table.coords:
        columns["time"] = pa.array(
            table["time"].values.astype("datetime64[us]"), pa.timestamp("us", tz="UTC")
        )
    columns |= {n: [str(v) for v in table[n].values] for n in ("camera", "filter") if n in table.coords}
    columns |= {name: table[name].values for name in FRAME_COLUMNS}
    return pa.table(columns)


def changes_by_group(found: Comparison) -> list[Group]:
    """Sum the changes over the frames of each camera and filter, the most changed fraction first."""
    table = found.by_frame
    names = [
        [str(v) for v in table[n].values] if n in table.coords else [""] * table.sizes["frame"]
        for n in ("camera", "filter")
    ]
    keys = np.array([*map("\n".join, zip(*names, strict=True))], dtype=str)
    counts = np.stack([table[n].values for n in ("compared", "masked_a", "masked_b", "gained", "lost")])
    groups = []
    for key in np.unique(keys):
        members = counts[:, keys == key]
        changed = int(np.count_nonzero(members[3] + members[4]))
        camera, band = str(key).split("\n")
        groups.append(Group(camera, band, members.shape[1], changed, *members.sum(axis=1).tolist()))
    return sorted(groups, key=lambda group: -group.changed)


def sentences(found: Comparison) -> Iterator[str]:
    """Yield what has changed, in words."""
    if not found.patches:
        yield "No patch has a score of both models."
        return
    masked_a, masked_b = ((found.both + n) / found.patches for n in (found.only_a, found.only_b))
    yield (
        f"At alpha = {found.alpha:g} {found.model_a} masks {masked_a:.2%} of the patches of {found.frames:,} "
        f"frames, {found.model_b} {masked_b:.2%}."
    )
    table = found.by_frame
    changed = int(np.count_nonzero(table["gained"].values + table["lost"].values))
    if not changed:
        yield "No mask has changed."
    else:
        yield (
            f"{found.only_b:,} patches ({found.only_b / found.patches:.2%}) are newly masked, "
            f"{found.only_a:,} ({found.only_a / found.patches:.2%}) no longer, in {changed:,} frames; the "
            f"masks of {found.frames - changed:,} frames are the same."
        )
        yield from _reason_sentences(found.by_reason)
        groups = changes_by_group(found)
        if len(groups) > 1:
            most = groups[0]
            who = f"camera {most.camera or 'unknown'}, filter {most.filter or 'unknown'}"
            yield f"Most changed are frames of {who}: {most.changed:.2%} of their patches."
    if found.no_data_a or found.no_data_b:
        yield (
            f"{found.no_data_a:,} patches lack a score of {found.model_a} only, {found.no_data_b:,} of "
            f"{found.model_b} only: they are masked there, and counted nowhere else."
        )


def _reason_sentences(changes: Sequence[ReasonChange]) -> Iterator[str]:
    for side, what in (("gained", "newly masked"), ("lost", "no longer masked")):
        rows = sorted((c for c in changes if getattr(c, side)), key=lambda c: -getattr(c, side))[:NAMED]
        if rows:
            parts = ", ".join(f"{row.reason.replace('_', ' ')} ({getattr(row, side):,})" for row in rows)
            yield f"Most patches that are {what} are so for: {parts}."


def _pictures(
    found: Comparison, archive: str, qualities: tuple[xr.Dataset, xr.Dataset], reporter: Reporter
) -> Iterator[Picture]:
    """Draw pixels and both masks of the frames with the most changes."""
    table = found.by_frame.isel(frame=slice(PICTURED))
    table = table.isel(frame=(table["gained"] + table["lost"]).values > 0)
    rows = table["row"].values.tolist()
    maker = PanelMaker(archive, "", rows)
    reporter.start("pictures", len(rows))
    for at, row in enumerate(rows):
        masks = []
        for quality in qualities:
            pvalue, reason = (quality[name][row].values for name in ("pvalue", "reason"))
            codes = np.where(bad_patches(pvalue, found.alpha), reason, GOOD).astype(np.uint8)
            masks += [
                f"data:image/png;base64,{code}" if code else "" for code in reason_pictures(codes[None], GOOD)
            ]
        pixels, problem = maker.thumbnail(row, SIDE)
        one = table.isel(frame=at)
        name, (mask_a, mask_b) = printable(str(one["frame_id"].values)), masks
        yield Picture(name, int(one["gained"]), int(one["lost"]), pixels, mask_a, mask_b, problem)
        reporter.advance(1, int(bool(problem)))
    reporter.finish()
