"""The optimiser loop of the published method: mean squared error on crops of good frames.

From the paper (Jia et al. 2024, arXiv 2405.03408): an autoencoder fitted with the mean squared error. Ours:
AdamW whose rate falls along half a cosine, random crops, dihedral flips, a watch on held-out frames.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from aqdask.errors import ModelError
from aqdask.models import checkpoint as checkpoints
from aqdask.models.autoencoder import ConvAutoencoder, exact_arithmetic, seeded_autoencoder
from aqdask.models.crops import FrameSource, held_out_crops, steps_per_pass, training_crops
from aqdask.models.settings import TrainSpec

CURVE_STEPS = 100  # steps between two points of the loss curve
HELD_OUT_CROPS = 512
REPORT_STEPS = 10


@dataclass(frozen=True)
class TrainProgress:
    """What a training tells while it runs.

    Parameters
    ----------
    stage : str
        'train' (``done`` of ``total`` steps), 'calibrate' (of frames) or 'note'.
    loss, held_out : float
        Mean squared error of the last step, and of the held-out crops when last looked at; NaN before.
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


def fit(
    frames: FrameSource,
    members: Sequence[int],
    watched: Sequence[int],
    spec: TrainSpec,
    report: Report,
    checkpoint: Path | None,
    device: torch.device,
) -> tuple[ConvAutoencoder, dict[str, list[float]]]:
    """Fit a fresh network on the frames ``members`` and watch the loss on ``watched``.

    Continues from ``checkpoint`` where that is of the same training, and saves there.

    Returns
    -------
    network, curve
        ``curve`` has the lists 'step', 'train' (mean since the point before) and 'held_out'.

    Raises
    ------
    ModelError
        If the loss is no longer finite.
    """
    with _reproducible(), exact_arithmetic():
        run = _Run(frames, members, watched, spec, report, checkpoint, device)
        with _interrupts_between_steps() as interrupted:
            while run.state.step < spec.steps:
                run.advance()
                if interrupted():
                    run.save()
                    raise KeyboardInterrupt
    return run.network, run.state.curve


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
    """One training under way: everything that changes between two steps is in ``network``, ``optimizer``
    and ``state``, and all of it is in the checkpoint."""

    def __init__(
        self,
        frames: FrameSource,
        members: Sequence[int],
        watched: Sequence[int],
        spec: TrainSpec,
        report: Report,
        checkpoint: Path | None,
        device: torch.device,
    ) -> None:
        self.frames, self.members, self.spec, self.report = frames, members, spec, report
        self.checkpoint, self.device = checkpoint, device
        network = seeded_autoencoder(spec.seed).to(device)
        self.network = torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=spec.learning_rate)
        self.state = checkpoints.Progress()
        self.digest = checkpoints.settings_digest(spec, frames.ids, device)
        if checkpoint is not None:
            self.state, note = checkpoints.restore(checkpoint, self.digest, self.network, self.optimizer)
            if note:
                report(TrainProgress("note", note=note))
        self.held_out = held_out_crops(frames, watched, spec, HELD_OUT_CROPS)
        self.crops, self.loaded = np.empty(0, dtype=np.float32), -1
        self.begun = self.saved = time.monotonic()
        self.first = self.state.step

    def advance(self) -> None:
        """One step, with what is due after it: a point of the curve, a checkpoint, a report."""
        self._learn(self._batch())
        self.state.step += 1
        step, last = self.state.step, self.state.step == self.spec.steps
        if last or step % CURVE_STEPS == 0:
            self._extend_curve()
        if self.checkpoint is not None and (
            last or time.monotonic() - self.saved >= self.spec.checkpoint_seconds
        ):
            self.save()
        if last or step % REPORT_STEPS == 0:
            self._tell()

    def save(self) -> None:
        """Write the checkpoint, where one is wanted."""
        if self.checkpoint is not None:
            checkpoints.save(self.checkpoint, self.digest, self.state, self.network, self.optimizer)
            self.saved = time.monotonic()

    def _batch(self) -> torch.Tensor:
        """The crops of the present step, ``(batch, P, P)``; the reservoir is filled when a pass begins."""
        number, place = divmod(self.state.step, steps_per_pass(self.spec))
        if number != self.loaded:
            self.crops = np.empty(0, dtype=np.float32)  # else two reservoirs would be in memory at once
            self.crops, self.loaded = training_crops(self.frames, self.members, self.spec, number), number
        size = self.spec.batch
        return torch.from_numpy(self.crops[place * size : (place + 1) * size])

    def _squared_error(self, crops: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the reconstruction, a 0-d tensor."""
        inputs = crops.to(self.device)[:, None].contiguous(memory_format=torch.channels_last)
        return torch.nn.functional.mse_loss(self.network(inputs), inputs)

    def _learn(self, crops: torch.Tensor) -> None:
        """One optimiser step."""
        fraction = self.state.step / self.spec.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._squared_error(crops)
        if not math.isfinite(loss.item()):
            raise ModelError(
                f"the loss is {loss.item()} at step {self.state.step}",
                expected="a finite mean squared error",
                consequence="The weights are lost, and no bundle was made",
                remedy=f"train again with a learning rate below {self.spec.learning_rate:g}",
            )
        loss.backward()
        self.optimizer.step()
        self.state.since.append(loss.item())

    def _extend_curve(self) -> None:
        """Add a point to the loss curve."""
        with torch.inference_mode():
            parts = torch.from_numpy(self.held_out).split(self.spec.batch)
            held_out = sum(self._squared_error(part).item() * len(part) for part in parts)
        curve = self.state.curve
        curve["step"].append(self.state.step)
        curve["train"].append(sum(self.state.since) / len(self.state.since))
        curve["held_out"].append(held_out / len(self.held_out))
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
                total=self.spec.steps,
                loss=losses[-1],
                held_out=curve["held_out"][-1] if curve["held_out"] else math.nan,
                seconds=seconds,
                eta_seconds=seconds / (step - self.first) * (self.spec.steps - step),
            )
        )
