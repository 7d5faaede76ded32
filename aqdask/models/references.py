"""What reference frames show of a camera before any network looks at them: noise, hot pixels, saturation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from aqdask.errors import UsageError
from aqdask.kernels.hot_pixels import hot_pixels
from aqdask.kernels.measures import measure
from aqdask.kernels.noise import NoiseModel, clipped_variance, difference, sky_level, stabilise
from aqdask.kernels.noise_fit import fit_noise, is_coarse, is_white
from aqdask.kernels.normalise import as_float
from aqdask.kernels.patches import cut_range, valid_range
from aqdask.models.crops import FrameSource
from aqdask.specs import MIN_VALID, PatchGrid

NOISE_FRAMES = 12  # at most so many frames say what the noise is: 50,000 patches of 4096 x 4096 px frames
HOT_FRAMES = 12  # and where the hot pixels are
SIZE_WINDOW = 1024  # px of the middle of a frame in which its stars, and its brightness, are measured
SHARED_TOP = 4  # pixels at the largest value of a frame: then that value is where the detector is full
GAIN_AGREES = 1.5  # factor between the header's gain and that of the frames that is not worth a word
MOST_FULL = 0.01  # of a good frame's pixels: a level that more of them reach is not the detector's full well
_BATCH = 64
_SIGMA_PER_FWHM = 1 / 2.3548


@dataclass(frozen=True)
class Levels:
    """Sky (counts) and noise (counts squared, 1 and 2 px apart) of the patches of a frame, ``(n,)``."""

    sky: np.ndarray
    near: np.ndarray
    far: np.ndarray


@dataclass(frozen=True, eq=False)
class CameraNoise:
    """A camera's noise, hot pixels and saturation, and what a user should know about them.

    Parameters
    ----------
    noise : NoiseModel
    hot : ndarray (n, 2)
        Row and column, int32.
    saturation : float
        Counts; infinite where no frame is cut off and no header says it.
    shape : tuple of int
        ``(y, x)`` of the frames.
    notes : tuple of str
        One sentence each.
    abstain : dict of str to str
        Groups of evidence that cannot be used, and why.
    """

    noise: NoiseModel
    hot: np.ndarray
    saturation: float
    shape: tuple[int, int]
    notes: tuple[str, ...]
    abstain: dict[str, str]


def levels_of(image: np.ndarray, invalid: np.ndarray | None, patch: int) -> Levels:
    """Sky and noise of every patch of a frame; NaN where fewer than `MIN_VALID` of its pixels are data."""
    grid = PatchGrid(image.shape[0], image.shape[1], patch)
    total = grid.shape[0] * grid.shape[1]
    found = [np.empty((3, 0))]
    for first in range(0, total, _BATCH):
        stop = min(first + _BATCH, total)
        pixels = as_float(cut_range(image, grid, first, stop), "cpu")
        valid = _valid(pixels, valid_range(invalid, grid, first, stop))
        near, far = (clipped_variance(difference(pixels, valid, lag)) for lag in (1, 2))
        sky = sky_level(pixels, valid, near)
        if valid is not None:
            few = valid.flatten(1).float().mean(dim=1) < MIN_VALID
            sky[few] = torch.nan
        found.append(torch.stack([sky, near, far]).double().numpy())
    return Levels(*np.concatenate(found, axis=1))


def _valid(pixels: torch.Tensor, valid: np.ndarray | None) -> torch.Tensor | None:
    """Valid pixels, without those that are not finite; None where all are valid."""
    finite = pixels.isfinite()
    if valid is not None:
        return torch.from_numpy(valid) & finite
    return None if bool(finite.all()) else finite


def spread_over(members: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the members, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int))
    return [members[k] for k in chosen]


def learn_noise(frames: FrameSource, members: Sequence[int], patch: int) -> CameraNoise:
    """What frames of one camera show; reads each at most twice, one in memory at a time.

    Raises
    ------
    UsageError
        Where the noise cannot be learnt: constant or empty images, counts too coarse to show it.
    """
    chosen = spread_over(members, NOISE_FRAMES)
    found, tops = [], []
    integer = False
    for index in chosen:
        image, invalid = frames.read(index)
        found.append(levels_of(image, invalid, patch))
        tops += [_saturation(image, invalid), _stated(image, frames.cards[index].saturate)]
        integer = image.dtype.kind in "iu"
    sky, near, far = (
        np.concatenate([getattr(level, name) for level in found]) for name in ("sky", "near", "far")
    )
    flat = near <= 0  # a full or constant frame among good ones, which `alike.check_measured` names
    if 0 < flat.mean() < 0.5:
        sky[flat] = np.nan
    if is_coarse(near[np.isfinite(sky)], integer):
        raise UsageError(
            f"the noise of the {len(chosen)} reference frames is below half a count",
            expected="frames whose counts show the noise",
            consequence="Nothing can be measured in units of it (constant, full, 8-bit or rescaled images?)",
            remedy="use the raw frames, or calibrated ones that were not rescaled",
        )
    gains = [frames.cards[index].gain for index in chosen]
    gain = float(np.median(gains)) if np.isfinite(gains).all() else float("nan")
    white = is_white(near, far)
    noise = fit_noise(sky, near if white else far, gain=gain, lag=1 if white else 2)
    hot = _hot(frames, spread_over(members, HOT_FRAMES), noise, patch)
    notes, abstain = _remarks(noise, white, gain)
    height, width = image.shape
    return CameraNoise(noise, hot, min(tops), (height, width), notes, abstain)


def _remarks(noise: NoiseModel, white: bool, gain: float) -> tuple[tuple[str, ...], dict[str, str]]:
    """What to say about a noise model, and which groups cannot be used with it."""
    notes: list[str] = []
    abstain: dict[str, str] = {}
    if not white:
        reason = "the noise of neighbouring pixels is correlated (resampled or compressed frames?)"
        notes.append(f"{reason}: it was measured two pixels apart, and the noise evidence abstains")
        abstain |= dict.fromkeys(("noise", "noise_region"), reason)
    if noise.source == "header":
        notes.append(
            "the reference frames have too little range of sky to show the gain: the header's was taken"
        )
    elif noise.source == "frames" and not 1 / GAIN_AGREES < gain * noise.b < GAIN_AGREES and gain > 0:
        notes.append(
            f"the frames show a gain of {1 / noise.b:.3g} electrons a count, the header says {gain:.3g}: the "
            "frames are believed (were their counts rescaled, stacked or averaged?)"
        )
    if noise.source == "none":
        reason = "the gain is unknown: too little range of sky in the reference frames, none in the header"
        notes.append(
            f"{reason}; the noise of brighter skies and under stars is not known, "
            "and the noise evidence abstains"
        )
        abstain |= dict.fromkeys(("noise", "noise_region"), reason)
    return tuple(notes), abstain


def _saturation(image: np.ndarray, invalid: np.ndarray | None) -> float:
    """The largest value, where several pixels share it, but not much of the frame; else infinite."""
    seen = image if invalid is None else image[~invalid]
    if image.dtype.kind == "f":
        seen = seen[np.isfinite(seen)]
    if not seen.size:
        return float("inf")
    top = seen.max()
    shared = np.count_nonzero(seen == top)
    return float(top) if SHARED_TOP <= shared <= MOST_FULL * seen.size else float("inf")


def _stated(image: np.ndarray, saturate: float) -> float:
    """The header's saturation; infinite where it has none, or where it is below what good frames show."""
    believed = saturate > 0 and np.count_nonzero(image >= saturate) <= MOST_FULL * image.size
    return saturate if believed else float("inf")


