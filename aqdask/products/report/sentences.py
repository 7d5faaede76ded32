"""Summary of an archive in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from aqdask import flags
from aqdask.products.flagged import FLAG_MASKED, VARIABLE_REASONS
from aqdask.products.report.values import Band, Standing
from aqdask.store.ledger import DONE, PENDING, QUARANTINED, SKIPPED
from aqdask.text import plural, printable, shortened

BETWEEN = 2  # other frames of the camera within a run of flagged ones, at most
PAUSE = np.timedelta64(6, "h")  # within a run, at most
RUN, EVENTS = 3, 6  # frames of a run; runs that are listed, the longest ones
SHOWN = 4  # reasons
OUTSIDE_WORDS = {
    "density": "the number of stars",
    "sky": "the sky level",
    "gain": "the noise at their sky level",
}
LOCAL = 5  # masked patches of one reason
NOTED = 0.05  # fraction of the patches of an unflagged frame masked from which its panel says so
BEYOND = {
    "size": "they are {:.3g} times as wide as in the reference frames (these: {:.3g} to {:.3g})",
    "ellipticity": "their ellipticity is {:.3g} from that of the reference frames (these: {:.3g} to {:.3g})",
    "noise": "it is {:.3g} times the expected one (reference frames: {:.3g} to {:.3g})",
    "sky": "{:.4g} counts (reference frames: {:.4g} to {:.4g})",
}
"""Values of a frame beyond those of the reference frames, after `aqdask.flags.cause`."""


def flag_sentence(
    frames: Mapping[str, np.ndarray],
    place: Callable[[Sequence[int]], str] = lambda run: "",
    sky: Callable[[Sequence[int]], str] = lambda run: "",
) -> str:
    """Count the flagged frames, with times and reasons of the longest runs.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns in the order of time, see `aqdask.products.report.values.ReportData`.
    place : callable
        Tells the place of the defect in the frames at some positions, after a comma; see `MapPlaces.of_run`.
    sky : callable
        Tells what is wrong with the sky of the frames at some positions; see `MapPlaces.sky_of_run`.
    """
    scored = int(np.isfinite(frames["masked_patches"]).sum())
    chosen = np.flatnonzero(frames["is_flagged"])
    if not scored:
        return "No frame is scored."
    if not chosen.size:
        return (
            "The only scored frame is not flagged."
            if scored == 1
            else f"No frame is flagged as a whole, of {scored} scored ones."
        )
    runs = sorted(_runs(frames), key=lambda run: (-len(run), run))
    events = runs if len(runs) == 1 else [run for run in runs if len(run) >= RUN][:EVENTS]
    listed = [
        f"{len(run)} {_told(frames, run)} {_cause_and_place(frames, run, place, sky)}"
        for run in sorted(events)
    ]
    if rest := sorted({*chosen.tolist()} - {index for run in events for index in run}):
        when = "" if np.isnat(frames["time"]).all() else "at other times " if listed else "scattered in time "
        listed.append(f"{len(rest)} {when}{_reasons(frames, rest)}")
    verb = "is" if chosen.size == 1 else "are"
    utc = " (UTC)" if not np.isnat(frames["time"][chosen]).all() else ""
    return f"{chosen.size} of {_frames(scored)} {verb} flagged: {'; '.join(listed)}{utc}."


def flags_told(
    frames: Mapping[str, np.ndarray], references: Mapping[tuple[str, str], Mapping[str, Band]]
) -> list[str]:
    """Tell why each frame is flagged, with its value where that is beyond the reference frames.

    Frames that are not flagged have an empty text, or the reason why where many patches are masked.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns, see `aqdask.products.report.values.ReportData`.
    references : mapping of (camera, filter) to mapping of str to Band
        Span of the reference frames.
    """
    variables = {reason: name for name, reason in VARIABLE_REASONS.items()}
    found = [""] * len(frames["is_flagged"])
    for at in np.flatnonzero(frames["is_flagged"]).tolist():
        reason, masked = str(frames["flag_reason"][at]), float(frames["masked_patches"][at])
        found[at] = f"Flagged for {flags.cause(reason)}"
        if masked > FLAG_MASKED:
            found[at] = f"Flagged since {_share(masked, reason)}"
        name = variables.get(reason, "")
        band = references.get((str(frames["camera"][at]), str(frames["filter"][at])), {}).get(name)
        if band and not band.low <= (value := float(frames[name][at])) <= band.high:
            found[at] += f": {BEYOND[reason].format(value, band.low, band.high)}"
        found[at] += "."
    masked_patches = np.where(frames["is_flagged"], 0, np.nan_to_num(frames["masked_patches"]))
    for at in np.flatnonzero(masked_patches >= NOTED).tolist():
        share = _share(float(masked_patches[at]), str(frames["main_reason"][at]))
        above = f" (a frame is flagged above {FLAG_MASKED:.0%})" if masked_patches[at] <= FLAG_MASKED else ""
        found[at] = f"Not flagged, but {share}{above}."
    return found


def _share(masked: float, reason: str) -> str:
    share = "all" if masked > 0.995 else f"{masked:.0%}"
    return f"{share} of its patches are masked, most of them for {flags.cause(reason)}"


def _told(frames: Mapping[str, np.ndarray], run: list[int]) -> str:
    """Return 'between 01:10 and 02:40 on 2024-05-07', with the camera where there are several."""
    many, camera = len(set(frames["camera"].tolist())) > 1, str(frames["camera"][run[0]])
    return interval(frames["time"][run]) + (f" with {camera}" if many and camera else "")


def _cause_and_place(
    frames: Mapping[str, np.ndarray],
    run: list[int],
    place: Callable[[Sequence[int]], str],
    sky: Callable[[Sequence[int]], str],
) -> str:
    """Return reasons and place of a run; a sky that is told has its own place."""
    of_sky = [at for at in run if frames["flag_reason"][at] == "sky"]
    words = sky(of_sky) if of_sky else ""
    return _reasons(frames, run, words) + ("" if words and len(of_sky) == len(run) else place(run))


def _reasons(frames: Mapping[str, np.ndarray], places: list[int], sky: str = "") -> str:
    """Return 'for noise', or the frames of each of several reasons; ``sky`` replaces the cause of that."""
    found = Counter(frames["flag_reason"][places].tolist()).most_common()
    causes = [(sky if reason == "sky" and sky else flags.cause(reason), count) for reason, count in found]
    if len(causes) == 1:
        return f"for {causes[0][0]}"
    rest = sum(count for _, count in causes[SHOWN:])
    words = [f"{cause} in {count}" for cause, count in causes[:SHOWN]]
    return f"for {', '.join([*words, f'other reasons in {rest}'] if rest else words)}"


def _runs(frames: Mapping[str, np.ndarray]) -> Iterator[list[int]]:
    """Yield the places of flagged frames of one camera that follow each other in time.

    A run is divided where each part of it is a run of one reason.
    """
    times = frames["time"]
    for camera in sorted(set(frames["camera"].tolist())):
        own = np.flatnonzero((frames["camera"] == camera) & ~np.isnat(times))
        bad = np.flatnonzero(frames["is_flagged"][own])
        apart = (np.diff(bad) > BETWEEN + 1) | (np.diff(times[own[bad]]) > PAUSE)
        for run in np.split(own[bad], np.flatnonzero(apart) + 1):
            changes = np.flatnonzero(frames["flag_reason"][run[1:]] != frames["flag_reason"][run[:-1]]) + 1
            parts = np.split(run, changes)
            yield from (
                part.tolist() for part in (parts if min(map(len, parts)) >= RUN else [run]) if len(part)
            )


def interval(times: Sequence[np.datetime64] | np.ndarray) -> str:
    """Return 'between 01:10 and 02:40 on 2024-05-07', or 'at 01:10 on 2024-05-07'."""
    (first, start), (last, stop) = (str(t.astype("datetime64[m]")).split("T") for t in (times[0], times[-1]))
    if first != last:
        return f"between {first} {start} and {last} {stop}"
    return f"at {start} on {first}" if start == stop else f"between {start} and {stop} on {first}"


def local_sentence(
    frames: Mapping[str, np.ndarray],
    patches: int,
    places: Callable[[np.ndarray, str], list[tuple[int, str]]] | None = None,
) -> str:
    """Name the frames that are not flagged, but have many masked patches of one reason; empty for none.

    Many are `LOCAL` or more, and five sigma of a Poisson distribution above the median of these frames.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns in the order of time, see `aqdask.products.report.values.ReportData`.
    patches : int
        Patches of a frame.
    places : callable, optional
        Number and place of these patches in the frames at some positions (`MapPlaces.of_reason`).
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
        found = places(many, flag.name) if places else [(LOCAL, "")] * len(many)
        kept = [(at, box) for at, (number, box) in zip(many.tolist(), found, strict=True) if number >= LOCAL]
        if kept:
            times = frames["time"][[at for at, _ in kept]]
            when = "" if np.isnat(times).any() else f"{interval(times)} "
            ids = [printable(frames["frame_id"][at]) + (f" in {box}" if box else "") for at, box in kept]
            listed.append(f"{len(kept)} {when}for {flags.cause(flag.name)} ({shortened(ids, 3)})")
    if not listed:
        return ""
    return f"Parts of frames that are not flagged stand out: {'; '.join(listed)}."


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


