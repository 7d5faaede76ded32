"""Training of the autoencoder on reference frames, followed by the calibration.

The PSF head keeps its weights: it was trained on true shapes, which no reference frame shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource
from aqdask.methods.bundle import Bundle
from aqdask.methods.noise_aware.calibrate import calibrate_cameras, camera_noises, named_notes, notes_of
from aqdask.methods.noise_aware.camera_noise import CameraNoise
from aqdask.methods.noise_aware.feature_extractor import fill_invalid
from aqdask.methods.noise_aware.networks import (
    FOLD,
    PLAIN,
    Networks,
    architecture_of,
    fresh_networks,
    load_networks,
)
from aqdask.methods.noise_aware.noise_model import (
    KNEE,
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
from aqdask.methods.tensors import as_float
from aqdask.methods.training.loop import fit
from aqdask.methods.training.loss_functions import Inputs, ReconstructionLoss
from aqdask.methods.training.options import AUGMENTATIONS
from aqdask.methods.training.progress import Report, TrainProgress
from aqdask.methods.training.provenance import provenance
from aqdask.methods.training.recipe import AutoencoderTraining
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import Split

HELD_OUT_CROPS = 256
PATIENCE = 5  # points of the loss curve without a decrease, after which the training stops
GENERIC = "Skip connections are scored by a generic path, without the kernels of the other architectures."
MIN_LOSS_DECREASE = 1e-3  # of the held-out loss: a smaller decrease is worth no training


def train_noise_aware(
    frames: FrameSource, spec: TrainSpec, report: Report, device: str | torch.device
) -> Bundle:
    """Train the autoencoder and calibrate; parameters and errors as `aqdask.methods.dispatch.train`.

    Training begins with the shipped weights, and with random ones where ``spec.network`` is another network.

    Raises
    ------
    UsageError
        Also for a patch that is no multiple of 64 px, frames without noise, inconsistent references, and too
        few of them for ``spec.alpha``.
    """
    _check(spec)
    target = torch.device(device)
    loss = ReconstructionLoss(spec.loss, Inputs(KNEE, lambda values, like: values, spec.seed, target))
    groups = split_groups(frames, spec)
    split = _union(groups)
    noises = camera_noises(frames, groups, spec.patch, spec.alpha, report)
    normalise = NoiseUnits({index: noises[key] for key in groups for index in groups[key].every})
    shipped = load_shipped()

    def recipe_for(networks: Networks) -> FineTuning:
        given = frames, split, normalise, spec, loss, target, HELD_OUT_CROPS
        return FineTuning(networks, networks.autoencoder, *given)

    networks = load_networks(shipped, spec.dropout)
    recipe = recipe_for(networks)
    before = recipe.held_out()
    fresh = spec.network != PLAIN
    if fresh:
        networks = fresh_networks(shipped, spec.network, spec.dropout, spec.seed)
        recipe = recipe_for(networks)
    curve = fit(recipe, report, patience=PATIENCE, start_loss=math.inf if fresh else before)
    after = curve.held_out[curve.steps.index(curve.best_step)] if curve.best_step else before
    notes = (*_loss_notes(before, after), *([GENERIC] if spec.architecture == "skip" else []))
    for note in notes:
        report(TrainProgress("note", note=note))
    networks.cpu()
    calibrations = calibrate_cameras(networks, frames, groups, noises, spec, spec.patch, report, device)
    facts: dict[str, Any] = provenance(frames, split, spec, curve.facts())
    facts |= {
        "start": f"{'head of ' if fresh else ''}{SHIPPED} {shipped.digest}",
        "held_out": {"autoencoder": {"shipped": before, "trained": after}},
        "stopped": {"autoencoder": {"step": curve.steps[-1], "of": spec.steps, "kept": curve.best_step}},
        "augmentation": ["crops", *(AUGMENTATIONS[name] for name in spec.augmentations)],
    }
    return Bundle(
        name=spec.name,
        method=spec.method,
        patch=spec.patch,
        normalisation="noise",
        architecture=architecture_of(shipped, spec.network) if fresh else shipped.architecture,
        weights={key: value.cpu().contiguous().numpy() for key, value in networks.state_dict().items()},
        calibrations={key: calibration.stored() for key, calibration in calibrations.items()},
        provenance=facts,
        notes=(*notes, *named_notes(notes_of(calibrations))),
    )


def _check(spec: TrainSpec) -> None:
    """Refuse a patch that this method cannot use, before any frame is read."""
    multiple = max(64, FOLD * 2**spec.depth)
    if spec.patch % multiple:
        raise UsageError(
            f"the patch is {spec.patch} px",
            expected=f"{multiple} px, or a multiple",
            consequence="Sub-patches and latent cells would not fit",
            remedy=f"take {multiple}",
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


class FineTuning(AutoencoderTraining):
    """Training of the autoencoder on crops in units of the noise."""

    def to_light(self, values: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Invert the variance stabilisation, in units of the noise of the sky."""
        return linear(values, facts[:, :, None])

    def from_light(self, light: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Stabilise the variance."""
        return relinear(light, facts[:, :, None])

    def prepare(self, values: torch.Tensor) -> torch.Tensor:
        """Compress the signal."""
        return compress(values)
