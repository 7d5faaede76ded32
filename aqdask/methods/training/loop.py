"""Optimiser loop of every training: steps, learning rate, loss curve, best weights.

AdamW at a rate that the recipe sets for each step; everything else that belongs to a method is in its
`Recipe`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from aqdask.errors import ModelError
from aqdask.methods.tensors import exact_arithmetic
from aqdask.methods.training.progress import Report, TrainProgress

CURVE_STEPS = 100  # steps between two points of the loss curve
REPORT_STEPS = 10


class Recipe(Protocol):
    """One training: network, data, loss and schedule.

    Attributes
    ----------
    network : nn.Module
        All weights, on the device, in the mode in which they are trained.
    steps : int
        Optimiser steps in all.
    """

    steps: int

    @property
    def network(self) -> nn.Module: ...

    def batch(self, step: int) -> Any:
        """Return the input of step number ``step`` (from 0); it follows from the seed and the step alone."""

    def loss(self, step: int, batch: Any) -> torch.Tensor:
        """Return the loss of a batch, 0-d, with a graph to the parameters."""

    def held_out(self) -> float:
        """Return the loss on held-out crops, finite; called without gradients."""

    def rate(self, step: int) -> float:
        """Return the learning rate of step number ``step``."""


@dataclass
class LossCurve:
    """Loss against optimiser steps, and the point whose weights the network holds at the end.

    Parameters
    ----------
    steps : list of int
    train, held_out : list of float
        Mean training loss since the point before, and the held-out loss.
    best_step : int
        Step after which the weights were taken; 0 are those from which the training began.
    """

    steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best_step: int = 0

    def facts(self) -> dict[str, list[float]]:
        """Return the curve as plain JSON, as a bundle records it."""
        return {"step": [*self.steps], "train": self.train, "held_out": self.held_out}


def fit(
    recipe: Recipe, report: Report, *, patience: int | None = None, start_loss: float = math.inf
) -> LossCurve:
    """Train the recipe's network in place.

    Parameters
    ----------
    recipe : Recipe
    report : callable
        Called with `TrainProgress`.
    patience : int, optional
        Stop where the held-out loss has not decreased for this many points of the curve, and keep the best
        weights, those of the start included; None: all steps, and the last weights.
    start_loss : float
        Held-out loss of the weights from which the training begins, with ``patience``.

    Raises
    ------
    ModelError
        If the loss is no longer finite.
    """
    with _reproducible(), exact_arithmetic():
        optimizer = torch.optim.AdamW(recipe.network.parameters(), lr=recipe.rate(0))
        curve, since = LossCurve(), list[float]()
        best, best_loss = copy.deepcopy(recipe.network.state_dict()), start_loss
        begun = time.monotonic()
        for step in range(recipe.steps):
            since.append(_learn(recipe, optimizer, step))
            done = step + 1
            if done == recipe.steps or done % CURVE_STEPS == 0:
                _extend(curve, recipe, done, since)
                if patience is not None and curve.held_out[-1] < best_loss:
                    best_loss, curve.best_step = curve.held_out[-1], done
                    best = copy.deepcopy(recipe.network.state_dict())
            last = done == recipe.steps or (patience is not None and _is_stale(curve.held_out, patience))
            if last or done % REPORT_STEPS == 0:
                report(_progress(curve, since, done, recipe.steps, time.monotonic() - begun))
            if last:
                break
        if patience is None:
            curve.best_step = done
        else:
            recipe.network.load_state_dict(best)
    return curve


@contextmanager
def _reproducible() -> Iterator[None]:
    """Deterministic algorithms inside; the caller's choice comes back on leaving."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def _learn(recipe: Recipe, optimizer: torch.optim.Optimizer, step: int) -> float:
    """Take one optimiser step and return its loss."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    optimizer.zero_grad(set_to_none=True)
    loss = recipe.loss(step, recipe.batch(step))
    value = loss.item()
    if not math.isfinite(value):
        raise ModelError(
            f"the loss is {value} at step {step}",
            expected="a finite number",
            consequence="The weights are lost, and no bundle was made",
            remedy=f"train again with a learning rate below {recipe.rate(0):g}",
        )
    loss.backward()
    optimizer.step()
    return value


def _extend(curve: LossCurve, recipe: Recipe, done: int, since: list[float]) -> None:
    """Add a point to the loss curve, and clear the losses since the one before."""
    with torch.no_grad():
        curve.held_out.append(recipe.held_out())
    curve.steps.append(done)
    curve.train.append(sum(since) / len(since))
    since.clear()


def _is_stale(losses: list[float], patience: int) -> bool:
    """Return True if the last ``patience`` losses are no better than those before."""
    earlier, latest = losses[:-patience], losses[-patience:]
    return bool(earlier) and min(latest) >= min(earlier)


def _progress(curve: LossCurve, since: list[float], done: int, total: int, seconds: float) -> TrainProgress:
    return TrainProgress(
        "train",
        done=done,
        total=total,
        loss=(since or curve.train)[-1],
        held_out=curve.held_out[-1] if curve.held_out else math.nan,
        seconds=seconds,
        eta_seconds=seconds / done * (total - done),
    )
