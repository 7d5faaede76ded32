"""Drift of an archive: change points by camera and filter, and when to calibrate anew."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from aqdask.errors import UsageError
from aqdask.methods.bundle import POOLED, Bundle, Calibration, nearest_key
from aqdask.methods.calibration_spans import OPEN, SEPARATOR, times_of
from aqdask.products.columns import described
from aqdask.products.drift_series import ArchiveSeries, FrameSeries, Repeats, read_repeats, read_series
from aqdask.specs import PatchGrid
from aqdask.stats.change_points import LEAST_UNITS, STEP, ChangePoint, change_points
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import open_ledger
from aqdask.text import plural, printable

FEW = 3  # good frames, from which one can calibrate
SHOWN = 3
GAIN_ERROR = 0.05  # relative, above which the sky varies too little to tell gain from read noise
CLIP_ROUNDS = 3
SHARE = 0.1  # of the time of the references, in a part of a series that they stand for
EARLIEST, LATEST = (np.datetime64(year, "us") for year in ("0001", "9999"))


@dataclass(frozen=True)
class Quantity:
    """Quantity that is followed.

    Parameters
    ----------
    variable : str
        Frame-level variable; empty where it is counted or fitted.
    unit : str
    least : float
        Smallest change that is told, in its unit; relative for the sky and the gain.
    meaning : str
    of_calibration : bool
        A change asks for a new calibration.
    """

    variable: str
    unit: str
    least: float
    meaning: str
    of_calibration: bool = True


QUANTITIES = {
    "size": Quantity("frame_size_ratio", "", 0.03, "PSF size relative to that of the references"),
    "ellipticity": Quantity("frame_ellipticity", "", 0.02, "PSF ellipticity less that of the references"),
    "noise": Quantity("frame_noise_ratio", "", 0.01, "noise relative to that expected at the frame's sky"),
    "gain": Quantity("", "electron / count", 0.03, "gain from the noise at different skies"),
    "hot_pixels": Quantity("", "patch", 0.5, "patches with single bright pixels in most unflagged frames"),
    "repeats": Quantity("", "patch", 0.5, "patches masked for another reason in most unflagged frames"),
    "sky": Quantity("frame_sky", "count", 0.05, "median sky, pedestal included", of_calibration=False),
}
RELATIVE = ("sky", "gain")
UNIT_WORDS = {"count": " counts", "patch": " patches", "electron / count": " electrons per count"}


@dataclass(frozen=True)
class Change:
    """Change of a quantity of one camera, filter and calibration.

    Parameters
    ----------
    camera, filter : str
    calibration : str
        Key of the calibration that scores the frames.
    quantity : str
        Name in `QUANTITIES`.
    kind : str
        'step' or 'trend'.
    time : datetime64[us]
        First frame after it, UTC; of a trend the first frame that differs.
    before, after : float
        Medians before and after it, until the next change.
    unit : str
    sigma : float
        Size in standard deviations of nights (or frames, of fewer than 20 nights); NaN for a gain.
    frames_before, frames_after : int
        Frames of both medians.
    places : str
        Pixels of fixed places that were not there before, ``x0:x1,y0:y1``; empty for other quantities.
    """

    camera: str
    filter: str
    calibration: str
    quantity: str
    kind: str
    time: np.datetime64
    before: float
    after: float
    unit: str
    sigma: float
    frames_before: int
    frames_after: int
    places: str = ""

    @property
    def text(self) -> str:
        """The change in one sentence."""
        where = printable(f"{self.camera} {self.filter}".strip())
        name, unit = self.quantity.replace("_", " "), UNIT_WORDS.get(self.unit, "")
        of = f"The {name} of {where}" if where else f"The {name}"
        since = f"{'from' if self.kind == STEP else 'by a trend from about'} {_in_words(self.time)} on"
        return f"{of} changed from {self.before:.4g} to {self.after:.4g}{unit} {since}."


@dataclass(frozen=True)
class CalibrationUse:
    """Calibration, the frames that it scores, and when to calibrate anew.

    Parameters
    ----------
    camera, filter, calibration : str
        As in `Change`; ``calibration`` is that of another filter or camera where there is no own one.
    is_own : bool
    references : tuple of str
        First and last time of its reference frames, ISO 8601 UTC; empty where unknown.
    frames, flagged : int
    first, last : datetime64[us]
    calibrate_for : tuple of str
        Spans of time of the frames that need a calibration of their own, as ISO 8601 intervals (UTC), ``..``
        for an open end; see ``span`` of `aqdask.calibrate`.
    text : str
        All that in words.
    """

    camera: str
    filter: str
    calibration: str
    is_own: bool
    references: tuple[str, ...]
    frames: int
    flagged: int
    first: np.datetime64
    last: np.datetime64
    calibrate_for: tuple[str, ...]
    text: str


@dataclass(frozen=True, eq=False)
class ArchiveDrift:
    """Result of `find_drift`.

    Parameters
    ----------
    archive, quality : str
    changes : tuple of Change
        By camera, filter and time.
    calibrations : tuple of CalibrationUse
    without_time : tuple of str
        Ids of scored lights that are not followed.
    notes : tuple of str
        What could not be followed, and why.
    """

    archive: str
    quality: str
    changes: tuple[Change, ...]
    calibrations: tuple[CalibrationUse, ...]
    without_time: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def table(self) -> pa.Table:
        """Changes as a table, one row each."""
        rows = [asdict(change) for change in self.changes]
        columns, schema = [], []
        for name in (field.name for field in fields(Change)):
            kind = KINDS.get(name, pa.string())
            columns.append(pa.array([row[name] for row in rows], from_pandas=True).cast(kind))
            schema.append(described(name, kind, COLUMNS[name]))
        return pa.Table.from_arrays(columns, schema=pa.schema(schema))


KINDS = {"time": pa.timestamp("us", tz="UTC"), "frames_before": pa.int64(), "frames_after": pa.int64()}
KINDS |= dict.fromkeys(("before", "after", "sigma"), pa.float64())
COLUMNS = {
    "camera": "camera", "filter": "filter", "calibration": "calibration that scores the frames",
    "quantity": "quantity: " + "; ".join(f"{name}: {q.meaning}" for name, q in QUANTITIES.items()),
    "kind": "step or trend", "time": "first frame after the change (UTC)",
    "before": "median before, in the unit of the row", "after": "median after, in the unit of the row",
    "unit": "unit of before and after, empty for a ratio", "sigma": "size in standard deviations",
    "frames_before": "frames of the median before", "frames_after": "frames of the median after",
    "places": "pixels of fixed places that were not there before, x0:x1,y0:y1",
}  # fmt: skip


def find_drift(
    archive: str | os.PathLike[str],
    quality: str,
    *,
    alpha: float = 0.01,
    maps: bool = True,
    patterns: Sequence[str] | None = None,
    band: str | None = None,
) -> ArchiveDrift:
    """Find the change points of an archive, from stored scores; see `aqdask.drift`.

    Raises
    ------
    UsageError
        If no light is scored, or for a model whose method measures neither size nor noise of frames.
    """
    found = read_series(archive, quality, patterns, band)
    if not found.series and not found.timeless:
        raise UsageError(
            "no scored light",
            expected="lights with a score",
            consequence="There is nothing to follow",
            remedy="`aqdask info ARCHIVE` counts the frames by state and type; `aqdask score` scores them",
        )
    followed = [q.variable for q in QUANTITIES.values() if q.variable in found.store.frame_variables]
    if not followed:
        raise UsageError(
            f"the model of {quality} measures no size, noise or sky of frames",
            expected="maps of a model of the method 'aqdask'",
            consequence="There is nothing to follow",
            remedy="score the archive with a model of that method (`aqdask calibrate --model wide-field`)",
        )
    changes: list[Change] = []
    notes = [] if maps else ["hot pixels and repeats are not followed: no maps were read"]
    repeats: Sequence[Repeats | None] = [None] * len(found.series)
    if maps:
        repeats, damaged = read_repeats(archive, quality, found, alpha)
        if damaged:
            notes.append(f"maps of {plural(damaged, 'frame')} missing or damaged (`aqdask verify --repair`)")
    for series, own in zip(found.series, repeats, strict=True):
        changes += series_changes(series)
        changes += _gains(series, found.model.bundle, [c for c in changes if _is_of(c, series)], notes)
        changes += _place_changes(series, own, found.grid, notes) if own else []
        if len(series.units(np.zeros(len(series.rows)))[0]) < 2 * LEAST_UNITS:
            unit = "nights" if series.is_by_night else "frames"
            notes.append(
                f"{_named(series)}: too short for change points (fewer than {2 * LEAST_UNITS} {unit})"
            )
    uses = _uses(archive, found, changes)
    changes.sort(key=lambda one: (one.camera, one.filter, one.time, one.quantity))
    return ArchiveDrift(os.fspath(archive), quality, tuple(changes), uses, found.timeless, tuple(notes))


def _is_of(change: Change, series: FrameSeries) -> bool:
    return (change.camera, change.calibration) == (series.camera, series.calibration)


def _named(series: FrameSeries) -> str:
    """Write the calibration of a series in words."""
    camera, _, span = series.calibration.partition(SEPARATOR)
    named = printable(camera.replace("|", " ").strip()) or "an unnamed camera"
    return f"{named}, calibration for {span}" if span else named


def series_changes(series: FrameSeries) -> Iterator[Change]:
    """Yield the changes of the frame-level variables of a series."""
    for name, quantity in QUANTITIES.items():
        if quantity.variable not in series.values:
            continue
        units, first = series.units(np.asarray(series.values[quantity.variable], np.float64))
        scale = abs(float(np.median(units))) if name in RELATIVE and len(units) else 1.0
        least = quantity.least * scale
        for point in change_points(units, floor=least / 10):
            if abs(point.after - point.before) >= least:
                yield _change(series, name, point, first, float(point.before), float(point.after))


def _change(
    series: FrameSeries,
    name: str,
    point: ChangePoint,
    first: np.ndarray,
    before: float,
    after: float,
    **more: Any,
) -> Change:
    """Make a `Change` from positions of units, whose first frames are ``first``."""
    edges = [*first.tolist(), len(series.rows)]
    start, cut, stop = edges[point.start], edges[point.index], edges[point.stop]
    frames_before, frames_after = int(series.is_good[start:cut].sum()), int(series.is_good[cut:stop].sum())
    return Change(
        series.camera, series.filter, series.calibration, name, point.kind, series.times[cut], before, after,
        QUANTITIES[name].unit, point.sigma, frames_before, frames_after, **more,
    )  # fmt: skip


def _place_changes(
    series: FrameSeries, repeats: Repeats, grid: PatchGrid, notes: list[str]
) -> Iterator[Change]:
    """Yield the changes of the number of hot pixels and repeats, with the new places."""
    if len(repeats.first) < 2 * LEAST_UNITS:
        few = int(np.count_nonzero(~series.is_flagged))
        notes.append(f"{_named(series)}: too few unflagged frames ({few}) to follow hot pixels and repeats")
        return
    for name, again in repeats.again.items():
        counts = again.sum(axis=1)
        for point in change_points(2 * np.sqrt(counts + 0.375), floor=1.0):  # Anscombe 1948: unit variance
            parts = again[point.start : point.index], again[point.index : point.stop]
            before, after = (float(np.median(part.sum(axis=1))) for part in parts)
            new = (parts[1].mean(axis=0) > 0.5) & (parts[0].mean(axis=0) < 0.5)
            if abs(after - before) >= QUANTITIES[name].least:
                places = _places(new.reshape(grid.shape), grid)
                yield _change(series, name, point, repeats.first, before, after, places=places)


def _places(new: np.ndarray, grid: PatchGrid) -> str:
    """Write the pixels of patches, bool ``(n_y, n_x)``: x and y from the first to one past the last."""
    edges = [(grid.starts(axis), grid.stops(axis)) for axis in (0, 1)]
    found = [
        f"{edges[1][0][x]}:{edges[1][1][x]},{edges[0][0][y]}:{edges[0][1][y]}" for y, x in np.argwhere(new)
    ]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return " ".join(found[:SHOWN] + more)


def _gains(
    series: FrameSeries, bundle: Bundle | None, changes: Sequence[Change], notes: list[str]
) -> Iterator[Change]:
    """Yield the changes of the gain at the changes of the noise.

    The gain is the inverse slope of the variance against the sky of the frames before and after (photon
    transfer, Janesick 2007), where their skies differ enough to tell it from read noise.
    """
    model = _stored(bundle, series.calibration)[1] if bundle else None
    noise = model.facts.get("noise") if model else None
    points = [change for change in changes if change.quantity == "noise"]
    if not points or not noise or not noise.get("b", 0) > 0:
        return
    cuts = [series.times[0], *(point.time for point in points), series.times[-1] + np.timedelta64(1, "us")]
    fits = [_gain(series, noise, (series.times >= a) & (series.times < b)) for a, b in pairwise(cuts)]
    for point, (before, error, _), (after, other, _) in zip(points, fits, fits[1:], strict=False):
        if not max(error, other) < GAIN_ERROR:
            notes.append(
                f"{_named(series)}: gain and read noise cannot be told apart at {_second(point.time)}: the "
                "sky varies too little in the frames before or after"
            )
        elif abs(after / before - 1) > max(QUANTITIES["gain"].least, 3 * float(np.hypot(error, other))):
            frames = point.frames_before, point.frames_after
            about = series.camera, series.filter, series.calibration, "gain", point.kind, point.time
            yield Change(*about, before, after, QUANTITIES["gain"].unit, np.nan, *frames)


def _gain(series: FrameSeries, noise: Mapping[str, float], chosen: np.ndarray) -> tuple[float, float, int]:
    """Fit the gain of frames: electrons per count, its relative error, and their number."""
    chosen = chosen & series.is_good
    unit = noise.get("unit", 1.0)
    sky = np.asarray(series.values["frame_sky"], np.float64)[chosen] / unit
    ratio = np.asarray(series.values["frame_noise_ratio"], np.float64)[chosen]
    known = np.isfinite(sky) & np.isfinite(ratio)
    sky, ratio = sky[known], ratio[known]
    variance = ratio**2 * (
        noise["a"] + (noise["b"] + noise.get("c", 0) * sky) * sky + 0.375 * noise["b"] ** 2
    )
    variance = variance - noise.get("c", 0) * sky**2
    for _ in range(CLIP_ROUNDS):
        if len(sky) < 2 * LEAST_UNITS or np.ptp(sky) == 0:
            return np.nan, np.nan, len(sky)
        centred = sky - sky.mean()
        slope = float(centred @ variance / (centred @ centred))
        rest = variance - variance.mean() - slope * centred
        scatter = float(np.std(rest))
        error = scatter / float(np.sqrt(centred @ centred)) / abs(slope)
        near = np.abs(rest) <= 3 * scatter
        sky, variance = sky[near], variance[near]
    return (1 / (slope * unit), error, len(sky)) if slope > 0 else (np.nan, np.nan, len(sky))


def _stored(bundle: Bundle, key: str) -> tuple[str, Calibration]:
    """Return key and calibration that a scorer takes for a key."""
    nearest = nearest_key(bundle.calibrations, key)
    return nearest, bundle.calibrations[nearest]


def _uses(
    archive: str | os.PathLike[str], found: ArchiveSeries, changes: Iterable[Change]
) -> tuple[CalibrationUse, ...]:
    """Return the use of each calibration."""
    changes = [change for change in changes if QUANTITIES[change.quantity].of_calibration]
    uses = []
    for series in found.series:
        own = [change for change in changes if _is_of(change, series)]
        uses.append(_use(archive, series, found.model.bundle, own))
    return tuple(uses)


def _use(
    archive: str | os.PathLike[str], series: FrameSeries, bundle: Bundle | None, changes: Sequence[Change]
) -> CalibrationUse:
    """Describe the use of the calibration of a series, and the frames that need another one.

    Changes cut the series; the parts without references need a calibration of their own.
    """
    key, calibration = _stored(bundle, series.calibration) if bundle else (series.calibration, None)
    references = _reference_times(archive, calibration) if calibration and key != POOLED else ()
    parts = _parts(series, [change.time for change in changes])
    within = _parts_of(references, parts)
    anew = [part for part in parts if part not in within] if len(parts) > 1 else []
    days = f"{_day(series.times[0])} to {_day(series.times[-1])}"
    told = [f"{_named(series)}: {plural(len(series.rows), 'frame')}, {days}"]
    if key != series.calibration:
        told.append(f"not calibrated; scored with the calibration of {key.replace('|', ' ') or 'any camera'}")
    elif references:
        told.append(f"references from {references[0][:10]} to {references[1][:10]}")
    else:
        told.append("references of unknown times")
    causes = {change.quantity for change in changes}
    named = ", ".join(name.replace("_", " ") for name in QUANTITIES if name in causes)
    if not causes:
        tested = len(series.units(np.zeros(len(series.rows)))[0]) >= 2 * LEAST_UNITS
        told.append("no change that asks for a new calibration" if tested else "too short to tell a change")
    else:
        sides = ", with references on both sides" if len(within) > 1 else ""
        few = "" if len(parts) > 1 else f", with fewer than {FEW} good frames on one side"
        told.append(f"{named} changed{sides}{few}")
    if anew:
        told[-1] += f": calibrate anew with frames {' and '.join(_words(*part) for part in anew)}"
    return CalibrationUse(
        series.camera, series.filter, key, key == series.calibration, references, len(series.rows),
        int(series.is_flagged.sum()), series.times[0], series.times[-1],
        tuple("/".join(map(_end, part)) for part in anew), f"{'; '.join(told)}.",
    )  # fmt: skip


def _parts(series: FrameSeries, cuts: Iterable[np.datetime64]) -> list[tuple[np.datetime64, np.datetime64]]:
    """Cut the time at changes into parts of at least `FEW` good frames, with open ends."""
    good, edges = series.times[series.is_good], np.array([EARLIEST])
    for cut in sorted(set(cuts)):
        since = good[good >= edges[-1]]
        if min(np.count_nonzero(since < cut), np.count_nonzero(since >= cut)) >= FEW:
            edges = np.append(edges, cut)
    return list(pairwise([*edges, LATEST]))


def _parts_of(
    references: Sequence[str], parts: Sequence[tuple[np.datetime64, np.datetime64]]
) -> list[tuple[np.datetime64, np.datetime64]]:
    """Return the parts in which at least `SHARE` of the time of the references lies; none where unknown."""
    if not references:
        return []
    first, last = (np.datetime64(time, "us") for time in references)
    inside = [(part, min(last, part[1]) - max(first, part[0])) for part in parts]
    return [part for part, overlap in inside if overlap > SHARE * (last - first)]


def _words(start: np.datetime64, stop: np.datetime64) -> str:
    """Write a part of the time in words."""
    if start == EARLIEST:
        return f"before {_second(stop)}"
    return f"from {_second(start)} on" if stop == LATEST else f"from {_second(start)} to {_second(stop)}"


def _end(time: np.datetime64) -> str:
    return OPEN if time in (EARLIEST, LATEST) else _second(time)


def _day(time: np.datetime64) -> str:
    return str(time.astype("datetime64[D]"))


def _in_words(time: np.datetime64) -> str:
    return f"{str(time.astype('datetime64[m]')).replace('T', ' ')} UTC"


def _second(time: np.datetime64) -> str:
    return str(time.astype("datetime64[s]"))


def _reference_times(archive: str | os.PathLike[str], calibration: Calibration) -> tuple[str, ...]:
    """Return first and last time of the references: as recorded, else of frames of the archive."""
    about = calibration.facts.get("about", {})
    if recorded := about.get("times"):
        return tuple(recorded)
    ledger = open_ledger(layout.open_root(archive))
    ids = [name for members in about.get("frames", {}).values() for name in members]
    places = [ledger.table.find(name) for name in ids]
    if not ids or min(places) < 0:
        return ()
    rows = ledger.table.all().column("row")[np.array(places)]
    times = FrameStore.open(archive).coordinate("time", rows.tolist()).tolist()
    return tuple(times_of(times)) if min(times) > np.iinfo(np.int64).min else ()
