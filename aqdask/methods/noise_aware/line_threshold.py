"""Predictive distribution of the strongest line of a good frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import ndtri_exp, stdtr

from aqdask.stats.predictive import Predictive

PRIOR_SCALE = 0.08  # of ln of the significance, between good frames of one camera


@dataclass(frozen=True)
class LineThreshold:
    """Distribution of ln of the significance of the strongest line of a good frame.

    Parameters
    ----------
    centre, scale : float
        Mean and standard deviation of ln of the significance.
    freedom : float
        Degrees of freedom.
    """

    centre: float
    scale: float
    freedom: float

    @classmethod
    def fit(cls, strongest: Sequence[float]) -> LineThreshold:
        """Fit `Predictive` to ln of the strongest line of each reference frame, one or more, in sigma.

        With few references a line must be stronger.
        """
        fitted = Predictive.fit(np.log(np.asarray(strongest, dtype=np.float64))[:, None], PRIOR_SCALE)
        return cls(float(fitted.mean[0]), fitted.scale, fitted.dof)

    @property
    def typical(self) -> float:
        """Significance that the strongest line of one in six good frames reaches."""
        return math.exp(self.centre + self.scale)

    def pvalue(self, significance: np.ndarray | float) -> np.ndarray:
        """Probability that the strongest line of a good frame is at least as significant; 1 at 0, float64.

        A largest value has a Gumbel distribution, here of this mean and standard deviation; its quantiles as
        those of a normal variable go into a t distribution, since the standard deviation is uncertain.
        """
        value = np.asarray(significance, dtype=np.float64)
        distance = (np.log(np.maximum(value, 1e-9)) - self.centre) / self.scale
        ln_below = -np.exp(-np.minimum(np.pi / np.sqrt(6) * distance + np.euler_gamma, 30))
        normal = ndtri_exp(np.maximum(ln_below, -700))
        return np.where(value > 0, stdtr(self.freedom, -normal), 1.0)

    def stored(self) -> dict[str, float]:
        """Return the numbers by name, for JSON."""
        return asdict(self)

    @classmethod
    def from_stored(cls, numbers: Mapping[str, float]) -> LineThreshold:
        """Invert `stored`."""
        return cls(numbers["centre"], numbers["scale"], numbers["freedom"])
