"""Feature groups: one function each, from the patch features of a frame to the statistics that are compared.

Calibration, combination and reasons treat all groups alike: a new group is one function and one row in
`FEATURE_GROUPS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.patch_statistics import LINES, SUBPATCHES_PER_SIDE
from aqdask.methods.noise_aware.pooling import Features, box_sum, pooled_estimate, shape_sums
from aqdask.methods.noise_aware.sky_fit import robust_line, slope_and_bowl, smooth_amplitude
from aqdask.specs import MIN_VALID

REGIONS = (5, 9)  # patches a side over which the second pass pools
MIN_NOISE = 0.01  # of the variance, as a logarithm
MIN_SIZE = 0.03  # 1 % in size, in the units of the head (`networks.SHAPE_UNITS`)
TYPICAL = 0.25  # unflagged fraction of a frame's patches below which all of them count
WHOLE = 0.95  # valid fraction of a patch with no more than a few bad pixels or columns
MIN_STARS = 0.2  # a patch: with fewer in the whole frame none can be missed


@dataclass(frozen=True)
class CameraModel:
    """Properties of a camera and filter that feature groups need.

    Parameters
    ----------
    noise : NoiseModel
    template : ndarray (4 n_y, 4 n_x) or None
        Sky of the sub-patches in counts (`sky_fit.make_template`); None: a flat sky.
    shape_zero : ndarray (3,)
        The head's size, e1 and e2 on reference frames.
    two_sided : bool
        Stars sharper than the references' are bad too.
    relative : bool
        Regions are compared with their own frame, and the frame with the references (`frame_tests`);
        earlier releases compared regions with the references.
    """

    noise: NoiseModel
    template: np.ndarray | None = None
    shape_zero: np.ndarray = field(default_factory=lambda: np.zeros(3))
    two_sided: bool = False
    relative: bool = True

    @cached_property
    def subpatches(self) -> tuple[np.ndarray, np.ndarray]:
        """Template by patch, ``(n_y, n_x, 16)``, and its mean ``(n_y, n_x)``."""
        cells = as_subpatches(np.asarray(self.template))
        return np.moveaxis(np.moveaxis(cells, -1, 0).copy(), 0, -1), cells.mean(axis=-1)


@dataclass(frozen=True)
class FrameFeatures:
    """Features ``(n_y, n_x)`` of a frame by name, its camera, and the patches that the first pass left.

    Parameters
    ----------
    features : mapping of str to ndarray
    camera : CameraModel
    unflagged : ndarray (n_y, n_x) of bool
        Not used by groups of single patches.
    misfit : ndarray (n_y, n_x, 16)
        Sky of sub-patches above the frame's fitted sky in sigma of a pixel.
    noise_ratio : ndarray (n_y, n_x)
        ln of measured over expected variance.
    valid : ndarray (n_y, n_x)
        `valid_fraction`.
    shapes : ndarray (2, 3, n_y, n_x)
        `pooling.shape_sums`.
    """

    features: Features
    camera: CameraModel
    unflagged: np.ndarray
    misfit: np.ndarray
    noise_ratio: np.ndarray
    valid: np.ndarray
    shapes: np.ndarray

    @classmethod
    def of(cls, features: Features, camera: CameraModel) -> FrameFeatures:
        """Fit the sky of a frame, before the first pass."""
        return cls(
            features,
            camera,
            np.isfinite(features["sky"]),
            sky_misfit(features, camera),
            noise_ratio(features, camera.noise),
            valid_fraction(features),
            shape_sums(features),
        )

    @cached_property
    def typical(self) -> np.ndarray:
        """Patches that tell of the frame as a whole, bool ``(n_y, n_x)``: the unflagged ones.

        All that have data, where fewer than `TYPICAL` of these are unflagged.
        """
        known = np.isfinite(self.features["sky"])
        return self.unflagged if self.unflagged.sum() >= TYPICAL * known.sum() else known

    @cached_property
    def shape(self) -> np.ndarray:
        """Size, e1 and e2 of the stars of the typical patches relative to the references, ``(3,)``."""
        return pooled_estimate((self.shapes * self.typical).sum(axis=(2, 3)), self.camera.shape_zero)

    @cached_property
    def sky_shape(self) -> tuple[float, float, float]:
        """`frame_sky`."""
        return frame_sky(self)

    @cached_property
    def weights(self) -> dict[int, np.ndarray]:
        """Square root of the unmasked fraction of regions, ``(n_y, n_x)`` by their side.

        Statistics pooled over fewer pixels scatter more; weighted by this, as much as on reference frames.
        """
        known, valid = np.isfinite(self.features["sky"]), np.where(self.unflagged, self.valid, 0)
        return {side: np.sqrt(box_sum(valid, side) / np.maximum(box_sum(known, side), 1)) for side in REGIONS}

    @cached_property
    def pooled_shape(self) -> np.ndarray:
        """Size, e1 and e2 relative to the references over `REGIONS`, ``(3, len(REGIONS), n_y, n_x)``."""
        sums = np.where(self.unflagged, self.shapes, 0)
        whole = (self.shape if self.camera.relative else np.zeros(3))[:, None, None]
        found = [
            _one_sided(pooled_estimate(box_sum(sums, side), self.camera.shape_zero) - whole, self) * weight
            for side, weight in self.weights.items()
        ]
        return np.stack(found, axis=1)


def sky_sigma(features: Features, noise: NoiseModel) -> np.ndarray:
    """Compute the expected noise of a sky pixel of each patch in counts, float64 ``(n_y, n_x)``.

    Where the sky was subtracted, the noise of the patch.
    """
    if noise.source == "subtracted":
        return np.sqrt(np.maximum(features["noise"].astype(np.float64), noise.floor))
    return np.sqrt(noise.variance(torch.from_numpy(features["sky"].astype(np.float64))).numpy())


def subpatch_levels(features: Features, noise: NoiseModel) -> np.ndarray:
    """Compute the sky of the sub-patches in counts, ``(n_y, n_x, 16)``."""
    cells = np.stack([features[f"cell_{n}"] for n in range(SUBPATCHES_PER_SIDE**2)])
    return np.moveaxis(features["sky"] + cells * sky_sigma(features, noise), 0, -1)


def as_image(cells: np.ndarray) -> np.ndarray:
    """Arrange sub-patches ``(n_y, n_x, 16)`` as an image ``(4 n_y, 4 n_x)``."""
    n_y, n_x, _ = cells.shape
    spread = cells.reshape(n_y, n_x, SUBPATCHES_PER_SIDE, SUBPATCHES_PER_SIDE).transpose(0, 2, 1, 3)
    return spread.reshape(n_y * SUBPATCHES_PER_SIDE, n_x * SUBPATCHES_PER_SIDE)


def as_subpatches(image: np.ndarray) -> np.ndarray:
    """Invert `as_image`."""
    n_y, n_x = image.shape[0] // SUBPATCHES_PER_SIDE, image.shape[1] // SUBPATCHES_PER_SIDE
    return (
        image.reshape(n_y, SUBPATCHES_PER_SIDE, n_x, SUBPATCHES_PER_SIDE)
        .transpose(0, 2, 1, 3)
        .reshape(n_y, n_x, SUBPATCHES_PER_SIDE**2)
    )


def sky_misfit(features: Features, camera: CameraModel) -> np.ndarray:
    """Subtract ``alpha + beta template`` from the sky of sub-patches, in sigma, ``(n_y, n_x, 16)``."""
    levels, sigma = subpatch_levels(features, camera.noise), sky_sigma(features, camera.noise)
    if not np.isfinite(features["sky"]).any():
        return levels
    if camera.template is None or camera.template.shape != as_image(levels).shape:
        return (levels - np.nanmedian(features["sky"])) / sigma[..., None]
    template, mean = camera.subpatches
    # The level of a patch is steadier than those of its parts, and 16 times fewer.
    ridge = float(np.nanmedian(sigma) ** 2) / 64
    alpha, beta = robust_line(mean, features["sky"], ridge)
    return (levels - alpha - beta * template) / sigma[..., None]


def _stacked(frame: FrameFeatures, *names: str) -> np.ndarray:
    return np.moveaxis(np.stack([frame.features[name] for name in names]), 0, -1)


def noise_ratio(features: Features, noise: NoiseModel) -> np.ndarray:
    """Compute ln of measured over expected variance, ``(n_y, n_x)``."""
    measured = np.maximum(features["noise"].astype(np.float64), 1e-12)
    return np.log(measured) - 2 * np.log(sky_sigma(features, noise))


def valid_fraction(features: Features) -> np.ndarray:
    """Return the valid fraction of each patch as a weight, ``(n_y, n_x)``; 1 from `WHOLE` on, 0 without data.

    What is measured in fewer pixels scatters more; weighted, as much as in whole patches.
    """
    valid = np.nan_to_num(features["valid"])
    return np.where(valid < WHOLE, valid, valid.dtype.type(1))


def noise(frame: FrameFeatures) -> np.ndarray:
    """Noise of the pixels relative to the noise model, weighted by the root of the valid fraction."""
    return (frame.noise_ratio * np.sqrt(frame.valid))[..., None]


def background(frame: FrameFeatures) -> np.ndarray:
    """Structure of 4 to 64 px in the residual, and in the sky of sub-patches relative to the frame's."""
    misfit = frame.misfit - frame.misfit.mean(axis=-1, keepdims=True)
    cells = [np.log((misfit**2).mean(axis=-1) + 1e-6), np.log(np.abs(misfit).max(axis=-1) + 1e-3)]
    pooled = _stacked(frame, "square_4", "square_8", "square_16", "peak_4", "peak_8", "peak_16")
    return np.concatenate([pooled, np.stack(cells, axis=-1)], axis=-1)


