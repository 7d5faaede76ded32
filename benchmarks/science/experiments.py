"""Part 1: the published experiments, FWHM and complex background, for every method.

The third, photometry and false alarms, is in `archive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from draws import REFERENCE_FWHM, Patches, spoilt_frame
from evaluate import Scale, Scored, patch_metrics
from methods import NAMES, TWO_SIDED, Contest
from metrics import spearman
from seeds import SEEDS

from aqdask.simulate.defects import Background, Defocus

PIXEL_SCALE = 0.5  # arcsec a pixel: the reference of 2.4 px is 1.2 arcsec
FWHMS = np.linspace(0.5, 2.0, 13)  # arcsec
LEVELS = np.linspace(0.1, 1.0, 10)  # rms as a fraction of the sky
SCALES = (8, 32)  # px


def fwhm_sweep(contest: Contest, scale: Scale, clean: Sequence[Scored]) -> dict[str, Any]:
    """Score and AUROC against FWHM on both sides of the reference; all patches of a frame are affected.

    'trend' is Spearman's coefficient of the patch scores with the FWHM, 'novelty' that with
    ``|ln(FWHM / reference)|``.
    """
    steps, truth, everything = [], [], []
    for number, arcsec in enumerate(_few(FWHMS, scale)):
        pixels = float(arcsec / PIXEL_SCALE)
        first = SEEDS["fwhm"] + 1000 * number
        scored = _scored(contest, Defocus(pixels), first, scale)
        truth += [pixels] * len(scored)
        everything += scored
        steps.append({"fwhm_arcsec": float(arcsec), "fwhm_px": pixels, **_step(scored, clean)})
    names = list(steps[0]["methods"])
    away = np.abs(np.log(np.array(truth) / REFERENCE_FWHM))
    trends = {
        name: {
            "trend": asdict(spearman([one.verdicts[name].score for one in everything], truth)),
            "novelty": asdict(spearman([one.verdicts[name].score for one in everything], list(away))),
        }
        for name in names
    }
    return {"pixel_scale": PIXEL_SCALE, "reference_px": REFERENCE_FWHM, "steps": steps, "trends": trends}


def background_sweep(contest: Contest, scale: Scale, clean: Sequence[Scored]) -> list[dict[str, Any]]:
    """AUROC and recall against the level of complex background over the whole frame, by its scale."""
    rows = []
    for place, pixels in enumerate(SCALES[:1] if scale.conditions else SCALES):
        for number, level in enumerate(_few(LEVELS, scale)):
            first = SEEDS["background"] + 20_000 * place + 1000 * number
            scored = _scored(contest, Background(float(level), scale=pixels), first, scale)
            rows.append({"scale_px": pixels, "level": float(level), **_step(scored, clean)})
    return rows


def _few(values: np.ndarray, scale: Scale) -> np.ndarray:
    """All of them, or the outer and the middle one where only a few conditions are run."""
    return values[[0, len(values) // 2, -1]] if scale.conditions else values


def _scored(contest: Contest, defect: Any, first: int, scale: Scale) -> list[Scored]:
    frames = (spoilt_frame(lambda rng: defect, first + k, scale.size) for k in range(scale.spoilt))
    return [Scored(contest.score(frame.image), Patches.of(frame)) for frame in frames]


def _step(scored: Sequence[Scored], clean: Sequence[Scored]) -> dict[str, Any]:
    """Metrics of a step of a sweep, by method."""
    names = [name for name in (*NAMES, TWO_SIDED) if name in scored[0].verdicts]
    methods = {}
    for name in names:
        found = patch_metrics(scored, clean, name)
        score = np.concatenate([one.verdicts[name].score.ravel() for one in scored])
        methods[name] = {key: asdict(found[key]) for key in ("auroc", "recall")}
        methods[name]["score"] = [float(q) for q in np.nanpercentile(score, (16, 50, 84))]
    return {"frames": len(scored), "methods": methods}
