"""Values of the data of a report; see `aqdask.products.report.data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aqdask.products.drift import Change
from aqdask.products.mask_summaries import read_reasons
from aqdask.store.quality_store import QualityStore


@dataclass(frozen=True)
class Standing:
    """Frames and sources that are in one state for one reason.

    Parameters
    ----------
    state : str
        'done', 'quarantined', 'pending' or 'skipped' (no light, so it was not scored).
    reason : str
        Empty for done frames.
    count : int
    examples : tuple of str
        Ids of the first frames.
    """

    state: str
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Band:
    """Span of a frame-level variable over the reference frames of a camera and filter, in its own unit."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, eq=False)
class MeanMask:
    """Fraction of the scored frames of a camera in which each patch is masked.

    Parameters
    ----------
    fraction : ndarray (n_y, n_x)
        float64, all scored frames.
    of_good : ndarray (n_y, n_x)
        float64, frames that are not flagged; NaN where there are none.
    frames, good : int
        Number of frames of both.
    """

    fraction: np.ndarray
    of_good: np.ndarray
    frames: int
    good: int


@dataclass(frozen=True)
class RepeatedPlace:
    """Connected patches that are masked again and again although the frames are good.

    Parameters
    ----------
    camera : str
    rows, columns : tuple of int
        First pixel and one past the last along y and x.
    patches : int
        Number of patches.
    fraction, expected : float
        Fraction of the good frames in which such a patch is masked, and that of the other patches.
    pvalue : float
        Binomial, the smallest of its patches, times the number of patches of the detector.
    reason : str
        Most common reason (`aqdask.flags.REASONS`).
    first, last : datetime64
        Times (UTC) of the first and last frame of the period in which it is masked; NaT where unknown.
    text : str
        The same in words.
    """

    camera: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    patches: int
    fraction: float
    expected: float
    pvalue: float
    reason: str
    first: np.datetime64
    last: np.datetime64
    text: str


@dataclass(frozen=True, eq=False)
class PValues:
    """Histogram of the p-values of patches in unflagged frames, and a verdict on it.

    Parameters
    ----------
    edges, counts : ndarray (k + 1,), (k,)
        Bins of equal width from 0 to 1, float64 and int64; without data all counts are 0.
    masked, alpha : float
        Fraction of these patches with a p-value at or below ``alpha``; NaN without data.
    is_sound : bool or None
        True where that fraction is close to alpha; None where that cannot be told.
    text : str
        The verdict in words.
    """

    edges: np.ndarray
    counts: np.ndarray
    masked: float
    alpha: float
    is_sound: bool | None
    text: str


@dataclass(frozen=True, eq=False)
class Drift:
    """Monthly medians of a frame-level variable of one camera and filter.

    Parameters
    ----------
    variable, camera, filter : str
    months : ndarray (k,)
        datetime64[M], in order, those with frames only.
    medians, counts : ndarray (k,)
        Median, float64, and number of frames.
    text : str
        Sentence on the months outside the span of the references; empty where there are none.
    """

    variable: str
    camera: str
    filter: str
    months: np.ndarray
    medians: np.ndarray
    counts: np.ndarray
    text: str


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that a report shows, except pixels.

    Parameters
    ----------
    archive : str
        Path or address, as given.
    quality : str
        Name of the quality group; empty where nothing is scored.
    alpha : float
        False-mask rate of the masks.
    summary : tuple of str
        Sentences: flagged frames, states, calibration, repeated places, drift.
    standings : tuple of Standing
        All frames and sources by state and reason, the most common first.
    frames : mapping of str to ndarray
        Columns of equal length, one row for each frame of the archive in the order of time (unknown times
        last). Texts are object arrays of str, printable but *not* escaped for HTML. ``row`` (int64),
        ``frame_id``, ``time`` (datetime64[us], UTC, NaT where unknown), ``exptime`` (s), ``camera``,
        ``filter``, ``frame_type``, ``state``, ``state_reason``, ``frame_score``, ``is_flagged`` (bool),
        ``flag_reason``, ``masked_patches`` (fraction of the patches), ``main_reason``, ``share_<reason>``
        (fraction of the patches masked for that reason) for each of `aqdask.flags.REASONS`, ``airmass``,
        ``ra`` and ``dec`` (centre, degrees, ICRS), and the frame-level variables of the quality group
        (``frame_sky``, ``frame_noise_ratio``, ``frame_size_ratio``, ``frame_ellipticity``, ...). Numbers are
        float64, NaN where unknown or not scored.
    labels : mapping of str to str
        Meaning of each column, with its unit.
    references : mapping of (camera, filter) to mapping of str to Band
        Span of frame-level variables over the reference frames, where the calibration has them.
    mean_masks : mapping of str to MeanMask
        By camera.
    repeated_places : tuple of RepeatedPlace
    pvalues : PValues
    drifts : tuple of Drift
        Empty where the frames are of one month, or have no times.
    changes : tuple of Change
        Change points of the frame-level variables, see `aqdask.drift`.
    provenance : tuple of (str, str)
        Label and value.
    notes : tuple of str
        Remarks of the model's calibration.
    """

    archive: str
    quality: str
    alpha: float
    summary: tuple[str, ...]
    standings: tuple[Standing, ...]
    frames: Mapping[str, np.ndarray]
    labels: Mapping[str, str]
    references: Mapping[tuple[str, str], Mapping[str, Band]]
    mean_masks: Mapping[str, MeanMask]
    repeated_places: tuple[RepeatedPlace, ...]
    pvalues: PValues
    drifts: tuple[Drift, ...]
    changes: tuple[Change, ...]
    provenance: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    def patch_reasons(self, rows: Sequence[int]) -> np.ndarray:
        """Read the masks of some frames as codes of reasons.

        Parameters
        ----------
        rows : sequence of int
            Rows of the archive (``frames["row"]``).

        Returns
        -------
        ndarray (len(rows), n_y, n_x)
            uint8, `aqdask.flags.REASONS`; `aqdask.products.mask_summaries.GOOD` for a patch that is not
            masked, 'no_data' throughout for a frame without a score.

        Raises
        ------
        UsageError
            If nothing is scored.
        """
        wanted = np.asarray(rows, np.int64)
        scored = self.frames["row"][np.isfinite(self.frames["masked_patches"])]
        store = QualityStore.open(self.archive, self.quality)
        return read_reasons(store, wanted, np.isin(wanted, scored), self.alpha)

    def __len__(self) -> int:
        return len(self.frames["row"])
