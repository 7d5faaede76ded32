"""Part 4: ablation of the autoencoder, the head, each feature group and the second pass.

The features of the patches stay; the two-pass decision is fitted and calibrated again without a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from conditions import CONDITIONS, NO_GOAL, Condition
from draws import Patches, good_frames, spoilt_frame
from evaluate import ALPHA, Scale, Scored, patch_metrics
from methods import AQDASK, TWO_SIDED, FitAqdask, Task, Verdict
from metrics import Estimate, mean, rate
from seeds import SEEDS

from aqdask.methods.noise_aware import fit_calibration
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS, CameraModel
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.scorer import mask_uninformative
from aqdask.methods.noise_aware.two_pass import TwoPassDecision

AUTOENCODER = ("latent", "spike", "residual")  # beside the features below
HEAD = ("size", "size_region", "ellipticity_region")
REGIONAL = tuple(group.name for group in FEATURE_GROUPS if group.regional)
RESIDUAL_FEATURES = tuple(f"{kind}_{scale}" for kind in ("square", "peak") for scale in (4, 8, 16))


@dataclass(frozen=True)
class Variant:
    """One row.

    Parameters
    ----------
    title : str
    without : tuple of str
        Groups that are left out.
    constant : tuple of str
        Features that are set to one value everywhere.
    template : bool
        Compare the sky with the references' template.
    """

    title: str
    without: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    template: bool = True


VARIANTS: tuple[Variant, ...] = (
    Variant("everything"),
    *(
        Variant(f"without the group {group.name}", (group.name,))
        for group in FEATURE_GROUPS
        if not group.retired
    ),
    Variant("without the second pass", REGIONAL),
    *(
        Variant(f"without the second pass and {name}", (*REGIONAL, name))
        for name in ("noise", "size", "latent")
    ),
    Variant("without the autoencoder", AUTOENCODER, RESIDUAL_FEATURES),
    Variant("without the head", HEAD),
    Variant("without both networks", (*AUTOENCODER, *HEAD), RESIDUAL_FEATURES),
    Variant("without the sky template", template=False),
)


@dataclass(frozen=True)
class References:
    """Features of the reference frames of each set."""

    fit: list[Features]
    tail: list[Features]
    threshold: list[Features]


@dataclass(frozen=True)
class Row:
    """Features of the frames of a condition, and their affected patches."""

    condition: Condition
    frames: list[tuple[Features, Patches]]


def ablation(task: Task, scale: Scale) -> list[dict[str, Any]]:
    """Compute means over the conditions, and the masked share of clean test frames, by variant."""
    fitted = FitAqdask(task)
    references = _references(fitted, task)
    clean = [_features(fitted, frame.image) for frame in good_frames("clean", scale.clean, scale.size)]
    rows = [_row(fitted, row, scale) for row in scale.rows()]
    variants = (VARIANTS[0], *VARIANTS[-5:]) if scale.conditions else VARIANTS
    return [_variant(fitted, references, variant, clean, rows) for variant in variants]


def _features(fitted: FitAqdask, image: np.ndarray) -> dict[str, np.ndarray]:
    found = fitted.features(image)
    return mask_uninformative({name: found[..., k] for k, name in enumerate(fitted.scorer.feature_names)})


def _references(fitted: FitAqdask, task: Task) -> References:
    facts = fitted.scorer.calibration(fitted.card.camera, fitted.card.filter)[0].facts["frames"]
    place = {name: k for k, name in enumerate(task.frames.ids)}
    return References(
        *(
            [_features(fitted, task.frames.images[place[i]]) for i in facts[s]]
            for s in ("fit", "tail", "threshold")
        )
    )


def _row(fitted: FitAqdask, row: Condition, scale: Scale) -> Row:
    number = CONDITIONS.index(row)
    frames = []
    for k in range(scale.spoilt):
        frame = spoilt_frame(row.make, SEEDS["ablation"] + 1000 * number + k, scale.size)
        frames.append((_features(fitted, frame.image), Patches.of(frame)))
    return Row(row, frames)


def refit(
    camera: CameraModel, references: References, variant: Variant, disabled: Mapping[str, str], alpha: float
) -> TwoPassDecision:
    """Fit the two-pass decision of a variant, calibrated through the passes that are left."""
    fit, tail, threshold = ([_held_constant(c, variant) for c in part] for part in vars(references).values())
    reasons = {**disabled, **dict.fromkeys(variant.without, "left out")}
    return fit_calibration._fit_decision(camera, (fit, tail, threshold), reasons, alpha)


def _held_constant(features: Features, variant: Variant) -> Features:
    """Set the features of a variant that are held constant to 0 wherever there is data."""
    constant = np.where(np.isfinite(features["sky"]), 0.0, np.nan)
    return {**features, **dict.fromkeys(variant.constant, constant)}


def _variant(
    fitted: FitAqdask,
    references: References,
    variant: Variant,
    clean: Sequence[Features],
    rows: Sequence[Row],
) -> dict[str, Any]:
    calibration = fitted.scorer.calibration(fitted.card.camera, fitted.card.filter)[0]
    decisions = {}
    for name, two_sided in ((AQDASK, False), (TWO_SIDED, True)):
        camera = replace(calibration.decision.camera, two_sided=two_sided)
        if not variant.template:
            camera = replace(camera, template=None)
        disabled = calibration.facts["abstain"]
        decisions[name] = refit(camera, references, variant, disabled, calibration.decision.first_alpha)

    def scored(features: Features, patches: Patches | None, names: Sequence[str]) -> Scored:
        found = {name: decisions[name].score(_held_constant(features, variant)) for name in names}
        return Scored({name: Verdict(score, pvalue) for name, (score, pvalue, *_) in found.items()}, patches)

    good = [scored(features, None, tuple(decisions)) for features in clean]
    metrics = []
    for row in rows:
        name = TWO_SIDED if row.condition.two_sided else AQDASK
        bad = [scored(features, patches, (name,)) for features, patches in row.frames]
        metrics.append(patch_metrics(bad, good, name))
    return _summary(variant, rows, metrics, rate([one.verdicts[AQDASK].masked(ALPHA) for one in good]))


def _summary(
    variant: Variant, rows: Sequence[Row], metrics: Sequence[Mapping[str, Estimate]], false: Estimate
) -> dict[str, Any]:
    chosen = [k for k, row in enumerate(rows) if row.condition.goal != NO_GOAL]
    return {
        "variant": variant.title,
        "conditions": sum(not np.isnan(one["auroc"].value) for one in metrics),
        "auroc": asdict(mean([one["auroc"] for one in metrics])),
        "recall": asdict(mean([one["recall"] for one in metrics])),
        "auroc_without_no_goal": asdict(mean([metrics[k]["auroc"] for k in chosen])),
        "false": asdict(false),
        "rows": {row.condition.name: one["auroc"].value for row, one in zip(rows, metrics, strict=True)},
    }
