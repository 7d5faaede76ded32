"""The table of conditions: the defect of the frames of a row, and the goal there.

Goals are AUROCs of `aqdask`. Amplitudes of backgrounds are rms fractions of the sky (correlated noise over
the whole frame). `NO_GOAL` rows are beyond a patch score; the others without a goal count in the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from draws import MakeDefect

from aqdask.simulate import defects
from aqdask.simulate.defect_base import Defect

NO_GOAL = "no goal"
MEAN_GOAL, MEAN_RECALL_GOAL = 0.90, 0.65


@dataclass(frozen=True)
class Condition:
    """One row.

    Parameters
    ----------
    name : str
    make : callable
        Draws the defect of one frame.
    goal : float or str or None
        AUROC to reach; `NO_GOAL` where none can be; None where none was stated.
    two_sided : bool
        Score with the model that treats sharper stars as bad, too.
    """

    name: str
    make: MakeDefect
    goal: float | str | None = None
    two_sided: bool = False


def _same(defect: Defect) -> MakeDefect:
    """Make a defect that is the same in every frame."""
    return lambda rng: defect


def _place(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.2, 0.8))


def _trail(amplitude: float) -> MakeDefect:
    return lambda rng: defects.Trail(
        amplitude, angle=float(rng.uniform(0, 180)), through=(_place(rng), _place(rng))
    )


def _backgrounds() -> list[Condition]:
    goals = {(8, 0.1): 0.99, (32, 0.1): 0.90, (128, 0.1): 0.80, (128, 0.3): 0.97}
    return [
        Condition(
            f"background {level:.0%}, {scale} px",
            _same(defects.Background(level, scale=scale)),
            goals.get((scale, level)),
        )
        for scale in (8, 32, 128)
        for level in (0.01, 0.03, 0.1, 0.3)
    ]


def _stars() -> list[Condition]:
    goals = {2.0: 0.99, 2.8: 0.93}
    focus = [
        Condition(f"FWHM {fwhm} px", _same(defects.Defocus(fwhm)), goals.get(fwhm), two_sided=True)
        for fwhm in (1.6, 2.0, 2.8, 3.2, 4.0)
    ]
    guiding = [
        Condition(
            f"elongation {length} px",
            lambda rng, length=length: defects.Elongation(length, angle=float(rng.uniform(0, 180))),
            0.88 if length == 1.5 else None,
        )
        for length in (1.0, 1.5, 2.5)
    ]
    bright = Condition("saturated stars", _same(defects.SaturatedStars(5e6)))
    return [*focus, *guiding, bright]


def _narrow() -> list[Condition]:
    trails = {30: NO_GOAL, 100: 0.99}
    rays = {300: 0.90, 1000: 0.995}
    columns = {20: NO_GOAL, 60: 0.90}
    return [
        *(Condition(f"trail {peak} e- peak", _trail(peak), trails.get(peak)) for peak in (30, 100, 300)),
        *(
            Condition(f"cosmic rays {charge} e-", _same(defects.CosmicRays(charge)), rays.get(charge))
            for charge in (100, 300, 1000, 3000)
        ),
        *(
            Condition(
                f"hot column {charge} e-",
                lambda rng, charge=charge: defects.HotColumn(charge, column=_place(rng)),
                columns.get(charge),
            )
            for charge in (20, 60, 200)
        ),
        Condition("dead column", lambda rng: defects.DeadColumn(1.0, column=_place(rng))),
    ]


def _light() -> list[Condition]:
    ghosts, gradients = {0.02: 0.85, 0.1: 0.99}, {0.1: 0.94, 0.3: 0.97}
    rows = [
        Condition(
            f"ghost {level:.0%}",
            lambda rng, level=level: defects.Ghost(level, centre=(_place(rng), _place(rng))),
            ghosts.get(level),
        )
        for level in (0.02, 0.05, 0.1)
    ]
    rows += [
        Condition(
            f"gradient {level:.0%}",
            lambda rng, level=level: defects.Gradient(level, angle=float(rng.uniform(0, 360))),
            gradients.get(level),
        )
        for level in (0.05, 0.1, 0.3)
    ]
    for dimming in (0.3, 0.6):
        rows.append(Condition(f"cloud {dimming}, glow 0.3", _same(defects.Cloud(dimming, glow=0.3))))
        rows.append(
            Condition(f"cloud {dimming}, only dims", _same(defects.Cloud(dimming, glow=0.0)), NO_GOAL)
        )
    return [*rows, Condition("vignetting 20 %", _same(defects.Vignetting(0.2)))]


def _detector() -> list[Condition]:
    noise, bands = {14: 0.99}, {15: 0.98}
    return [
        *(
            Condition(f"read noise {level} e-", _same(defects.ReadNoise(level)), noise.get(level))
            for level in (10, 14, 20)
        ),
        *(
            Condition(f"banding {level} e-", _same(defects.Banding(level)), bands.get(level))
            for level in (5, 15)
        ),
        *(Condition(f"gain error {level:.0%}", _same(defects.GainError(level))) for level in (0.05, 0.1)),
    ]


class UniformSky(defects.Background):
    """The sky of the whole frame is brighter by ``amplitude`` times itself."""

    def change(self, light, spec, rng):  # type: ignore[no-untyped-def]
        """Electrons added to each pixel."""
        return np.float32(self.amplitude) * light.sky


CONDITIONS: tuple[Condition, ...] = (
    *_backgrounds(),
    *_stars(),
    *_narrow(),
    *_light(),
    *_detector(),
    Condition("uniform sky +50 %", _same(UniformSky(0.5)), NO_GOAL),
)
"""Every row, about 50."""

QUICK = ("FWHM 4.0 px", "cosmic rays 1000 e-", "read noise 20 e-")


def reached(found: float, goal: float | str | None) -> str:
    """Write the cell of a goal: 'reached', the difference by which it was missed, or the reason for none."""
    if goal is None or isinstance(goal, str) or math.isnan(found):
        return goal if isinstance(goal, str) else "-"
    return "reached" if found >= goal else f"missed by {max(goal - found, 0.0005):.3f}"
