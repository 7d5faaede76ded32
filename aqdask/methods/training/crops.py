"""Normalised random crops of reference frames, in bounded memory at any number of frames.

Stateless: crops follow from the seed and the number of the pass alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource
from aqdask.methods.training.augmentation import orientations
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import MIN_VALID
from aqdask.stats.patches import gather

RESERVOIR_BYTES = 128 * 2**20  # of crops held at a time; 128 batches of 64 at 64 px
FRAMES_PER_PASS = 16  # frames read to fill the reservoir once
_GROUP = 256  # crops drawn and normalised at a time
_ATTEMPTS = 4  # times as many are drawn before a frame with few valid pixels gives fewer

# First word of every generator's seed, so that no two uses share a stream.
_ORDER, _CROPS, _HELD_OUT = 0, 1, 2


@dataclass(frozen=True)
class Crops:
    """Normalised crops: ``values`` float32 ``(n, P, P)`` and ``facts`` float32 ``(n, e)`` about each."""

    values: np.ndarray
    facts: np.ndarray


class Normaliser(Protocol):
    """Conversion of crops of one frame to the input of a network.

    Attributes
    ----------
    facts : int
        Number e of scalars that it gives with each crop.
    """

    facts: int

    def __call__(self, pixels: np.ndarray, valid: np.ndarray, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Normalise pixels ``(m, P, P)`` of frame ``index``: float32 ``(m, P, P)`` and scalars ``(m, e)``."""


def steps_per_pass(spec: TrainSpec) -> int:
    """Return the number of batches that one filling of the reservoir lasts."""
    return max(1, RESERVOIR_BYTES // (4 * spec.patch**2 * spec.batch))


def training_crops(
    frames: FrameSource, members: Sequence[int], spec: TrainSpec, number: int, normalise: Normaliser
) -> Crops:
    """Draw the crops of pass ``number``, shuffled, each turned and mirrored as ``spec.augment`` says.

    Returns
    -------
    Crops
        n = batch x the steps of the pass; each frame of the pass gives an equal share. With more frames
        than `FRAMES_PER_PASS`, passes walk through all of them in an order shuffled anew each round.

    Raises
    ------
    UsageError
        If no crop has enough valid pixels.
    """
    steps = min(steps_per_pass(spec), spec.steps - number * steps_per_pass(spec))
    share = min(len(members), FRAMES_PER_PASS)
    chosen = [members[_walk(len(members), spec.seed, number * share + k)] for k in range(share)]
    generator = np.random.default_rng([_CROPS, spec.seed, number])
    crops = _draw(frames, chosen, steps * spec.batch, spec.patch, generator, normalise)
    turns = generator.integers(0, 8, len(crops.values))
    orient(crops.values, orientations(turns, spec.augmentations))
    state = generator.bit_generator.state
    for array in (crops.values, crops.facts):  # in place: a permuted copy would double the reservoir
        generator.bit_generator.state = state
        generator.shuffle(array)
    return crops


def orient(values: np.ndarray, turns: np.ndarray) -> None:
    """Turn each crop ``(n, P, P)`` by ``turns % 4`` quarters, and mirror it where ``turns`` is 4 to 7."""
    for crop, turn in zip(values, turns, strict=True):
        turned = np.rot90(crop, turn % 4)
        crop[:] = (turned[::-1] if turn >= 4 else turned).copy()


class Reservoir:
    """Batches of training crops by step, drawn anew for each pass.

    Parameters
    ----------
    frames : FrameSource
    members : sequence of int
        Positions of the training frames.
    spec : TrainSpec
    normalise : Normaliser
    """

    def __init__(
        self, frames: FrameSource, members: Sequence[int], spec: TrainSpec, normalise: Normaliser
    ) -> None:
        self.frames, self.members, self.spec, self.normalise = frames, members, spec, normalise
        self._pass, self._crops = -1, Crops(np.empty(0), np.empty(0))

    def batch(self, step: int) -> Crops:
        """Return the crops of a step, ``(batch, P, P)`` and ``(batch, e)``."""
        number, position = divmod(step, steps_per_pass(self.spec))
        if number != self._pass:
            self._crops = Crops(np.empty(0), np.empty(0))  # else two reservoirs would be in memory at once
            self._crops = training_crops(self.frames, self.members, self.spec, number, self.normalise)
            self._pass = number
        part = slice(position * self.spec.batch, (position + 1) * self.spec.batch)
        return Crops(self._crops.values[part], self._crops.facts[part])


def held_out_crops(
    frames: FrameSource, members: Sequence[int], spec: TrainSpec, count: int, normalise: Normaliser
) -> Crops:
    """Draw the ``count`` crops of the held-out loss; the same throughout."""
    generator = np.random.default_rng([_HELD_OUT, spec.seed])
    chosen = generator.permutation(np.asarray(members))[:FRAMES_PER_PASS]
    return _draw(frames, [int(index) for index in chosen], count, spec.patch, generator, normalise)


def _walk(count: int, seed: int, position: int) -> int:
    """Return the frame at ``position`` of an endless walk in which each round is a fresh permutation."""
    turn, place = divmod(position, count)
    return int(np.random.default_rng([_ORDER, seed, turn]).permutation(count)[place])


def _draw(
    frames: FrameSource,
    chosen: Sequence[int],
    count: int,
    patch: int,
    generator: np.random.Generator,
    normalise: Normaliser,
) -> Crops:
    """Draw ``count`` normalised crops, equal shares of the frames; repeated where too few are found."""
    crops = Crops(
        np.empty((count, patch, patch), dtype=np.float32), np.empty((count, normalise.facts), np.float32)
    )
    filled = 0
    for position, index in enumerate(chosen):
        share = (count - filled) // (len(chosen) - position)
        part = Crops(crops.values[filled : filled + share], crops.facts[filled : filled + share])
        filled += _fill(part, *frames.read(index), generator, normalise, index)
    if filled == 0:
        raise UsageError(
            f"no {patch} x {patch} px crop of {len(chosen)} reference frames has enough valid pixels",
            expected=f"at least {MIN_VALID:.0%} of a crop's pixels valid",
            consequence="There is nothing to learn from",
            remedy="choose other reference frames, or a smaller patch",
        )
    for array in (crops.values, crops.facts):
        for start in range(filled, count, filled):
            array[start : start + filled] = array[: min(filled, count - start)]
    return crops


def _fill(
    crops: Crops,
    image: np.ndarray,
    invalid: np.ndarray | None,
    generator: np.random.Generator,
    normalise: Normaliser,
    index: int,
) -> int:
    """Fill ``crops`` from one frame with squares of enough valid pixels; return their number."""
    usable = np.ones(image.shape, dtype=bool) if invalid is None else ~np.asarray(invalid, dtype=bool)
    count, patch = crops.values.shape[:2]
    filled = 0
    for _ in range(_ATTEMPTS * math.ceil(count / _GROUP)):
        some = min(_GROUP, count - filled)
        tops = generator.integers(0, max(image.shape[0] - patch, 0) + 1, some)
        lefts = generator.integers(0, max(image.shape[1] - patch, 0) + 1, some)
        pixels, valid = gather(image, tops, lefts, patch), gather(usable, tops, lefts, patch)
        if pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels)
        enough = valid.mean(axis=(1, 2)) >= MIN_VALID
        values, facts = normalise(pixels[enough], valid[enough], index)
        end = filled + len(values)
        crops.values[filled:end], crops.facts[filled:end] = values, facts
        filled = end
        if filled == count:
            break
    return filled
