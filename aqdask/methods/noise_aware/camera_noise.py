"""Noise model, hot pixels, dark areas and saturation level of a camera, from its reference frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.methods.base import FrameSource
from aqdask.methods.noise_aware.dark_areas import cell_levels, dark_cells, dark_map, dark_note
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS
from aqdask.methods.noise_aware.hot_pixels import hot_pixels
from aqdask.methods.noise_aware.noise_fit import fit_noise, is_coarse, is_white
from aqdask.methods.noise_aware.noise_model import NoiseModel, clipped_variance, difference, sky_level
from aqdask.methods.tensors import as_float
from aqdask.specs import MIN_VALID, FrameMetadata, PatchGrid
from aqdask.stats.patches import cut, cut_range, valid_range

SURVEYED = 12  # frames of a camera at most: 50,000 patches of 4096 x 4096 px frames
SHARED_TOP = 4  # pixels at the largest value of a frame: then that value is the saturation level
GAIN_AGREES = 1.5  # factor between the header's gain and that of the frames that is not worth a note
MAX_SATURATED_FRACTION = (
    0.01  # of a good frame's pixels: a level that more of them reach is not the detector's full well
)
LARGEST_SIGNAL = 50.0  # sigma; brighter pixels count as this
NOISE_GROUPS = tuple(group.name for group in FEATURE_GROUPS if group.noise_model)
_BATCH = 64
NOISE_OF_COUNTS = (1e-3, 1e6)  # standard deviation in counts that needs no other unit
SUBTRACTED = 1.0  # sigma of a pixel, above or below zero: a frame with such a sky has lost it


@dataclass(frozen=True)
class Levels:
    """Sky (counts) and noise (counts squared, 1 and 2 px apart) of the patches of a frame, ``(n,)``."""

    sky: np.ndarray
    near: np.ndarray
    far: np.ndarray


@dataclass(frozen=True, eq=False)
class FrameSurvey:
    """Pixel statistics of one reference frame that need no noise model.

    Parameters
    ----------
    levels : Levels
    saturation : float
        Counts; infinite where neither pixels nor header show it.
    integer : bool
        Pixels are integers.
    signal : ndarray (H, W), float16
        Pixels above the sky of their patch in units of its noise, cut at `LARGEST_SIGNAL`; 0 = no data.
    cells : ndarray (2, n_y, n_x)
        Level and noise of small cells (`dark_areas.cell_levels`).
    """

    levels: Levels
    saturation: float
    integer: bool
    signal: np.ndarray
    cells: np.ndarray


@dataclass(frozen=True, eq=False)
class CameraNoise:
    """Noise model, hot pixels, dark areas and saturation level of a camera.

    Parameters
    ----------
    noise : NoiseModel
    hot : ndarray (n, 2)
        Row and column, int32.
    dark : ndarray (n, 2)
        Row and column of cells without sky (`dark_areas`), int32.
    saturation : float
        Counts; infinite where neither frames nor headers show it.
    shape : tuple of int
        ``(y, x)`` of the frames.
    notes : tuple of str
        For the user, one sentence each.
    disabled : dict of str to str
        Feature groups that cannot be used, with the reason.
    """

    noise: NoiseModel
    hot: np.ndarray
    dark: np.ndarray
    saturation: float
    shape: tuple[int, int]
    notes: tuple[str, ...]
    disabled: dict[str, str]


def patch_levels(image: np.ndarray, invalid: np.ndarray | None, patch: int) -> Levels:
    """Measure sky and noise of every patch; NaN where fewer than `MIN_VALID` of its pixels are data."""
    grid = PatchGrid(image.shape[0], image.shape[1], patch)
    total = grid.shape[0] * grid.shape[1]
    unit = pixel_unit(_noise_scale(image))
    found = [np.empty((3, 0))]
    for first in range(0, total, _BATCH):
        stop = min(first + _BATCH, total)
        pixels = as_float(cut_range(image, grid, first, stop), "cpu", unit)
        valid = _valid(pixels, valid_range(invalid, grid, first, stop))
        near, far = (clipped_variance(difference(pixels, valid, lag)) for lag in (1, 2))
        sky = sky_level(pixels, valid, near)
        if valid is not None:
            few = valid.flatten(1).float().mean(dim=1) < MIN_VALID
            sky[few] = torch.nan
        found.append(torch.stack([sky, near, far]).double().numpy())
    return Levels(*np.concatenate(found, axis=1) * np.array([[unit], [unit**2], [unit**2]]))


def pixel_unit(sigma: float) -> float:
    """Return the unit in which noise of standard deviation ``sigma`` is computed: a power of two near it.

    1 where it is between 1e-3 and 1e6 already: float32 holds the squares of such numbers.
    """
    ordinary = NOISE_OF_COUNTS[0] <= sigma <= NOISE_OF_COUNTS[1]
    return 1.0 if ordinary or not (0 < sigma < math.inf) else 2.0 ** round(math.log2(sigma))


def _noise_scale(image: np.ndarray) -> float:
    """Estimate the noise of float pixels from differences of neighbours in some rows; 1 for integers."""
    if image.dtype.kind in "iub":
        return 1.0
    away = np.abs(np.diff(image[:: max(1, len(image) // 64)].astype(np.float64), axis=1))
    away = away[np.isfinite(away) & (away > 0)]
    return float(np.median(away)) if away.size else 1.0


def _valid(pixels: torch.Tensor, valid: np.ndarray | None) -> torch.Tensor | None:
    """Combine valid and finite pixels; None where all are both."""
    finite = pixels.isfinite()
    if valid is not None:
        return torch.from_numpy(valid) & finite
    return None if bool(finite.all()) else finite


@dataclass(frozen=True)
class Survey:
    """Function of a frame (`aqdask.methods.base.FrameFunction`) that gives its `FrameSurvey`."""

    patch: int

    def __call__(self, image: np.ndarray, invalid: np.ndarray | None, card: FrameMetadata) -> FrameSurvey:
        levels = patch_levels(image, invalid, self.patch)
        saturation = min(_saturation(image, invalid), _header_saturation(image, card.saturate))
        signal = _signal(image, invalid, levels, self.patch)
        cells = cell_levels(image, invalid, pixel_unit(_noise_scale(image)))
        return FrameSurvey(levels, saturation, image.dtype.kind in "iu", signal, cells)


def _signal(image: np.ndarray, invalid: np.ndarray | None, levels: Levels, patch: int) -> np.ndarray:
    """Subtract the sky of each patch and divide by its noise; see `FrameSurvey`."""
    signal = np.zeros(image.shape, np.float16)
    grid = PatchGrid(image.shape[0], image.shape[1], patch)
    n_x = grid.shape[1]
    for number, (sky, variance) in enumerate(zip(levels.sky, levels.near, strict=True)):
        if not (np.isfinite(sky) and variance > 0):
            continue
        y, x = divmod(number, n_x)
        at = np.s_[grid.starts(0)[y] : grid.stops(0)[y], grid.starts(1)[x] : grid.stops(1)[x]]
        scale = np.float64(variance**0.5)
        above = np.nan_to_num((image[at] / scale - sky / scale).astype(np.float32))
        signal[at] = above.clip(-LARGEST_SIGNAL, LARGEST_SIGNAL)
    if invalid is not None:
        signal[invalid] = 0
    return signal


def spread_over(members: Sequence[int], count: int) -> list[int]:
    """Choose at most ``count`` of the members, evenly."""
    chosen = np.unique(np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int))
    return [members[k] for k in chosen]


def fit_camera_noise(
    frames: FrameSource, members: Sequence[int], patch: int, tick: Callable[[], None] = lambda: None
) -> CameraNoise:
    """Fit the noise of a camera to some of its frames, each of which is read once; ``tick`` follows each.

    Raises
    ------
    UsageError
        Where the noise cannot be measured: constant or empty images, counts too coarse to show it.
    """
    chosen = spread_over(members, SURVEYED)
    levels, tops, cells, total = [], [], [], None
    for survey in frames.map(Survey(patch), chosen):
        levels.append(survey.levels)
        tops.append(survey.saturation)
        cells.append(survey.cells)
        total = survey.signal.astype(np.float32) if total is None else total + survey.signal
        integer = survey.integer
        tick()
    sky, near, far = (
        np.concatenate([getattr(part, name) for part in levels]) for name in ("sky", "near", "far")
    )
    assert total is not None  # at least one frame
    dark = dark_map(cells_of_dark := dark_cells(cells), total.shape)
    if dark is not None:
        is_dark = cut(dark, PatchGrid(*dark.shape, patch)).any(axis=(2, 3))  # type: ignore[call-arg]
        sky[np.tile(is_dark.ravel(), len(chosen))] = np.nan
    flat = near <= 0  # a full or constant frame among good ones, which `reference_checks` names
    if 0 < flat.mean() < 0.5:
        sky[flat] = np.nan
    if is_coarse(near[np.isfinite(sky)], integer):
        raise UsageError(
            f"the noise of the {len(chosen)} reference frames is below half a count",
            expected="frames whose counts show the noise",
            consequence="Nothing can be measured in units of it (constant, full, 8-bit or rescaled images?)",
            remedy="use the raw frames, or calibrated ones that were not rescaled",
        )
    measured = near[np.isfinite(near)]
    unit = pixel_unit(float(np.sqrt(np.median(measured))) if measured.size else 1.0)
    sky, near, far = sky / unit, near / unit**2, far / unit**2
    gains = [frames.metadata[index].gain for index in chosen]
    gain = float(np.median(gains)) if np.isfinite(gains).all() else float("nan")
    white = is_white(near, far)
    subtracted = _is_subtracted(sky, near)
    noise = fit_noise(sky, near if white else far, gain=gain, lag=1 if white else 2, subtracted=subtracted)
    noise = replace(noise, unit=unit)
    hot = np.argwhere(hot_pixels(total / len(chosen), len(chosen))).astype(np.int32)
    notes, disabled = _remarks(noise, white, gain)
    if dark is not None:
        notes = (*notes, dark_note(dark))
    return CameraNoise(noise, hot, cells_of_dark, min(tops) / unit, total.shape, notes, disabled)


def _is_subtracted(sky: np.ndarray, variance: np.ndarray) -> bool:
    """Return True if most patches have a sky of zero within the noise of a pixel."""
    known = np.isfinite(sky) & (variance > 0)
    return (
        bool(np.median(np.abs(sky[known]) / np.sqrt(variance[known])) < SUBTRACTED) if known.any() else False
    )


def _remarks(noise: NoiseModel, white: bool, gain: float) -> tuple[tuple[str, ...], dict[str, str]]:
    """Write notes about a noise model, and disable the feature groups that cannot be used with it."""
    notes: list[str] = []
    disabled: dict[str, str] = {}
    if not white:
        reason = "the noise of neighbouring pixels is correlated (resampled or compressed frames?)"
        notes.append(f"{reason}: it was measured two pixels apart, and the noise groups are disabled")
        disabled |= dict.fromkeys(NOISE_GROUPS, reason)
    if noise.source == "header":
        notes.append(
            "the reference frames have too little range of sky to show the gain: the header's was taken"
        )
    elif noise.source == "frames" and not 1 / GAIN_AGREES < gain * noise.b < GAIN_AGREES and gain > 0:
        notes.append(
            f"the frames show a gain of {1 / noise.b:.3g} electrons a count, the header says {gain:.3g}: the "
            "measured gain is used (were the counts rescaled, stacked or averaged?)"
        )
    if noise.source == "subtracted":
        reason = "the sky was subtracted, so that its noise cannot be expected"
        notes.append(
            f"{reason}; each patch is measured in units of its own noise, and the noise groups are disabled"
        )
        disabled |= dict.fromkeys(NOISE_GROUPS, reason)
    if noise.source == "none":
        reason = "the gain is unknown: too little range of sky in the reference frames, none in the header"
        notes.append(
            f"{reason}; the noise of brighter skies and under stars is not known, "
            "and the noise groups are disabled"
        )
        disabled |= dict.fromkeys(NOISE_GROUPS, reason)
    return tuple(notes), disabled


def _saturation(image: np.ndarray, invalid: np.ndarray | None) -> float:
    """Return the largest value where several pixels share it, but not much of the frame; else infinity."""
    good = image if invalid is None else image[~invalid]
    if image.dtype.kind == "f":
        good = good[np.isfinite(good)]
    if not good.size:
        return float("inf")
    top = good.max()
    shared = np.count_nonzero(good == top)
    return float(top) if SHARED_TOP <= shared <= MAX_SATURATED_FRACTION * good.size else float("inf")


def _header_saturation(image: np.ndarray, saturate: float) -> float:
    """Return the header's saturation; infinity without one, or where many good pixels lie above it."""
    believed = saturate > 0 and np.count_nonzero(image >= saturate) <= MAX_SATURATED_FRACTION * image.size
    return saturate if believed else float("inf")
