"""The methods that are compared: rows of one table, fitted on the same frames, calibrated on the same others.

A row is ``name -> fit(Task) -> object with .score(image) -> {name: Verdict}``; one may give several methods.
p-values are split conformal throughout, against patches of the frames that `aqdask` holds out for its
threshold (35 % of the reference frames); no method has seen these in any other way.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from classical import Classical
from draws import MemoryFrames
from seeds import SEEDS

from aqdask.methods import shipped
from aqdask.methods.base import Scorer, score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.noise_aware import augmentation, losses, networks, noise_model, normalise, train
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.pooling import PRIOR
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.paper import train
from aqdask.methods.training import best_weights, crops, loop
from aqdask.methods.training.progress import TrainProgress
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import split_frames
from aqdask.specs import PatchGrid
from aqdask.stats.conformal import ScoreTable, conformal_pvalue
from aqdask.stats.masking import bad_patches
from aqdask.stats.patches import cut_range

PAPER, MAE, CLASSICAL, AQDASK = "paper", "MAE, fixed noise", "classical", "aqdask"
NAMES = (PAPER, MAE, CLASSICAL, AQDASK)
TWO_SIDED = "aqdask, two-sided"
DECIDES_WEIGHTS = (
    noise_model, crops, augmentation, loop, best_weights, train, losses, networks, train, shipped, normalise,
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What a method says of a frame.

    Parameters
    ----------
    score, pvalue : ndarray (n_y, n_x)
        Larger score = worse.
    size : ndarray (n_y, n_x) or None
        ln of the size of the stars, whatever its zero.
    frame_size : float
        The same of the whole frame.
    precision : ndarray (n_y, n_x) or None
        Weight of each patch's size where patches are pooled; None: equal.
    """

    score: np.ndarray
    pvalue: np.ndarray
    size: np.ndarray | None = None
    frame_size: float = float("nan")
    precision: np.ndarray | None = None

    def masked(self, alpha: float) -> np.ndarray:
        """The mask at ``alpha``, bool ``(n_y, n_x)``; without a p-value a patch is masked."""
        return bad_patches(self.pvalue, alpha)


@dataclass(frozen=True)
class Task:
    """What every method is fitted with.

    Parameters
    ----------
    frames : MemoryFrames
        Reference frames.
    fit, held_out : tuple of int
        Positions of those that may be learnt from, and of those that only calibrate.
    bundles : mapping of str to Bundle
        Models by method, trained on these frames.
    """

    frames: MemoryFrames
    loop: tuple[int, ...]
    held_out: tuple[int, ...]
    bundles: Mapping[str, Bundle]


class Fitted(Protocol):
    """One or several methods, ready."""

    def score(self, image: np.ndarray, /) -> dict[str, Verdict]:
        """Verdicts on a frame ``(y, x)`` by the name of the method."""


def specs(steps: Mapping[str, int] | None = None) -> dict[str, TrainSpec]:
    """Settings by method: the defaults, with other numbers of optimiser steps where given."""
    given = steps or {}
    return {
        name: TrainSpec(method=name, name=name, seed=SEEDS["training"], steps=given.get(name))
        for name in ("aqdask", "paper")
    }


def prepare(
    frames: MemoryFrames, steps: Mapping[str, int], folder: Path | None = None, fresh: bool = False
) -> Task:
    """Train what has to be trained, or take weights from ``folder`` where the same settings left them.

    `aqdask` learns from all reference frames and holds some out itself; `paper` learns from the others.
    """
    settings = specs(steps)
    ours = settings["aqdask"]
    held_out = split_frames(len(frames.ids), ours).calibration
    loop = tuple(sorted(set(range(len(frames.ids))) - set(held_out)))

    def kept(name: str, make: Callable[[], Bundle]) -> Bundle:
        if folder is None:
            return make()
        mark = repr((settings, frames.ids, [hashlib.sha256(image).hexdigest() for image in frames.images]))
        mark += shipped.load_shipped().digest + "".join(
            inspect.getsource(module) for module in DECIDES_WEIGHTS
        )
        stem = f"{name}-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
        path = folder / f"{stem}.safetensors"
        if fresh or not path.exists():
            make().save(path)
        return Bundle.load(path)

    trained = best_weights("aqdask", lambda: train(frames, ours))
    bundles = {
        "aqdask": calibrate_bundle(
            trained, frames, ours, _silent
        ),  # weights may be kept ones, calibrations never are
        "two_sided": calibrate_bundle(trained, frames, replace(ours, two_sided=True), _silent),
        "paper": best_weights("paper", lambda: train(frames.part(loop), settings["paper"])),
    }
    return Task(frames, loop, held_out, bundles)


