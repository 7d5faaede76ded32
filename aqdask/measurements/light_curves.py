"""Light curves of the same stars over all frames of an archive.

The workers measure fluxes (`star_photometry`); the client makes zero points and light curves from them
(`ensemble_tables`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aqdask import plot
from aqdask.errors import ArchiveError, FrameError, UsageError, place_failed
from aqdask.execution.executors import Executor
from aqdask.execution.reporter import Reporter
from aqdask.io.frame_ids import match_one
from aqdask.io.places import PARTIAL, absolute
from aqdask.measurements.align import ATTEMPTS
from aqdask.measurements.ensemble_tables import CURVES, FLUXES, FRAMES, STARS, ScatterGain, solve
from aqdask.measurements.frame_tables import check_folder, measure_frames
from aqdask.measurements.rank import rank_frames, reference_order
from aqdask.measurements.reference_stars import MAX_STARS, ReferenceStars, Targets, reference_stars
from aqdask.measurements.scored_frame import ScoredFrames, ScoredPlace, check_radius, scored_places
from aqdask.measurements.star_photometry import StarPhotometry
from aqdask.store.frame_store import FrameStore
from aqdask.text import plural, printable

PLOT = "scatter.png"


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
    patterns: Sequence[str] | None = None,
    band: str | None = None,
) -> LightCurves:
    """Measure the same stars on all scored frames of an archive; parameters as of `aqdask.light_curves`."""
    out = Path(folder)
    _check_out(out)
    _check_stars(number, targets, reference)
    if radius is not None:
        check_radius(radius, archive)
    places, without = scored_places(archive, quality, patterns, band)
    if len(places) < 2:
        raise UsageError(
            plural(len(places), "scored frame"),
            expected="at least two scored frames",
            consequence="There are no light curves",
            remedy="score more frames with `aqdask score`, or give a wider --frames",
        )
    if reference is not None:
        ids = FrameStore.open(archive).coordinate("frame_id", [place.frame.row for place in places])
        candidates = [places[match_one(list(map(str, ids)), reference, "--reference")]]
    else:
        table = rank_frames(
            archive, quality, alpha, executor, reporter, patterns=patterns, band=band, needs_rank=False
        )
        by_row = {place.frame.row: place for place in places}
        candidates = [by_row[row] for row in reference_order(table, alpha)[:ATTEMPTS] if row in by_row]
    reader = ScoredFrames(absolute(archive), quality, alpha)
    stars = _reference(reader, candidates, targets, number, radius)
    reporter.say(
        f"reference frame {printable(stars.frame_id)}: {plural(len(stars.names), 'star')}, "
        f"FWHM {stars.fwhm:.1f} px, aperture radius {stars.radius:.1f} px"
    )
    for note in stars.notes:
        reporter.say(note)
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


def _check_stars(number: int, targets: Targets | None, reference: str | None) -> None:
    if targets and not targets.on_sky and reference is None:
        raise UsageError(
            "targets in pixels without a reference frame",
            expected="x,y together with the frame whose pixels these are, or ra,dec",
            consequence="Nothing was measured",
            remedy="name the frame by --reference (reference=)",
        )
    own = len(targets.names) if targets else 0
    if not 0 < number + own <= MAX_STARS or number < 0:
        raise UsageError(
            f"{plural(number, 'star')} and {plural(own, 'target')}",
            expected=f"1 to {MAX_STARS} of both together, and no number below 0",
            consequence="Nothing was measured",
            remedy="give --stars a number, or --targets a file",
        )


def _reference(
    reader: ScoredFrames,
    places: Sequence[ScoredPlace],
    targets: Targets | None,
    number: int,
    radius: float | None,
) -> ReferenceStars:
    """Choose stars on the first frame that can be used."""
    problem: UsageError | None = None
    for place in places:
        try:
            return reference_stars(reader.read(place), targets, number, radius)
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
