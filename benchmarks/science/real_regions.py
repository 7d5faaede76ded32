"""Real frames with enough references for region groups, with and without the worst focus among them."""

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


def regions(frames: MemoryFrames, widest: int, red: MemoryFrames, splits: int) -> list[dict[str, Any]]:
    """Calibrate `wide-field` on all frames but one that is held out, in random splits.

    ``widest`` is the frame of the worst focus: once among the references, once scored by the others.
    ``red`` are good frames of another filter, scored by the same calibration.
    """
    rows = []
    others = [k for k in range(len(frames.ids)) if k != widest]
    for number in range(splits):
        held = int(np.random.default_rng([SEEDS["regions"], number]).choice(others))
        rest = [k for k in others if k != held]
        for name, members in (("without", rest), ("with", sorted([*rest[:-1], widest]))):
            rows.append(
                {"split": number, "widest": name, "references": len(members), "held_out": frames.ids[held]}
            )
            try:
                bundle = calibrate_bundle(
                    load_shipped(), frames.part(members), TrainSpec(name="regions", seed=number), _silent
                )
            except UsageError as error:
                rows[-1]["refused"] = str(error)
                continue
            scorer = NoiseAwareScorer(bundle)
            rows[-1] |= {
                "masked": _masked(scorer, frames, held),
                "widest_masked": _masked(scorer, frames, widest),
                "other_filter": [_masked(scorer, red, k) for k in range(len(red.ids))],
                "defects": real_defects.injected(scorer, [frames.images[held]], frames.metadata[0].filter),
            }
    return rows


def _masked(scorer: NoiseAwareScorer, frames: MemoryFrames, index: int) -> float:
    card = frames.metadata[index]
    features = frame_features(scorer, frames.images[index], card.camera, card.filter)
    pvalue = scorer.score_features(features, card.camera, card.filter)["pvalue"]
    return float(bad_patches(pvalue, ALPHA).mean())


def _silent(progress: object) -> None:
    """Tell nobody."""


def table(rows: list[dict[str, Any]]) -> str:
    """Write the Markdown table: one row a split and set of references."""
    known = [row for row in rows if "masked" in row]
    titles = [one["defect"] for one in known[0]["defects"]] if known else []
    cells = []
    for row in sorted(rows, key=lambda row: row["widest"], reverse=True):
        if "refused" in row:
            found = [row["refused"], *["-"] * (len(titles) + 2)]
        else:
            red = row["other_filter"]
            found = [f"{row[name]:.3f}" for name in ("masked", "widest_masked")]
            found.append(f"{np.mean(red):.3f} ({max(red):.3f})")
            found += [f"{one['recall']:.2f}" for one in row["defects"]]
        cells.append((f"{row['references']}, {row['widest']} the widest", row["split"], *found))
    for name in ("without", "with"):
        chosen = [row for row in known if row["widest"] == name]
        if chosen:
            means = [np.mean([row[key] for row in chosen]) for key in ("masked", "widest_masked")]
            red = np.mean([row["other_filter"] for row in chosen])
            defects = np.mean([[one["recall"] for one in row["defects"]] for row in chosen], axis=0)
            cells.append(
                (f"mean, {name} the widest", len(chosen), *(f"{mean:.3f}" for mean in means), f"{red:.3f}",
                 *(f"{recall:.2f}" for recall in defects))
            )  # fmt: skip
    columns = (
        "references", "split", "held-out good frame masked", "widest frame masked",
        "R frames masked, mean (most)", *titles,
    )  # fmt: skip
    return output.markdown("Regions with enough real reference frames", columns, cells)
