"""Convolutional autoencoder of the published method (Jia et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

# Channels after each halving. 4 x 4 x 16 numbers stand for the 4096 pixels of a 64 px patch (16 times
# fewer). Cost of a 4096 x 4096 frame: `PatchErrors` in `aqdask.methods.paper.scorer`.
WIDTHS = (16, 32, 64, 16)


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
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = [nn.Conv2d(widths[0], 4, 3, padding=1), nn.PixelShuffle(2)]
        for outer, inner in pairwise((1, *widths)):
            encoder += [nn.Conv2d(outer, inner, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        for outer, inner in pairwise(widths):
            back = nn.ConvTranspose2d(inner, outer, 3, stride=2, padding=1, output_padding=1)
            decoder = [back, nn.ReLU(inplace=True), *decoder]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder)
        self.multiple = 2 ** len(widths)  # a patch must be a whole multiple, or it comes back larger

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Reconstruct normalised patches ``(n, 1, P, P)``, float32; same shape out."""
        return self.decoder(self.encoder(patches))


def seeded_autoencoder(seed: int, widths: Sequence[int] = WIDTHS) -> ConvAutoencoder:
    """Initialise a network on the CPU from ``seed`` alone; the caller's RNG is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ConvAutoencoder(widths)


ARCHITECTURES: dict[str, type[ConvAutoencoder]] = {"ConvAutoencoder": ConvAutoencoder}
"""Networks by the name that a bundle states under ``architecture["network"]``."""
