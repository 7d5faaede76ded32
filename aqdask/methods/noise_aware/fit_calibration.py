"""Fit of a `CameraCalibration` to reference frames, by stratum of sky: feature groups, tails, p-values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from aqdask.methods.base import FrameSource, batches
from aqdask.methods.noise_aware.anomaly_distance import AnomalyDistance, Tail
from aqdask.methods.noise_aware.camera_calibration import CameraCalibration, unusable_map
from aqdask.methods.noise_aware.camera_noise import CameraNoise
from aqdask.methods.noise_aware.feature_extractor import Detector, FeatureExtractor
from aqdask.methods.noise_aware.feature_groups import (
    FEATURE_GROUPS,
    CameraModel,
    FeatureGroup,
    FrameFeatures,
    as_image,
    sky_sigma,
    subpatch_levels,
)
from aqdask.methods.noise_aware.fixed_places import fixed_place_notes
from aqdask.methods.noise_aware.frame_score import FrameStatistics, ReferenceStatistics, frame_statistics
from aqdask.methods.noise_aware.frame_tests import FrameDistributions, frame_values
from aqdask.methods.noise_aware.line_test import LineTest, uneven_line_notes
from aqdask.methods.noise_aware.networks import Networks
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.pooling import Features, pooled_estimate, shape_sums
from aqdask.methods.noise_aware.reference_checks import (
    FEW_FRAMES,
    check_alpha,
    check_consistency,
    check_informative,
    check_noise,
    check_patches,
    check_scatter,
    finite_rows,
)
from aqdask.methods.noise_aware.reference_split import ReferenceSplit
from aqdask.methods.noise_aware.scorer import (
    POSITION,
    extract_batch,
    mask_uninformative,
    with_position,
    without,
)
from aqdask.methods.noise_aware.sky_fit import make_template
from aqdask.methods.noise_aware.two_pass import TwoPassDecision, score_of
from aqdask.specs import FrameMetadata, PatchGrid
from aqdask.stats.conformal import ScoreTable

SETS = ("fit", "tail", "threshold")
WIDE_RANGE = 1.3  # factor in size between the sharpest and the widest reference frame that is worth a note


@dataclass(frozen=True, eq=False)
class FeatureReader:
    """Function of a frame (`aqdask.methods.base.FrameFunction`) that gives its features.

    Parameters
    ----------
    networks : Networks
        On the CPU; travels with the function.
    camera_noise : CameraNoise
    patch : int
        Side of a patch in pixels.
    device : str
    """

    networks: Networks
    camera_noise: CameraNoise
    patch: int
    device: str = "cpu"

    def __call__(self, image: np.ndarray, invalid: np.ndarray | None, card: FrameMetadata) -> Features:
        # A worker may have no GPU although the client has one.
        device = self.device if torch.cuda.is_available() else "cpu"
        extractor = FeatureExtractor(self.networks, device)
        camera = self.camera_noise
        detector = Detector(camera.noise, camera.saturation)
        unusable = unusable_map(camera.hot, camera.dark, camera.shape)
        grid = PatchGrid(image.shape[0], image.shape[1], self.patch)
        found = []
        for patches, valid, tops, lefts in batches(image, invalid, grid):
            usable = without(valid, unusable, tops, lefts, self.patch)
            measured = extract_batch(extractor, patches, usable, detector)
            found.append(with_position(measured, tops, lefts))
        features = np.concatenate(found).reshape(*grid.shape, -1)
        names = (*extractor.feature_names, *POSITION)
        return mask_uninformative({name: features[..., k] for k, name in enumerate(names)})


def calibrate_strata(
    reader: FeatureReader, frames: FrameSource, split: ReferenceSplit, **settings: Any
) -> CameraCalibration:
    """Calibrate each stratum of sky, as a chain from the darkest, or all frames together.

    Parameters and errors are those of `calibrate_camera`.
    """
    if not split.strata:
        return calibrate_camera(reader, frames, split, **settings)
    strata = [calibrate_camera(reader, frames, part, **settings) for part in split.strata]
    joined = strata[-1]
    for darker, limit in zip(strata[-2::-1], split.limits[::-1], strict=True):
        joined = replace(darker, brighter=joined, limit=limit)
    return replace(joined, facts={**joined.facts, **_joined_facts(strata, split)})


def _joined_facts(strata: Sequence[CameraCalibration], split: ReferenceSplit) -> dict[str, Any]:
    """Join frames and notes of all strata."""
    skies = [f"up to {split.limits[0]:.4g} counts", *(f"above {limit:.4g} counts" for limit in split.limits)]
    counts = [f"{sky} ({len(part.every)} frames)" for sky, part in zip(skies, split.strata, strict=True)]
    notes = [f"A frame is scored by references under a sky like its own: {', '.join(counts)}."]
    for sky, stratum in zip(skies, strata, strict=True):
        own = (note for note in stratum.facts["notes"] if note not in notes)
        notes += [
            note if all(note in s.facts["notes"] for s in strata) else f"sky {sky}: {note}" for note in own
        ]
    frames = {
        name: [frame for stratum in strata for frame in stratum.facts["frames"][name]]
        for name in strata[0].facts["frames"]
    }
    return {"frames": frames, "notes": notes}


def calibrate_camera(
    reader: FeatureReader,
    frames: FrameSource,
    split: ReferenceSplit,
    *,
    alpha: float,
    two_sided: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> CameraCalibration:
    """Calibrate one camera and filter.

    Parameters
    ----------
    reader : FeatureReader
        With the noise of the camera.
    frames : FrameSource
        Each frame is read once.
    split : ReferenceSplit
    alpha : float
        Smallest false-mask rate that must be possible; also that of the first pass.
    two_sided : bool
        Treat sharper stars as bad too.
    tick : callable
        Called after each frame.

    Raises
    ------
    UsageError
        For too few patches for ``alpha``, inconsistent frames, or a noise ratio far from 1.
    """
    noise = reader.camera_noise
    features = _read_features(reader, frames, split, tick)
    ids = [frames.ids[index] for index in split.every]
    n_fit, n_tail = np.cumsum([len(split.fit), len(split.tail)])
    parts = [features[:n_fit], features[n_fit:n_tail], features[n_tail:]]
    check_informative(ids, features)
    camera = _camera_model(parts[0], noise.noise, two_sided)
    values = [frame_statistics(FrameFeatures.of(one, camera)) for one in features]
    check_scatter(ids, values, noise.noise)
    outliers = check_consistency(ids, values)
    check_noise(values[n_fit:], noise.noise)
    whole = _camera_model(features, noise.noise, two_sided)  # that of the fit set may be of the bad frame
    outliers += check_patches(ids, [FrameFeatures.of(one, whole) for one in features], noise.disabled)
    decision = _fit_decision(camera, parts, noise.disabled, alpha)
    check_alpha(decision.final[0].total, alpha, len(split.threshold), len(ids))
    facts = {
        "frames": {name: [frames.ids[k] for k in getattr(split, name)] for name in SETS},
        "abstain": dict(noise.disabled),
        "notes": [
            *noise.notes,
            *outliers,
            *uneven_line_notes(features, [frames.metadata[index].time for index in split.every]),
            *_focus_notes(ids, values),
            *fixed_place_notes(decision, features, PatchGrid(*noise.shape, reader.patch)),
            *_notes(decision, alpha, len(ids), len(split.threshold), noise.disabled),
        ],
        "noise_ratio": float(np.exp(np.median([value.noise for value in values[n_fit:]]) / 2)),
    }
    references = ReferenceStatistics.fit(values).widened(FEW_FRAMES / len(values))
    seen = noise.saturation, noise.hot, noise.dark, noise.shape
    return CameraCalibration(decision, references, *seen, facts)


def _read_features(
    reader: FeatureReader, frames: FrameSource, split: ReferenceSplit, tick: Callable[[], None]
) -> list[Features]:
    """Extract the features of all frames, and call ``tick`` after each."""
    features = []
    for found in frames.map(reader, split.every):
        features.append(found)
        tick()
    return features


def _camera_model(fit: Sequence[Features], noise: NoiseModel, two_sided: bool) -> CameraModel:
    """Fit the sky template and the PSF zero point to frames."""
    sigma = float(np.nanmedian(np.concatenate([sky_sigma(c, noise).ravel() for c in fit])))
    levels = np.stack([as_image(subpatch_levels(features, noise)) for features in fit])
    template = make_template(levels, (sigma / 4) ** 2)
    zero = np.median([pooled_estimate(shape_sums(c).sum(axis=(2, 3)), np.zeros(3)) for c in fit], axis=0)
    return CameraModel(noise, template, zero, two_sided)


def _fit_decision(
    camera: CameraModel, features: Sequence[Sequence[Features]], disabled: Mapping[str, str], alpha: float
) -> TwoPassDecision:
    """Fit the two-pass decision.

    Distributions of features from the fit set, tails of distances and the first pass from the tail set, final
    p-values from the threshold set: ``features`` are those of the three.
    """
    decision = TwoPassDecision(camera, {}, {}, first_alpha=alpha)
    frames = [[FrameFeatures.of(one, camera) for one in part] for part in features[:2]]
    for regional in (False, True):
        if regional:
            frames = [[decision.after_first_pass(frame) for frame in part] for part in frames]
        for group in FEATURE_GROUPS:
            if group.regional == regional and not group.retired and group.name not in disabled:
                decision = _with_group(decision, group, *frames)
        if not regional:
            scores = [score_of(decision.group_neg_log10_p(f, regional=False)).ravel() for f in frames[1]]
            decision = replace(decision, first=ScoreTable.from_scores(np.concatenate(scores)))
    decision = replace(decision, lines=LineTest.fit([one for part in features for one in part]))
    decision = decision.calibrated(features[2])
    values = [frame_values(decision.neg_log10_p(one)[1]) for part in features for one in part]
    return replace(decision, frame_tests=FrameDistributions.fit(values, disabled, two_sided=camera.two_sided))


def _with_group(
    decision: TwoPassDecision,
    group: FeatureGroup,
    fit: Sequence[FrameFeatures],
    tail: Sequence[FrameFeatures],
) -> TwoPassDecision:
    """Add a feature group: its distance from the fit set, the tail of that from the tail set."""
    statistics = [group.function(frame) for frame in fit]
    distance = AnomalyDistance.fit(_rows(statistics), group.one_sided, group.min_effect_size)
    held_out = distance.of(_rows([group.function(frame) for frame in tail]))
    return replace(
        decision,
        distances={**decision.distances, group.name: distance},
        tails={**decision.tails, group.name: Tail.fit(held_out)},
    )


def _rows(statistics: Iterable[np.ndarray]) -> np.ndarray:
    """Stack the statistics of patches of frames, ``(n, k)``."""
    return np.concatenate([finite_rows(found) for found in statistics])


def _focus_notes(ids: Sequence[str], values: Sequence[FrameStatistics]) -> list[str]:
    """Write a note where the references differ much in focus: all of that range then counts as normal."""
    sizes = np.exp([value.size for value in values])
    if not np.isfinite(sizes).all() or sizes.max() < WIDE_RANGE * sizes.min():
        return []
    relative = sizes / np.median(sizes)
    return [
        f"The PSF size of the reference frames is {relative.min():.2f} to {relative.max():.2f} times its "
        f"median (widest: {ids[int(sizes.argmax())]}); this whole range counts as normal."
    ]


def _notes(
    decision: TwoPassDecision, alpha: float, total: int, threshold: int, disabled: Mapping[str, str]
) -> list[str]:
    """Write notes on a calibration with ``total`` frames, ``threshold`` of which set p-values."""
    notes = [_frame_note(decision, alpha, total)]
    if threshold < FEW_FRAMES:
        notes.append(
            f"The p-values come from {threshold} of the {total} frames: patches of one frame are correlated, "
            "so the share of good patches masked may differ from alpha by a factor of two or more; more "
            "frames bring it closer."
        )
    for reason in dict.fromkeys(disabled.values()):
        names = [name for name, why in disabled.items() if why == reason]
        notes.append(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} disabled: {reason}.")
    return notes


def _frame_note(decision: TwoPassDecision, alpha: float, total: int) -> str:
    """Write how far a frame may be from the references before all of it is masked."""
    limits = decision.frame_limits(alpha)
    words = {
        "size_frame": lambda x: f"stars {np.exp(x):.2f} times as wide",
        "ellipticity_frame": lambda x: f"an ellipticity {x:.2f} away",
        "noise_frame": lambda x: f"noise {np.exp(x / 2) - 1:.1%} away",
        "slope_frame": lambda x: f"a sky that tilts by {x:.1%}",
        "bowl_frame": lambda x: f"a sky that bows by {x:.1%}",
    }
    return (
        f"Compared with {total} references, a whole frame is masked at alpha = {alpha:g} from "
        f"{', '.join(words[name](limit) for name, limit in limits.items())}."
    )
