"""Scorer of ``method="aqdask"``: features, anomaly distances of feature groups, two-pass decision."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from aqdask import flags
from aqdask.errors import ModelError
from aqdask.methods.base import Reconstruction, batches
from aqdask.methods.bundle import POOLED, Bundle, calibration_key, nearest_key
from aqdask.methods.noise_aware.camera_calibration import CameraCalibration
from aqdask.methods.noise_aware.feature_extractor import Detector, FeatureExtractor, known_pixels
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS
from aqdask.methods.noise_aware.frame_score import FLAG_SIGMA, frame_statistics
from aqdask.methods.noise_aware.frame_tests import FRAME_TESTS, frame_values
from aqdask.methods.noise_aware.line_test import LINE
from aqdask.methods.noise_aware.line_test import REASON as LINE_REASON
from aqdask.methods.noise_aware.networks import SHAPE_UNITS, load_networks
from aqdask.methods.noise_aware.pooling import Features, pooled_estimate
from aqdask.methods.noise_aware.variables import VARIABLES
from aqdask.methods.tensors import as_float
from aqdask.specs import MIN_VALID, PatchGrid
from aqdask.stats.patches import gather, join, padded

SATURATED = 0.5  # fraction of saturated pixels above which a patch is uninformative
POSITION = ("top", "left")
BRIGHTER = 5.0  # sigma of a pixel above the other patches, from which a plateau is saturated


class NoiseAwareScorer:
    """Scorer of frames and patches (`aqdask.methods.base.Scorer`).

    Parameters
    ----------
    bundle : Bundle
        With ``method="aqdask"``.
    device : str
        'cpu', 'cuda', ...
    precision : str
        'fp32' or 'bf16', of the networks.

    Raises
    ------
    ModelError
        If the weights do not fit the architecture that the bundle states.
    """

    variables = VARIABLES

    def __init__(self, bundle: Bundle, device: str = "cpu", precision: str = "fp32") -> None:
        self.name, self.digest, self.patch = bundle.name, bundle.digest, bundle.patch
        self.precision = precision
        self._bundle = bundle
        self.extractor = FeatureExtractor(load_networks(bundle), device, precision)
        self.feature_names = (*self.extractor.feature_names, *POSITION)
        self._cached = lru_cache(maxsize=16)(self._calibration)

    def calibration(self, camera: str, filter: str) -> tuple[CameraCalibration, np.ndarray | None]:
        """Return the calibration of a camera and filter, and its `CameraCalibration.unusable_map`.

        Without one of its own: that of another filter of the camera, or the pooled one, with the feature
        groups disabled that do not carry over.

        Raises
        ------
        ModelError
            For a calibration that lacks something, or that this release cannot use.
        """
        return self._cached(calibration_key(camera, filter))

    def _calibration(self, key: str) -> tuple[CameraCalibration, np.ndarray | None]:
        available = self._bundle.calibrations
        nearest = nearest_key(available, key)
        try:
            calibration = CameraCalibration.from_stored(available[nearest])
        except KeyError as error:
            raise ModelError(
                f"the calibration of the model {self.name} for {nearest!r} lacks {error}",
                expected="a calibration of this release of aqdask",
                consequence="No patch can be scored",
                remedy="calibrate the model again (`aqdask calibrate`)",
            ) from error
        if key not in available:
            calibration = calibration.transferred(same_camera=nearest != POOLED)
        return calibration, calibration.unusable_map()

    def extract_features(
        self,
        patches: np.ndarray,
        valid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        camera: str = "",
        filter: str = "",
    ) -> np.ndarray:
        """Extract the features of patches; see `aqdask.methods.base.Scorer.extract_features`."""
        calibration, unusable = self.calibration(camera, filter)
        found = [np.empty((0, len(self.feature_names)), np.float32)]
        for first in range(0, len(patches), self.extractor.batch):
            part = slice(first, first + self.extractor.batch)
            known = None if valid is None else valid[part]
            usable = without(known, unusable, tops[part], lefts[part], self.patch)
            measured = extract_batch(self.extractor, patches[part], usable, calibration.detector)
            found.append(with_position(measured, tops[part], lefts[part]))
        return np.concatenate(found)

    def extract_frame(
        self, image: np.ndarray, invalid: np.ndarray | None, grid: PatchGrid, camera: str, filter: str
    ) -> np.ndarray:
        """Extract the features ``(n_y n_x, k)``, float32, of a whole frame ``(H, W)``."""
        if min(image.shape) < grid.size:
            parts = (self.extract_features(*part, camera, filter) for part in batches(image, invalid, grid))
            return np.concatenate([*parts])
        calibration, unusable = self.calibration(camera, filter)
        rows, columns = np.divmod(np.arange(grid.shape[0] * grid.shape[1]), grid.shape[1])
        tops, lefts = grid.starts(0)[rows], grid.starts(1)[columns]
        if unusable is not None:
            invalid = unusable if invalid is None else invalid | unusable
        detector = limited(calibration.detector, image.dtype)
        measured = self.extractor.extract_frame(image, invalid, tops, lefts, grid.size, detector)
        return with_position(measured, tops, lefts)

    def reconstruct(
        self,
        image: np.ndarray,
        invalid: np.ndarray | None = None,
        camera: str = "",
        filter: str = "",
        *,
        in_counts: bool = True,
    ) -> Reconstruction:
        """Reconstruct a frame by the autoencoder; see `aqdask.methods.base.reconstruct_frame`.

        In units of the noise, 1 sigma of the sky, logarithmic above 10 sigma (`noise_model.compress`).
        """
        grid = PatchGrid(image.shape[0], image.shape[1], self.patch)
        calibration, unusable = self.calibration(camera, filter)
        detector, found = limited(calibration.detector, image.dtype), []
        for patches, valid, tops, lefts in batches(image, invalid, grid):
            usable = without(valid, unusable, tops, lefts, self.patch)
            found.append(self.extractor.reconstruct(patches, usable, detector, in_counts=in_counts))
        return Reconstruction(*(join(np.concatenate(parts), grid) for parts in zip(*found, strict=True)))

    def score_features(
        self, features: np.ndarray, camera: str = "", filter: str = ""
    ) -> dict[str, np.ndarray]:
        """Score the features of a frame; see `aqdask.methods.base.Scorer.score_features`."""
        calibration, _ = self.calibration(camera, filter)
        named = dict(zip(self.feature_names, np.ascontiguousarray(np.moveaxis(features, -1, 0)), strict=True))
        found = frame_variables(calibration, mask_uninformative(named))
        found["reason"][saturated(named)] = flags.code(flags.REASONS, "saturated")
        typed = {variable.name: np.dtype(variable.dtype) for variable in self.variables}
        return {name: np.asarray(found[name]).astype(dtype) for name, dtype in typed.items()}


def extract_batch(
    extractor: FeatureExtractor, patches: np.ndarray, valid: np.ndarray | None, detector: Detector
) -> np.ndarray:
    """Extract features ``(n, k)``, float32, of at most a batch of patches, which are padded to that many."""
    detector, size = limited(detector, patches.dtype), extractor.batch
    values = as_float(padded(patches, size), extractor.staging, detector.noise.unit)
    mask = None if valid is None else extractor.staging.send(padded(valid, size))
    known = known_pixels(values, mask, finite=patches.dtype.kind != "f")
    return extractor.extract(values, known, detector)[: len(patches)]


def limited(detector: Detector, dtype: np.dtype) -> Detector:
    """Return a detector whose saturation integers of up to 16 bits can reach; none counts in 32 bits."""
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        return Detector(detector.noise, min(detector.saturation, float(np.iinfo(dtype).max)))
    return detector


def with_position(features: np.ndarray, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """Append `POSITION`, the first row and column of each patch in px, to features ``(n, k)``."""
    return np.column_stack([features, tops, lefts]).astype(np.float32)


def without(
    valid: np.ndarray | None, unusable: np.ndarray | None, tops: np.ndarray, lefts: np.ndarray, size: int
) -> np.ndarray | None:
    """Remove the hot and dark pixels (`CameraCalibration.unusable_map`) from ``valid``."""
    if unusable is None:
        return valid
    there = gather(unusable, tops, lefts, size)
    return ~there if valid is None else valid & ~there


def saturated(features: Features) -> np.ndarray:
    """Find patches that are mostly saturated, bool ``(n_y, n_x)``.

    Where the saturation level is unknown, those with a plateau that is brighter than the other patches: zeros
    outside the data are flat as well, and a constant frame is not saturated.
    """
    share, sky, variance = (features[name] for name in ("saturated", "sky", "noise"))
    flat = share < -SATURATED
    others = ~flat & np.isfinite(sky) & np.isfinite(variance)
    if flat.any() and others.any():
        flat &= sky > np.median(sky[others]) + BRIGHTER * np.sqrt(np.median(variance[others]))
    else:
        flat[:] = False
    return flat | (share > SATURATED)


def mask_uninformative(features: Features) -> dict[str, np.ndarray]:
    """Set features to NaN in uninformative patches: too few valid pixels, or mostly saturated."""
    uninformative = ~(features["valid"] >= MIN_VALID) | saturated(features)
    if not uninformative.any():
        return dict(features)
    return {name: np.where(uninformative, np.nan, values) for name, values in features.items()}


_REASONS = {group.name: group.reason for group in FEATURE_GROUPS} | {t.name: t.reason for t in FRAME_TESTS}
_REASONS[LINE] = LINE_REASON
_REASON_CODES = {name: flags.code(flags.REASONS, reason) for name, reason in _REASONS.items()}


def frame_variables(calibration: CameraCalibration, features: Features) -> dict[str, np.ndarray]:
    """Compute every variable from the features of a whole frame, untyped."""
    calibration = calibration.under_sky(features)
    decision = calibration.decision
    camera = decision.camera
    score, pvalue, worst, frame = decision.score(features)
    codes = _REASON_CODES | {"": flags.code(flags.REASONS, "no_data")}
    known = np.isfinite(features["sky"])
    shape = np.where(known, pooled_estimate(frame.shapes, camera.shape_zero), np.nan)
    size, e1, e2 = (unit * values for unit, values in zip(SHAPE_UNITS, shape, strict=True))
    masked = 1 - float((pvalue > decision.first_alpha).mean())  # what has no score is masked, too
    tests = decision.frame_tests
    values = frame_statistics(frame if tests else replace(frame, unflagged=known))
    distances = tests.distances(frame_values(frame)) if tests else {}
    pvalues = tests.pvalues(distances) if tests else {}
    references = calibration.frames
    rank = references.score(values, masked, two_sided=camera.two_sided, tests=pvalues if tests else None)
    return {
        "score": score,
        "pvalue": pvalue,
        "reason": np.array([codes[name] for name in decision.names], np.uint8)[worst],
        "mae": features["mae"],
        "sky": features["sky"] * camera.noise.unit,
        "noise_ratio": np.exp(frame.noise_ratio / 2),
        "size_ratio": np.exp(size),
        "e1": e1,
        "e2": e2,
        "stars": features["stars"],
        "frame_score": np.array(rank),
        "frame_flag": np.array(rank > FLAG_SIGMA),
        "frame_size_ratio": np.exp(values.size),
        "frame_ellipticity": np.array(values.ellipticity),
        "frame_size_pvalue": np.array(
            pvalues["size_frame"] if tests else references.pvalue(values, "size", two_sided=camera.two_sided)
        ),
        "frame_ellipticity_pvalue": np.array(
            pvalues["ellipticity_frame"] if tests else references.pvalue(values, "ellipticity")
        ),
        "frame_sky": np.array(values.sky * camera.noise.unit),
        "frame_noise_ratio": np.exp(values.noise / 2),
        "frame_stars": np.array(values.stars),
        "out_of_reference": np.array(references.outside(values)),
    }
