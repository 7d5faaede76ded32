"""Frames beyond a calibration: no lights, of other cameras or filters, or outside the reference range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import zarr

from aqdask.errors import UsageError
from aqdask.execution.reporter import Reporter
from aqdask.flags import OUTSIDE
from aqdask.methods.bundle import Bundle, calibration_key
from aqdask.store import layout
from aqdask.store.frame_store import NO_TIME, FrameStore
from aqdask.text import plural, printable

ATTRIBUTE = (
    "uncalibrated"  # of a quality group or dataset: list of "camera|filter"; absent where there are none
)
CALIBRATIONS = "calibrations"  # of a quality group: frames by calibration, where these have spans of time
SHOWN = 5
UNCALIBRATED = "is not calibrated for"


def not_lights(counts: Mapping[str, int]) -> str:
    """Count frames that are no lights in words, as in '40 frames are not lights (dark 40)', or empty."""
    number = sum(counts.values())
    what = plural(number, "frame is not a light", "frames are not lights")
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return f"{what} ({kinds})" if number else ""


def in_words(key: str) -> str:
    """Return camera and filter of a `calibration_key` as text."""
    return printable(" ".join(filter(None, key.split("|")))) or "an unknown camera"


def uncalibrated(bundle: Bundle, about: Iterable[tuple[str, str]]) -> Counter[str]:
    """Count the frames of each ``camera|filter`` without a calibration of its own, sorted by that name.

    ``about`` holds camera and filter of every frame, both empty where unknown.
    """
    found = {
        calibration_key(*pair): n for pair, n in Counter(about).items() if not bundle.calibrated_for(*pair)
    }
    return Counter(dict(sorted(found.items())))


def uncalibrated_rows(bundle: Bundle, frames: FrameStore, rows: np.ndarray) -> Counter[str]:
    """Apply `uncalibrated` to frames of an archive, given their rows (int, increasing)."""
    found = Counter[tuple[str, str]]()
    for columns in _columns(frames, rows, "camera", "filter"):
        found.update(zip(*columns, strict=True))
    return uncalibrated(bundle, found.elements())


def _columns(frames: FrameStore, rows: np.ndarray, *names: str) -> Iterator[list[list[Any]]]:
    """Yield coordinates of frames (rows increasing), a chunk at a time, since texts are large."""
    parts = np.split(rows, np.flatnonzero(np.diff(rows // layout.ROWS_PER_CHUNK)) + 1)
    for part in parts if len(rows) else ():
        whole = slice(int(part[0]), int(part[-1]) + 1)
        yield [frames.coordinate(name, whole)[part - whole.start].tolist() for name in names]


def calibrations_used(bundle: Bundle, frames: FrameStore, rows: np.ndarray) -> dict[str, dict[str, int]]:
    """Count the frames (rows increasing) of each calibration, where the model has some with a span of time.

    Returns
    -------
    dict
        By ``camera|filter@span``: 'frames', of these 'outside' of every span, which have the nearest one, and
        'without_time'. Empty for a model without spans.
    """
    found: dict[str, Counter[str]] = {}
    if not bundle.spans:
        return {}
    for columns in _columns(frames, rows, "camera", "filter", "time"):
        for camera, band, stamp in zip(*columns, strict=True):
            time = None if stamp == NO_TIME else stamp
            key = calibration_key(camera, bundle.spans.filter_at(camera, band, time))
            counts = found.setdefault(key, Counter(frames=0, outside=0, without_time=0))
            counts["frames"] += 1
            if calibration_key(camera, band) in bundle.spans and time is None:
                counts["without_time"] += 1
            elif calibration_key(camera, band) in bundle.spans:
                counts["outside"] += not bundle.spans.holds(camera, band, time)
    return {key: dict(counts) for key, counts in sorted(found.items())}


def warn_spans(found: Mapping[str, Mapping[str, int]], reporter: Reporter) -> None:
    """Warn in one line about frames whose calibration was not chosen by their time."""
    outside, timeless = (
        sum(counts[name] for counts in found.values()) for name in ("outside", "without_time")
    )
    told = [f"{outside} outside every span of the calibrations (the nearest in time is used)"] * bool(outside)
    told += [f"{timeless} without a time (the latest calibration is used)"] * bool(timeless)
    if told:
        reporter.say(
            f"warning: of the frames {' and '.join(told)}: masks may have more or fewer false alarms than "
            "alpha says. What to do: calibrate on frames of their time (`aqdask calibrate --from TIME`)"
        )


def warn(
    bundle: Bundle, found: Counter[str], reporter: Reporter, *, strict: bool, told: set[str] | None = None
) -> None:
    """Warn about uncalibrated frames in one line, or raise `UsageError` where ``strict``.

    ``told`` are the keys that a warning named before, to which those of this one are added.
    """
    if told is not None:
        found = Counter({key: number for key, number in found.items() if key not in told})
        told.update(found)
    if not found:
        return
    named = [f"{in_words(key)} ({plural(number, 'frame')})" for key, number in found.items()]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    what = f"the model {bundle.name} {UNCALIBRATED} {', '.join(named[:SHOWN])}{more}"
    if strict:
        raise UsageError(
            what,
            expected="a calibration of its own for every camera and filter",
            consequence="Nothing was scored now",
            remedy="calibrate the model on good frames of these cameras and filters, or leave out strict "
            "(`--strict`)",
        )
    reporter.say(
        f"warning: {what}: their p-values come from other cameras and filters; masks may have more or "
        "fewer false alarms than alpha says. What to do: calibrate on good frames of these cameras "
        "(`aqdask calibrate`)"
    )


class OutOfReferenceCounter:
    """Counter of scored frames that lie outside the range of the reference frames, by quantity."""

    def __init__(self) -> None:
        self.frames = self.outside = 0
        self.what: Counter[str] = Counter()

    def count(self, values: Iterable[Mapping[str, float]]) -> None:
        """Add the frame-level values of some frames; those without ``out_of_reference`` are skipped."""
        for numbers in values:
            if "out_of_reference" in numbers:
                bits = int(numbers["out_of_reference"])
                self.frames += 1
                self.outside += bits > 0
                self.what.update(name for name, bit in OUTSIDE.items() if bits & bit)

    def tell(self, reporter: Reporter) -> None:
        """Report the counts in one line, or nothing where no frame lies outside."""
        if self.outside:
            what = ", ".join(f"{name} {number}" for name, number in self.what.items())
            lie, them = ("lies", "it") if self.outside == 1 else ("lie", "them")
            of = plural(self.frames, "frame")
            reporter.say(
                f"note: {self.outside} of {of} {lie} outside the reference frames ({what}): "
                f"alpha is less reliable there. What to do: calibrate on reference frames similar to {them}"
            )


def record(group: zarr.Group, found: Counter[str], used: Mapping[str, Mapping[str, int]]) -> None:
    """Bring the attributes of a quality group up to date: uncalibrated ones, and frames by calibration."""
    for name, value in ((ATTRIBUTE, list(found)), (CALIBRATIONS, dict(used))):
        if value and group.attrs.get(name) != value:
            group.attrs[name] = value
        elif not value and name in group.attrs:
            del group.attrs[name]
