"""Fine-tuning of the shipped autoencoder on reference frames, followed by the calibration.

The PSF head keeps its weights: it was trained on true shapes, which no reference frame shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource
from aqdask.methods.bundle import Bundle
from aqdask.methods.noise_aware.calibrate import calibrate_cameras, camera_noises, named_notes, notes_of
from aqdask.methods.noise_aware.camera_noise import CameraNoise
from aqdask.methods.noise_aware.feature_extractor import fill_invalid
from aqdask.methods.noise_aware.networks import Networks, load_networks
from aqdask.methods.noise_aware.noise_model import (
    clipped_variance,
    compress,
    difference,
    linear,
    relinear,
    sky_level,
    variance_stabilise,
)
from aqdask.methods.noise_aware.reference_split import ReferenceSplit, split_groups
from aqdask.methods.shipped import SHIPPED, load_shipped
from aqdask.methods.tensors import as_float, exact_arithmetic
from aqdask.methods.training.crops import Reservoir, held_out_crops
from aqdask.methods.training.loop import fit
from aqdask.methods.training.losses import reconstruction_loss
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.methods.training.provenance import provenance
from aqdask.methods.training.schedules import cosine
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import Split

WARM_UP = 50  # steps in which the rate rises from zero
HELD_OUT_CROPS = 256
PATIENCE = 5  # points of the loss curve without a decrease, after which the training stops
MIN_LOSS_DECREASE = 1e-3  # of the held-out loss: a smaller decrease is worth no training
SKY_GRADIENT = 1.0  # sigma of the sky; largest rise from the middle of a crop to its edges
_GRADIENTS = 13  # first word of generators' seeds
AUGMENTATION = ["crops", "flips", "rotations", f"background of up to {SKY_GRADIENT:g} sigma"]


def train_noise_aware(
    frames: FrameSource, spec: TrainSpec, report: Report, device: str | torch.device
) -> Bundle:
    """Fine-tune the autoencoder and calibrate; parameters and errors as `aqdask.methods.dispatch.train`.

    Raises
    ------
    UsageError
        Also for a patch that is no multiple of 64 px, frames without noise, inconsistent references, and too
        few of them for ``spec.alpha``.
    """
    _check(spec)
    groups = split_groups(frames, spec)
    split = _union(groups)
    noises = camera_noises(frames, groups, spec.patch, spec.alpha, report)
    normalise = NoiseUnits({index: noises[key] for key in groups for index in groups[key].every})
    shipped = load_shipped()
    recipe = FineTuning(load_networks(shipped), frames, split, normalise, spec, torch.device(device))
    before = recipe.held_out()
    curve = fit(recipe, report, patience=PATIENCE, start_loss=before)
    after = curve.held_out[curve.steps.index(curve.best_step)] if curve.best_step else before
    notes = _loss_notes(before, after)
    for note in notes:
        report(TrainProgress("note", note=note))
    networks = recipe.network.cpu()
    calibrations = calibrate_cameras(networks, frames, groups, noises, spec, spec.patch, report, device)
    facts: dict[str, Any] = provenance(frames, split, spec, curve.facts())
    facts |= {
        "start": f"{SHIPPED} {shipped.digest}",
        "held_out": {"autoencoder": {"shipped": before, "trained": after}},
        "stopped": {"autoencoder": {"step": curve.steps[-1], "of": spec.steps, "kept": curve.best_step}},
        "augmentation": AUGMENTATION,
    }
    return Bundle(
        name=spec.name,
        method=spec.method,
        patch=spec.patch,
        normalisation="noise",
        architecture=shipped.architecture,
        weights={key: value.cpu().contiguous().numpy() for key, value in networks.state_dict().items()},
        calibrations={key: calibration.stored() for key, calibration in calibrations.items()},
        provenance=facts,
        notes=(*notes, *named_notes(notes_of(calibrations))),
    )


def _check(spec: TrainSpec) -> None:
    """Refuse a patch that this method cannot use, before any frame is read."""
    if spec.patch % 64:
        raise UsageError(
            f"the patch is {spec.patch} px",
            expected="64 px, or a multiple",
            consequence="Sub-patches and latent cells would not fit",
            remedy="take 64",
        )


def _union(groups: Mapping[tuple[str, str], ReferenceSplit]) -> Split:
    """Join the sets of all cameras and filters."""
    parts = [tuple(sorted(i for split in groups.values() for i in tuple(split)[k])) for k in range(3)]
    return Split(*parts)


def _loss_notes(before: float, after: float) -> tuple[str, ...]:
    """Write a note where the held-out loss did not decrease enough to be worth a training."""
    if before - after >= MIN_LOSS_DECREASE * abs(before):
        return ()
    return (
        "Training the autoencoder gained nothing over `aqdask calibrate`: its held-out loss is "
        f"{after:.4g}, that of the shipped model {before:.4g}.",
    )


class NoiseUnits:
    """Crops in units of their camera's noise, with ``q = b / sqrt V(S)`` of each (`crops.Normaliser`).

    Parameters
    ----------
    noises : mapping of int to CameraNoise
        By position of the frame.
    """

    facts = 1

    def __init__(self, noises: Mapping[int, CameraNoise]) -> None:
        self.noises = noises

    def __call__(self, pixels: np.ndarray, valid: np.ndarray, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        if not len(pixels):
            return np.empty(pixels.shape, np.float32), np.empty((0, 1), np.float32)
        noise = self.noises[index].noise
        counts = as_float(pixels, "cpu", noise.unit)
        mask = None if valid.all() else torch.from_numpy(valid)
        variance = clipped_variance(difference(counts, mask, noise.lag))
        sky = sky_level(counts, mask, variance)
        u = variance_stabilise(counts, sky, noise).float()
        if mask is not None:
            u = fill_invalid(u, mask)
        q = (noise.b / noise.variance(sky).sqrt()).float()
        return u.numpy(), q[:, None].numpy()


class FineTuning:
    """Training of the autoencoder on crops of the fit set (`training.loop.Recipe`).

    Parameters
    ----------
    networks : Networks
        Where the training begins.
    frames : FrameSource
    split : Split
        The held-out loss is that of its ``validation`` frames.
    normalise : NoiseUnits
    spec : TrainSpec
    device : torch.device
    """

    def __init__(
        self,
        networks: Networks,
        frames: FrameSource,
        split: Split,
        normalise: NoiseUnits,
        spec: TrainSpec,
        device: torch.device,
    ) -> None:
        self.spec, self.steps, self.device, self.distance = (
            spec,
            spec.steps,
            device,
            reconstruction_loss(spec.loss),
        )
        self.network = nn.utils.convert_conv2d_weight_memory_format(networks.to(device), torch.channels_last)
        self.reservoir = Reservoir(frames, split.train, spec, normalise)
        self.watched = held_out_crops(frames, split.validation, spec, HELD_OUT_CROPS, normalise)

    def batch(self, step: int) -> torch.Tensor:
        """Return crops ``(batch, P, P)`` in units of the noise, each on a random slope of the sky."""
        crops = self.reservoir.batch(step)
        generator = _generator(_GRADIENTS, self.spec.seed, step)
        return with_sky_gradient(
            torch.from_numpy(crops.values), torch.from_numpy(crops.facts[:, 0]), generator
        )

    def loss(self, step: int, batch: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction loss, 0-d."""
        return self._loss(self.network.train(), batch)

    def _loss(self, networks: nn.Module, u: torch.Tensor) -> torch.Tensor:
        v = compress(u.to(self.device))[:, None].contiguous(memory_format=torch.channels_last)
        return self.distance(networks.autoencoder(v), v)  # type: ignore[operator]

    def held_out(self) -> float:
        """Return the reconstruction loss of the held-out crops."""
        networks, values = self.network.eval(), torch.from_numpy(self.watched.values)
        with torch.no_grad(), exact_arithmetic():
            parts = values.split(self.spec.batch)
            return sum(self._loss(networks, part).item() * len(part) for part in parts) / len(values)

    def rate(self, step: int) -> float:
        """Return the learning rate: a warm-up, then half a cosine to zero."""
        return self.spec.learning_rate * cosine(step, self.steps, warm_up=WARM_UP)


def with_sky_gradient(u: torch.Tensor, q: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add a plane of up to `SKY_GRADIENT` at the edges to crops ``(n, P, P)`` in units of the noise.

    ``q = b / sqrt V(S)`` is ``(n,)``; both on the CPU.
    """
    along = torch.linspace(-1, 1, u.shape[-1])
    slope = SKY_GRADIENT * (2 * torch.rand(2, len(u), 1, 1, generator=generator) - 1)
    q = q[:, None, None]
    return relinear(linear(u, q) + slope[0] * along[:, None] + slope[1] * along, q)


def _generator(*words: int) -> torch.Generator:
    """Make a generator on the CPU for one purpose and step."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