def state_sentences(found: Sequence[Standing], *, all_done: bool = True) -> Iterator[str]:
    """Yield a sentence for each state that needs one: quarantined, pending, left out.

    With ``all_done`` also where all are done.
    """
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
            reasons = shortened([_reason(one, named=state == QUARANTINED) for one in own if one.reason], 3)
            who = f"All {total} frames" if count == total > 1 else f"{count} of {_frames(total)}"
            yield f"{who} {verb} {word} ({meaning}){': ' + reasons if reasons else ''}."
    if all_done and total and all(one.state == DONE for one in found):
        yield "All frames are done." if total > 1 else "The only frame is done."


def _reason(standing: Standing, *, named: bool) -> str:
    """Return number and reason, and with ``named`` the first of the frames."""
    more = f" and {standing.count - 1} more" if standing.count > 1 else ""
    return f"{standing.count} {standing.reason}{f' ({standing.examples[0]}{more})' if named else ''}"


def outside_sentence(frames: Mapping[str, np.ndarray]) -> str:
    """Count the scored frames outside the range of the references; empty where there are none."""
    if "out_of_reference" not in frames:
        return ""
    scored = np.isfinite(frames["masked_patches"])
    bits = np.nan_to_num(frames["out_of_reference"][scored]).astype(int)
    count = int(np.count_nonzero(bits))
    if not count:
        return ""
    what = [
        f"{n} by {OUTSIDE_WORDS[name]}"
        for name, bit in flags.OUTSIDE.items()
        if (n := int(np.count_nonzero(bits & bit)))
    ]
    verb = "lies" if count == 1 else "lie"
    flagged = int(np.count_nonzero(bits * frames["is_flagged"][scored]))
    told = "; all of them flagged" if flagged == count > 1 else f"; {flagged} flagged" if flagged else ""
    return (
        f"{count} of {_frames(int(scored.sum()))} {verb} outside the range of the reference frames "
        f"({', '.join(what)}{told}): p-values are less reliable there."
    )


def time_sentence(frames: Mapping[str, np.ndarray]) -> str:
    """Name the number of frames without a time; empty where there are none."""
    unknown, total = int(np.isnat(frames["time"]).sum()), len(frames["time"])
    if not unknown:
        return ""
    if unknown == total:
        return "No frame has a time: plots over time are in the order of the archive."
    stand = "has no time and stands" if unknown == 1 else "have no time and stand"
    return f"{unknown} of {_frames(total)} {stand} last."


def _frames(count: int) -> str:
    return plural(count, "frame")
