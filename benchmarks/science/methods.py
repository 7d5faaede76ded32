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
from typing import Any, Protocol

import numpy as np
from classical import Classical
from draws import MemoryFrames
from seeds import SEEDS

from aqdask.methods import layers, shipped
from aqdask.methods.base import Scorer, batches, score_frame
from aqdask.methods.bundle import Bundle
from aqdask.methods.dispatch import load_scorer, train
from aqdask.methods.noise_aware import networks, noise_model
from aqdask.methods.noise_aware import train as noise_aware_train
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.pooling import PRIOR
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.paper import network as paper_network
from aqdask.methods.paper import normalise as paper_normalise
from aqdask.methods.paper import train as paper_train
from aqdask.methods.training import (
    augmentation,
    crops,
    loop,
    loss_functions,
    losses,
    recipe,
    schedules,
    split,
)
from aqdask.methods.training.progress import TrainProgress
from aqdask.methods.training.settings import TrainSpec
from aqdask.methods.training.split import split_frames
from aqdask.specs import PatchGrid
from aqdask.stats.conformal import ScoreTable, conformal_pvalue
from aqdask.stats.masking import bad_patches

PAPER, MAE, CLASSICAL, AQDASK = "paper", "MAE, fixed noise", "classical", "aqdask"
NAMES = (PAPER, MAE, CLASSICAL, AQDASK)
TWO_SIDED = "aqdask, two-sided"
DECIDES_WEIGHTS = (
    augmentation, crops, layers, loop, loss_functions, losses, recipe, schedules, split, shipped, networks,
    noise_model, noise_aware_train, paper_network, paper_normalise, paper_train,
)  # fmt: skip
"""Modules whose source decides on the weights of a training; stored models are only used with the same."""


@dataclass(frozen=True)
class Verdict:
    """Scores and p-values of a frame by one method.

    Parameters
    ----------
    score, pvalue : ndarray (n_y, n_x)
        Larger score = worse.
    size : ndarray (n_y, n_x) or None
        ln of the size of the stars, with any zero point.
    frame_size : float
        ln of the size over the whole frame.
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
    """Input of the fit of every method.

    Parameters
    ----------
    frames : MemoryFrames
        Reference frames.
    fit, held_out : tuple of int
        Positions of the frames to learn from, and of those that only calibrate.
    bundles : mapping of str to Bundle
        Models by method, trained on these frames.
    """

    frames: MemoryFrames
    fit: tuple[int, ...]
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
    """Train the models, or take them from ``folder`` where the same settings left them.

    `aqdask` learns from all reference frames and holds some out itself; `paper` learns from the others.
    """
    settings = specs(steps)
    ours = settings["aqdask"]
    held_out = split_frames(len(frames.ids), ours).calibration
    fit = tuple(sorted(set(range(len(frames.ids))) - set(held_out)))

    def stored(name: str, make: Callable[[], Bundle]) -> Bundle:
        if folder is None:
            return make()
        mark = repr((settings, frames.ids, [hashlib.sha256(image).hexdigest() for image in frames.images]))
        mark += shipped.load_shipped().digest + source_of(*DECIDES_WEIGHTS)
        stem = f"{name}-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
        path = folder / f"{stem}.safetensors"
        if fresh or not path.exists():
            make().save(path)
        return Bundle.load(path)

    trained = stored("aqdask", lambda: train(frames, ours))
    bundles = {  # weights may be stored ones, calibrations never are
        "aqdask": calibrate_bundle(trained, frames, ours, _silent),
        "two_sided": calibrate_bundle(trained, frames, replace(ours, two_sided=True), _silent),
        "paper": stored("paper", lambda: train(frames.part(fit), settings["paper"])),
    }
    return Task(frames, fit, held_out, bundles)


def source_of(*objects: Any) -> str:
    """Join the source of modules, classes and functions."""
    return "".join(inspect.getsource(one) for one in objects)


def _silent(progress: TrainProgress) -> None:
    """Discard a progress report."""


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
    card = task.frames.metadata[0]
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


def frame_features(scorer: Scorer, image: np.ndarray, camera: str, filter: str) -> np.ndarray:
    """Extract the features of a frame, ``(n_y, n_x, k)``, float32: the first half of `score_frame`."""
    grid = PatchGrid(*image.shape, scorer.patch)
    parts = [scorer.extract_features(*batch, camera, filter) for batch in batches(image, None, grid)]
    return np.concatenate(parts).reshape(*grid.shape, -1)


class FitAqdask:
    """`aqdask`, one- and two-sided, and the mean absolute residual of its autoencoder."""

    def __init__(self, task: Task) -> None:
        self.task, self.card = task, task.frames.metadata[0]
        self.scorer = NoiseAwareScorer(task.bundles["aqdask"])
        self.scorers = {AQDASK: self.scorer}
        if "two_sided" in task.bundles:
            self.scorers[TWO_SIDED] = NoiseAwareScorer(task.bundles["two_sided"])
        maes = [self._feature("mae", self.features(task.frames.images[k])) for k in task.held_out]
        self.table = ScoreTable.from_scores(np.stack(maes))

    def features(self, image: np.ndarray) -> np.ndarray:
        """Extract the features of a frame, ``(n_y, n_x, k)``."""
        return frame_features(self.scorer, image, self.card.camera, self.card.filter)

    def _feature(self, name: str, features: np.ndarray) -> np.ndarray:
        return features[..., self.scorer.feature_names.index(name)]

    def score(self, image: np.ndarray, /) -> dict[str, Verdict]:
        """See `Fitted`."""
        features, found = self.features(image), {}
        for name, scorer in self.scorers.items():
            maps = scorer.score_features(features, self.card.camera, self.card.filter)
            sizes = np.log(maps["size_ratio"]), float(np.log(maps["frame_size_ratio"]))
            weight = self._feature("size_weight", features) + PRIOR
            found[name] = Verdict(maps["score"], maps["pvalue"], *sizes, weight)
        mae = self._feature("mae", features)
        return found | {MAE: Verdict(mae, conformal_pvalue(mae, self.table))}


METHODS: dict[str, Callable[[Task], Fitted]] = {
    "published": fit_paper,
    "classical": FitClassical,
    "aqdask": FitAqdask,
}
"""Fits by name; `NAMES` are the methods that they give."""


class Contest:
    """All methods on a frame."""

    def __init__(self, task: Task, methods: Sequence[str] = tuple(METHODS)) -> None:
        self.task = task
        self.fitted = {name: METHODS[name](task) for name in methods}

    def score(self, image: np.ndarray) -> dict[str, Verdict]:
        """Verdicts by the name of the method."""
        return {name: v for fitted in self.fitted.values() for name, v in fitted.score(image).items()}
