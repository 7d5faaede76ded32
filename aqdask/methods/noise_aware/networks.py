"""Networks of ``method="aqdask"``: an autoencoder of patches, and a head that measures the PSF.

Both take variance-stabilised patches (`noise_model`) and start by folding 4 x 4 pixels into channels, so that
convolutions run at a quarter of the resolution.
"""

from __future__ import annotations

import torch
from torch import nn

from aqdask.methods.bundle import Bundle
from aqdask.methods.tensors import restore_network

FOLD = 4  # px folded into channels
CELL = 8  # px of one cell of the latent and of the head
SHAPES = 3  # what the head reads: size, e1, e2
SHAPE_UNITS = (0.3, 0.2, 0.2)  # of ln size, e1, e2: the head's values are in these units


def _convolution(inner: int, outer: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU; padded with zeros, the sky in variance-stabilised patches."""
    layer = nn.Conv2d(inner, outer, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]


class PatchAutoencoder(nn.Module):
    """Autoencoder of variance-stabilised patches, with ``latent`` numbers for each 8 x 8 px in between.

    Parameters
    ----------
    width, inner : int
        Channels at a quarter and at an eighth of the resolution.
    latent : int
        Channels of the latent.
    """

    def __init__(self, width: int, inner: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(FOLD),
            *_convolution(FOLD**2, width),
            *_convolution(width, inner, stride=2),
            nn.Conv2d(inner, latent, 1),
        )
        self.decoder = nn.Sequential(
            *_convolution(latent, inner),
            *_convolution(inner, 4 * width, kernel=1),
            nn.PixelShuffle(2),
            *_convolution(width, width),
            nn.Conv2d(width, FOLD**2, 3, padding=1),
            nn.PixelShuffle(FOLD),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Reconstruct ``(n, 1, P, P)``, P a multiple of 8."""
        return self.decoder(self.encoder(patches))


class PsfHead(nn.Module):
    """PSF head: size and ellipticity of the stars in each cell of 8 x 8 px, and how much it can tell.

    Cells add up: over any region an estimate is ``sum(precision * value) / (sum(precision) + PRIOR)``.

    Parameters
    ----------
    width, inner : int
        Channels at a quarter and at an eighth of the resolution.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(FOLD),
            *_convolution(FOLD**2, width),
            *_convolution(width, inner, stride=2),
            *_convolution(inner, inner),
            nn.Conv2d(inner, 2 * SHAPES, 1),
        )

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Precision, and precision times value, of each cell: ``(n, 3, P / 8, P / 8)`` each."""
        value, precision = self.layers(patches).split(SHAPES, dim=1)
        weight = nn.functional.softplus(precision)
        return weight, weight * value


PRIOR = 0.5  # precision of knowing nothing: the values have a spread of about 1


class Networks(nn.Module):
    """Both networks as one module, for one optimiser and one set of weights.

    Parameters
    ----------
    width, inner : int
        Channels of both at a quarter and at an eighth of the resolution.
    latent : int
        Channels of the autoencoder's latent.
    """

    def __init__(self, width: int = 16, inner: int = 64, latent: int = 3) -> None:
        super().__init__()
        self.latent = latent
        self.autoencoder = PatchAutoencoder(width, inner, latent)
        self.head = PsfHead(width, inner)


ARCHITECTURES: dict[str, type[Networks]] = {"Networks": Networks}
"""Networks by the name that a bundle states under ``architecture["network"]``."""


def load_networks(bundle: Bundle) -> Networks:
    """Load a bundle's networks on the CPU; errors as `restore_network`."""
    return restore_network(bundle, ARCHITECTURES, "width", "inner", "latent")
