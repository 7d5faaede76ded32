"""Light curves of the same stars over all frames of an archive.

The workers measure fluxes (`star_photometry`); the client makes zero points and light curves from them
(`ensemble_tables`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqdask import plot
from aqdask.errors import ArchiveError, FrameError, UsageError, place_failed
from aqdask.execution.executors import Executor
from aqdask.execution.reporter import Reporter
from aqdask.io.frame_ids import match_frames
from aqdask.io.places import PARTIAL, absolute
from aqdask.measurements.ensemble_tables import CURVES, FLUXES, FRAMES, STARS, ScatterGain, solve
from aqdask.measurements.frame_tables import check_folder, measure_frames
from aqdask.measurements.reference_stars import MAX_STARS, ReferenceStars, Targets, reference_stars
from aqdask.measurements.scored_frame import ScoredFrames, ScoredPlace, scored_places
from aqdask.measurements.star_photometry import StarPhotometry
from aqdask.store.frame_store import FrameStore
from aqdask.text import printable

PLOT = "scatter.png"
ATTEMPTS = 5  # frames tried as reference


@dataclass(frozen=True)
class LightCurves:
    """Light curves on disk.

    Parameters
    ----------
    folder : Path
        Holds the Parquet datasets ``light_curves`` and ``fluxes``, the tables ``stars.parquet`` and
        ``frames.parquet``, and ``scatter.png``.
    reference : str
        The reference frame.
    gains : list of ScatterGain
        One a filter.
    problems : list of tuple of str
        Id and reason of each frame that was not measured.
    """

    folder: Path
    reference: str
    gains: list[ScatterGain] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def stars(self) -> pa.Table:
        """Table of stars, read from its file."""
        return pq.read_table(self.folder / STARS)

    @property
    def frames(self) -> pa.Table:
        """Table of frames, read from its file."""
        return pq.read_table(self.folder / FRAMES)


def measure_light_curves(
    archive: str | os.PathLike[str],
    quality: str,
    alpha: float,
    folder: str | os.PathLike[str],
    executor: Executor,
    reporter: Reporter,
    *,
    targets: Targets | None = None,
    number: int,
    reference: str | None = None,
    radius: float | None = None,
    frames: Sequence[str] = (),
) -> LightCurves:
    """Measure the same stars on all scored frames of an archive; parameters as of `aqdask.light_curves`."""
    out = Path(folder)
    _check_out(out)
    if not 0 <= number <= MAX_STARS - len(targets.names if targets else ()) or (
        radius is not None and radius <= 0
    ):
        raise UsageError(
            f"{number} stars and a radius of {radius}", consequence="Nothing was measured",
            expected=f"0 to {MAX_STARS} stars, targets included, and a radius above 0",
        )  # fmt: skip
    places, without = _chosen(archive, quality, frames)
    if len(places) < 2:
        raise UsageError(
            f"{len(places)} scored frame{'s' * (len(places) != 1)}",
            expected="at least two scored frames",
            consequence="There are no light curves",
            remedy="score more frames with `aqdask score`, or give a wider --frames",
        )
    stars = _reference(archive, ScoredFrames(absolute(archive), quality, alpha), places, reference,
                       (targets, number, radius))  # fmt: skip
    reporter.say(
        f"reference frame {printable(stars.frame_id)}: {len(stars.names)} stars, FWHM {stars.fwhm:.1f} px, "
        f"aperture radius {stars.radius:.1f} px"
    )
    try:
        (out / CURVES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_failed(out, error) from error
    found, problems = measure_frames(
        archive, quality, alpha, StarPhotometry(stars), out / FLUXES, executor, reporter,
        stage="photometry", places=places,
    )  # fmt: skip
    if sum(not one.problem for one in found) < 2:
        raise UsageError(
            f"no common stars: those of {printable(stars.frame_id)} were found on no other frame "
            f"({problems[0][0]}: {problems[0][1]})",
            expected="frames of one field, with a WCS or with stars enough to be matched",
            consequence="There are no light curves",
            remedy="choose frames of one field by --frames, and one of them by --reference",
        )
    gains = solve(out, stars)
    try:
        plot.require_matplotlib()
        _picture(out)
    except UsageError as error:
        reporter.say(f"note: no {PLOT}: {error}")
    return LightCurves(out, stars.frame_id, gains, problems + without)


def _chosen(
    archive: str | os.PathLike[str], quality: str, patterns: Sequence[str]
) -> tuple[list[ScoredPlace], list[tuple[str, str]]]:
    """Return the places of the chosen frames, and those without a score with their reasons."""
    places, without = scored_places(archive, quality)
    if not patterns:
        return places, without
    rows = [place.frame.row for place in places]
    ids = (
        [printable(str(name)) for name in FrameStore.open(archive).coordinate("frame_id", rows)]
        if rows
        else []
    )
    wanted = set(match_frames([*ids, *(name for name, _ in without)], patterns))
    kept = [place for place, name in zip(places, ids, strict=True) if name in wanted]
    return kept, [(name, reason) for name, reason in without if name in wanted]


def _reference(
    archive: str | os.PathLike[str], reader: ScoredFrames, places: Sequence[ScoredPlace], named: str | None,
    how: tuple[Targets | None, int, float | None],
) -> ReferenceStars:  # fmt: skip
    """Choose stars on the reference frame: the named one, else the unflagged one with the best frame score.

    The most common filter has precedence; a frame that cannot be used is followed by the next.
    """
    store, rows = FrameStore.open(archive), [place.frame.row for place in places]
    if named is None:
        filters = [str(name) for name in store.coordinate("filter", rows)]
        count = Counter(filters)
        order = sorted(
            range(len(places)),
            key=lambda at: (
                places[at].values.get("frame_flag", 0) != 0, -count[filters[at]],
                np.nan_to_num(places[at].values.get("frame_score", 0), nan=np.inf), at,
            ),
        )[:ATTEMPTS]  # fmt: skip
    else:
        ids = [str(name) for name in store.coordinate("frame_id", rows)]
        chosen = match_frames(ids, [named])
        if len(chosen) != 1:
            raise UsageError(
                f"--reference {printable(named)} matches {len(chosen)} frames", expected="one frame"
            )
        order = [ids.index(chosen[0])]
    problem: UsageError | None = None
    for at in order:
        try:
            return reference_stars(reader.read(places[at]), *how)
        except FrameError as error:
            problem = UsageError(
                f"the reference frame cannot be read ({error})", expected="a frame with pixels and maps",
                remedy="`aqdask verify --repair`, or another --reference",
            )  # fmt: skip
        except UsageError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _picture(folder: Path) -> None:
    """Write the plot of scatter against magnitude."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    plot.light_curve_scatter(pq.read_table(folder / STARS), ax=figure.subplots())
    partial = folder / f"{PLOT}{PARTIAL}"
    try:
        figure.savefig(partial, format="png", dpi=120)
        partial.replace(folder / PLOT)
    except OSError as error:
        raise place_failed(folder, error) from error


def _check_out(folder: Path) -> None:
    """Refuse a folder with anything but light curves.

    Raises
    ------
    ArchiveError
        For a file, or a folder with other content.
    """
    ours = {FLUXES, CURVES, STARS, FRAMES, PLOT}
    listed = sorted(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []
    strangers = [path for path in listed if path.name not in ours and not path.name.endswith(PARTIAL)]
    if strangers:
        raise ArchiveError(
            f"{strangers[0]} is no light curve that aqdask wrote",
            expected="a new folder, or one of an earlier run, which is continued",
            consequence="Nothing was written",
            remedy="choose another --out",
        )
    for name in (FLUXES, CURVES):
        if (folder / name).exists():
            check_folder(folder / name)
