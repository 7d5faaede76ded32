"""Noise model of a camera, variance against counts, and the variance-stabilising transformation.

Everything is per patch and in the camera's own counts, so that no gain, read noise or bias has to be known:
the pedestal is part of ``a`` in ``Var(I) = a + b I + c I**2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from aqdask.stats.robust import SIGMA_PER_MAD

CLIP = 2.5  # sigma; beyond it a pixel is a star, a hot pixel or a cosmic ray
# Standard deviation of a normal variable cut at CLIP sigma, squared: what clipping takes from a variance.
_DENSITY = math.exp(-(CLIP**2) / 2) / math.sqrt(2 * math.pi)
KEPT_VARIANCE = 1 - 2 * CLIP * _DENSITY / math.erf(CLIP / math.sqrt(2))
CLIP_ROUNDS = 2  # of clipping; a third changes the variance by less than 0.2 %
HUBER = 1.5  # sigma; beyond it a pixel pulls the sky no further
WITHIN_HUBER = math.erf(HUBER / math.sqrt(2))  # fraction of normal values within: the slope of the step


@dataclass(frozen=True)
class NoiseModel:
    """Variance of a pixel without structure, as a function of its counts.

    Parameters
    ----------
    a, b, c : float
        ``Var(I) = a + b I + c I**2`` in counts squared; ``b`` is 1 / gain, ``c`` the pixel response's
        variance (fixed pattern), zero unless the reference frames show it.
    floor : float
        Smallest variance used, in counts squared.
    source : str
        Where ``b`` is from: 'frames', 'header' (the gain of the FITS header), 'none' (b = 0), or
        'subtracted' (b = 0: the sky was subtracted; its noise is ``a`` on average, and each patch has its
        own).
    lag : int
        Distance in pixels of the difference in which noise is measured: 1, or 2 where neighbours are
        correlated (resampled, demosaiced or compressed frames).
    unit : float
        Count of this model in the unit of the pixels: 1, or a power of two for calibrated pixels with noise
        far from 1, such as 1e-18 erg.
    """

    a: float
    b: float
    c: float = 0.0
    floor: float = 1e-12
    source: str = "frames"
    lag: int = 1
    unit: float = 1.0

    def variance(self, counts: torch.Tensor) -> torch.Tensor:
        """Compute ``max(a + b I + c I**2 + 3/8 b**2, floor)``, type and shape of ``counts``.

        3/8 b**2 is the generalised Anscombe transform's (Murtagh, Starck & Bijaoui 1995, A&AS 112, 179).
        """
        variance = counts * self.b + (self.a + 0.375 * self.b**2)
        if self.c:
            variance = variance + self.c * counts**2
        return variance.clamp_(min=self.floor)


def difference(patches: torch.Tensor, valid: torch.Tensor | None, lag: int = 1) -> torch.Tensor:
    """Apply the diagonal high-pass ``(I11 - I10 - I01 + I00) / 2``: white noise keeps its variance.

    Parameters
    ----------
    patches : Tensor (n, P, P)
    valid : Tensor (n, P, P) of bool, or None
    lag : int
        Distance of the pixels.

    Returns
    -------
    Tensor (n, (P - lag)**2)
        NaN where one of the four is not valid.
    """
    if valid is not None:
        patches = patches.masked_fill(~valid, torch.nan)
    across = patches[:, :, lag:] - patches[:, :, :-lag]
    return ((across[:, lag:] - across[:, :-lag]) / 2).flatten(1)


def clipped_variance(values: torch.Tensor) -> torch.Tensor:
    """Compute the variance about zero of each row, sigma-clipped at `CLIP` and corrected for the clipping.

    Steadier on coarse counts than the MAD, which takes few values there; the start is a MAD all the same,
    of every eighth value.

    Parameters
    ----------
    values : Tensor (n, m)
        NaN = no value.

    Returns
    -------
    Tensor (n,)
        NaN for a row without a value, 0 for one of zeros.
    """
    squares = values * values
    total = squares.sum(dim=1)
    missing = total.isnan()  # a sum is cheaper than looking for NaN everywhere
    count = torch.full_like(total, squares.shape[1])
    some_missing = bool(missing.any())
    if some_missing:
        count[missing] = (~squares[missing].isnan()).sum(dim=1).to(squares.dtype)
        total = squares.nansum(dim=1)
    start = row_median(squares[:, ::8], some_missing) * SIGMA_PER_MAD**2
    # A MAD of zero (more than half of the differences vanish) must not clip everything that is left.
    variance = torch.where(start > 0, start, total / count)
    for _ in range(CLIP_ROUNDS):
        limit = CLIP**2 * variance[:, None]
        # Sums of cut values less what the cut ones add: four times as fast as a sum over a selection.
        cut = torch.minimum(squares, limit)
        # Twice as fast as counting; what is NaN is not counted.
        above = (squares - cut).sign_()
        outside, kept = (v.nansum(dim=1) if some_missing else v.sum(dim=1) for v in (above, cut))
        kept = kept - outside * limit[:, 0]
        variance = kept.clamp(min=0) / (count - outside) / KEPT_VARIANCE  # rounding may leave less than 0
    return variance


def row_median(values: torch.Tensor, some_missing: bool = False) -> torch.Tensor:
    """Compute the (lower) median of each row of ``(n, m)``, without NaN where ``some_missing``.

    On a CPU NumPy's partition, which is vectorised, finds the same element ten times as fast as torch.
    """
    if some_missing:
        return values.nanmedian(dim=1).values
    if values.device.type != "cpu":
        return values.median(dim=1).values
    middle = (values.shape[1] - 1) // 2
    return torch.from_numpy(np.partition(values.numpy(), middle, axis=1)[:, middle].copy())


def sky_level(patches: torch.Tensor, valid: torch.Tensor | None, variance: torch.Tensor) -> torch.Tensor:
    """Estimate the sky of each patch in counts: median of every eighth pixel, then two Huber steps.

    A Huber M-estimate of location (Huber 1964) with the noise as its scale, at 1.5 sigma: as robust to
    stars as the median it starts from, and steadier by a quarter.

    Parameters
    ----------
    patches : Tensor (n, P, P)
    valid : Tensor (n, P, P) of bool, or None
    variance : Tensor (n,)
        Noise variance of each patch.

    Returns
    -------
    Tensor (n,)
        NaN where nothing is valid.
    """
    pixels = patches if valid is None else patches.masked_fill(~valid, torch.nan)
    level = row_median(pixels[:, ::4, ::2].flatten(1), valid is not None)
    if valid is not None:  # every eighth pixel may be none of the valid ones
        missing = level.isnan().nonzero()[:, 0]
        level = level.index_copy(0, missing, pixels[missing].flatten(1).nanmedian(dim=1).values)
    reach = (HUBER * variance.sqrt()).clamp(min=1e-6)[:, None]
    flat = pixels.flatten(1)
    count = flat.shape[1] if valid is None else valid.flatten(1).sum(dim=1)
    for _ in range(2):
        pulled = flat - level[:, None]
        torch.maximum(pulled, -reach, out=pulled)
        torch.minimum(pulled, reach, out=pulled)
        level = level + (pulled.sum(dim=1) if valid is None else pulled.nansum(dim=1)) / count / WITHIN_HUBER
    return level


def variance_stabilise(patches: torch.Tensor, sky: torch.Tensor, noise: NoiseModel) -> torch.Tensor:
    """Transform counts to signal above sky in units in which the noise is about 1 at every brightness.

    ``u = 2 (I - S) / (sqrt V(I) + sqrt V(S))``: survives b = 0, and where V is linear and not clamped it is
    the difference of generalised Anscombe transforms, ``(2 / b) (sqrt V(I) - sqrt V(S))``.

    Parameters
    ----------
    patches : Tensor (n, P, P)
        Counts.
    sky : Tensor (n,)
        S, counts.
    noise : NoiseModel

    Returns
    -------
    Tensor (n, P, P)
    """
    level = sky[:, None, None]
    scale = noise.variance(patches).sqrt_() + noise.variance(level).sqrt()
    return (patches - level).mul_(2).div_(scale)


UNINVERTIBLE = 0.01  # of 4 - c u**2 over 4: from there on u is beyond what any counts give


def restore_counts(u: torch.Tensor, sky: torch.Tensor, noise: NoiseModel) -> torch.Tensor:
    """Invert `variance_stabilise`, exactly also where V is clamped or has a quadratic term.

    With d = I - S, r = sqrt V(S) and V(I) = P(I) = P(S) + B d + c d**2, B = b + 2 c S, the definition of u
    gives ``(4 - c u**2) d**2 - u (B u + 4 r) d + (r**2 - P(S)) u**2 = 0``, and where P(I) is below the floor
    ``d = u (sqrt floor + r) / 2``. With c = 0 and S above the clamp, d = u r + b u**2 / 4.
    u(I) has an inverse where P(S) is above -3 times the floor.

    Parameters
    ----------
    u : Tensor (n, P, P)
    sky : Tensor (n,)
        S, counts.
    noise : NoiseModel

    Returns
    -------
    Tensor (n, P, P)
        Counts, type of ``sky``.
    """
    level = sky[:, None, None]
    u = u.to(level.dtype)
    constant = noise.a + 0.375 * noise.b**2
    at_sky = constant + level * (noise.b + noise.c * level)
    root = noise.variance(level).sqrt()
    slope = u * (u * (noise.b + 2 * noise.c * level) + 4 * root)
    lead = (4 - noise.c * u**2).clamp(min=4 * UNINVERTIBLE)
    rest = (noise.floor - at_sky).clamp(min=0) * u**2
    free = (slope + u.sign() * (slope**2 - 4 * lead * rest).clamp(min=0).sqrt()) / (2 * lead)
    clamped = u * (math.sqrt(noise.floor) + root) / 2
    below = level + clamped
    is_clamped = constant + below * (noise.b + noise.c * below) <= noise.floor
    return level + torch.where(is_clamped, clamped, free)


def linear(u: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Invert `variance_stabilise` in units of the sky noise: ``(I - S) / sqrt V(S) = u + q u**2 / 4``.

    ``q = b / sqrt V(S)``; exact where V is linear and not clamped, and u above -2 / q.
    """
    return u + q * u * u / 4


def relinear(light: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Invert `linear`: ``u = 2 L / (1 + sqrt(1 + q L))``."""
    return 2 * light / (1 + (1 + q * light).clamp(min=0).sqrt())


KNEE = 10.0  # sigma; beyond it `compress` is logarithmic


def compress(u: torch.Tensor) -> torch.Tensor:
    """Compress the signal, ``v = 10 asinh(u / 10)`` (Lupton, Gunn & Szalay 1999, AJ 118, 1406).

    Noise stays 1, and bright stars are logarithmic.

    Written with a logarithm, which is ten times as fast as `torch.asinh` on a CPU.
    """
    size = u.abs().div_(KNEE)
    root = torch.addcmul(size.new_ones(()), size, size).sqrt_()
    return root.add_(size).log_().mul_(KNEE).copysign_(u)


def expand(v: torch.Tensor) -> torch.Tensor:
    """Inverse of `compress`."""
    return KNEE * torch.sinh(v / KNEE)