def _hot(frames: FrameSource, chosen: Sequence[int], noise: NoiseModel, patch: int) -> np.ndarray:
    """Rows and columns of the hot pixels, int32 ``(n, 2)``."""
    total: np.ndarray | None = None
    for index in chosen:
        image, invalid = frames.read(index)
        signal = np.zeros(image.shape, np.float32)
        grid = PatchGrid(image.shape[0], image.shape[1], patch)
        n_y, n_x = grid.shape
        for y in range(n_y):
            pixels = as_float(cut_range(image, grid, y * n_x, (y + 1) * n_x), "cpu").nan_to_num()
            sky = pixels.flatten(1)[:, ::4].median(dim=1).values
            above = stabilise(pixels, sky, noise).clamp(-50, 50).float().numpy()
            for x, found in enumerate(above):
                at = np.s_[grid.starts(0)[y] : grid.stops(0)[y], grid.starts(1)[x] : grid.stops(1)[x]]
                signal[at] = found[: signal[at].shape[0], : signal[at].shape[1]]
        if invalid is not None:
            signal[invalid] = 0
        total = signal if total is None else total + signal
    if total is None:
        return np.empty((0, 2), np.int32)
    return np.argwhere(hot_pixels(total / len(chosen), len(chosen))).astype(np.int32)


def middle(shape: Sequence[int]) -> tuple[slice, ...]:
    """The middle `SIZE_WINDOW` pixels of each axis, all of a shorter one."""
    starts = [max((length - SIZE_WINDOW) // 2, 0) for length in shape]
    return tuple(slice(start, start + SIZE_WINDOW) for start in starts)


def star_sigma(image: np.ndarray, invalid: np.ndarray | None) -> float:
    """Gaussian sigma of the stars in the middle of a frame in pixels; NaN where there are too few."""
    window = middle(image.shape)
    return measure(image[window], None if invalid is None else invalid[window]).fwhm * _SIGMA_PER_FWHM