def _silent(progress: TrainProgress) -> None:
    """Tell nobody."""


class FromScores:
    """A method that gives scores only: p-values by split conformal calibration."""

    def __init__(self, name: str, scores: Callable[[np.ndarray], np.ndarray], task: Task) -> None:
        self.name, self.scores = name, scores
        held_out = [scores(task.frames.images[index]).ravel() for index in task.held_out]
        self.table = ScoreTable.from_scores(np.concatenate(held_out))

    def score(self, image: np.ndarray, /) -> dict[str, Verdict]:
        """See `Fitted`."""
        found = self.scores(image)
        return {self.name: Verdict(found, conformal_pvalue(found, self.table))}


def fit_paper(task: Task) -> Fitted:
    """The published method."""
    scorer = load_scorer(task.bundles["paper"])
    card = task.frames.cards[0]
    return FromScores(
        PAPER, lambda image: score_frame(scorer, image, None, card.camera, card.filter)["score"], task
    )


class FitClassical:
    """`classical.Classical`."""

    def __init__(self, task: Task) -> None:
        images = task.frames.images
        self.fitted = Classical.fit([images[k] for k in task.fit], [images[k] for k in task.held_out])

    def score(self, image: np.ndarray, /) -> dict[str, Verdict]:
        """See `Fitted`."""
        score, pvalue, size = self.fitted.score(image)
        known = size[np.isfinite(size)]
        return {CLASSICAL: Verdict(score, pvalue, size, float(np.median(known)) if known.size else np.nan)}


def measured(scorer: Scorer, image: np.ndarray, camera: str, filter: str) -> np.ndarray:
    """Columns of a frame, ``(n_y, n_x, k)``, float32: the half of a score that looks at pixels."""
    grid = PatchGrid(*image.shape, scorer.patch)
    rows, features = np.divmod(np.arange(grid.shape[0] * grid.shape[1]), grid.shape[1])
    patches = cut_range(image, grid, 0, len(rows))
    found = scorer.extract_features(
        patches, None, grid.starts(0)[rows], grid.starts(1)[features], camera, filter
    )
    return found.reshape(*grid.shape, -1)


class FitAqdask:
    """`aqdask`, one- and two-sided, and the mean absolute residual of its autoencoder, measured once."""

    def __init__(self, task: Task) -> None:
        self.task, self.card = task, task.frames.cards[0]
        self.scorer = NoiseAwareScorer(task.bundles["aqdask"])
        self.decisions = {AQDASK: self.scorer}
        if "two_sided" in task.bundles:
            self.decisions[TWO_SIDED] = NoiseAwareScorer(task.bundles["two_sided"])
        maes = [
            self.features(task.frames.images[k])[..., self.scorer.features.index("mae")]
            for k in task.held_out
        ]
        self.table = ScoreTable.from_scores(np.stack(maes))

    def features(self, image: np.ndarray) -> np.ndarray:
        """What is measured on a frame, ``(n_y, n_x, k)``."""
        return measured(self.scorer, image, self.card.camera, self.card.filter)

    def score(self, image: np.ndarray, /) -> dict[str, Verdict]:
        """See `Fitted`."""
        return self.judged(self.features(image))

    def frame_variables(self, features: np.ndarray) -> dict[str, Verdict]:
        """Verdicts from what was measured."""
        found = {}
        for name, decision in self.decisions.items():
            maps = decision.score_features(features, self.card.camera, self.card.filter)
            sizes = np.log(maps["size_ratio"]), float(np.log(maps["frame_size_ratio"]))
            weight = features[..., self.scorer.features.index("size_weight")] + PRIOR
            found[name] = Verdict(maps["score"], maps["pvalue"], *sizes, weight)
        mae = features[..., self.scorer.features.index("mae")]
        return found | {MAE: Verdict(mae, conformal_pvalue(mae, self.table))}


METHODS: dict[str, Callable[[Task], Fitted]] = {
    "published": fit_paper,
    "classical": FitClassical,
    "aqdask": FitAqdask,
}
"""What is fitted; `NAMES` are the methods that come out."""


class Contest:
    """All methods on a frame."""

    def __init__(self, task: Task, methods: Sequence[str] = tuple(METHODS)) -> None:
        self.task = task
        self.fitted = {name: METHODS[name](task) for name in methods}

    def score(self, image: np.ndarray) -> dict[str, Verdict]:
        """Verdicts by the name of the method."""
        return {name: v for fitted in self.fitted.values() for name, v in fitted.score(image).items()}