def sky(frame: FrameFeatures) -> np.ndarray:
    """Sky relative to the frame's sky: offset, and contrast to the neighbours; times the valid fraction.

    The level of a part errs by its stars and by its distance from the middle of the patch.

    Without the tilt of the frame: it would find a gradient a little better, and mask patches beside a cloud.
    """
    offset = frame.misfit.mean(axis=-1)
    valid = np.where(np.isfinite(offset), frame.valid, 0)
    filled = np.where(valid > 0, offset, 0) * valid
    count = np.maximum(box_sum(valid, 3) - valid, MIN_VALID)
    contrast = offset - (box_sum(filled, 3) - filled) / count
    return np.stack([offset, contrast], axis=-1) * valid[..., None]


def residual(frame: FrameFeatures) -> np.ndarray:
    """Residual of the reconstruction over the whole patch: ln of the published score."""
    return np.log(np.maximum(_stacked(frame, "mae"), 1e-6))


def _one_sided(shape: np.ndarray, frame: FrameFeatures) -> np.ndarray:
    """Set sharper stars to 0 unless ``two_sided``, and patches without data to NaN, in place."""
    if not frame.camera.two_sided:
        shape[0] = np.maximum(shape[0], 0)
    shape[:, ~np.isfinite(frame.features["sky"])] = np.nan  # no value from its neighbours
    return shape


