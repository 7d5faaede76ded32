"""How ``method="aqdask"`` is trained: first the autoencoder, then the head on what it has denoised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.kernels.noise import clipped_variance, difference, sky_level, stabilise
from aqdask.kernels.normalise import as_float
from aqdask.models import losses
from aqdask.models.adapt import all_of, calibrate, learn_cameras, split_groups
from aqdask.models.aqdask import networks_of
from aqdask.models.bundle import POOLED, Bundle
from aqdask.models.calibrate import Sets
from aqdask.models.checkpoint import settings_digest
from aqdask.models.crops import Crops, FrameSource, held_out_crops, steps_per_pass, training_crops
from aqdask.models.fit import Report, fit
from aqdask.models.measurer import Measurer, fill
from aqdask.models.networks import Networks
from aqdask.models.references import CameraNoise, star_sigma
from aqdask.models.settings import TrainSpec
from aqdask.models.shipped import SCRATCH, SHIPPED, load_shipped
from aqdask.models.train import Split, provenance

AUTOENCODER_SHARE = 0.4  # of the steps from scratch; the head learns from what the autoencoder then gives
HEAD_RATE = 4.0  # times the autoencoder's learning rate
WARM_UP = 50  # steps in which the rate rises from zero
HELD_OUT_CROPS = 256
PATIENCE = 5  # points of the curve without a better held-out loss, after which a phase ends
LEAST_GAIN = 1e-3  # of the loss that counts as better
_DISTORTIONS, _WATCHED = 11, 12  # first words of generators' seeds
ARCHITECTURE = {"width": 16, "inner": 64, "latent": 3}


def train_aqdask(
    frames: FrameSource, spec: TrainSpec, report: Report, checkpoint: Path | None, device: torch.device
) -> Bundle:
    """Train both networks and calibrate; parameters and errors as `aqdask.models.train.train`.

    Raises `UsageError` also for a patch that is no multiple of 64 px, frames without noise, references that
    disagree, and too few of them for ``spec.alpha``.
    """
    _check(spec)
    groups = split_groups(frames, spec)
    split = _union(groups)
    cameras = learn_cameras(frames, groups, spec.patch, spec.alpha)
    normalise = Stabilise(frames, {index: cameras[key] for key in groups for index in all_of(groups[key])})
    recipe = AqdaskRecipe(frames, split, normalise, spec, device)
    curve = fit(recipe, report, checkpoint, spec.checkpoint_seconds)
    measurer = Measurer(recipe.network, ARCHITECTURE["latent"], device)
    known = calibrate(measurer, frames, groups, cameras, spec, spec.patch, report)
    facts = provenance(frames, split, spec, curve)
    return Bundle(
        name=spec.name,
        method=spec.method,
        patch=spec.patch,
        normalisation="noise",
        architecture={"network": "Networks", **ARCHITECTURE},
        weights={key: value.cpu().contiguous().numpy() for key, value in recipe.network.state_dict().items()},
        calibrations={key: knowledge.calibration() for key, knowledge in known.items()},
        provenance=facts | {"stopped": recipe.stopped(curve), "start": recipe.start},
        notes=tuple(known[POOLED].facts["notes"]),
    )


def _check(spec: TrainSpec) -> None:
    """Refuse what this method cannot do, before any frame is read."""
    if spec.patch % 64:
        raise UsageError(
            f"the patch is {spec.patch} px",
            expected="64 px, or a multiple",
            consequence="Sub-patches and latent cells would not fit",
            remedy="take 64",
        )


def _union(groups: Mapping[tuple[str, str], Sets]) -> Split:
    """The sets of all groups together."""
    parts = [tuple(sorted(i for sets in groups.values() for i in tuple(sets)[k])) for k in range(3)]
    return Split(*parts)


class Stabilise:
    """Crops in units of their camera's noise, with what the head needs to know of each (`crops.Normalise`).

    Facts are ``q = b / sqrt V(S)`` and the Gaussian sigma of the frame's stars in pixels, NaN where unknown.

    Parameters
    ----------
    frames : FrameSource
    cameras : mapping of int to CameraNoise
        By position of the frame.
    """

    facts = 2

    def __init__(self, frames: FrameSource, cameras: Mapping[int, CameraNoise]) -> None:
        self.frames, self.cameras = frames, cameras
        self.sigmas: dict[int, float] = {}

    def __call__(self, pixels: np.ndarray, valid: np.ndarray, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        if index not in self.sigmas:
            self.sigmas[index] = star_sigma(*self.frames.read(index))
        if not len(pixels):
            return np.empty(pixels.shape, np.float32), np.empty((0, 2), np.float32)
        noise = self.cameras[index].noise
        counts = as_float(pixels, "cpu")
        mask = None if valid.all() else torch.from_numpy(valid)
        variance = clipped_variance(difference(counts, mask, noise.lag))
        sky = sky_level(counts, mask, variance)
        u = stabilise(counts, sky, noise).float()
        if mask is not None:
            u = fill(u, mask)
        q = (noise.b / noise.variance(sky).sqrt()).float()
        sigma = torch.full_like(q, self.sigmas[index])
        return u.numpy(), torch.stack([q, sigma], dim=1).numpy()


class AqdaskRecipe:
    """Both networks, one after the other, on crops of the fit set (see `fit.Recipe`).

    Parameters
    ----------
    frames : FrameSource
    split : Split
        The held-out loss is watched on its ``validation`` frames.
    normalise : Stabilise
    spec : TrainSpec
    device : torch.device
    """

    def __init__(
        self, frames: FrameSource, split: Split, normalise: Stabilise, spec: TrainSpec, device: torch.device
    ) -> None:
        self.frames, self.members, self.spec, self.device = frames, split.train, spec, device
        self.normalise, self.steps = normalise, spec.steps
        # The head's first step; a shipped head has learnt from true shapes, which no reference frame shows.
        self.turn = max(1, round(AUTOENCODER_SHARE * spec.steps)) if spec.start == SCRATCH else spec.steps
        self.digest = settings_digest(spec, frames.ids, device)
        self.start = SCRATCH if spec.start == SCRATCH else f"{SHIPPED} {load_shipped().digest}"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(spec.seed)
            network = Networks(**ARCHITECTURE) if spec.start == SCRATCH else networks_of(load_shipped())[0]
        self.network = torch.nn.utils.convert_conv2d_weight_memory_format(
            network.to(device), torch.channels_last
        )
        self.watched = held_out_crops(frames, split.validation, spec, HELD_OUT_CROPS, normalise)
        self.crops, self.loaded = Crops(np.empty(0), np.empty(0)), -1

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops ``(batch, P, P)`` and their facts ``(batch, 2)``; the reservoir is filled once a pass."""
        number, place = divmod(step, steps_per_pass(self.spec))
        if number != self.loaded:
            self.crops = Crops(np.empty(0), np.empty(0))  # else two reservoirs would be in memory at once
            self.crops = training_crops(self.frames, self.members, self.spec, number, self.normalise)
            self.loaded = number
        part = slice(place * self.spec.batch, (place + 1) * self.spec.batch)
        return torch.from_numpy(self.crops.values[part]), torch.from_numpy(self.crops.facts[part])

    def loss(self, step: int, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The reconstruction's loss in the first phase, the head's in the second; 0-d."""
        self.network.train()
        return self._loss(step, batch, _seeded(_DISTORTIONS, self.spec.seed, step))

    def _loss(
        self, step: int, batch: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        u, facts = batch[0].to(self.device), batch[1].to(self.device)
        if step < self.turn:
            return losses.reconstruction(self.network, u)
        known = facts[:, 1].isfinite()
        if not bool(known.any()):  # no stars in any frame: nothing to learn a shape from
            return sum(p.sum() for p in self.network.head.parameters()) * 0.0  # type: ignore[return-value]
        return losses.shapes(self.network, u[known], facts[known, 0], facts[known, 1], generator)

    def held_out(self, step: int) -> float:
        """The same loss on `HELD_OUT_CROPS` crops of the watched frames, the same throughout a phase."""
        self.network.eval()
        total = 0.0
        size = self.spec.batch
        for first in range(0, len(self.watched.values), size):
            part = [
                torch.from_numpy(a[first : first + size]) for a in (self.watched.values, self.watched.facts)
            ]
            generator = _seeded(_WATCHED, self.spec.seed, first)
            total += self._loss(step - 1, (part[0], part[1]), generator).item() * len(part[0])
        return total / len(self.watched.values)

    def rate(self, step: int) -> float:
        """Warm-up, then half a cosine to zero, in each phase."""
        head = step >= self.turn
        first, length = (self.turn, self.steps - self.turn) if head else (0, self.turn)
        rise = min(1.0, (step - first + 1) / WARM_UP)
        fall = 0.5 * (1 + math.cos(math.pi * (step - first) / length))
        return self.spec.learning_rate * (HEAD_RATE if head else 1.0) * rise * fall

    def after(self, step: int, curve: Mapping[str, Sequence[float]]) -> int:
        """The end of the phase where the held-out loss has not fallen for `PATIENCE` points."""
        end = self.turn if step <= self.turn else self.steps
        losses_ = self._phase(curve, end)
        best = min(range(len(losses_)), key=losses_.__getitem__)
        earlier = losses_[: -PATIENCE or None]
        stale = len(losses_) > PATIENCE and best < len(losses_) - PATIENCE
        gained = stale and min(losses_[-PATIENCE:]) < min(earlier) - LEAST_GAIN * abs(min(earlier))
        return end if stale and not gained else step

    def _phase(self, curve: Mapping[str, Sequence[float]], end: int) -> list[float]:
        """Held-out losses of the phase that ends at ``end``."""
        begin = 0 if end == self.turn else self.turn
        steps = curve["step"]
        return [v for s, v in zip(steps, curve["held_out"], strict=True) if begin < s <= end]

    def stopped(self, curve: Mapping[str, Sequence[float]]) -> dict[str, object]:
        """By phase: the last step and its held-out loss, beside the best on the way."""
        found: dict[str, object] = {}
        phases = {"autoencoder": self.turn} | ({"head": self.steps} if self.turn < self.steps else {})
        for name, end in phases.items():
            values = self._phase(curve, end)
            if values:
                last = max(s for s in curve["step"] if s <= end)
                found[name] = {"step": last, "of": end, "held_out": values[-1], "best": min(values)}
        return found


def _seeded(*words: int) -> torch.Generator:
    """A generator on the CPU for one purpose and step."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
