"""How long a training will take, told as soon as its first steps are done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from aqdask.models.fit import Report, TrainProgress
from aqdask.models.references import CameraNoise
from aqdask.models.sets import Sets
from aqdask.specs import PatchGrid

MEASURE_COST = 0.5  # of a crop in an optimiser step: what the calibration takes for a patch


class Loading(Protocol):
    """What has to be known of a recipe.

    Attributes
    ----------
    batch_size : int
        Crops a step.
    loads : list of float
        Seconds of each filling of the reservoir so far.
    """

    batch_size: int
    loads: list[float]

    def loads_left(self, step: int) -> int:
        """How many fillings are still to come after ``step`` steps."""


class Forecast:
    """A `Report` that corrects the time left for what is read now and then, and says it once in words.

    Parameters
    ----------
    report : callable
        Where progress goes on to.
    recipe : Loading
    patches : int
        How many the calibration will measure afterwards.
    """

    def __init__(self, report: Report, recipe: Loading, patches: int) -> None:
        self.report, self.recipe, self.patches = report, recipe, patches
        self.told = False

    def __call__(self, progress: TrainProgress) -> None:
        if progress.stage != "train" or not math.isfinite(progress.eta_seconds):
            self.report(progress)
            return
        left = progress.total - progress.done
        # The loop spreads all seconds over the steps; what was spent on reading is not of the steps.
        spent = sum(self.recipe.loads)
        steps = progress.eta_seconds * max(1 - spent / max(progress.seconds, spent, 1e-9), 0)
        reading = spent / max(len(self.recipe.loads), 1) * self.recipe.loads_left(progress.done)
        if left and not self.told:
            self.told = True
            after = MEASURE_COST * self.patches * steps / left / self.recipe.batch_size
            self.report(
                TrainProgress(
                    "note",
                    note=f"about {_words(steps + reading)} for {left} steps (less where the held-out loss "
                    f"no longer falls), then {_words(after)} to calibrate",
                )
            )
        self.report(replace(progress, eta_seconds=steps + reading))


def patches_of(
    groups: Mapping[tuple[str, str], Sets], cameras: Mapping[tuple[str, str], CameraNoise], patch: int
) -> int:
    """How many patches the calibration of these groups measures."""
    grids = {key: PatchGrid(*cameras[key].shape, patch).shape for key in groups}
    return sum(len(sets.every) * math.prod(grids[key]) for key, sets in groups.items())


def _words(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
