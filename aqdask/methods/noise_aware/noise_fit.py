"""Fit of a camera's noise model to patches of reference frames."""

from __future__ import annotations

import math

import numpy as np

from aqdask.errors import UsageError
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.stats.robust import mad_sigma

LEAST_PATCHES = 50
SLOPE_ERROR = 0.2  # relative standard error of b beyond which the frames do not say what it is
CURVATURE_SIGMA = 5.0  # standard errors of c above zero from which the pixel response is in the model
FLOOR_QUANTILE, FLOOR_FRACTION = 0.01, 0.25
COARSE = 0.25  # counts squared; integer counts with less noise do not show it
WHITE = (0.8, 1.25)  # ratio of the noise in neighbours to that two pixels apart, if pixels are independent
_ROUNDS = 30
_LOW, _HIGH = 4.0, 1.5  # robust sigma at which residuals below and above the line lose weight


def fit_noise(
    level: np.ndarray,
    variance: np.ndarray,
    *,
    gain: float = math.nan,
    lag: int = 1,
    subtracted: bool = False,
) -> NoiseModel:
    """Fit ``Var(I) = a + b I + c I**2``, the photon transfer curve (Janesick 2007), to patches of frames.

    An iteratively reweighted line: the variance of a variance grows with its square, and stars only ever
    add to it, so that high outliers lose their weight sooner than low ones. Where the standard error of b
    is above a fifth of it (too little range of sky, or an outright wrong slope), b is that of the header's
    gain, else 0, and the model says so in ``source``. c is kept where it is five standard errors above 0.

    Parameters
    ----------
    level, variance : ndarray (n,)
        Sky in counts, and clipped variance of the pixel difference in counts squared.
    gain : float
        Electrons a count as the header says; NaN where it does not.
    lag : int
        Distance of the pixels in which the noise was measured; recorded.
    subtracted : bool
        The sky was subtracted: its level says nothing of its noise, and b is 0.

    Raises
    ------
    UsageError
        For fewer than `LEAST_PATCHES` patches with noise.
    """
    usable = np.isfinite(level) & np.isfinite(variance) & (variance > 0)
    x, y = level[usable].astype(float), variance[usable].astype(float)
    if x.size < LEAST_PATCHES:
        raise UsageError(
            f"{x.size} of {level.size} patches of the reference frames have noise that can be measured",
            expected=f"at least {LEAST_PATCHES}",
            consequence="The noise of this camera cannot be measured in them",
            remedy="give more reference frames; these may be constant, empty, masks or previews",
        )
    floor = FLOOR_FRACTION * float(np.quantile(y, FLOOR_QUANTILE))
    if subtracted:
        return NoiseModel(float(np.median(y)), 0.0, 0.0, floor, "subtracted", lag)
    middle = float(np.median(x))
    slope, error = _line(x - middle, y, 1)
    source = "frames"
    bent = slope, error
    if x.size >= 4 * LEAST_PATCHES:
        bent = _line(x - middle, y, 2)
    (intercept, b), c = slope, 0.0
    if bent[0].size == 3 and _is_camera(bent[0], bent[1], middle):
        intercept, b, c = bent[0]
    elif not (b > 0 and error[1] <= SLOPE_ERROR * b):
        known = math.isfinite(gain) and gain > 0
        b, source = (1 / gain, "header") if known else (0.0, "none")
        intercept = _centre(y - b * (x - middle), y)
    # From powers of (I - middle) to powers of I.
    a, b = intercept - b * middle + c * middle**2, b - 2 * c * middle
    return NoiseModel(float(a), float(b), float(c), floor, source, lag)


def _line(x: np.ndarray, y: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a polynomial with high outliers down-weighted: coefficients and their standard errors."""
    terms = np.stack([x**power for power in range(degree + 1)], axis=1)
    scale = np.sqrt((terms**2).mean(axis=0))
    terms = terms / np.where(scale > 0, scale, 1)
    fitted = np.full_like(y, np.median(y))
    for _ in range(_ROUNDS):
        away = y / np.maximum(fitted, 1e-3 * np.median(y)) - 1  # relative: constant spread along the line
        spread = mad_sigma(away, 0.0) + 1e-12
        z = away / spread
        robust = np.where(z > 0, np.minimum(1, _HIGH / np.maximum(z, 1e-9)) ** 2, 1.0)
        robust = np.where(z < 0, np.minimum(1, _LOW / np.maximum(-z, 1e-9)), robust)
        weight = robust / np.maximum(fitted, 1e-3 * np.median(y)) ** 2
        normal = terms.T @ (terms * weight[:, None])
        coefficients = np.linalg.lstsq(normal, terms.T @ (weight * y), rcond=None)[0]
        before, fitted = fitted, terms @ coefficients
        if np.allclose(before, fitted, rtol=1e-6):
            break
    covariance = np.linalg.pinv(normal) * spread**2
    safe = np.where(scale > 0, scale, 1)
    return coefficients / safe, np.sqrt(np.maximum(np.diag(covariance), 0)) / safe


def _is_camera(fit: np.ndarray, error: np.ndarray, middle: float) -> bool:
    """Return True if a curved relation is that of a camera: c significant, and the gain known at no signal.

    Frames of two gain settings bend the line as well; at the foot of theirs the gain is negative or unknown.
    """
    _, slope, c = fit
    foot = slope - 2 * c * middle
    foot_error = np.hypot(error[1], 2 * middle * error[2])
    return bool(c > CURVATURE_SIGMA * error[2] and foot > 0 and foot_error <= SLOPE_ERROR * foot)


def _centre(values: np.ndarray, variance: np.ndarray) -> float:
    """Estimate the centre of values, some of which are raised by stars."""
    centre = float(np.median(values))
    spread = float(mad_sigma(values, centre))
    near = np.abs(values - centre) < 2 * spread if spread > 0 else np.ones(values.size, bool)
    return float(values[near].mean())


def is_coarse(variance: np.ndarray, integer: bool) -> bool:
    """Return True if counts are too coarse to show the noise: integers with a variance below `COARSE`."""
    found = variance[np.isfinite(variance)]
    return bool(integer and (found.size == 0 or np.median(found) < COARSE))


def is_white(near: np.ndarray, far: np.ndarray) -> bool:
    """Return True if the noise of neighbouring pixels agrees with that two pixels apart (medians)."""
    both = np.isfinite(near) & np.isfinite(far) & (far > 0)
    return not both.any() or WHITE[0] < float(np.median(near[both] / far[both])) < WHITE[1]
