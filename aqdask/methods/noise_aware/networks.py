"""Networks of ``method="aqdask"``: an autoencoder of patches, and a head that measures the PSF.

Both take variance-stabilised patches (`noise_model`) and start by folding 4 x 4 pixels into channels, so that
convolutions run at a quarter of the resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from aqdask.methods.bundle import OPTIONS, Bundle
from aqdask.methods.layers import SelfAttention, SkipConnections, normalised
from aqdask.methods.shipped import load_shipped
from aqdask.methods.tensors import restore_network, seeded
from aqdask.methods.training.options import NetworkOptions

FOLD = 4  # px folded into channels
CELL = 8  # px of one cell of the latent and of the head
SHAPES = 3  # what the head reads: size, e1, e2
SHAPE_UNITS = (0.3, 0.2, 0.2)  # of ln size, e1, e2: the head's values are in these units


def _convolution(
    inner: int, outer: int, kernel: int = 3, stride: int = 1, norm: str = "batch", dropout: float = 0.0
) -> list[nn.Module]:
    """Convolution, normalisation, ReLU; padded with zeros, the sky in variance-stabilised patches."""
    layer = nn.Conv2d(inner, outer, kernel, stride=stride, padding=kernel // 2, bias=norm == "none")
    return normalised(layer, outer, norm, dropout)


PLAIN = NetworkOptions("plain", depth=1, width=16, norm="batch")
"""Options of the shipped autoencoder."""


class PatchAutoencoder(nn.Module):
    """Autoencoder of variance-stabilised patches, with ``latent`` numbers for each of its cells in between.

    A cell has 8 x 8 px with the depth 1, and twice the side with each more.

    Parameters
    ----------
    width, inner : int
        Channels at a quarter of the resolution, and at an eighth and below.
    latent : int
        Channels of the latent.
    options : NetworkOptions
        Its width is that of the network.
    dropout : float
        Fraction of the channels that are dropped in training.
    """

    def __init__(
        self, width: int, inner: int, latent: int, options: NetworkOptions = PLAIN, dropout: float = 0.0
    ) -> None:
        super().__init__()
        given: dict[str, Any] = {"norm": options.norm, "dropout": dropout}
        channels = (width, *[inner] * options.depth)
        encoder = [nn.PixelUnshuffle(FOLD), *_convolution(FOLD**2, width, **given)]
        decoder = _convolution(latent, inner, **given)
        sources, targets = [], []
        for outer, deeper in pairwise(channels):
            sources.append(len(encoder) - 1)
            encoder += _convolution(outer, deeper, stride=2, **given)
        for outer, deeper in reversed([*pairwise(channels)]):
            decoder += [*_convolution(deeper, 4 * outer, kernel=1, **given), nn.PixelShuffle(2)]
            targets.append(len(decoder) - 1)
            decoder += _convolution(outer, outer, **given)
        attention = [SelfAttention(inner)] if options.architecture == "attention" else []
        self.encoder = nn.Sequential(*encoder, *attention, nn.Conv2d(inner, latent, 1))
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(width, FOLD**2, 3, padding=1), nn.PixelShuffle(FOLD))
        self.skips = SkipConnections(sources, targets) if options.architecture == "skip" else None

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Reconstruct ``(n, 1, P, P)``, P a multiple of a cell."""
        if self.skips:
            return self.skips.run(self.encoder, self.decoder, patches)[1]
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
    options : mapping, optional
        `NetworkOptions` of an autoencoder that is not like the shipped one; the head always is.
    dropout : float
        Of the autoencoder, in training.
    """

    def __init__(
        self,
        width: int = 16,
        inner: int = 64,
        latent: int = 3,
        options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent = latent
        if options is None:
            self.autoencoder = PatchAutoencoder(width, inner, latent, dropout=dropout)
        else:
            found = NetworkOptions.restored(options)
            self.autoencoder = PatchAutoencoder(found.width, 4 * found.width, latent, found, dropout)
        self.head = PsfHead(width, inner)


ARCHITECTURES: dict[str, Callable[..., Networks]] = {"Networks": Networks}
"""Networks by the name that a bundle states under ``architecture["network"]``."""


def load_networks(bundle: Bundle, dropout: float = 0.0) -> Networks:
    """Load a bundle's networks on the CPU, to be trained on with ``dropout``; errors as `restore_network`."""
    return restore_network(bundle, ARCHITECTURES, "width", "inner", "latent", dropout=dropout)


def fresh_networks(bundle: Bundle, options: NetworkOptions, dropout: float, seed: int) -> Networks:
    """Return networks with the head of a bundle and an autoencoder with random weights."""
    sizes = {name: bundle.architecture[name] for name in ("width", "inner", "latent")}
    with seeded(seed):
        networks = Networks(**sizes, options=options.stored(), dropout=dropout)
    networks.head.load_state_dict(load_networks(bundle).head.state_dict())
    return networks


def architecture_of(bundle: Bundle, options: NetworkOptions) -> dict[str, Any]:
    """Return the architecture of `fresh_networks` as a bundle states it."""
    return {**bundle.architecture, OPTIONS: dict(options.stored())}


def shipped_features() -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Return a function of compressed patches ``(n, 1, P, P)`` that gives activations of the shipped encoder.

    Those after each ReLU, and the latent: for the loss 'perceptual'.
    """
    encoder = load_networks(load_shipped()).autoencoder.encoder.eval().requires_grad_(False)

    def features(patches: torch.Tensor) -> list[torch.Tensor]:
        found, values = [], patches
        for layer in encoder.to(patches.device):
            values = layer(values)
            if isinstance(layer, nn.ReLU):
                found.append(values)
        return [*found, values]

    return features
