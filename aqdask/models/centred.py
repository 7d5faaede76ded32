"""Position centring of a calibration: the judge of frames that show the references' field, and its guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqdask.kernels.centring import LEAST_FIT, SAME_FIELD, Guard
from aqdask.kernels.evidence import Field
from aqdask.kernels.judge import Judge
from aqdask.kernels.pooling import Columns


@dataclass(frozen=True, eq=False)
class Centred:
    """How frames are judged that show the references' field at their pointing.

    Parameters
    ----------
    judge : Judge
        With `Judge.means`; its distances, tails and p-values are of centred statistics.
    guard : Guard
        Which frames it may judge.
    """

    judge: Judge
    guard: Guard


def unflagged(judge: Judge, columns: Columns) -> np.ndarray:
    """Patches that have data and that the first pass leaves, bool ``(n_y, n_x)``."""
    frame = Field.of(columns, judge.camera)
    return frame.unflagged & ~judge.first_pass(frame)[1]


def guard_of(
    judge: Judge, measured: Sequence[Sequence[Columns]], ids: Sequence[str]
) -> tuple[Guard | None, list[str]]:
    """The guard of reference frames, or None and a note for the user where they cannot be centred.

    ``measured`` are the columns of the frames of the fit, tail and threshold set, ``ids`` all their names in
    that order. The mean is of the fit set; the others must pass as frames will that are not references.
    """
    fit, *others = measured
    if len(fit) < LEAST_FIT:
        return None, [f"Not centred: {len(fit)} frames for the mean at each place, {LEAST_FIT} are needed."]
    guard, found = Guard.fit(fit, [unflagged(judge, columns) for columns in fit])
    if found < SAME_FIELD:
        return None, [
            f"Not centred: the reference frames do not show one field at one pointing (their star "
            f"patterns correlate by {found:.2f}, at least {SAME_FIELD} is needed)."
        ]
    held = [columns for part in others for columns in part]
    passed = [guard.passes(columns, unflagged(judge, columns)) for columns in held]
    stray = [name for name, ok in zip(ids[len(fit) :], passed, strict=True) if not ok]
    if stray:
        return None, [
            f"Not centred: {', '.join(stray[:5])}{', ...' * (len(stray) > 5)} ({len(stray)} of {len(held)} "
            "held-out reference frames) show another field or pointing than the others."
        ]
    return guard, []
