"""The seam between models and everything that scores: what a scorer is, and how a bundle becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from aqdask.errors import ModelError
from aqdask.kernels.patches import cut_range, valid_range
from aqdask.models.bundle import Bundle
from aqdask.specs import PatchGrid, Variable

BATCH = 128  # patches of a frame that are cut and measured at a time


class Scorer(Protocol):
    """A model on a device. The engine knows no more of a method than this.

    Scoring has two steps: `measure` looks at pixels, patch by patch, wherever they are; `judge` looks at what
    was measured, a whole frame at once. `score_frame` does both.

    Attributes
    ----------
    name : str
        Name of the model.
    digest : str
        sha256 of the bundle file.
    patch : int
        Side P of a patch in pixels.
    variables : tuple of Variable
        What `judge` gives. Every method gives per patch 'score' (larger = worse), 'pvalue', 'reason' and
        'mae', and per frame 'frame_score'.
    columns : tuple of str
        What `measure` gives for a patch, k names.
    """

    name: str
    digest: str
    patch: int
    variables: tuple[Variable, ...]
    columns: tuple[str, ...]

    def measure(
        self,
        patches: np.ndarray,
        valid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        camera: str = "",
        filter: str = "",
    ) -> np.ndarray:
        """What is measured on patches: needs no other patch, the same bits however they are grouped.

        Parameters
        ----------
        patches : ndarray (n, P, P)
            Any type and any n; pixels that are not data have any value.
        valid : ndarray (n, P, P) of bool, or None
            Which pixels are data, and None for all: the same bits as all True. NaN and infinity never are.
        tops, lefts : ndarray (n,) of int
            First row and column of each patch in its frame, in pixels.
        camera, filter : str
            Choose the calibration; empty where unknown.

        Returns
        -------
        ndarray (n, k), float32
            NaN where there is too little data.
        """

    def judge(self, measured: np.ndarray, camera: str = "", filter: str = "") -> dict[str, np.ndarray]:
        """Variables of a frame by name: maps ``(n_y, n_x)`` and 0-d numbers, typed as declared.

        ``measured`` is what `measure` gave for all patches of one frame, ``(n_y, n_x, k)``, float32.
        """


def score_frame(
    scorer: Scorer, image: np.ndarray, invalid: np.ndarray | None = None, camera: str = "", filter: str = ""
) -> dict[str, np.ndarray]:
    """Measure and judge one frame, `BATCH` patches in memory at a time.

    Parameters
    ----------
    image : ndarray (H, W)
        Any type.
    invalid : ndarray (H, W) of bool, optional
        True where a pixel is not data; NaN and infinity never are.
    camera, filter : str
        Choose the calibration; the pooled one serves where they have none.

    Returns
    -------
    dict of str to ndarray
        Every variable: maps ``(n_y, n_x)`` and 0-d numbers, typed as `Scorer.variables` says.

    Raises
    ------
    UsageError
        If ``invalid`` has another shape than the image.
    """
    grid = PatchGrid(image.shape[0], image.shape[1], scorer.patch)
    n_y, n_x = grid.shape
    parts = [scorer.measure(*batch, camera, filter) for batch in batches(image, invalid, grid)]
    measured = np.concatenate(parts, dtype=np.float32)
    return scorer.judge(measured.reshape(n_y, n_x, -1), camera, filter)


Batch = tuple[np.ndarray, "np.ndarray | None", np.ndarray, np.ndarray]


def batches(image: np.ndarray, invalid: np.ndarray | None, grid: PatchGrid) -> Iterator[Batch]:
    """The patches of a frame in C order, `BATCH` at a time: pixels, which are data, first rows and columns.

    Shapes are those of `Scorer.measure`.
    """
    n_y, n_x = grid.shape
    for first in range(0, n_y * n_x, BATCH):
        stop = min(first + BATCH, n_y * n_x)
        rows, columns = np.divmod(np.arange(first, stop), n_x)
        tops, lefts = grid.starts(0)[rows], grid.starts(1)[columns]
        yield cut_range(image, grid, first, stop), valid_range(invalid, grid, first, stop), tops, lefts


def load_scorer(bundle: Bundle, device: str = "cpu") -> Scorer:
    """The scorer of a bundle's method, with its weights on ``device``.

    Raises
    ------
    ModelError
        For a method that this release does not know, or weights that do not fit.
    """
    from aqdask.models.aqdask import AqdaskScorer  # torch is only loaded where something is scored
    from aqdask.models.paper import PaperScorer

    methods: dict[str, Callable[[Bundle, str], Scorer]] = {"aqdask": AqdaskScorer, "paper": PaperScorer}
    if bundle.method not in methods:
        raise ModelError(
            f"the model {bundle.name} was made by the method {bundle.method!r}",
            expected=f"one of {', '.join(sorted(methods))}",
            consequence="This release of aqdask cannot score with it",
            remedy="install the release of aqdask that wrote it",
        )
    return methods[bundle.method](bundle, device)
