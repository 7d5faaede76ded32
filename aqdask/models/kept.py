"""The best weights of a training beside those of the moment."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from aqdask.models.networks import Networks


class Kept(nn.Module):
    """Networks in training, and their weights where the held-out loss was least: one checkpoint has both.

    Parameters
    ----------
    networks : Networks
    loss : float
        Their held-out loss as they are; infinite where they are not worth keeping.
    """

    loss: torch.Tensor

    def __init__(self, networks: Networks, loss: float) -> None:
        super().__init__()
        self.now, self.best = networks, copy.deepcopy(networks).requires_grad_(False)
        self.register_buffer("loss", torch.tensor(loss, dtype=torch.float64))

    def keep(self, loss: float) -> None:
        """Keep the weights as they are now, if ``loss`` is the least so far."""
        if loss < self.loss.item():
            self.best.load_state_dict(self.now.state_dict())
            self.loss.fill_(loss)

    def go_back(self) -> None:
        """Take the best weights again; from here on the least is of another loss."""
        if math.isfinite(self.loss.item()):
            self.now.load_state_dict(self.best.state_dict())
        self.loss.fill_(math.inf)
