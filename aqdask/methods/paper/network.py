"""Convolutional autoencoder of the published method (Jia et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import torch
from torch import nn

from aqdask.methods.layers import SelfAttention, SkipConnections, normalised
from aqdask.methods.tensors import seeded
from aqdask.methods.training.options import NetworkOptions

# Channels after each halving. 4 x 4 x 16 numbers stand for the 4096 pixels of a 64 px patch (16 times
# fewer). Cost of a 4096 x 4096 frame: `PatchErrors` in `aqdask.methods.paper.scorer`.
WIDTHS = (16, 32, 64, 16)
PLAIN = NetworkOptions("plain", depth=len(WIDTHS), width=WIDTHS[0], norm="none")


def widths_of(options: NetworkOptions) -> tuple[int, ...]:
    """Return the channels after each halving: doubled at each, and few again in the latent."""
    return (*(options.width * 2**step for step in range(options.depth - 1)), options.width)


class ConvAutoencoder(nn.Module):
    """Strided 3 x 3 convolutions with ReLU, and the same steps back with transposed convolutions.

    From the paper (Jia et al. 2024, arXiv 2405.03408): an autoencoder on small normalised patches, trained
    with the mean squared error. Its layers are not specified in full; depth, widths, strides in place of
    pooling and a linear output are choices of ours, made for a frame a second on one core. The last step
    is written as a convolution to 2 x 2 sub-pixels, which contains the transposed convolution as a special
    case and costs a fifth of it on a CPU.

    Parameters
    ----------
    widths : sequence of int
        Channels after each halving of the patch; the last is the latent's.
    options : mapping, optional
        `NetworkOptions` of another network; their depth and width are those of ``widths``.
    dropout : float
        Fraction of the channels that are dropped in training.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        found = PLAIN if options is None else NetworkOptions.restored(options)
        last = [nn.Conv2d(widths[0], 4, 3, padding=1), nn.PixelShuffle(2)]
        down = [
            normalised(nn.Conv2d(outer, inner, 3, stride=2, padding=1), inner, found.norm, dropout)
            for outer, inner in pairwise((1, *widths))
        ]
        up = [
            normalised(
                nn.ConvTranspose2d(inner, outer, 3, stride=2, padding=1, output_padding=1),
                outer, found.norm, dropout,
            )
            for outer, inner in pairwise(widths)
        ]  # fmt: skip
        attention = [SelfAttention(widths[-1])] if found.architecture == "attention" else []
        self.encoder = nn.Sequential(*chain(*down), *attention)
        self.decoder = nn.Sequential(*chain(*reversed(up)), *last)
        ends = range(len(down[0]) - 1, len(down[0]) * len(up), len(down[0]))  # last layer of each step
        self.skips = SkipConnections(ends, ends) if found.architecture == "skip" else None
        self.multiple = 2 ** len(widths)  # a patch must be a whole multiple, or it comes back larger

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Reconstruct normalised patches ``(n, 1, P, P)``, float32; same shape out."""
        if self.skips:
            return self.skips.run(self.encoder, self.decoder, patches)[1]
        return self.decoder(self.encoder(patches))


def seeded_autoencoder(seed: int, widths: Sequence[int] = WIDTHS, **settings: Any) -> ConvAutoencoder:
    """Initialise a network on the CPU from ``seed`` alone; the caller's RNG is untouched."""
    with seeded(seed):
        return ConvAutoencoder(widths, **settings)


ARCHITECTURES: dict[str, type[ConvAutoencoder]] = {"ConvAutoencoder": ConvAutoencoder}
"""Networks by the name that a bundle states under ``architecture["network"]``."""
