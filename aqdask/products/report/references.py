"""Sentences on reference frames that are frames of the archive themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aqdask.methods.bundle import POOLED, Bundle
from aqdask.methods.calibration_spans import times_of
from aqdask.products.drift import series_changes
from aqdask.products.drift_series import FrameSeries
from aqdask.text import plural, printable, shortened

MUCH = 2.5  # times alpha of a reference frame masked, from which it is named
NAMED = 4


def own_references(frames: Mapping[str, np.ndarray], bundle: Bundle) -> np.ndarray:
    """Find the frames of an archive with which its model was calibrated.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns, see `aqdask.products.report.values.ReportData`.
    bundle : Bundle

    Returns
    -------
    ndarray (n,) of bool
        True for the references of a calibration that are all there, by id and the times that it recorded.
    """
    places = {name: place for place, name in enumerate(frames["frame_id"].tolist())}
    times, has_time = frames["time"].astype(np.int64), ~np.isnat(frames["time"])
    found = np.zeros(len(times), bool)
    for key, calibration in bundle.calibrations.items():
        about = calibration.facts.get("about", {})
        ids = [printable(name) for members in about.get("frames", {}).values() for name in members]
        own = [places[name] for name in ids if name in places]
        if key == POOLED or len(own) < len(ids):
            continue
        recorded = [*about.get("times", ())]
        if not recorded or times_of(times[own][has_time[own]].tolist()) == recorded:
            found[own] = True
    return found


def reference_sentences(
    frames: Mapping[str, np.ndarray], bundle: Bundle | None, series: Sequence[FrameSeries], alpha: float
) -> Iterator[str]:
    """Yield the number of references in the archive, those much masked, and the changes among them.

    Nothing without any. ``frames`` are as in `own_references`, ``series`` those of the archive.
    """
    is_own = own_references(frames, bundle) if bundle else np.zeros(0, bool)
    count = int(is_own.sum())
    if not count:
        return
    who = f"{count} of {len(is_own)} frames are" if count < len(is_own) else f"All {count} frames are"
    yield (
        f"{who} the reference frames of the calibration themselves: their p-values are not independent of "
        "it, and what is wrong in many of them counts as normal."
    )
    masked = np.where(is_own, np.nan_to_num(frames["masked_patches"]), 0)
    if (much := np.flatnonzero(masked > MUCH * alpha)).size:
        names = shortened([printable(frames["frame_id"][at]) for at in much], NAMED)
        yield (
            f"In {plural(much.size, 'reference frame')} more than {MUCH * alpha:.1%} of the patches are "
            f"masked ({names}): look there, and calibrate again without those that are not good."
        )
    for one in series:
        chosen = np.isin(one.rows, frames["row"][is_own])
        values = {name: column[chosen] for name, column in one.values.items()}
        parts = one.rows[chosen], one.times[chosen], one.is_flagged[chosen]
        own = replace(one, rows=parts[0], times=parts[1], is_flagged=parts[2], values=values)
        for change in series_changes(own):
            told = change.text[0].lower() + change.text[1:]
            yield f"Within the reference frames: {told} Both count as normal."
