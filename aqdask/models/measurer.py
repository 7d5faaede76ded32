"""The local half of ``method="aqdask"``: patches and their camera's noise in, numbers by name out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from aqdask.kernels.noise import NoiseModel, clipped_variance, compress, difference, sky_level, stabilise
from aqdask.kernels.statistics import View, table
from aqdask.models.autoencoder import exact_arithmetic
from aqdask.models.networks import FOLD, Networks

LEVELS = ("valid", "saturated", "sky", "noise")


@dataclass(frozen=True)
class Detector:
    """What has to be known of a camera before a patch can be read.

    Parameters
    ----------
    noise : NoiseModel
    saturation : float
        Counts from which a pixel is full; infinite where unknown.
    """

    noise: NoiseModel
    saturation: float = float("inf")


class Measurer:
    """Measures batches of patches with the networks on a device.

    Parameters
    ----------
    networks : Networks
        Put on the device, in evaluation mode, with batch norm folded into the convolutions.
    latent : int
        Channels of the autoencoder's latent.
    device : str or torch.device
    """

    def __init__(self, networks: Networks, latent: int, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        # Both networks begin with the same folding of pixels into channels, which is done once.
        networks.eval()
        self.encoder = _folded([*networks.autoencoder.encoder][1:], self.device)
        self.decoder = _folded([*networks.autoencoder.decoder][:-1], self.device)
        self.head = _folded([*networks.head.layers][1:], self.device)
        self.statistics = table(latent)
        self.columns = (*LEVELS, *(name for row in self.statistics for name in row.names))

    def measure(self, patches: torch.Tensor, valid: torch.Tensor | None, detector: Detector) -> np.ndarray:
        """Columns ``(n, k)``, float32, of patches ``(n, P, P)`` in counts; NaN where nothing is valid.

        ``valid`` is bool ``(n, P, P)``, None where every pixel is data.
        """
        with torch.inference_mode(), exact_arithmetic():
            levels, u = self.normalised(patches, valid, detector)
            view = self.view(u)
            found = [levels, *(row.function(view) for row in self.statistics)]
            columns = torch.cat(found, dim=1)
            columns = columns.masked_fill(levels[:, :1] == 0, torch.nan)
            columns[:, 0] = levels[:, 0]
            return columns.float().cpu().numpy()

    def normalised(
        self, patches: torch.Tensor, valid: torch.Tensor | None, detector: Detector
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`LEVELS` ``(n, 4)``, and the stabilised signal ``(n, P, P)`` with what is not valid filled in."""
        noise = detector.noise
        variance = clipped_variance(difference(patches, valid, noise.lag))
        sky = sky_level(patches, valid, variance)
        full, share = _shares(patches, valid, detector.saturation)
        u = stabilise(patches, sky, noise).float()
        if valid is not None:
            u = fill(u, valid)
        return torch.stack([share, full, sky, variance], dim=1), u

    def view(self, u: torch.Tensor) -> View:
        """What the statistics see of stabilised patches ``(n, P, P)``."""
        v = compress(u)
        folded = fold(v)
        latent = self.encoder(folded)
        residual = v - unfold(self.decoder(latent))
        value, weight = self.head(folded).split(3, dim=1)
        weight = nn.functional.softplus(weight)
        shape = torch.cat([weight, weight * value], dim=1).flatten(2).sum(dim=2)
        return View(u, residual, latent, shape)


def _shares(
    patches: torch.Tensor, valid: torch.Tensor | None, saturation: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which fraction of the valid pixels is full, and which fraction of all is valid; ``(n,)`` each."""
    number = patches[0].numel()
    full = torch.zeros_like(patches[:, 0, 0])
    share = torch.ones_like(full) if valid is None else valid.flatten(1).sum(dim=1) / number
    if patches.max() < saturation:  # most batches: one quick look
        return full, share
    above = patches >= saturation if valid is None else (patches >= saturation) & valid
    full = torch.count_nonzero(above.flatten(1), dim=1) / number
    return full / share.clamp(min=1 / number), share


def fold(v: torch.Tensor) -> torch.Tensor:
    """Squares of `FOLD` px of ``(n, P, P)`` as channels, ``(n, FOLD**2, P / FOLD, P / FOLD)``, channels last.

    What `torch.nn.PixelUnshuffle` gives, in one copy.
    """
    count, side, _ = v.shape
    cells = side // FOLD
    spread = v.view(count, cells, FOLD, cells, FOLD).permute(0, 1, 3, 2, 4)
    return spread.reshape(count, cells, cells, FOLD**2).permute(0, 3, 1, 2)


def unfold(channels: torch.Tensor) -> torch.Tensor:
    """Inverse of `fold`."""
    count, _, cells, _ = channels.shape
    spread = channels.permute(0, 2, 3, 1).reshape(count, cells, cells, FOLD, FOLD).permute(0, 1, 3, 2, 4)
    return spread.reshape(count, FOLD * cells, FOLD * cells)


def fill(u: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Replace what is not valid by the mean of the valid among its eight neighbours, 0 (sky) without."""
    kernel = torch.ones(1, 1, 3, 3, dtype=u.dtype, device=u.device)
    known = torch.where(valid, u, 0.0)[:, None]
    total = nn.functional.conv2d(known, kernel, padding=1)
    count = nn.functional.conv2d(valid[:, None].to(u.dtype), kernel, padding=1)
    return torch.where(valid, u, (total / count.clamp(min=1))[:, 0])


def _folded(layers: Iterable[nn.Module], device: torch.device) -> nn.Sequential:
    """The same layers without batch norm, whose scale and shift go into the convolution before it."""
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and isinstance(folded[-1], nn.Conv2d):
            folded[-1] = nn.utils.fuse_conv_bn_eval(folded[-1], layer)
        else:
            folded.append(layer)
    network = nn.Sequential(*folded).to(device).eval()
    return nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
