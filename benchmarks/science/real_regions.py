"""Real frames with 6, 10 and 16 references, with and without the worst focus among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import output
import real_defects
from draws import MemoryFrames
from methods import frame_features
from seeds import SEEDS

from aqdask.errors import UsageError
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.stats.masking import bad_patches

ALPHA = 0.01
REFERENCES = (6, 10, 16)


def regions(
    frames: MemoryFrames, good: list[int], widest: int, red: MemoryFrames, splits: int
) -> list[dict[str, Any]]:
    """Calibrate `wide-field` on some of the ``good`` frames, in random splits.

    At least one good frame is held out in each; defects are put into it. Frames that are not good are
    references only where there are too few good ones. ``widest`` is the frame of the worst focus: once among
    the references, once scored by the others. ``red`` are good frames of another filter, scored by the same
    calibration.
    """
    rows = []
    others = [k for k in good if k != widest]
    doubtful = [k for k in range(len(frames.ids)) if k not in good and k != widest]
    for number in range(splits):
        order = np.random.default_rng([SEEDS["regions"], number]).permutation(others).tolist()
        order = [*order[:-1], *doubtful, order[-1]]
        for count in REFERENCES:
            for name, members in (("without", order[:count]), ("with", [*order[: count - 1], widest])):
                held = [k for k in order if k in good and k not in members]
                row = {"split": number, "widest": name, "references": count, "held_out": len(held)}
                rows.append(row)
                try:
                    bundle = calibrate_bundle(
                        load_shipped(),
                        frames.part(sorted(members)),
                        TrainSpec(name="regions", seed=number),
                        _silent,
                    )
                except UsageError as error:
                    row["refused"] = str(error)
                    continue
                scorer = NoiseAwareScorer(bundle)
                row |= {
                    "masked": [_masked(scorer, frames, k) for k in held],
                    "widest_masked": _masked(scorer, frames, widest),
                    "other_filter": [_masked(scorer, red, k) for k in range(len(red.ids))],
                    "defects": real_defects.injected(
                        scorer, [frames.images[held[-1]]], frames.metadata[0].filter
                    ),
                }
    return rows


def _masked(scorer: NoiseAwareScorer, frames: MemoryFrames, index: int) -> float:
    card = frames.metadata[index]
    features = frame_features(scorer, frames.images[index], card.camera, card.filter)
    pvalue = scorer.score_features(features, card.camera, card.filter)["pvalue"]
    return float(bad_patches(pvalue, ALPHA).mean())


def _silent(progress: object) -> None:
    """Tell nobody."""


def _mean(values: np.ndarray, digits: int) -> str:
    return f"{values.mean():.{digits}f} ({values.max():.3f})"


def table(rows: list[dict[str, Any]]) -> str:
    """Write the Markdown table: one row for each number of references, means over the splits."""
    known = [row for row in rows if "masked" in row]
    titles = [one["defect"] for one in known[0]["defects"]] if known else []
    cells = []
    for name in ("without", "with"):
        for count in REFERENCES:
            every = [row for row in rows if row["widest"] == name and row["references"] == count]
            chosen = [row for row in every if "masked" in row]
            if not chosen:
                cells.append((f"{count}, {name}", f"0 of {len(every)}", *["-"] * (len(titles) + 3)))
                continue
            good = np.concatenate([row["masked"] for row in chosen])
            red = np.concatenate([row["other_filter"] for row in chosen])
            widest = [row["widest_masked"] for row in chosen]
            defects = np.mean([[one["recall"] for one in row["defects"]] for row in chosen], axis=0)
            cells.append(
                (f"{count}, {name}", f"{len(chosen)} of {len(every)}", _mean(good, 4),
                 f"{np.mean(widest):.3f} ({sum(one >= 0.9 for one in widest)} of {len(widest)})",
                 _mean(red, 3), *(f"{recall:.2f}" for recall in defects))
            )  # fmt: skip
    columns = (
        "references, the widest", "splits", "held-out good frames masked, mean (most)",
        "widest masked, mean (.9 or more)", "R frames masked, mean (most)", *titles,
    )  # fmt: skip
    return output.markdown("Real reference frames, few and many", columns, cells)
