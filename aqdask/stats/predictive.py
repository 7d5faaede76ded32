"""Predictive distribution of one more value after a few: Student's t with a spread shrunk towards a prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

PRIOR_WEIGHT = 4.0  # degrees of freedom that the prior spread is worth


@dataclass(frozen=True, eq=False)
class Predictive:
    """Predictive distribution of a normal vector whose k components scatter alike.

    With n values of mean m and pooled variance s**2 (k (n - 1) degrees of freedom), and a prior spread s0
    worth nu0 degrees of freedom,

    ``v = (k (n - 1) s**2 + nu0 s0**2) / nu``, ``nu = k (n - 1) + nu0``,

    and for k = 1 ``(x - m) / sqrt(v (1 + 1 / n))`` is distributed as Student's t with nu degrees of freedom
    (Gelman et al. 2013, Bayesian Data Analysis, section 3.3, with a scaled inverse chi-squared prior on the
    variance); the mean square of k such components as Fisher's F with k and nu.

    Parameters
    ----------
    mean : ndarray (k,)
    scale : float
        ``sqrt(v (1 + 1 / n))``, in the unit of the values.
    dof : float
        nu.
    """

    mean: np.ndarray
    scale: float
    dof: float

    @classmethod
    def fit(cls, values: np.ndarray, prior_spread: float) -> Predictive:
        """Fit to finite values ``(n, k)``, n at least 1."""
        count, components = values.shape
        free = components * (count - 1)
        mean = values.mean(axis=0)
        variance = (((values - mean) ** 2).sum() + PRIOR_WEIGHT * prior_spread**2) / (free + PRIOR_WEIGHT)
        return cls(mean, float(np.sqrt(variance * (1 + 1 / count))), free + PRIOR_WEIGHT)

    def distance(self, value: np.ndarray, slack: float = 0.0) -> float:
        """Compute the root mean square of the components of ``(x - m) / sqrt(scale**2 + slack**2)``.

        With one component the sign is kept. NaN for a value ``(k,)`` that is not finite.
        """
        away = (np.asarray(value, float) - self.mean) / np.hypot(self.scale, slack)
        return float(away[0] if len(away) == 1 else np.sqrt((away**2).mean()))

    def pvalue(self, distance: float, *, one_sided: bool = False) -> float:
        """Compute the probability of a `distance` at least as large; NaN for NaN.

        With ``one_sided`` (one component only) distances below zero are good.
        """
        if not np.isfinite(distance):
            return float("nan")
        if one_sided:
            return float(special.stdtr(self.dof, -distance))
        return float(special.fdtrc(len(self.mean), self.dof, distance**2))

    def limit(self, pvalue: float, *, one_sided: bool = False) -> float:
        """Return the distance from the mean with this p-value: of the value, or the length of the vector."""
        if one_sided:
            return float(-special.stdtrit(self.dof, pvalue)) * self.scale
        components = len(self.mean)
        return float(np.sqrt(components * stats.f.isf(pvalue, components, self.dof))) * self.scale


@dataclass(frozen=True)
class Trend:
    """Slope of a line through a few points, shrunk towards 0.

    The ridge regression that a normal prior on the slope gives (Gelman et al. 2013, Bayesian Data Analysis,
    section 14.8), ``sum(dx dy) / (sum(dx**2) + (spread / slope_spread)**2)``.

    Parameters
    ----------
    slope : float
    centre : float
        Mean of x, where the line is 0.
    error : float
        Standard deviation of the slope.
    """

    slope: float
    centre: float
    error: float

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, spread: float, slope_spread: float) -> Trend:
        """Fit to finite ``x`` and ``y``, ``(n,)``, n at least 1.

        ``spread`` is the standard deviation of y about the line, if that of the points is not larger, and
        ``slope_spread`` that of slopes.
        """
        dx, dy = x - x.mean(), y - y.mean()
        total = float(dx @ dx) + (spread / slope_spread) ** 2
        slope = float(dx @ dy) / total
        scatter = max(spread, float(np.sqrt(np.mean((dy - slope * dx) ** 2))))
        return cls(slope, float(x.mean()), scatter / float(np.sqrt(total)))

    def at(self, x: np.ndarray | float) -> np.ndarray:
        """Compute the line at ``x``, type float64."""
        return self.slope * (np.asarray(x, float) - self.centre)
