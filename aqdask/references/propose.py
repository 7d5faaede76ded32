"""Proposal of reference frames: the sound frames of each group of camera and filter, with reasons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aqdask.errors import UsageError
from aqdask.references.detector_lines import UnevenLine, uneven_lines, when
from aqdask.references.image_statistics import ImageStatistics, measure
from aqdask.stats.robust import mad_sigma

__all__ = ["ImageStatistics", "Proposal", "measure", "propose"]

OUTLIER = 3.0  # robust sigma towards worse quality
MOST_PROPOSED = 24  # of a group: the false-mask rate of a calibration hardly gains from more
MOST_COMPARED = 96  # best frames of a group whose columns and rows are compared
FEWEST = 3  # of a group: `calibrate` refuses fewer
SHOWN = 5


@dataclass(frozen=True)
class Proposal:
    """Proposal for one frame.

    Parameters
    ----------
    id : str
        Frame id.
    measures : ImageStatistics
        Statistics of the frame.
    score : float
        Weighted mean over `QUANTITIES` of the distance from the group median in robust sigma, positive
        towards worse quality; infinite if the frame cannot be measured.
    worst : float
        Largest of these distances.
    proposed : bool
        True for a proposed reference frame.
    reason : str
        Reason for or against the frame.
    """

    id: str
    measures: ImageStatistics
    score: float
    worst: float
    proposed: bool
    reason: str

    @classmethod
    def of_unfit(cls, id: str, reason: str) -> Proposal:
        """Return the proposal for a frame that cannot be a reference, whatever its statistics."""
        return cls(id, ImageStatistics(), math.inf, math.inf, False, reason)


@dataclass(frozen=True)
class _Quantity:
    """Compared quantity: ``sign`` +1 if large values are bad, and a lower limit of its spread.

    The spread is at least ``relative`` times the median, ``absolute``, and ``noise`` times the noise of the
    sky, so that half a per cent makes no outlier in a group of nearly equal frames. No limit depends on the
    unit of the pixels.
    """

    name: str
    form: str
    sign: int
    relative: float = 0.0
    absolute: float = 0.0
    noise: float = 0.0
    weight: float = 1.0


QUANTITIES = (
    # Focus weighs nearly as much as all others together: a defocused frame with a dark sky is no reference.
    _Quantity("fwhm", "{:.1f} px", 1, relative=0.03, weight=4.0),
    _Quantity("ellipticity", "{:.2f}", 1, absolute=0.02),
    # A sky 10 % brighter is no defect: with a smaller spread, the decline of the sky through a night would
    # outweigh focus.
    _Quantity("background", "{:.4g}", 1, relative=0.1, noise=0.1),
    _Quantity("rms / sqrt(background)", "{:.4g}", 1, relative=0.03),
    _Quantity("sources", "{:.0f}", -1, relative=0.05),
    _Quantity("sky structure", "{:.1f} of the noise", 1, relative=0.1, absolute=1e-9),
    # A satellite is no matter of degree: it drops a frame, and ranks none.
    _Quantity("streak", "{:.1f} of the noise", 1, relative=0.1, absolute=1.0, weight=0.0),
)


def propose(
    ids: Sequence[str],
    measures: Sequence[ImageStatistics],
    groups: Sequence[tuple[str, str]],
    keep: Collection[str] | None = None,
    drop: Collection[str] = (),
    good: Collection[str] = (),
) -> list[Proposal]:
    """Propose reference frames within each group of camera and filter.

    In each group, frames beyond `OUTLIER` robust sigma towards worse quality are dropped, and the others
    proposed, the best `MOST_PROPOSED` where there are more. Worse are wide or elongated stars, a bright or
    uneven sky, noise high for the sky, few stars, and a streak. Frames with a column or row that differs from
    its neighbours there but not in other frames are left out, unless too few remained; `line_notes` names it.

    Parameters
    ----------
    ids : sequence of str
        Frame ids.
    measures : sequence of ImageStatistics
        Statistics of each frame.
    groups : sequence of (str, str)
        Camera and filter of each frame.
    keep, drop : collection of str
        Ids to propose, or not, whatever their statistics.
    good : collection of str
        Ids that a person has labelled good: proposed before all others if they can be measured.

    Returns
    -------
    list of Proposal
        In the order of ``ids``.

    Raises
    ------
    UsageError
        For an id in ``keep`` or ``drop`` that is not in ``ids``, or one that is in both.
    """
    keep, drop, good = frozenset(keep or ()), frozenset(drop), frozenset(good)
    _check_lists(frozenset(ids), keep, drop)
    proposals: dict[int, Proposal] = {}
    for group in dict.fromkeys(groups):
        members = [index for index, other in enumerate(groups) if other == group]
        for index, proposal in zip(
            members,
            _propose_group([ids[i] for i in members], [measures[i] for i in members], good),
            strict=True,
        ):
            proposals[index] = _as_requested(proposal, keep, drop)
    return [proposals[index] for index in range(len(ids))]


def _check_lists(known: frozenset[str], keep: frozenset[str], drop: frozenset[str]) -> None:
    if unknown := sorted((keep | drop) - known):
        raise UsageError(
            f"{len(unknown)} frame(s) to keep or drop that do not exist, such as {unknown[0]!r}",
            expected=f"ids of the {len(known)} frames",
            consequence="Nothing was selected",
            remedy="`aqdask info ARCHIVE --frames` lists the ids of the frames",
        )
    if both := sorted(keep & drop):
        raise UsageError(
            f"{len(both)} frame(s) both to keep and to drop, such as {both[0]!r}",
            expected="each frame in one list",
            consequence="Nothing was selected",
            remedy="take it out of one of them",
        )


def _as_requested(proposal: Proposal, keep: frozenset[str], drop: frozenset[str]) -> Proposal:
    if proposal.id in keep:
        return replace(proposal, proposed=True, reason=f"kept by request; {proposal.reason}")
    if proposal.id in drop:
        return replace(proposal, proposed=False, reason=f"dropped by request; {proposal.reason}")
    return proposal


def _propose_group(
    ids: Sequence[str], measures: Sequence[ImageStatistics], good: frozenset[str]
) -> list[Proposal]:
    """Return the proposals for one camera and filter."""
    values, distance = _distances(measures)
    measurable = np.isfinite(distance).all(axis=1)
    weights = [quantity.weight for quantity in QUANTITIES]
    score = np.where(measurable, np.average(distance, axis=1, weights=weights), np.inf)
    worst = np.where(measurable, distance.max(axis=1), np.inf)
    liked = np.array([name in good for name in ids], bool) & measurable
    order = np.lexsort((score, ~liked))
    ranking = [place for place in order if liked[place] or worst[place] <= OUTLIER]
    compared = ranking[:MOST_COMPARED]
    spoilt = _spoilt(measures, compared, liked)
    best = set([place for place in compared if place not in spoilt][:MOST_PROPOSED])
    proposals = []
    for place, (id_, measured) in enumerate(zip(ids, measures, strict=True)):
        if not measurable[place]:
            reason = "cannot be measured: too few stars (tracks of cosmic rays are none), or no sky"
        else:
            which = int(distance[place].argmax())
            kind = QUANTITIES[which]
            side = "above" if (distance[place, which] >= 0) == (kind.sign > 0) else "below"
            reason = ("labelled good; " if liked[place] else "") + (
                f"{_verdict(place in best, worst[place], spoilt.get(place))}: at worst {kind.name} "
                f"{kind.form.format(values[place, which])}, {abs(distance[place, which]):.1f} sigma {side} "
                "the group median"
            )
        proposals.append(
            Proposal(id_, measured, float(score[place]), float(worst[place]), place in best, reason)
        )
    return proposals


def _spoilt(
    measures: Sequence[ImageStatistics], compared: Sequence[int], liked: np.ndarray
) -> dict[int, UnevenLine]:
    """Return which of the compared frames have a column or row that others have not.

    Without those that are ``liked``; empty where less than half as many would be left as are proposed.
    """
    lines = uneven_lines([measures[place].lines for place in compared])
    found = {compared[k]: line for line in reversed(lines) for k in line.members if not liked[compared[k]]}
    left = len(compared) - len(found)
    return found if 2 * left >= min(len(compared), MOST_PROPOSED) else {}


def _verdict(is_best: bool, worst: float, line: UnevenLine | None) -> str:
    if worst > OUTLIER:
        return "outlier"
    if line:
        return f"left out: {line.text}, which it is not in other frames; else sound"
    return "sound" if is_best else f"sound, but not among the best {MOST_PROPOSED} of its group"


def shortfalls(proposals: Sequence[Proposal], groups: Sequence[tuple[str, str]]) -> list[str]:
    """Name the groups, given camera and filter of each proposal, with some but few proposed frames.

    Returns
    -------
    list of str
        A line each for the first `SHOWN`, and one that counts the others.
    """
    pairs = zip(proposals, groups, strict=True)
    numbers = Counter(group for proposal, group in pairs if proposal.proposed)
    few = {group: number for group, number in numbers.items() if number < MOST_PROPOSED}
    lines = [
        f"{_named(group)}: {_counted(number)} proposed; "
        + (f"`calibrate` needs at least {FEWEST}, and " if number < FEWEST else "")
        + f"{MOST_PROPOSED - number} more would bring the false-mask rate closer to alpha"
        for group, number in few.items()
    ]
    more = len(lines) - SHOWN
    return lines[:SHOWN] + (
        [f"and {more} more cameras and filters with few reference frames"] if more > 0 else []
    )


def line_notes(
    proposals: Sequence[Proposal], groups: Sequence[tuple[str, str]], times: Sequence[int | None]
) -> list[str]:
    """Name the columns and rows that some sound frames have and others have not, with times.

    Parameters
    ----------
    proposals : sequence of Proposal
    groups : sequence of (str, str)
        Camera and filter of each.
    times : sequence of int or None
        Start of each exposure, UTC, microseconds since 1970-01-01.

    Returns
    -------
    list of str
        A line each for the `SHOWN` strongest of a group, and one that counts the others.
    """
    notes = []
    for group in dict.fromkeys(groups):
        own = [k for k, other in enumerate(groups) if other == group and proposals[k].worst <= OUTLIER]
        own = sorted(own, key=lambda k: proposals[k].score)[:MOST_COMPARED]
        lines = uneven_lines([proposals[k].measures.lines for k in own])
        for line in lines[:SHOWN]:
            members = [own[k] for k in line.members]
            used = sum(proposals[k].proposed for k in members)
            notes.append(
                f"{_named(group)}: {line.text} in {len(members)} of {len(own)} sound frames"
                f"{when([times[k] for k in members], [times[k] for k in own if k not in members])}, and not "
                "in the others: "
                + (f"normal for {used} references that have it" if used else "those are no references")
            )
        if len(lines) > SHOWN:
            notes.append(f"{_named(group)}: {len(lines) - SHOWN} more such columns and rows")
    return notes


def _named(group: tuple[str, str]) -> str:
    return " ".join(filter(None, group)) or "an unknown camera"


def _counted(number: int) -> str:
    return f"{number} reference frame{'s' if number > 1 else ''}"


def _distances(measures: Sequence[ImageStatistics]) -> tuple[np.ndarray, np.ndarray]:
    """Return values, and distances from their median in robust sigma, both float64 ``(n, quantity)``."""
    rows = [
        (m.fwhm, m.ellipticity, m.background, m.rms, m.sources, m.structure, m.lines.streak) for m in measures
    ]
    values = np.array(rows, float).reshape(len(rows), len(QUANTITIES))
    rms = values[:, 3].copy()
    sound = np.isfinite(values).all(axis=1) & (rms > 0)
    values[sound, 3] = _relative_noise(rms[sound], values[sound, 2])
    distance = np.full_like(values, np.nan)
    if sound.any():
        median = np.median(values[sound], axis=0)
        spread = mad_sigma(values[sound], median, axis=0)
        typical = float(np.median(rms[sound]))
        smallest = [
            max(q.relative * abs(m), q.absolute, q.noise * typical)
            for q, m in zip(QUANTITIES, median, strict=True)
        ]
        sign = np.array([q.sign for q in QUANTITIES])
        distance[sound] = sign * (values[sound] - median) / np.maximum(spread, smallest)
    return values, distance


def _relative_noise(rms: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return the noise over the root of the sky: constant for photon noise and a constant pedestal.

    For sky-subtracted frames, most of whose levels are below the noise, the noise itself.
    """
    if not len(rms) or np.median(background / rms) < 1:
        return rms
    return rms / np.sqrt(np.maximum(background, rms))
