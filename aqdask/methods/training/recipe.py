"""Training of an autoencoder to reconstruct crops, shared by all methods that have one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn

from aqdask.methods.base import FrameSource
from aqdask.methods.tensors import exact_arithmetic, seeded
from aqdask.methods.training.augmentation import ORIENTATIONS, distort
from aqdask.methods.training.crops import Crops, Normaliser, Reservoir, held_out_crops
from aqdask.methods.training.loss_functions import ReconstructionLoss
from aqdask.methods.training.schedules import factor
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import Split


class AutoencoderTraining:
    """Training of an autoencoder on crops of the training frames (`training.loop.Recipe`).

    A method overrides `to_light`, `from_light` and `prepare` as its normalisation needs.

    Parameters
    ----------
    network, autoencoder : nn.Module
        All weights, and the part of them that reconstructs patches.
    frames : FrameSource
    split : Split
        The held-out loss is that of its ``validation`` frames.
    normalise : Normaliser
    spec : TrainSpec
    loss : ReconstructionLoss
    device : torch.device
    watched : int
        Number of crops of the held-out loss.
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: nn.Module,
        frames: FrameSource,
        split: Split,
        normalise: Normaliser,
        spec: TrainSpec,
        loss: ReconstructionLoss,
        device: torch.device,
        watched: int,
    ) -> None:
        self.spec, self.steps, self.device, self.distance = spec, spec.steps, device, loss
        self.network = nn.utils.convert_conv2d_weight_memory_format(network.to(device), torch.channels_last)
        self.autoencoder = autoencoder
        self.reservoir = Reservoir(frames, split.train, spec, normalise)
        self.watched = held_out_crops(frames, split.validation, spec, watched, normalise)

    def to_light(self, values: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Convert normalised crops ``(n, P, P)`` to what `augmentation.distort` takes."""
        raise NotImplementedError

    def from_light(self, light: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Invert `to_light`."""
        raise NotImplementedError

    def prepare(self, values: torch.Tensor) -> torch.Tensor:
        """Convert normalised crops to the input of the network."""
        return values

    def batch(self, step: int) -> torch.Tensor:
        """Return the crops of a step, augmented, ``(batch, P, P)``."""
        crops = self.reservoir.batch(step)
        return self._augmented(crops, self.spec.augmentations, step)

    def _augmented(self, crops: Crops, names: Sequence[str], step: int) -> torch.Tensor:
        values, facts = torch.from_numpy(crops.values), torch.from_numpy(crops.facts)
        if set(names) <= set(ORIENTATIONS):
            return values
        light = distort(self.to_light(values, facts), names, self.spec.seed, step)
        return self.from_light(light, facts)

    def loss(self, step: int, batch: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction loss, 0-d."""
        self.network.train()
        with seeded(self.spec.seed + step, self.device) if self.spec.dropout else nullcontext():
            return self._loss(batch, held_out=False)

    def _loss(self, batch: torch.Tensor, *, held_out: bool) -> torch.Tensor:
        values = self.prepare(batch.to(self.device))[:, None].contiguous(memory_format=torch.channels_last)
        return self.distance(self.autoencoder(values), values, held_out=held_out)

    def held_out(self) -> float:
        """Return the reconstruction loss of the held-out crops."""
        self.network.eval()
        values = torch.from_numpy(self.watched.values)
        with torch.no_grad(), exact_arithmetic():
            parts = values.split(self.spec.batch)
            return sum(self._loss(part, held_out=True).item() * len(part) for part in parts) / len(values)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, by the schedule."""
        return self.spec.learning_rate * factor(self.spec.schedule, step, self.steps, self.spec.warm_up)
