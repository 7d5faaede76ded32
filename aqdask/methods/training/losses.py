"""Reconstruction losses by name: ``TrainSpec.loss`` chooses one, for every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LOSSES: dict[str, str] = {
    "mse": "mse_loss",  # mean squared error, the published one
    "mae": "l1_loss",  # mean absolute error
    "huber": "huber_loss",  # squared within 1, absolute beyond: bright stars count less
}
"""Functions of ``torch.nn.functional``, which is loaded only where a network is trained."""


def reconstruction_loss(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of a name in `LOSSES`: mean over all values, 0-d."""
    from torch.nn import functional

    return getattr(functional, LOSSES[name])
