"""Layers of the autoencoders, by the options of `aqdask.methods.training.options`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

HEADS = 4  # of the attention
GROUP = 4  # channels of a group of group normalisation


def normalised(layer: nn.Module, channels: int, norm: str, dropout: float = 0.0) -> list[nn.Module]:
    """Return a convolution with its normalisation and a ReLU, and with dropout of whole channels.

    Dropout has no weights and no place of its own, so that a network has the same state with and without.
    """
    found = [layer]
    if norm == "batch":
        found.append(nn.BatchNorm2d(channels))
    elif norm == "group":
        found.append(nn.GroupNorm(channels // GROUP, channels))
    relu = nn.ReLU(inplace=True)
    return [*found, nn.Sequential(relu, nn.Dropout2d(dropout)) if dropout else relu]


class SelfAttention(nn.Module):
    """Self-attention between all cells ``(n, channels, y, x)`` of a patch, added to its input.

    Multi-head attention (Vaswani et al. 2017, arXiv 1706.03762) of images as in Zhang et al. (2018, arXiv
    1805.08318), with a learned factor that begins at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the same shape."""
        cells = values.flatten(2).transpose(1, 2)
        found, _ = self.attention(cells, cells, cells)
        return values + self.factor * found.transpose(1, 2).unflatten(2, values.shape[2:])


class SkipConnections:
    """Sums of the encoder's and the decoder's activations at equal resolution.

    Symmetric skip connections (Mao, Shen & Yang 2016, arXiv 1603.09056), which have no weights.

    Parameters
    ----------
    sources, targets : tuple of int
        Layers of the encoder whose output is kept, and layers of the decoder to whose output it is added,
        the last that was kept first.
    """

    def __init__(self, sources: Iterable[int], targets: Iterable[int]) -> None:
        self.sources, self.targets = frozenset(sources), frozenset(targets)

    def run(
        self, encoder: nn.Sequential, decoder: nn.Sequential, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent and the output of the decoder."""
        kept: list[torch.Tensor] = []
        for number, layer in enumerate(encoder):
            values = layer(values)
            if number in self.sources:
                kept.append(values)
        latent = values
        for number, layer in enumerate(decoder):
            values = layer(values)
            if number in self.targets:
                values = values + kept.pop()
        return latent, values
