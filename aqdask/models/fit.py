"""The optimiser loop, whatever is learnt: steps, checkpoints, the curve of the loss, Ctrl-C.

AdamW with a rate that the recipe sets for each step; all else that belongs to a method is in its `Recipe`.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from aqdask.errors import ModelError
from aqdask.models import checkpoint as checkpoints
from aqdask.models.autoencoder import exact_arithmetic

CURVE_STEPS = 100  # steps between two points of the loss curve
REPORT_STEPS = 10


@dataclass(frozen=True)
class TrainProgress:
    """What a training tells while it runs.

    Parameters
    ----------
    stage : str
        'train' (``done`` of ``total`` steps), 'calibrate' (of frames) or 'note'.
    loss, held_out : float
        Loss of the last step, and the held-out one when last looked at; NaN before.
    seconds, eta_seconds : float
        Since the stage began, and to its end as far as can be told.
    note : str
        One sentence for the user, with the stage 'note'.
    """

    stage: str
    done: int = 0
    total: int = 0
    loss: float = math.nan
    held_out: float = math.nan
    seconds: float = 0.0
    eta_seconds: float = math.nan
    note: str = ""


Report = Callable[[TrainProgress], None]


class Recipe(Protocol):
    """What one training learns, and from what.

    Everything that changes from step to step is in ``network`` and in the optimiser; the rest follows from
    the step alone, or an interrupted training would end in other weights. Networks that are trained one after
    the other are parts of one module: a parameter without a gradient stays as it is.

    Attributes
    ----------
    network : nn.Module
        All weights, fresh from the seed, on the device, in the mode in which they are trained.
    steps : int
        Optimiser steps in all.
    digest : str
        Identity of the training: a checkpoint with another one is not continued from.
    """

    steps: int
    digest: str

    @property
    def network(self) -> nn.Module: ...

    def batch(self, step: int) -> Any:
        """What step number ``step`` (from 0) learns from; follows from the seed and the step alone."""

    def loss(self, step: int, batch: Any) -> torch.Tensor:
        """The loss of a batch, 0-d, with a graph to the parameters that the step trains."""

    def held_out(self, step: int) -> float:
        """The watched loss after ``step`` steps, finite; called without gradients."""

    def rate(self, step: int) -> float:
        """The learning rate of step number ``step``."""

    def after(self, step: int, curve: Mapping[str, Sequence[float]]) -> int:
        """The step to go on with at a new point of the curve: ``step``, or a later one to stop early."""


def fit(
    recipe: Recipe, report: Report, checkpoint: Path | None = None, checkpoint_seconds: float = 30.0
) -> dict[str, list[float]]:
    """Train the recipe's network, in place.

    Continues from ``checkpoint`` where that is of the same training, and saves there every
    ``checkpoint_seconds`` and at the end.

    Returns
    -------
    dict
        The loss curve: lists 'step', 'train' (mean since the point before) and 'held_out'.

    Raises
    ------
    ModelError
        If the loss is no longer finite.
    """
    with _reproducible(), exact_arithmetic():
        run = _Run(recipe, report, checkpoint, checkpoint_seconds)
        with _interrupts_between_steps() as interrupted:
            while run.state.step < recipe.steps:
                run.advance()
                if interrupted():
                    run.save()
                    raise KeyboardInterrupt
    return run.state.curve


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


@contextmanager
def _interrupts_between_steps() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until a step is whole, so that its state can be saved; a second one is not held back.

    Yields a function that says whether one came. Outside the main thread Python delivers none.
    """
    came: list[int] = []

    def hold(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        before = signal.signal(signal.SIGINT, hold)
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    """One training under way: everything that changes between two steps is in the recipe's network,
    ``optimizer`` and ``state``, and all of it is in the checkpoint."""

    def __init__(self, recipe: Recipe, report: Report, checkpoint: Path | None, seconds: float) -> None:
        self.recipe, self.report, self.checkpoint, self.seconds = recipe, report, checkpoint, seconds
        self.optimizer = torch.optim.AdamW(recipe.network.parameters(), lr=recipe.rate(0))
        self.state = checkpoints.Progress()
        if checkpoint is not None:
            self.state, note = checkpoints.restore(checkpoint, recipe.digest, recipe.network, self.optimizer)
            if note:
                report(TrainProgress("note", note=note))
        self.begun = self.saved = time.monotonic()
        self.first = self.state.step

    def advance(self) -> None:
        """One step, with what is due after it: a point of the curve, a checkpoint, a report."""
        self._learn()
        self.state.step += 1
        step, last = self.state.step, self.state.step == self.recipe.steps
        if last or step % CURVE_STEPS == 0:
            self._extend_curve()
            self.state.step = self.recipe.after(step, self.state.curve)
        last = self.state.step >= self.recipe.steps
        if last or time.monotonic() - self.saved >= self.seconds:
            self.save()
        if last or step % REPORT_STEPS == 0:
            self._tell()

    def save(self) -> None:
        """Write the checkpoint, where one is wanted."""
        if self.checkpoint is not None:
            network = self.recipe.network
            checkpoints.save(self.checkpoint, self.recipe.digest, self.state, network, self.optimizer)
            self.saved = time.monotonic()

    def _learn(self) -> None:
        """One optimiser step."""
        step = self.state.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.recipe.loss(step, self.recipe.batch(step))
        value = loss.item()
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} at step {step}",
                expected="a finite number",
                consequence="The weights are lost, and no bundle was made",
                remedy=f"train again with a learning rate below {self.recipe.rate(0):g}",
            )
        loss.backward()
        self.optimizer.step()
        self.state.since.append(value)

    def _extend_curve(self) -> None:
        """Add a point to the loss curve."""
        with torch.no_grad():
            held_out = self.recipe.held_out(self.state.step)
        curve = self.state.curve
        curve["step"].append(self.state.step)
        curve["train"].append(sum(self.state.since) / len(self.state.since))
        curve["held_out"].append(held_out)
        self.state.since.clear()

    def _tell(self) -> None:
        """Report where the training is; the rate is that of this run, not of the one it continues."""
        step, curve = self.state.step, self.state.curve
        seconds = time.monotonic() - self.begun
        losses = self.state.since or curve["train"]
        self.report(
            TrainProgress(
                "train",
                done=step,
                total=self.recipe.steps,
                loss=losses[-1],
                held_out=curve["held_out"][-1] if curve["held_out"] else math.nan,
                seconds=seconds,
                eta_seconds=seconds / (step - self.first) * (self.recipe.steps - step),
            )
        )
