"""Reference frames and networks in, what is normal for each camera and filter out."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aqdask.kernels.calibration import ScoreTable
from aqdask.kernels.centring import CENTRED, leave_one_out, place_mean
from aqdask.kernels.evidence import GROUPS, Camera, Field, Group, as_image, cell_levels, sky_sigma
from aqdask.kernels.frame_tier import FrameReference, FrameValues, frame_values
from aqdask.kernels.grouping import Distance, Tail
from aqdask.kernels.judge import Judge, score_of
from aqdask.kernels.pooling import Columns, about, shape_sums
from aqdask.kernels.sky_fit import make_template
from aqdask.models.alike import (
    FEW_FRAMES,
    check_alike,
    check_alpha,
    check_measured,
    check_noise,
    check_patches,
    check_scatter,
    finite_rows,
)
from aqdask.models.aqdask import blank, measure_batch, without
from aqdask.models.centred import Centred, guard_of
from aqdask.models.crops import FrameSource
from aqdask.models.distort import SPREAD
from aqdask.models.fit import Report, TrainProgress
from aqdask.models.knowledge import Knowledge
from aqdask.models.measurer import Measurer
from aqdask.models.references import CameraNoise
from aqdask.models.scorer import batches
from aqdask.models.sets import Sets
from aqdask.specs import PatchGrid

REGION_FRAMES = 10  # calibration frames below which what pools over a frame abstains
WORTH_A_WORD = 1.3  # factor in size between the sharpest and the widest reference frame
RANGE = 25.0  # scatters from frame to frame, over the number of frames: what those may not have shown


def calibrate_strata(
    measurer: Measurer, frames: FrameSource, sets: Sets, seen: CameraNoise, **settings: Any
) -> Knowledge:
    """`calibrate_group` of each stratum of sky, as a chain from the darkest, or of all frames."""
    if not sets.strata:
        return calibrate_group(measurer, frames, sets, seen, **settings)
    strata = [calibrate_group(measurer, frames, part, seen, **settings) for part in sets.strata]
    known = strata[-1]
    for darker, limit in zip(strata[-2::-1], sets.limits[::-1], strict=True):
        known = replace(darker, brighter=known, limit=limit)
    return replace(known, facts={**known.facts, **_joined(strata, sets)})


def _joined(strata: Sequence[Knowledge], sets: Sets) -> dict[str, Any]:
    """Frames and notes of all strata."""
    skies = [f"up to {sets.limits[0]:.4g} counts", *(f"above {limit:.4g} counts" for limit in sets.limits)]
    counts = [f"{sky} ({len(part.every)} frames)" for sky, part in zip(skies, sets.strata, strict=True)]
    notes = [f"A frame is judged by references under a sky like its own: {', '.join(counts)}."]
    for sky, stratum in zip(skies, strata, strict=True):
        own = (note for note in stratum.facts["notes"] if note not in notes)
        notes += [
            note if all(note in s.facts["notes"] for s in strata) else f"sky {sky}: {note}" for note in own
        ]
    frames = {
        name: [frame for stratum in strata for frame in stratum.facts["frames"][name]]
        for name in strata[0].facts["frames"]
    }
    return {"frames": frames, "notes": notes}


def calibrate_group(
    measurer: Measurer,
    frames: FrameSource,
    sets: Sets,
    seen: CameraNoise,
    *,
    patch: int,
    alpha: float,
    two_sided: bool = False,
    centred: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Knowledge:
    """Everything that is normal for one camera and filter.

    The fit set gives template and distances, the tail set how often good patches lie how far, the threshold
    set the scores that good patches have after both passes. All three say what whole frames are like.

    Parameters
    ----------
    measurer : Measurer
    frames : FrameSource
    sets : Sets
    seen : CameraNoise
        From frames of the fit set.
    patch : int
        Side of a patch in pixels.
    alpha : float
        Smallest false-mask rate that must be possible; also that of the first pass.
    two_sided : bool
        Whether sharper stars are bad too.
    centred : bool
        Whether frames of the references' field are judged place by place, where the references allow it.
    tick : callable
        Called after each frame.

    Raises
    ------
    UsageError
        For too few patches for ``alpha``, frames that disagree, or a noise ratio far from 1.
    """
    knowledge = _unjudged(seen)
    measured: list[list[Columns]] = []
    for members in sets:
        measured.append([])
        for index in members:
            measured[-1].append(_columns(measurer, frames, index, knowledge, patch))
            tick()
    fit, tail, threshold = measured
    ids = [frames.ids[index] for members in sets for index in members]
    check_measured(ids, [*fit, *tail, *threshold])
    camera = _camera(fit, seen, two_sided)
    values = [frame_values(columns, camera, SPREAD) for columns in (*fit, *tail, *threshold)]
    check_scatter(ids, values, seen.noise)
    odd = check_alike(ids, values)
    check_noise(values[len(fit) :])
    every = [*fit, *tail, *threshold]  # a template of the fit set may be that of the bad frame
    whole = _camera(every, seen, two_sided)
    odd += check_patches(ids, [Field.of(columns, whole) for columns in every], seen.abstain)
    abstain = dict(seen.abstain)
    if len(tail) + len(threshold) < REGION_FRAMES:
        found = len(tail) + len(threshold)
        reason = f"{found} calibration frames, {REGION_FRAMES} are needed (name 16 to 20 reference frames)"
        abstain |= dict.fromkeys((group.name for group in GROUPS if group.regional), reason)
    judge = _judge(camera, measured, abstain, alpha)
    check_alpha(judge.final[0].total // len(judge.final), alpha, len(threshold), len(ids))
    guard, refused = guard_of(judge, measured, ids) if centred else (None, [])
    place = Centred(_judge(camera, measured, abstain, alpha, centred=True), guard) if guard else None
    facts = {
        "frames": dict(zip(("fit", "tail", "threshold"), map(list, _named(frames, sets)), strict=True)),
        "abstain": abstain,
        "notes": [
            *seen.notes,
            *odd,
            *_span(ids, values),
            *refused,
            *_notes(len(ids), len(threshold), abstain),
        ],
        "noise_ratio": float(np.exp(np.median([value.noise for value in values[len(fit) :]]) / 2)),
    }
    tier = FrameReference.fit(values).widened(FEW_FRAMES / len(values))
    return Knowledge(judge, tier, seen.saturation, seen.hot, seen.shape, facts, place)


def _named(frames: FrameSource, sets: Sets) -> list[list[str]]:
    return [[frames.ids[index] for index in members] for members in sets]


def _unjudged(seen: CameraNoise) -> Knowledge:
    """A camera of which only noise and hot pixels are known, for measuring patches."""
    return Knowledge(Judge(Camera(seen.noise), {}), FrameReference({}), seen.saturation, seen.hot, seen.shape)


def _columns(
    measurer: Measurer, frames: FrameSource, index: int, knowledge: Knowledge, patch: int
) -> Columns:
    """Columns of one frame, ``(n_y, n_x)`` by name, NaN in patches that say nothing."""
    image, invalid = frames.read(index)
    grid = PatchGrid(image.shape[0], image.shape[1], patch)
    hot = knowledge.hot_map()
    found = []
    for patches, valid, tops, lefts in batches(image, invalid, grid):
        usable = without(valid, hot, tops, lefts, patch)
        found.append(measure_batch(measurer, patches, usable, knowledge))
    measured = np.concatenate(found).reshape(*grid.shape, -1)
    return blank({name: measured[..., k] for k, name in enumerate(measurer.columns)})


def _camera(fit: Sequence[Columns], seen: CameraNoise, two_sided: bool) -> Camera:
    """Template of the sky, and size and shape of the stars, from the fit set."""
    sigma = float(np.nanmedian(np.concatenate([sky_sigma(c, seen.noise).ravel() for c in fit])))
    levels = np.stack([as_image(cell_levels(columns, seen.noise)) for columns in fit])
    template = make_template(levels, (sigma / 4) ** 2)
    zero = np.median([about(shape_sums(c).sum(axis=(0, 1)), np.zeros(3)) for c in fit], axis=0)
    return Camera(seen.noise, template, zero, two_sided)


def _judge(
    camera: Camera,
    measured: Sequence[Sequence[Columns]],
    abstain: Mapping[str, str],
    alpha: float,
    *,
    centred: bool = False,
) -> Judge:
    """Distances from the fit set, tails and first pass from the tail set, p-values from the threshold set."""
    judge = Judge(camera, {}, {}, first_alpha=alpha)
    fields = [[Field.of(columns, camera) for columns in part] for part in measured[:2]]
    for regional in (False, True):
        if regional:  # the second pass sees what the first leaves
            fields = [[_second(judge, field) for field in part] for part in fields]
        for group in GROUPS:
            if group.regional != regional or not speaks(group, abstain):
                continue
            statistics = np.stack([group.function(field) for field in fields[0]])
            if centred and group.name in CENTRED:
                judge = replace(judge, means={**judge.means, group.name: place_mean(statistics)})
                statistics = leave_one_out(statistics)
            least = np.maximum(group.least, _unsure(statistics)) if regional else group.least
            distance = Distance.fit(_rows(group, statistics), group.one_sided, least)
            held = distance.of(_rows(group, [judge.statistics(group, field) for field in fields[1]]))
            tail = Tail.of_frames(held) if group.whole else Tail.fit(held)
            judge = replace(
                judge,
                distances={**judge.distances, group.name: distance},
                tails={**judge.tails, group.name: tail},
            )
        if not regional:
            scores = [score_of(judge.group_surprise(f, regional=False)).ravel() for f in fields[1]]
            judge = replace(judge, first=ScoreTable.from_scores(np.concatenate(scores)))
    return judge.calibrated(measured[2])


def _rows(group: Group, statistics: Iterable[np.ndarray]) -> np.ndarray:
    """Statistics of the patches of some frames, or of the frames themselves (`Group.whole`), ``(n, k)``."""
    rows = [finite_rows(found) for found in statistics]
    return np.concatenate([found[:1] for found in rows] if group.whole else rows)


def speaks(group: Group, abstain: Container[str]) -> bool:
    """Whether a group is used, where the groups ``abstain`` cannot be."""
    better = group.stands_in and group.stands_in not in abstain
    return group.name not in abstain and not better


def _unsure(statistics: np.ndarray) -> np.ndarray:
    """How far beyond the fit frames good frames may lie, ``(k,)``, from statistics ``(frame, n_y, n_x, k)``.

    What pools over regions is nearly one number a frame (the seeing), and a few frames know its range poorly:
    `RANGE` / n times the scatter from frame to frame.
    """
    known = np.isfinite(statistics)
    frames = np.where(known, statistics, 0).sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1)
    return RANGE / len(frames) * frames.std(axis=0)


def _second(judge: Judge, field: Field) -> Field:
    return judge.second_field(field, judge.first_pass(field)[1])


def _span(ids: Sequence[str], values: Sequence[FrameValues]) -> list[str]:
    """A note on how different in focus the references are, where they are: all of that is normal then."""
    sizes = np.exp([value.size for value in values])
    if not np.isfinite(sizes).all() or sizes.max() < WORTH_A_WORD * sizes.min():
        return []
    relative = sizes / np.median(sizes)
    return [
        f"Stars of {relative.min():.2f} to {relative.max():.2f} times their median size are normal: so the "
        f"reference frames are ({ids[int(sizes.argmax())]} the widest)."
    ]


def _notes(total: int, threshold: int, abstain: Mapping[str, str]) -> list[str]:
    """What a user has to know of a calibration on ``total`` frames, ``threshold`` of which set p-values."""
    notes = []
    if total < FEW_FRAMES:
        notes.append(
            f"Whole frames are compared with {FEW_FRAMES / total:.1f} times the spread of the references: "
            f"{total} frames show it poorly, {FEW_FRAMES} are enough."
        )
    if threshold < FEW_FRAMES:
        notes.append(
            f"Calibrated on {threshold} frame{'s'[: threshold > 1]}: the patches of one frame are alike, so "
            "the share of good patches masked may differ from alpha by a factor of two or more; 20 frames "
            "bring it close."
        )
    for reason in dict.fromkeys(abstain.values()):
        names = [name for name, why in abstain.items() if why == reason]
        notes.append(f"{', '.join(names)} abstain{'s' if len(names) == 1 else ''}: {reason}.")
    return notes


def ticking(report: Report, total: int) -> Callable[[], None]:
    """A function to call after each of ``total`` frames: it reports how far the calibration is."""
    begun, state = time.monotonic(), [0]

    def tick() -> None:
        state[0] += 1
        seconds = time.monotonic() - begun
        eta = seconds / state[0] * (total - state[0])
        report(TrainProgress("calibrate", state[0], total, seconds=seconds, eta_seconds=eta))

    return tick