def size(frame: FrameFeatures) -> np.ndarray:
    """Size of the stars in the patch."""
    return _one_sided(pooled_estimate(frame.shapes, frame.camera.shape_zero), frame)[0, ..., None]


def latent(frame: FrameFeatures) -> np.ndarray:
    """Moments of the latent channels of the autoencoder."""
    return _stacked(frame, *(name for name in frame.features if name.startswith("latent_")))


def spike(frame: FrameFeatures) -> np.ndarray:
    """Single bright pixels: cosmic rays and hot pixels."""
    return _stacked(frame, "spike", "peak_1")


def line(frame: FrameFeatures) -> np.ndarray:
    """Bright or dark rows, columns and straight tracks."""
    return _stacked(frame, *LINES)


def size_region(frame: FrameFeatures) -> np.ndarray:
    """Size of the stars over unflagged neighbours."""
    return np.moveaxis(frame.pooled_shape[0], 0, -1)


def ellipticity_region(frame: FrameFeatures) -> np.ndarray:
    """Ellipticity of the stars over unflagged neighbours."""
    pooled = frame.pooled_shape[1:]
    return np.moveaxis(pooled.reshape(-1, *pooled.shape[2:]), 0, -1)


def _mean_around(values: np.ndarray, frame: FrameFeatures, side: int) -> np.ndarray:
    """Average over the valid pixels of unflagged neighbours; the patch's own value without any or if NaN."""
    known = np.isfinite(values)
    weight = np.where(frame.unflagged & known, frame.valid, 0)
    count = box_sum(weight, side)
    mean = box_sum(np.where(weight > 0, values, 0) * weight, side) / np.maximum(count, MIN_VALID)
    return np.where(known & (count > 0), mean, values)


def noise_region(frame: FrameFeatures) -> np.ndarray:
    """Noise over 5 x 5 and 9 x 9 unflagged patches."""
    found = frame.noise_ratio
    known = found[frame.typical & np.isfinite(found)]
    if frame.camera.relative and known.size:
        found = found - np.median(known)
    return np.stack([_mean_around(found, frame, side) * weight for side, weight in frame.weights.items()], -1)


def stars_region(frame: FrameFeatures) -> np.ndarray:
    """Missing stars over 9 x 9 patches: ln of their mean number relative to that of the frame.

    Relative to the frame and not the references: a brighter sky or another field has fewer stars everywhere,
    which is no defect of a patch (`frame_score` reports it).
    """
    stars, valid = frame.features["stars"], frame.valid
    counted = frame.unflagged & np.isfinite(stars)  # a trail counts as many stars
    whole = float(stars[counted].sum() / valid[counted].sum()) if counted.any() else 0.0
    around = _mean_around(stars / np.maximum(valid, MIN_VALID), frame, REGIONS[-1])
    missing = np.log((around + MIN_STARS) / (whole + MIN_STARS))
    return (missing * frame.weights[REGIONS[-1]])[..., None]


