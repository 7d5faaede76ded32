"""Part 4: what the autoencoder, the head, each group and the second pass add.

What is measured in the patches stays; the judge is fitted and calibrated again without a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from conditions import CONDITIONS, NO_GOAL, Condition
from draws import Patches, good_frames, spoilt_frame
from evaluate import ALPHA, Scale, Scored, merits
from merit import Measured, mean, rate
from methods import AQDASK, TWO_SIDED, FitAqdask, Task, Verdict
from seeds import SEEDS

from aqdask.methods.noise_aware import fit_calibration
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS, CameraModel
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.scorer import mask_uninformative
from aqdask.methods.noise_aware.two_pass import TwoPassDecision

AUTOENCODER = ("latent", "spike", "residual")  # beside the columns below
HEAD = ("size", "size_region", "ellipticity_region")
REGIONAL = tuple(group.name for group in FEATURE_GROUPS if group.regional)
RESIDUAL_COLUMNS = tuple(f"{kind}_{scale}" for kind in ("square", "peak") for scale in (4, 8, 16))


@dataclass(frozen=True)
class Variant:
    """One row.

    Parameters
    ----------
    title : str
    without : tuple of str
        Groups that are left out.
    mute : tuple of str
        Columns that say nothing.
    template : bool
        Whether the sky is compared with the references' template.
    """

    title: str
    without: tuple[str, ...] = ()
    uninformative: tuple[str, ...] = ()
    template: bool = True


VARIANTS: tuple[Variant, ...] = (
    Variant("everything"),
    *(
        Variant(f"without the group {group.name}", (group.name,))
        for group in FEATURE_GROUPS
        if not group.fallback_for
    ),
    Variant("without the second pass", REGIONAL),
    *(
        Variant(f"without the second pass and {name}", (*REGIONAL, name))
        for name in ("noise", "size", "latent")
    ),
    Variant("without the autoencoder", AUTOENCODER, RESIDUAL_COLUMNS),
    Variant("without the head", HEAD),
    Variant("without both networks", (*AUTOENCODER, *HEAD), RESIDUAL_COLUMNS),
    Variant("without the sky template", template=False),
)


@dataclass(frozen=True)
class References:
    """Columns of the reference frames of each set."""

    fit: list[Features]
    tail: list[Features]
    threshold: list[Features]


@dataclass(frozen=True)
class Row:
    """Columns of the frames of a condition, and what is true of them."""

    condition: Condition
    frames: list[tuple[Features, Patches]]


def ablation(task: Task, scale: Scale) -> list[dict[str, Any]]:
    """Means over the conditions, and masked share of clean test frames, by variant."""
    known = FitAqdask(task)
    references = _references(known, task)
    clean = [_columns(known, frame.image) for frame in good_frames("clean", scale.clean, scale.size)]
    rows = [_row(known, row, scale) for row in scale.rows()]
    variants = (VARIANTS[0], *VARIANTS[-5:]) if scale.conditions else VARIANTS
    return [_variant(known, task, references, variant, clean, rows) for variant in variants]


def _columns(known: FitAqdask, image: np.ndarray) -> dict[str, np.ndarray]:
    found = known.features(image)
    return mask_uninformative({name: found[..., k] for k, name in enumerate(known.scorer.features)})


def _references(known: FitAqdask, task: Task) -> References:
    facts = known.scorer.calibration(known.card.camera, known.card.filter)[0].facts["frames"]
    place = {name: k for k, name in enumerate(task.frames.ids)}
    return References(
        *(
            [_columns(known, task.frames.images[place[i]]) for i in facts[s]]
            for s in ("fit", "tail", "threshold")
        )
    )


def _row(known: FitAqdask, row: Condition, scale: Scale) -> Row:
    number = CONDITIONS.index(row)
    frames = []
    for k in range(scale.spoilt):
        frame = spoilt_frame(row.make, SEEDS["ablation"] + 1000 * number + k, scale.size)
        frames.append((_columns(known, frame.image), Patches.of(frame)))
    return Row(row, frames)


def refit(
    camera: CameraModel, references: References, variant: Variant, disabled: Mapping[str, str], alpha: float
) -> TwoPassDecision:
    """The judge of a variant, calibrated through the passes that are left."""
    fit, tail, threshold = ([_muted(c, variant) for c in part] for part in vars(references).values())
    reasons = {**disabled, **dict.fromkeys(variant.without, "left out")}
    decision = fit_calibration._judge(camera, (fit, tail, threshold), reasons, alpha)
    return decision


def _muted(features: Features, variant: Variant) -> Features:
    """Columns of which some are the same everywhere."""
    known = np.where(np.isfinite(features["sky"]), 0.0, np.nan)
    return {**features, **dict.fromkeys(variant.mute, known)}


def _variant(
    known: FitAqdask,
    task: Task,
    references: References,
    variant: Variant,
    clean: Sequence[Features],
    rows: Sequence[Row],
) -> dict[str, Any]:
    calibration = known.scorer.calibration(known.card.camera, known.card.filter)[0]
    decisions = {}
    for name, two_sided in ((AQDASK, False), (TWO_SIDED, True)):
        camera = replace(calibration.decision.camera, two_sided=two_sided)
        if not variant.template:
            camera = replace(camera, template=None)
        disabled = calibration.facts["abstain"]
        decisions[name] = refit(camera, references, variant, disabled, calibration.decision.first_alpha)

    def scored(features: Features, patches: Patches | None, names: Sequence[str]) -> Scored:
        found = {name: decisions[name].score(_muted(features, variant)) for name in names}
        return Scored({name: Verdict(score, pvalue) for name, (score, pvalue, _) in found.items()}, patches)

    good = [scored(features, None, tuple(decisions)) for features in clean]
    merit = []
    for row in rows:
        name = TWO_SIDED if row.condition.two_sided else AQDASK
        bad = [scored(features, patches, (name,)) for features, patches in row.frames]
        merit.append(merits(bad, good, name))
    return _summary(variant, rows, merit, rate([one.verdicts[AQDASK].masked(ALPHA) for one in good]))


def _summary(
    variant: Variant, rows: Sequence[Row], merit: Sequence[Mapping[str, Measured]], false: Measured
) -> dict[str, Any]:
    chosen = [k for k, row in enumerate(rows) if row.condition.goal != NO_GOAL]
    return {
        "variant": variant.title,
        "conditions": sum(not np.isnan(one["auroc"].value) for one in merit),
        "auroc": asdict(mean([one["auroc"] for one in merit])),
        "recall": asdict(mean([one["recall"] for one in merit])),
        "auroc_without_no_goal": asdict(mean([merit[k]["auroc"] for k in chosen])),
        "false": asdict(false),
        "rows": {row.condition.name: one["auroc"].value for row, one in zip(rows, merit, strict=True)},
    }
