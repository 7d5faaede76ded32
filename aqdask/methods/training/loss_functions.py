"""Losses of output and target ``(n, 1, P, P)``, by the names of `aqdask.methods.training.losses.LOSSES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from aqdask.errors import UsageError
from aqdask.methods.registry import METHODS
from aqdask.methods.tensors import seeded
from aqdask.methods.training.losses import LOSSES, parse_loss

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
RATE, MOMENTUM = 2e-4, 0.5  # of the discriminator, as in Isola et al. (2017)
CHANNELS = 32  # of its first layer


@dataclass(frozen=True)
class Inputs:
    """Facts about the values that a method reconstructs.

    Parameters
    ----------
    span : float
        Difference between bright and dark values.
    in_sigma : callable
        Converts values, given the target, to those that the encoder of the shipped model takes.
    seed : int
        Of the first weights of a discriminator.
    device : torch.device
    """

    span: float
    in_sigma: LossFunction
    seed: int
    device: torch.device


class ReconstructionLoss:
    """Weighted sum of losses; 0-d.

    Parameters
    ----------
    text : str
        As `losses.parse_loss` takes it.
    inputs : Inputs

    Raises
    ------
    UsageError
        For 'vgg' without its weights.
    """

    def __init__(self, text: str, inputs: Inputs) -> None:
        weights = parse_loss(text) or {}
        self.terms = [
            (weight, FUNCTIONS[name](inputs), LOSSES[name].reconstructs) for name, weight in weights.items()
        ]

    def __call__(self, output: torch.Tensor, target: torch.Tensor, *, held_out: bool = False) -> torch.Tensor:
        """Return the loss, on held-out values without a discriminator, which changes from step to step."""
        first, *others = (
            weight * loss(output, target)
            for weight, loss, reconstructs in self.terms
            if reconstructs or not held_out
        )
        return sum(others, start=first)


def mse(inputs: Inputs) -> LossFunction:
    """Mean squared error."""
    return functional.mse_loss


def mae(inputs: Inputs) -> LossFunction:
    """Mean absolute error."""
    return functional.l1_loss


def huber(inputs: Inputs) -> LossFunction:
    """Huber loss."""
    return functional.huber_loss


def ssim(inputs: Inputs) -> LossFunction:
    """1 less the structural similarity (Wang et al. 2004, IEEE Trans. Image Process. 13, 600)."""
    from pytorch_msssim import ssim as similarity

    return lambda output, target: 1 - similarity(output, target, data_range=inputs.span)


def perceptual(inputs: Inputs) -> LossFunction:
    """Mean squared difference of activations (Johnson et al. 2016, arXiv 1603.08155), of our own encoder."""
    module, _, name = METHODS["aqdask"].features.partition(":")
    features = getattr(import_module(module), name)()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found = (features(inputs.in_sigma(values, target)) for values in (output, target))
        return _distance(*found)

    return loss


def vgg(inputs: Inputs) -> LossFunction:
    """The same with VGG16 up to its seventh convolution, relu3_3; nothing is downloaded."""
    from torchvision.models import VGG16_Weights, vgg16

    weights = VGG16_Weights.IMAGENET1K_V1
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not file.exists():
        raise UsageError(
            f"the loss vgg, and no file {file}",
            expected=f"torchvision's weights of VGG16 ({weights.url}) in torch's cache",
            consequence="Nothing was trained",
            remedy="put the file there, or take the loss perceptual",
        )
    layers = vgg16(weights=weights).features[:16].eval().requires_grad_(False).to(inputs.device)
    mean, spread = (
        torch.tensor(values, device=inputs.device)[:, None, None]
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet
    )

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found = (layers((values / inputs.span - mean) / spread) for values in (output, target))
        return _distance(*([values] for values in found))

    return loss


def _distance(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> torch.Tensor:
    """Mean squared difference, each layer alike."""
    return torch.stack([functional.mse_loss(*pair) for pair in zip(found, wanted, strict=True)]).mean()


def adversarial(inputs: Inputs) -> LossFunction:
    """Least-squares adversarial loss (Mao et al. 2017, arXiv 1611.04076)."""
    return PatchDiscriminator(inputs)


class PatchDiscriminator:
    """Discriminator of overlapping squares of 22 px (Isola et al. 2017, arXiv 1611.07004), small.

    Each call with gradients first takes one step of its own, against output and target.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.span = inputs.span
        with seeded(inputs.seed):
            self.layers = nn.Sequential(
                nn.Conv2d(1, CHANNELS, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(CHANNELS, 2 * CHANNELS, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(2 * CHANNELS, 1, 4, padding=1),
            ).to(inputs.device)
        self.optimizer = torch.optim.AdamW(self.layers.parameters(), lr=RATE, betas=(MOMENTUM, 0.999))

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean squared distance of the verdicts on the output from 1, that of real values."""
        if torch.is_grad_enabled():
            self.optimizer.zero_grad(set_to_none=True)
            real, fake = (self.layers(values.detach() / self.span) for values in (target, output))
            ((real - 1).square().mean() + fake.square().mean()).backward()
            self.optimizer.step()
        return (self.layers(output / self.span) - 1).square().mean()


FUNCTIONS: dict[str, Callable[[Inputs], LossFunction]] = {
    function.__name__: function for function in (mse, mae, huber, ssim, perceptual, vgg, adversarial)
}
