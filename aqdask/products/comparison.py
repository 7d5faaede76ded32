"""What a comparison of two models says: a value, with its summary numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import xarray as xr


@dataclass(frozen=True)
class ReasonChange:
    """Patches that changed sides for one reason: ``gained`` by b's reason, ``lost`` by a's."""

    reason: str
    gained: int
    lost: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """Masks of two models, a and b, at one alpha; what counts is patches.

    Parameters
    ----------
    model_a, model_b : str
        Their names, with the start of the digest.
    alpha : float
        False-mask rate at which both are cut.
    frames : int
        Frames of the datasets.
    both, only_a, only_b, neither : int
        Patches with a p-value in both, by who masks them.
    no_data_a, no_data_b, no_data_both : int
        Patches without a p-value in a only, in b only, and in both. They are masked, and no other number
        counts them.
    rank_correlation : float
        Spearman's, of the scores of patches that have one in both; of about a million of them, drawn at
        random, where there are more. NaN without scores.
    by_reason : tuple of ReasonChange
        Why patches changed sides, most changes first.
    by_frame : Dataset
        Dimension ``frame``, most changes first: ``compared``, ``masked_a``, ``masked_b``, ``gained``
        (masked by b only), ``lost`` (by a only) and ``no_data`` (in a or b), int64 patches; coordinate
        ``row``, the position in the datasets, and those of the frames.
    """

    model_a: str
    model_b: str
    alpha: float
    frames: int
    both: int
    only_a: int
    only_b: int
    neither: int
    no_data_a: int
    no_data_b: int
    no_data_both: int
    rank_correlation: float
    by_reason: tuple[ReasonChange, ...]
    by_frame: xr.Dataset = field(repr=False)

    @property
    def patches(self) -> int:
        """Patches with a p-value in both."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def changed(self) -> int:
        """Patches on the other side."""
        return self.only_a + self.only_b

    @property
    def agreement(self) -> float:
        """Fraction of the patches on the same side; NaN where there is none."""
        return 1 - self.changed / self.patches if self.patches else math.nan

    @property
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond chance, 1 = complete, 0 = none.

        ``(agreement - chance) / (1 - chance)`` (Cohen 1960), chance from the masked fractions of each. NaN
        where chance already agrees on all: both mask every patch, or none.
        """
        if not self.patches:
            return math.nan
        a, b = ((self.both + only) / self.patches for only in (self.only_a, self.only_b))
        chance = a * b + (1 - a) * (1 - b)
        return (self.agreement - chance) / (1 - chance) if chance < 1 else math.nan

    def facts(self) -> dict[str, Any]:
        """The numbers of the whole archive as plain JSON; None for what is not defined."""
        names = (
            "model_a", "model_b", "alpha", "frames", "patches", "both", "only_a", "only_b", "neither",
            "changed", "agreement", "kappa", "rank_correlation", "no_data_a", "no_data_b", "no_data_both",
        )  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return {n: None if isinstance(v, float) and math.isnan(v) else v for n, v in found.items()}
