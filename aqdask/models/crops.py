"""Normalised random crops of reference frames, in bounded memory at any number of frames.

Nothing here keeps a state: what is drawn follows from the seed and the number of the pass alone, so that
an interrupted training finds its place again without saving a generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.kernels.normalise import as_float, minmax
from aqdask.kernels.patches import gather
from aqdask.models.paper import MIN_VALID
from aqdask.models.settings import TrainSpec
from aqdask.specs import Card

RESERVOIR_BYTES = 128 * 2**20  # of crops held at a time; 128 batches of 64 at 64 px
FRAMES_PER_PASS = 16  # frames read to fill the reservoir once
_GROUP = 256  # crops drawn and normalised at a time
_ATTEMPTS = 4  # times as many are drawn before a frame with few valid pixels gives fewer

# First word of every generator's seed, so that no two uses share a stream.
_ORDER, _CROPS, _HELD_OUT = 0, 1, 2


class FrameSource(Protocol):
    """Where reference frames come from.

    Attributes
    ----------
    ids : sequence of str
        Frame ids, unique; recorded in the bundle.
    cards : sequence of Card
        What each frame's headers say; camera and filter choose its calibration.
    """

    ids: Sequence[str]
    cards: Sequence[Card]

    def read(self, index: int, /) -> tuple[np.ndarray, np.ndarray | None]:
        """One frame: ``(H, W)`` pixels of any type, and True where a pixel is not data, or None."""


@dataclass(frozen=True)
class Crops:
    """Normalised crops: ``values`` float32 ``(n, P, P)`` and ``facts`` float32 ``(n, e)`` about each."""

    values: np.ndarray
    facts: np.ndarray


class Normalise(Protocol):
    """How crops of one frame become what a network sees.

    Attributes
    ----------
    facts : int
        How many numbers e it tells of each crop.
    """

    facts: int

    def __call__(self, pixels: np.ndarray, valid: np.ndarray, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Pixels ``(m, P, P)`` of frame ``index``, which are data; float32 ``(m, P, P)`` and ``(m, e)``."""


class MinMax:
    """Each crop scaled to [0, 1] by itself: the published method's."""

    facts = 0

    def __call__(self, pixels: np.ndarray, valid: np.ndarray, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        """See `aqdask.kernels.normalise.minmax`."""
        scaled = minmax(as_float(pixels, "cpu"), torch.from_numpy(valid)).numpy()
        return scaled, np.empty((len(pixels), 0), dtype=np.float32)


MINMAX = MinMax()


def steps_per_pass(spec: TrainSpec) -> int:
    """How many batches one filling of the reservoir lasts."""
    return max(1, RESERVOIR_BYTES // (4 * spec.patch**2 * spec.batch))


def training_crops(
    frames: FrameSource, members: Sequence[int], spec: TrainSpec, number: int, normalise: Normalise = MINMAX
) -> Crops:
    """Crops of pass ``number``, shuffled, each in one of the eight orientations of a square.

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
    orient(crops.values, generator.integers(0, 8, len(crops.values)))
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


def held_out_crops(
    frames: FrameSource, members: Sequence[int], spec: TrainSpec, count: int, normalise: Normalise = MINMAX
) -> Crops:
    """The ``count`` crops on which the loss is watched; the same throughout."""
    generator = np.random.default_rng([_HELD_OUT, spec.seed])
    chosen = generator.permutation(np.asarray(members))[:FRAMES_PER_PASS]
    return _draw(frames, [int(index) for index in chosen], count, spec.patch, generator, normalise)


def _walk(count: int, seed: int, position: int) -> int:
    """The frame at ``position`` of an endless walk in which each round is a fresh permutation."""
    turn, place = divmod(position, count)
    return int(np.random.default_rng([_ORDER, seed, turn]).permutation(count)[place])


def _draw(
    frames: FrameSource,
    chosen: Sequence[int],
    count: int,
    patch: int,
    generator: np.random.Generator,
    normalise: Normalise,
) -> Crops:
    """``count`` normalised crops, equal shares of the chosen frames; repeated where too few are found."""
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
    normalise: Normalise,
    index: int,
) -> int:
    """Fill ``crops`` from one frame with squares that have enough valid pixels; how many were found."""
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
