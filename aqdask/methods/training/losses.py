"""Reconstruction losses by name, for every method; `TrainSpec.loss` is one, or a weighted sum.

A row here has a function of the same name in `aqdask.methods.training.loss_functions`, which loads torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

from aqdask.errors import UsageError


@dataclass(frozen=True)
class Loss:
    """One row.

    Parameters
    ----------
    summary : str
        For ``--help``.
    package : str
        Module that has to be installed.
    reconstructs : bool
        The loss is least where input and output are equal; others need one beside them.
    """

    summary: str
    package: str = ""
    reconstructs: bool = True


LOSSES: dict[str, Loss] = {
    "mse": Loss("mean squared error, the published one"),
    "mae": Loss("mean absolute error"),
    "huber": Loss("squared within 1, absolute beyond: bright stars count less"),
    "ssim": Loss("1 less the structural similarity", package="pytorch_msssim"),
    "perceptual": Loss("squared difference of activations of the encoder of the shipped model"),
    "vgg": Loss("the same of VGG16, where torchvision has its weights", package="torchvision"),
    "adversarial": Loss("verdict of a patch discriminator that is trained along", reconstructs=False),
}


def parse_loss(text: str) -> dict[str, float] | None:
    """Return weights by name of ``name[:weight]`` joined by '+'; None for anything else.

    Weights are positive, 1 where they are left out.
    """
    found: dict[str, float] = {}
    for term in text.split("+"):
        name, _, weight = term.partition(":")
        try:
            value = float(weight or 1)
        except ValueError:
            return None
        if name not in LOSSES or name in found or not 0 < value < math.inf:
            return None
        found[name] = value
    return found if any(LOSSES[name].reconstructs for name in found) else None


def check_packages(text: str) -> None:
    """Raise `UsageError` for a loss whose package is not installed."""
    for name in parse_loss(text) or ():
        package = LOSSES[name].package
        if package and not find_spec(package):
            raise UsageError(
                f"the loss {name!r} without the package {package}",
                expected="the package that computes it",
                consequence="Nothing was trained",
                remedy=f"pip install {package.replace('_', '-')}, or take another loss",
            )
