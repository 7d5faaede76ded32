"""The seam between models and everything that scores: what a scorer is, and how a bundle becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from aqdask.errors import ModelError
from aqdask.models.bundle import Bundle
from aqdask.specs import Variable


class Scorer(Protocol):
    """A model on a device. The engine knows no more of a method than this.

    Attributes
    ----------
    name : str
        Name of the model.
    digest : str
        sha256 of the bundle file.
    patch : int
        Side of a patch in pixels.
    variables : tuple of Variable
        What the scorer gives. Every method gives per patch 'score' (larger = worse), 'pvalue', 'reason'
        and 'mae', and per frame 'frame_score'.
    """

    name: str
    digest: str
    patch: int
    variables: tuple[Variable, ...]

    def score_frame(
        self, image: np.ndarray, invalid: np.ndarray | None = None, camera: str = "", filter: str = ""
    ) -> dict[str, np.ndarray]:
        """Variables of a frame ``(H, W)`` by name: maps ``(n_y, n_x)`` and 0-d numbers, typed as declared."""

    def score_patches(
        self, patches: np.ndarray, valid: np.ndarray | None = None, camera: str = "", filter: str = ""
    ) -> dict[str, np.ndarray]:
        """Per-patch variables ``(n,)`` of patches ``(n, P, P)``; the same bits as in `score_frame`."""

    def summarise(self, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Per-frame variables, 0-d, from the per-patch maps ``(n_y, n_x)`` of a whole frame."""


def load_scorer(bundle: Bundle, device: str = "cpu") -> Scorer:
    """The scorer of a bundle's method, with its weights on ``device``.

    Raises
    ------
    ModelError
        For a method that this release does not know, or weights that do not fit.
    """
    from aqdask.models.paper import PaperScorer  # torch is only loaded where something is scored

    methods: dict[str, Callable[[Bundle, str], Scorer]] = {"paper": PaperScorer}
    if bundle.method not in methods:
        raise ModelError(
            f"the model {bundle.name} was made by the method {bundle.method!r}",
            expected=f"one of {', '.join(sorted(methods))}",
            consequence="This release of aqdask cannot score with it",
            remedy="install the release of aqdask that wrote it",
        )
    return methods[bundle.method](bundle, device)
