"""Position centring on real frames: the same splits and defects judged plainly and centred, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import output
import real_defects
from draws import MemoryFrames
from methods import measured
from seeds import SEEDS

from aqdask.methods.noise_aware.calibrate import adapt
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.stats.masking import bad_patches

ALPHA = 0.01
HELD_OUT = 4  # frames of a split
REGIONS = {
    "validation": 0.3,
    "calibration": 0.5,
}  # ten calibration frames of 13: what pools over a frame is_enabled
SHIFT = 40  # px, by which a held-out frame is moved: another pointing, which the guard must refuse


def centring(frames: MemoryFrames, others: MemoryFrames, splits: int, **sets: float) -> dict[str, Any]:
    """Good frames of one field and filter in random splits, `wide-field` adapted without and with centring.

    ``others`` are frames of another filter, which must be judged as the plain model judges them; ``sets`` are
    the fractions of the tail and threshold sets (`TrainSpec`).
    """
    rows: list[dict[str, Any]] = []
    for number in range(splits):
        order = np.random.default_rng([SEEDS["centring"], number]).permutation(len(frames.ids))
        held, rest = sorted(order[:HELD_OUT]), sorted(order[HELD_OUT:])
        for centred in (False, True):
            spec = TrainSpec(name="centred" if centred else "plain", seed=number, centred=centred, **sets)
            scorer = NoiseAwareScorer(adapt(load_shipped(), frames.part(rest), spec, lambda progress: None))
            rows.append(one(scorer, [frames.images[k] for k in held], others.images, frames, others))
            rows[-1] |= {"split": number, "model": spec.name}
    return {"rows": rows, "shift": SHIFT}


def one(
    scorer: NoiseAwareScorer,
    good: Sequence[np.ndarray],
    red: Sequence[np.ndarray],
    frames: MemoryFrames,
    others: MemoryFrames,
) -> dict[str, Any]:
    """What one model says of held-out frames: as they are, with defects, moved, and of the other filter."""
    moved = [np.roll(image, SHIFT, axis=1) for image in good]
    kinds = {"good": (good, frames), "moved": (moved, frames), "other filter": (red, others)}
    found = {}
    for kind, (images, source) in kinds.items():
        card = source.cards[0]
        judged = [
            scorer.score_features(measured(scorer, image, card.camera, card.filter), card.camera, card.filter)
            for image in images
        ]
        found[kind] = {
            "masked": [float(bad_patches(frame["pvalue"], ALPHA).mean()) for frame in judged],
            "centred": sum(int(frame["centred"]) for frame in judged),
            "frames": len(judged),
        }
    return {"kinds": found, "defects": real_defects.injected(scorer, good, frames.cards[0].filter)}


def table(title: str, found: dict[str, Any]) -> str:
    """Plain and centred side by side, as Markdown."""
    rows = found["rows"]
    plain, centred = ([row for row in rows if row["model"] == name] for name in ("plain", "centred"))
    cells = []
    for kind in plain[0]["kinds"]:
        values = [[np.mean(row["kinds"][kind]["masked"]) for row in part] for part in (plain, centred)]
        used = sum(row["kinds"][kind]["centred"] for row in centred)
        number = sum(row["kinds"][kind]["frames"] for row in centred)
        name = {"moved": f"masked, moved by {found['shift']} px"}.get(kind, f"masked, {kind}")
        cells.append((name, *map(_each, values), f"{used} of {number}"))
    for place, defect in enumerate(plain[0]["defects"]):
        for quantity in ("recall", "untouched"):
            values = [[row["defects"][place][quantity] for row in part] for part in (plain, centred)]
            if not np.isnan(values).all():
                cells.append((f"{quantity}, {defect['defect']}", *map(_each, values), "-"))
    columns = ("quantity", "plain (by split)", "centred (by split)", "frames centred")
    note = f"`wide-field`, adapted; {HELD_OUT} held-out frames a split, alpha {ALPHA:g}."
    return output.markdown(title, columns, cells, note)


def _each(values: Sequence[float]) -> str:
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"{np.mean(values):.4f} ({each})"