FRACTION_PER_SIGMA = 0.03  # of the sky; what one sigma of a pixel counts as where the gain is unknown


def frame_sky(frame: FrameFeatures) -> tuple[float, float, float]:
    """Compute `slope_and_bowl` of the sky over the sky template, as fractions of the sky.

    The sky is counted from the level at which the variance vanishes, ``-a / b``, so that neither a pedestal
    nor a fit of the template's brightness hides a change of the vignetting. NaN for a frame of another shape
    than the template.
    """
    camera, sky = frame.camera, frame.features["sky"].astype(np.float64)
    if camera.template is not None and camera.template.shape != as_image(frame.misfit).shape:
        return math.nan, math.nan, math.nan
    if camera.noise.b > 0:
        template: np.ndarray | float = 1.0
        zero = -camera.noise.a / camera.noise.b
        if camera.template is not None:
            template = camera.subpatches[1] - zero
        ratio = (sky - zero) / template
        usable = frame.typical & np.isfinite(ratio)
        excess = ratio / np.median(ratio[usable]) if usable.any() else ratio
    else:
        excess = FRACTION_PER_SIGMA * frame.misfit.mean(axis=-1)
        usable = frame.typical & np.isfinite(excess)
    return slope_and_bowl(excess, usable)


def sky_frame(frame: FrameFeatures) -> np.ndarray:
    """Slope and curvature of the sky over the unflagged patches, in sigma: the same in every patch."""
    offset = frame.misfit.mean(axis=-1)
    known = np.isfinite(offset)
    amplitude = smooth_amplitude(offset, frame.unflagged & known)
    return np.where(known, amplitude, np.nan)[..., None]


@dataclass(frozen=True)
class FeatureGroup:
    """One row of the table of feature groups.

    Parameters
    ----------
    name : str
    reason : str
        Reason (`aqdask.flags.REASONS`) of a patch for which this group has the smallest p-value.
    function : callable
        From a `FrameFeatures` to ``(n_y, n_x, k)``.
    regional : bool
        Uses neighbouring patches that the first pass left: part of the second pass.
    one_sided : int
        +1: only large values are bad, -1: only small ones, 0: both.
    min_effect_size : float
        Smallest excess beyond the references that counts, in the unit of the statistic. Means over 81 patches
        are so precise that without it a noise model wrong by 1 % would flag them.
    retired : bool
        Used by calibrations of earlier releases only.
    flat_field : bool
        Compares with the flat field of a filter, or needs its noise model to within 1 %: disabled for filters
        without a calibration of their own.
    noise_model : bool
        Disabled where the noise model is uncertain: correlated pixels, or an unknown gain.
    check_effect_size : float
        Smallest excess in the check for outlying reference frames, where it is above ``min_effect_size``.
    """

    name: str
    reason: str
    function: Callable[[FrameFeatures], np.ndarray]
    regional: bool = False
    one_sided: int = 0
    min_effect_size: float = 0.0
    retired: bool = False
    flat_field: bool = False
    noise_model: bool = False
    check_effect_size: float = 0.0


FEATURE_GROUPS: tuple[FeatureGroup, ...] = (
    FeatureGroup("noise", "noise", noise, noise_model=True),
    FeatureGroup("background", "background", background, one_sided=1, flat_field=True),
    FeatureGroup("residual", "residual", residual, one_sided=1),
    FeatureGroup("sky", "sky", sky, flat_field=True, check_effect_size=0.1),
    FeatureGroup("size", "size", size, retired=True),
    FeatureGroup("latent", "latent", latent),
    FeatureGroup("spike", "spike", spike, one_sided=1),
    FeatureGroup("line", "line", line, one_sided=1),
    FeatureGroup("size_region", "size", size_region, regional=True, min_effect_size=MIN_SIZE),
    FeatureGroup(
        "ellipticity_region", "ellipticity", ellipticity_region, regional=True, min_effect_size=MIN_SIZE
    ),
    FeatureGroup(
        "noise_region",
        "noise",
        noise_region,
        regional=True,
        min_effect_size=MIN_NOISE,
        flat_field=True,
        noise_model=True,
    ),
    FeatureGroup("stars_region", "stars", stars_region, regional=True, one_sided=-1),
    FeatureGroup("sky_frame", "sky", sky_frame, regional=True, one_sided=1, retired=True, flat_field=True),
)
