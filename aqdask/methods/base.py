"""Interfaces of a scoring method: the scorer, and the source of its reference frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from aqdask.specs import FrameMetadata, PatchGrid, Variable, middle
from aqdask.stats.patches import cut_range, valid_range
from aqdask.timing import timed

R = TypeVar("R")
BATCH = 128  # patches of a frame that are cut, and whose features are extracted, at a time


FrameFunction = Callable[[np.ndarray, "np.ndarray | None", FrameMetadata], R]
"""A picklable function of a frame: pixels ``(H, W)``, invalid pixels or None, header values."""


class FrameSource(Protocol):
    """Source of reference frames.

    Attributes
    ----------
    ids : sequence of str
        Frame ids, unique; recorded in the bundle.
    metadata : sequence of FrameMetadata
        Header values of each frame; camera and filter choose its calibration.
    """

    ids: Sequence[str]
    metadata: Sequence[FrameMetadata]

    def read(self, index: int, /) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the pixels of a frame, ``(H, W)`` of any type, and its invalid pixels, bool, or None."""

    def map(self, function: FrameFunction[R], members: Sequence[int], *, window: int = 0) -> Iterator[R]:
        """Apply a function to frames, and yield its results in the order of ``members``.

        With ``window``, to the middle ``window`` pixels of each axis only. Serial here; a source that has
        workers runs it there.
        """
        for index in members:
            image, invalid = self.read(index)
            part = middle(image.shape, window)
            yield function(image[part], None if invalid is None else invalid[part], self.metadata[index])


class Scorer(Protocol):
    """A model on a device; nothing outside its method knows more of it.

    Scoring has two steps: `extract_features` from the pixels of single patches, wherever they are, and
    `score_features` of a whole frame at once. `score_frame` does both.

    Attributes
    ----------
    name : str
        Name of the model.
    digest : str
        sha256 of the bundle file.
    patch : int
        Side P of a patch in pixels.
    variables : tuple of Variable
        Result of `score_features`. Every method gives per patch 'score' (larger = worse), 'pvalue', 'reason'
        and 'mae', and per frame 'frame_score'.
    feature_names : tuple of str
        The k features of a patch.
    """

    name: str
    digest: str
    patch: int
    variables: tuple[Variable, ...]
    feature_names: tuple[str, ...]

    def extract_features(
        self,
        patches: np.ndarray,
        valid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        camera: str = "",
        filter: str = "",
    ) -> np.ndarray:
        """Extract the features of patches, with the same bits however patches are grouped.

        Parameters
        ----------
        patches : ndarray (n, P, P)
            Any type and any n; pixels that are not data have any value.
        valid : ndarray (n, P, P) of bool, or None
            Pixels that are data; None for all, with the same bits as all True. NaN and infinity never are.
        tops, lefts : ndarray (n,) of int
            First row and column of each patch in its frame, in pixels.
        camera, filter : str
            Choose the calibration; empty where unknown.

        Returns
        -------
        ndarray (n, k), float32
            NaN where there is too little data.
        """

    def score_features(
        self, features: np.ndarray, camera: str = "", filter: str = ""
    ) -> dict[str, np.ndarray]:
        """Score the features ``(n_y, n_x, k)``, float32, of all patches of one frame.

        Returns
        -------
        dict of str to ndarray
            Variables by name: maps ``(n_y, n_x)`` and 0-d numbers, typed as declared.
        """


def score_frame(
    scorer: Scorer, image: np.ndarray, invalid: np.ndarray | None = None, camera: str = "", filter: str = ""
) -> dict[str, np.ndarray]:
    """Extract and score the features of one frame, `BATCH` patches in memory at a time.

    A scorer may have a method ``extract_frame(image, invalid, grid, camera, filter)``, which extracts the
    features of a whole frame faster than patch by patch.

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
    with timed("network"):
        if whole := getattr(scorer, "extract_frame", None):
            features = whole(image, invalid, grid, camera, filter)
        else:
            parts = [scorer.extract_features(*part, camera, filter) for part in batches(image, invalid, grid)]
            features = np.concatenate(parts, dtype=np.float32)
    with timed("decision"):
        return scorer.score_features(features.reshape(n_y, n_x, -1), camera, filter)


class Reconstruction(NamedTuple):
    """Frame and its reconstruction by an autoencoder, ``(H, W)`` each; NaN where a pixel is not data.

    Parameters
    ----------
    signal, smooth : ndarray
        float32: the frame as the network sees it, and its reconstruction, in units of the method.
    counts : ndarray or None
        The reconstruction in counts of the frame: float32, or float64 for frames of wider types. None where
        it was not wanted.
    """

    signal: np.ndarray
    smooth: np.ndarray
    counts: np.ndarray | None = None


def reconstruct_frame(
    scorer: Scorer,
    image: np.ndarray,
    invalid: np.ndarray | None = None,
    camera: str = "",
    filter: str = "",
    *,
    in_counts: bool = True,
) -> Reconstruction | None:
    """Reconstruct one frame by the autoencoder of a scorer that has the method ``reconstruct``.

    Parameters are those of `score_frame`; without ``in_counts`` the reconstruction in counts may be left out.

    Returns
    -------
    Reconstruction or None
        None for a method without reconstruction.
    """
    reconstruct = getattr(scorer, "reconstruct", None)
    return reconstruct(image, invalid, camera, filter, in_counts=in_counts) if reconstruct else None


Batch = tuple[np.ndarray, "np.ndarray | None", np.ndarray, np.ndarray]


def batches(image: np.ndarray, invalid: np.ndarray | None, grid: PatchGrid) -> Iterator[Batch]:
    """Yield the patches of a frame in C order, `BATCH` at a time: pixels, valid, first rows and columns.

    Shapes are those of `Scorer.extract_features`.
    """
    n_y, n_x = grid.shape
    for first in range(0, n_y * n_x, BATCH):
        stop = min(first + BATCH, n_y * n_x)
        rows, columns = np.divmod(np.arange(first, stop), n_x)
        tops, lefts = grid.starts(0)[rows], grid.starts(1)[columns]
        yield cut_range(image, grid, first, stop), valid_range(invalid, grid, first, stop), tops, lefts
