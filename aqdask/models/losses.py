"""What the two networks of ``method="aqdask"`` are trained to make small."""

from __future__ import annotations

import torch

from aqdask.kernels.noise import compress, expand, linear
from aqdask.models.distort import distort, draw_distortion, targets, with_noise
from aqdask.models.networks import PRIOR, Networks

UNIT = 1.5  # px; the head gives ln of the size in this unit, and references say what is normal
_CUTS = ((0, 8, 0, 8), (0, 4, 0, 4), (0, 4, 4, 8), (4, 8, 0, 4), (4, 8, 4, 8))  # regions of cells


def reconstruction(networks: Networks, u: torch.Tensor) -> torch.Tensor:
    """Mean squared residual of stabilised crops ``(n, P, P)`` after compression; 0-d."""
    v = compress(u)[:, None].contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.mse_loss(networks.autoencoder(v), v)


def denoised(networks: Networks, u: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The autoencoder's view of crops as light in units of the sky noise, ``(n, P, P)``, without gradient."""
    v = compress(u)[:, None].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        smooth = networks.autoencoder.eval()(v)[:, 0]
    return linear(expand(smooth), q[:, None, None])


def shapes(
    networks: Networks, u: torch.Tensor, q: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """`likelihood` of crops ``(n, P, P)`` that are denoised, distorted and given fresh noise, 0-d.

    ``q`` and ``sigma`` (px, of the stars before) are ``(n,)``.
    """
    what = draw_distortion(len(u), generator)
    what = type(what)(**{name: value.to(u) for name, value in vars(what).items()})
    light = distort(denoised(networks, u, q), sigma, what)
    return likelihood(networks, with_noise(light, q, generator), targets(sigma, what, UNIT))


def likelihood(networks: Networks, v: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of sizes and shapes ``(n, 3)`` under the head's reading of crops, 0-d.

    The estimate of a region is ``sum(w t) / (sum(w) + PRIOR)`` with variance ``1 / (sum(w) + PRIOR)``, for
    the whole crop and its quarters, so that cells learn to add up. ``v`` is ``(n, P, P)``, compressed.
    """
    weight, product = networks.head(v[:, None].contiguous(memory_format=torch.channels_last))
    cells = weight.shape[-1]
    total = torch.zeros((), device=v.device)
    for region in _CUTS:
        top, bottom, left, right = (edge * cells // 8 for edge in region)
        known = weight[:, :, top:bottom, left:right].sum(dim=(2, 3)) + PRIOR
        value = product[:, :, top:bottom, left:right].sum(dim=(2, 3)) / known
        total = total + (known * (value - truth) ** 2 - known.log()).mean() / 2
    return total / len(_CUTS)
