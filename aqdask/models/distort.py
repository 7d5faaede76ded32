"""Stars of another size and shape, made from reference frames: what the head learns from.

Light here is in units of the sky's noise with the sky at zero (`noise.linear`), so that one number
``q = b / sqrt V(S)`` holds all that fresh noise needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from aqdask.kernels.noise import compress, linear, relinear

SPREAD = (0.3, 0.2, 0.2)  # of ln size, e1, e2 in training: targets are in these units
WIDER, SHARPER = 0.8, 0.4  # largest |ln size ratio| on either side
LONGEST = 0.5  # largest ellipticity
TILT = 1.0  # sigma of the sky; largest rise from a crop's middle to its edges
_PAD = 12  # px reflected at the edges before the periodic Fourier transform
UNCHANGED, BLURRED, SHARPENED = 0.25, 0.65, 1.0  # shares of the classes, cumulated


@dataclass(frozen=True)
class Distortion:
    """What is done to each crop: all ``(n,)``.

    Parameters
    ----------
    zoom : Tensor
        Factor by which the scene shrinks, at least 1.
    size : Tensor
        Size of the stars afterwards relative to before, ``det(C)**(1/4)`` for second moments C.
    e1, e2 : Tensor
        Ellipticity ``(Cxx - Cyy) / (Cxx + Cyy)`` and ``2 Cxy / (Cxx + Cyy)`` afterwards.
    """

    zoom: torch.Tensor
    size: torch.Tensor
    e1: torch.Tensor
    e2: torch.Tensor


def draw_distortion(count: int, generator: torch.Generator) -> Distortion:
    """Unchanged, wider or sharper stars, half of them elongated."""

    def uniform() -> torch.Tensor:
        return torch.rand(count, generator=generator)

    kind, much = uniform(), uniform()
    wider = torch.where((kind > UNCHANGED) & (kind <= BLURRED), WIDER * much, 0.0)
    sharper = torch.where(kind > BLURRED, SHARPER * much, 0.0)
    strength = torch.where((kind > UNCHANGED) & (uniform() < 0.6), LONGEST * uniform(), 0.0)
    angle = 2 * math.pi * uniform()
    # An elongated star cannot be narrower across than it was: blur enough for the ellipticity asked.
    least = 0.5 * torch.log((1 + strength) / (1 - strength).clamp(min=0.1)) / 2
    ln_size = torch.maximum(wider, least) - sharper
    return Distortion(sharper.exp(), ln_size.exp(), strength * torch.cos(angle), strength * torch.sin(angle))


def distort(light: torch.Tensor, sigma: torch.Tensor, what: Distortion) -> torch.Tensor:
    """Light ``(n, P, P)`` with its stars (of ``sigma`` px, round) as `Distortion` says; flux is conserved."""
    small = _shrunk(light, what.zoom)
    # Gaussian of covariance K = C_after - C_before, in Fourier space.
    before = (sigma / what.zoom) ** 2
    area = (sigma * what.size) ** 2
    mean = area / (1 - what.e1**2 - what.e2**2).clamp(min=1e-3).sqrt()
    xx, yy, xy = mean * (1 + what.e1) - before, mean * (1 - what.e1) - before, mean * what.e2
    side = light.shape[-1] + 2 * _PAD
    fy = torch.fft.fftfreq(side, device=light.device)[:, None]
    fx = torch.fft.rfftfreq(side, device=light.device)[None, :]
    form = (
        xx[:, None, None].clamp(min=0) * fx**2
        + yy[:, None, None].clamp(min=0) * fy**2
        + 2 * xy[:, None, None] * fx * fy
    )
    transfer = torch.exp(-2 * math.pi**2 * form.clamp(min=0))
    padded = torch.nn.functional.pad(small[:, None], (_PAD,) * 4, mode="reflect")[:, 0]
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer, s=(side, side))
    return blurred[:, _PAD:-_PAD, _PAD:-_PAD]


def _shrunk(light: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
    """The scene shrunk by ``zoom`` about its centre, reflected beyond its edges; flux is conserved."""
    if bool((zoom == 1).all()):
        return light
    theta = torch.zeros(len(light), 2, 3, dtype=light.dtype, device=light.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    grid = torch.nn.functional.affine_grid(theta, [len(light), 1, *light.shape[1:]], align_corners=False)
    found = torch.nn.functional.grid_sample(
        light[:, None], grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return found[:, 0] * (zoom**2)[:, None, None]


def tilted(u: torch.Tensor, q: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Crops ``(n, P, P)`` in units of the noise, each on a plane of sky of up to `TILT` at the edges.

    ``q`` is ``(n,)``; u and q are on the CPU.
    """
    along = torch.linspace(-1, 1, u.shape[-1])
    slope = TILT * (2 * torch.rand(2, len(u), 1, 1, generator=generator) - 1)
    q = q[:, None, None]
    return relinear(linear(u, q) + slope[0] * along[:, None] + slope[1] * along, q)


def with_noise(light: torch.Tensor, q: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Compressed signal of light with fresh noise: variance ``1 + q L``, 1 on the sky."""
    noise = torch.randn(light.shape, generator=generator).to(light)
    q = q[:, None, None]
    return compress(relinear(light + noise * (1 + q * light).clamp(min=0.05).sqrt(), q))


def targets(sigma: torch.Tensor, what: Distortion, unit: float) -> torch.Tensor:
    """What the head should say, ``(n, 3)``: ln of the size in ``unit`` px, e1, e2, in units of `SPREAD`."""
    size = torch.log(sigma * what.size / unit)
    found = torch.stack([size, what.e1, what.e2], dim=1)
    return found / torch.tensor(SPREAD).to(found)
