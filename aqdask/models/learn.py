"""How ``method="aqdask"`` is trained: first the autoencoder, then the head on what it has denoised."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aqdask.errors import UsageError
from aqdask.models import fit, losses
from aqdask.models.adapt import calibrate, learn_cameras, named_notes, notes_of
from aqdask.models.aqdask import networks_of
from aqdask.models.autoencoder import exact_arithmetic
from aqdask.models.bundle import Bundle
from aqdask.models.checkpoint import settings_digest
from aqdask.models.crops import Crops, FrameSource, held_out_crops, steps_per_pass, training_crops
from aqdask.models.distort import TILT, tilted
from aqdask.models.fit import Report, TrainProgress
from aqdask.models.forecast import Forecast, patches_of
from aqdask.models.kept import Kept
from aqdask.models.measurer import Measurer
from aqdask.models.networks import Networks
from aqdask.models.sets import Sets, split_groups
from aqdask.models.settings import TrainSpec
from aqdask.models.shipped import SCRATCH, SHIPPED, load_shipped
from aqdask.models.stabilised import Stabilise
from aqdask.models.train import Split, provenance

AUTOENCODER_SHARE = 0.4  # of the steps from scratch; the head learns from what the autoencoder then gives
HEAD_RATE = 4.0  # times the autoencoder's learning rate
WARM_UP = 50  # steps in which the rate rises from zero
HELD_OUT_CROPS = 256
PATIENCE = 5  # points of the curve without a better held-out loss, after which a phase ends
LEAST_GAIN = 1e-3  # of the loss that counts as better
_DISTORTIONS, _WATCHED, _TILTS = 11, 12, 13  # first words of generators' seeds
AUGMENTATION = ["crops", "flips", "rotations", f"background of up to {TILT:g} sigma"]
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
    normalise = Stabilise(frames, {index: cameras[key] for key in groups for index in groups[key].every})
    recipe = AqdaskRecipe(frames, split, normalise, spec, device)
    forecast = Forecast(report, recipe, patches_of(groups, cameras, spec.patch))
    curve = fit.fit(recipe, forecast, checkpoint, spec.checkpoint_seconds)
    networks, gained = recipe.network.now, recipe.gained(curve)
    for note in (notes := _without_gain(gained)):
        report(TrainProgress("note", note=note))
    measurer = Measurer(networks, ARCHITECTURE["latent"], device)
    known = calibrate(measurer, frames, groups, cameras, spec, spec.patch, report)
    facts = provenance(frames, split, spec, curve)
    return Bundle(
        name=spec.name,
        method=spec.method,
        patch=spec.patch,
        normalisation="noise",
        architecture={"network": "Networks", **ARCHITECTURE},
        weights={key: value.cpu().contiguous().numpy() for key, value in networks.state_dict().items()},
        calibrations={key: knowledge.calibration() for key, knowledge in known.items()},
        provenance=facts
        | {"stopped": recipe.stopped(curve), "held_out": gained, "start": recipe.start}
        | {"augmentation": AUGMENTATION},
        notes=(*notes, *named_notes(notes_of(known))),
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


def _without_gain(losses_: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence for each network that is no better than the shipped one on the held-out crops."""
    return [
        f"Training the {name} gained nothing over `aqdask calibrate`: its held-out loss is "
        f"{one['trained']:.4g}, that of the shipped model {one['shipped']:.4g}."
        for name, one in losses_.items()
        if one["shipped"] - one["trained"] < LEAST_GAIN * abs(one["shipped"])
    ]


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
        self.normalise, self.steps, self.batch_size = normalise, spec.steps, spec.batch
        self.turn = _turn(spec)
        bundle = load_shipped()
        self.digest = settings_digest(spec, frames.ids, device, bundle.digest)
        self.start = SCRATCH if spec.start == SCRATCH else f"{SHIPPED} {bundle.digest}"
        self.watched = held_out_crops(frames, split.validation, spec, HELD_OUT_CROPS, normalise)
        shipped = _on(device, networks_of(bundle)[0])
        with torch.no_grad(), exact_arithmetic():
            self.shipped = {name: self._watched_loss(shipped, end - 1) for name, end in self.phases.items()}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(spec.seed)
            scratch = _on(device, Networks(**ARCHITECTURE))
        # Training may not leave the shipped weights for worse ones; random ones are not worth keeping.
        first = self.shipped["autoencoder"]
        self.network = Kept(scratch, math.inf) if spec.start == SCRATCH else Kept(shipped, first)
        self.crops, self.loaded = Crops(np.empty(0), np.empty(0)), -1
        self.loads: list[float] = []  # seconds of each filling of the reservoir, for `Forecast`

    @property
    def phases(self) -> dict[str, int]:
        """The step at which the training of each network ends."""
        return {"autoencoder": self.turn} | ({"head": self.steps} if self.turn < self.steps else {})

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops ``(batch, P, P)`` and their facts ``(batch, 2)``; the reservoir is filled once a pass."""
        number, place = divmod(step, steps_per_pass(self.spec))
        if number != self.loaded:
            self.crops = Crops(np.empty(0), np.empty(0))  # else two reservoirs would be in memory at once
            begun = time.monotonic()
            self.crops = training_crops(self.frames, self.members, self.spec, number, self.normalise)
            self.loaded = number
            self.loads.append(time.monotonic() - begun)
        part = slice(place * self.spec.batch, (place + 1) * self.spec.batch)
        return torch.from_numpy(self.crops.values[part]), torch.from_numpy(self.crops.facts[part])

    def loads_left(self, step: int) -> int:
        """How often the reservoir is still filled after ``step`` steps."""
        return (self.steps - 1) // steps_per_pass(self.spec) - max(step - 1, 0) // steps_per_pass(self.spec)

    def loss(self, step: int, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The reconstruction's loss in the first phase, the head's in the second; 0-d."""
        u, facts = batch
        if step < self.turn:  # what it helps: the held-out loss of the autoencoder (benchmarks/README.md)
            u = tilted(u, facts[:, 0], _seeded(_TILTS, self.spec.seed, step))
        return self._loss(
            self.network.now.train(), step, (u, facts), _seeded(_DISTORTIONS, self.spec.seed, step)
        )

    def _loss(
        self,
        networks: Networks,
        step: int,
        batch: tuple[torch.Tensor, torch.Tensor],
        generator: torch.Generator,
    ) -> torch.Tensor:
        u, facts = batch[0].to(self.device), batch[1].to(self.device)
        if step < self.turn:
            return losses.reconstruction(networks, u)
        known = facts[:, 1].isfinite()
        if not bool(known.any()):  # no stars in any frame: nothing to learn a shape from
            return sum(p.sum() for p in networks.head.parameters()) * 0.0  # type: ignore[return-value]
        return losses.shapes(networks, u[known], facts[known, 0], facts[known, 1], generator)

    def held_out(self, step: int) -> float:
        """The same loss on `HELD_OUT_CROPS` crops of the watched frames, the same throughout a phase."""
        return self._watched_loss(self.network.now, step - 1)

    def _watched_loss(self, networks: Networks, step: int) -> float:
        """The held-out loss of any networks, in the phase of step number ``step``."""
        networks.eval()
        total = 0.0
        size = self.spec.batch
        for first in range(0, len(self.watched.values), size):
            part = [
                torch.from_numpy(a[first : first + size]) for a in (self.watched.values, self.watched.facts)
            ]
            generator = _seeded(_WATCHED, self.spec.seed, first)
            total += self._loss(networks, step, (part[0], part[1]), generator).item() * len(part[0])
        return total / len(self.watched.values)

    def rate(self, step: int) -> float:
        """Warm-up, then half a cosine to zero, in each phase."""
        head = step >= self.turn
        first, length = (self.turn, self.steps - self.turn) if head else (0, self.turn)
        rise = min(1.0, (step - first + 1) / WARM_UP)
        fall = 0.5 * (1 + math.cos(math.pi * (step - first) / length))
        return self.spec.learning_rate * (HEAD_RATE if head else 1.0) * rise * fall

    def after(self, step: int, curve: Mapping[str, Sequence[float]]) -> int:
        """The end of the phase where the held-out loss has not fallen for `PATIENCE` points.

        A phase ends with the weights of its best point.
        """
        end = self.turn if step <= self.turn else self.steps
        losses_ = self._phase(curve, end)
        self.network.keep(losses_[-1])
        best = min(range(len(losses_)), key=losses_.__getitem__)
        earlier = losses_[: -PATIENCE or None]
        stale = len(losses_) > PATIENCE and best < len(losses_) - PATIENCE
        gained = stale and min(losses_[-PATIENCE:]) < min(earlier) - LEAST_GAIN * abs(min(earlier))
        following = end if stale and not gained else step
        if following == end:
            self.network.go_back()
        return following

    def _phase(self, curve: Mapping[str, Sequence[float]], end: int) -> list[float]:
        """Held-out losses of the phase that ends at ``end``."""
        begin = 0 if end == self.turn else self.turn
        steps = curve["step"]
        return [v for s, v in zip(steps, curve["held_out"], strict=True) if begin < s <= end]

    def stopped(self, curve: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
        """By phase: the last step and its held-out loss, the best on the way, and whose weights were kept."""
        found: dict[str, dict[str, float]] = {}
        for name, end in self.phases.items():
            if values := self._phase(curve, end):
                steps = [step for step in curve["step"] if step <= end][-len(values) :]
                best = min(values)
                unmoved = self.spec.start != SCRATCH and best >= self.shipped[name]
                kept = 0 if unmoved else steps[values.index(best)]
                found[name] = {
                    "step": steps[-1], "of": end, "held_out": values[-1], "best": best, "kept": kept
                }  # fmt: skip
        return found

    def gained(self, curve: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
        """Held-out loss of each network as shipped (as `aqdask calibrate` takes it) and as it was kept."""
        found = {}
        for name, one in self.stopped(curve).items():
            trained = one["best"] if one["kept"] else self.shipped[name]
            found[name] = {"shipped": self.shipped[name], "trained": trained}
        return found


def _turn(spec: TrainSpec) -> int:
    """The head's first step, a point of the curve where there are several; none after a shipped head.

    A shipped head has learnt from true shapes, which no reference frame shows.
    """
    if spec.start != SCRATCH:
        return spec.steps
    share, unit = AUTOENCODER_SHARE * spec.steps, fit.CURVE_STEPS if spec.steps > fit.CURVE_STEPS else 1
    return unit * max(1, round(share / unit))


def _on(device: torch.device, networks: Networks) -> Networks:
    """Networks on the device, in the memory layout in which they are quick."""
    return nn.utils.convert_conv2d_weight_memory_format(networks.to(device), torch.channels_last)


def _seeded(*words: int) -> torch.Generator:
    """A generator on the CPU for one purpose and step."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
