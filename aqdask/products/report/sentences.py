"""Summary of an archive in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from aqdask import flags
from aqdask.products.report.values import Standing
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, SKIPPED
from aqdask.text import printable, shortened

BETWEEN = 2  # other frames of the camera within a run of flagged ones, at most
PAUSE = np.timedelta64(6, "h")  # within a run, at most
RUN, RUNS = 3, 2  # frames of a run; runs of a reason that are listed one by one
SHOWN = 5  # reasons
LOCAL = 5  # masked patches of one reason


def flag_sentence(frames: Mapping[str, np.ndarray]) -> str:
    """Count the flagged frames by reason, with the times of the longest runs.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns in the order of time, see `aqdask.products.report.values.ReportData`.
    """
    scored = int(np.isfinite(frames["masked_patches"]).sum())
    chosen = np.flatnonzero(frames["is_flagged"])
    if not scored:
        return "No frame is scored."
    if not chosen.size:
        return (
            "The only scored frame is not flagged."
            if scored == 1
            else f"None of {_frames(scored)} is flagged."
        )
    reasons = Counter(frames["flag_reason"][chosen].tolist()).most_common()
    listed = [_of_reason(frames, reason, count) for reason, count in reasons[:SHOWN]]
    if rest := sum(count for _, count in reasons[SHOWN:]):
        listed.append(f"{rest} for other reasons")
    verb = "is" if chosen.size == 1 else "are"
    utc = " (UTC)" if not np.isnat(frames["time"][chosen]).all() else ""
    return f"{chosen.size} of {_frames(scored)} {verb} flagged: {', '.join(listed)}{utc}."


def _of_reason(frames: Mapping[str, np.ndarray], reason: str, count: int) -> str:
    """Return '17 for focus between 01:10 and 02:40 on 2024-05-07' for one reason."""
    what = f"{count} for {flags.cause(reason)}"
    many = len(set(frames["camera"].tolist())) > 1

    def told(run: list[int]) -> str:
        camera = str(frames["camera"][run[0]])
        return _interval(frames["time"][run]) + (f" with {camera}" if many and camera else "")

    runs = sorted(_runs(frames, reason), key=len, reverse=True)
    if len(runs) == 1 and len(runs[0]) == count:
        return f"{what} {told(runs[0])}"
    runs = [run for run in runs if len(run) >= RUN]
    if not runs:
        return what + ("" if np.isnat(frames["time"]).all() else " scattered in time")
    if len(runs) > RUNS:
        return f"{what} in {len(runs)} runs, the longest ({len(runs[0])}) {told(runs[0])}"
    listed = [f"{len(run)} {told(run)}" for run in runs]
    rest = count - sum(map(len, runs))
    return f"{what} ({', '.join([*listed, f'{rest} at other times'] if rest else listed)})"


def _runs(frames: Mapping[str, np.ndarray], reason: str) -> Iterator[list[int]]:
    """Yield the places of flagged frames of one reason and camera that follow each other in time."""
    times = frames["time"]
    for camera in sorted(set(frames["camera"].tolist())):
        own = np.flatnonzero((frames["camera"] == camera) & ~np.isnat(times))
        bad = np.flatnonzero(frames["is_flagged"][own] & (frames["flag_reason"][own] == reason))
        apart = (np.diff(bad) > BETWEEN + 1) | (np.diff(times[own[bad]]) > PAUSE)
        for run in np.split(bad, np.flatnonzero(apart) + 1):
            if len(run):
                yield own[run].tolist()


def _interval(times: np.ndarray) -> str:
    """Return 'between 01:10 and 02:40 on 2024-05-07', or 'at 01:10 on 2024-05-07'."""
    (first, start), (last, stop) = (str(t.astype("datetime64[m]")).split("T") for t in (times[0], times[-1]))
    if first != last:
        return f"between {first} {start} and {last} {stop}"
    return f"at {start} on {first}" if start == stop else f"between {start} and {stop} on {first}"


def local_sentence(frames: Mapping[str, np.ndarray], patches: int) -> str:
    """Name the frames that are not flagged, but have many masked patches of one reason; empty for none.

    Many are `LOCAL` or more, and five sigma of a Poisson distribution above the median of these frames.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns in the order of time, see `aqdask.products.report.values.ReportData`.
    patches : int
        Patches of a frame.
    """
    good = np.flatnonzero(np.isfinite(frames["masked_patches"]) & ~frames["is_flagged"])
    listed = []
    for flag in flags.REASONS:
        share = frames.get(f"share_{flag.name}")
        if share is None or not good.size:
            continue
        count = np.rint(patches * share[good])
        usual = np.median(count)
        many = good[count >= np.maximum(LOCAL, usual + 5 * np.sqrt(usual))]
        if many.size:
            ids = [printable(frame_id) for frame_id in frames["frame_id"][many].tolist()]
            listed.append(f"{many.size} for {flags.cause(flag.name)} ({shortened(ids, 3)})")
    if not listed:
        return ""
    return f"Parts of frames that are not flagged stand out: {', '.join(listed)}."


def standings(states: Sequence[str], reasons: Sequence[str], ids: Sequence[str]) -> tuple[Standing, ...]:
    """Group frames and sources by state and reason, the most common first.

    Parameters
    ----------
    states, reasons, ids : sequence of str
        State, reason and id of each.
    """
    examples: dict[tuple[str, str], list[str]] = {}
    counts = Counter(zip(states, reasons, strict=True))
    for pair, frame_id in zip(zip(states, reasons, strict=True), ids, strict=True):
        if len(found := examples.setdefault(pair, [])) < 3:
            found.append(printable(frame_id))
    return tuple(
        Standing(state, printable(reason), count, tuple(examples[state, reason]))
        for (state, reason), count in counts.most_common()
    )


def state_sentences(found: Sequence[Standing]) -> Iterator[str]:
    """Yield a sentence for each state that needs one: quarantined, pending, left out."""
    about = {
        QUARANTINED: ("quarantined", "could not be used"),
        PENDING: ("pending", "not done yet: run the same command again"),
        SKIPPED: ("left out", "no lights"),
    }
    total = sum(one.count for one in found)
    for state, (word, meaning) in about.items():
        own = [one for one in found if one.state == state]
        count = sum(one.count for one in own)
        if count:
            verb = "is" if count == 1 else "are"
            reasons = shortened([f"{one.count} {one.reason}" for one in own if one.reason], 3)
            who = f"All {total} frames" if count == total > 1 else f"{count} of {_frames(total)}"
            yield f"{who} {verb} {word} ({meaning}){': ' + reasons if reasons else ''}."
    if total and all(one.state == DONE for one in found):
        yield "All frames are done." if total > 1 else "The only frame is done."


def outside_sentence(frames: Mapping[str, np.ndarray]) -> str:
    """Count the scored frames outside the range of the references; empty where there are none."""
    if "out_of_reference" not in frames:
        return ""
    scored = np.isfinite(frames["masked_patches"])
    bits = np.nan_to_num(frames["out_of_reference"][scored]).astype(int)
    count = int(np.count_nonzero(bits))
    if not count:
        return ""
    what = [f"{name} {n}" for name, bit in flags.OUTSIDE.items() if (n := int(np.count_nonzero(bits & bit)))]
    verb = "lies" if count == 1 else "lie"
    return (
        f"{count} of {_frames(int(scored.sum()))} {verb} outside the range of the reference frames "
        f"({', '.join(what)}): p-values are less reliable there."
    )


def time_sentence(frames: Mapping[str, np.ndarray]) -> str:
    """Name the number of frames without a time; empty where there are none."""
    unknown, total = int(np.isnat(frames["time"]).sum()), len(frames["time"])
    if not unknown:
        return ""
    if unknown == total:
        return "No frame has a time, so that nothing can be shown over time."
    stand = "has no time and stands" if unknown == 1 else "have no time and stand"
    return f"{unknown} of {_frames(total)} {stand} last."


def _frames(count: int) -> str:
    return f"{count} frame" if count == 1 else f"{count} frames"
