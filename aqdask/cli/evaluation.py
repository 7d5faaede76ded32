"""Recall, false-mask rate and a line for each frame of the demonstration, as tables and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aqdask import flags
from aqdask.cli.common import Session
from aqdask.monitor.strict_json import strict_json

if TYPE_CHECKING:
    from aqdask.simulate.demo import DemoFrame
    from aqdask.simulate.truth import Evaluation, MaskAndTruth

REASONS_SHOWN, MIN_SHARE = 3, 0.05


@dataclass(frozen=True)
class FrameResult:
    """Mask and score of one frame.

    Parameters
    ----------
    frame : str
        File name.
    defects : tuple of str
        Kinds of its defects; empty for a good frame.
    masked : float
        Masked fraction of the patches.
    score : float
        ``frame_score``, in robust sigma of the reference frames.
    flagged : bool
        ``frame_flag``.
    reasons : dict of str to float
        Share of each reason among the masked patches, most frequent first.
    """

    frame: str
    defects: tuple[str, ...]
    masked: float
    score: float
    flagged: bool
    reasons: dict[str, float]


@dataclass(frozen=True)
class DemoResults:
    """Masks of the unseen frames at ``alpha``, compared with the truth by patch and by frame."""

    alpha: float
    patches: Evaluation
    frames: tuple[FrameResult, ...]


def evaluate_frames(
    archive: Path, model: str, sources: Path, plan: Sequence[DemoFrame], alpha: float
) -> DemoResults:
    """Compare the masks of these frames with their truth; bad frames come first in the result."""
    from aqdask import api
    from aqdask.simulate.demo import read_truth, truth_path
    from aqdask.simulate.truth import MaskAndTruth, evaluate
    from aqdask.specs import PatchGrid
    from aqdask.stats.masking import bad_patches

    quality = api.open_quality(archive, model)[["pvalue", "reason", "frame_score", "frame_flag"]]
    rows = {str(name): row for row, name in enumerate(quality["frame_id"].values)}
    results: list[FrameResult] = []

    def masks() -> Iterator[MaskAndTruth]:  # one truth in memory at a time
        for frame in sorted(plan, key=lambda frame: frame.good):
            maps = quality.isel(frame=rows[frame.name]).load()
            mask = bad_patches(maps["pvalue"].values, alpha)
            kinds = tuple(defect.kind for defect in frame.defects)
            score, flagged = float(maps["frame_score"]), bool(maps["frame_flag"])
            reasons = _shares(maps["reason"].values[mask])
            results.append(FrameResult(frame.name, kinds, float(mask.mean()), score, flagged, reasons))
            yield MaskAndTruth(mask, read_truth(truth_path(sources, frame.name)))

    spec = plan[0].spec
    rates = evaluate(masks(), PatchGrid(spec.height, spec.width))
    return DemoResults(alpha, rates, tuple(results))


def _shares(reasons: np.ndarray) -> dict[str, float]:
    """Share of each reason by name, most frequent first."""
    names = {flag.value: flag.name for flag in flags.REASONS}
    values, counts = np.unique(reasons, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {names[int(values[k])]: float(counts[k] / reasons.size) for k in order}


def show(session: Session, results: DemoResults) -> None:
    """Print recall by kind of defect, false-mask rates, and a line for each frame."""
    alpha, found = results.alpha, results.patches
    rows = [(kind, rate.patches, rate.masked, rate.rate) for kind, rate in found.recall.items()]
    title = f"recall of known defects at alpha = {alpha} (patches of unseen frames):"
    session.table(title, ("defect", "affected", "masked", "recall"), rows)
    false = (("good frames", found.good_frames), ("untouched patches of bad frames", found.untouched))
    session.table(f"false masks, alpha = {alpha} promised on good frames:",
                  ("where", "patches", "masked", "rate"),
                  [(where, rate.patches, rate.masked, rate.rate) for where, rate in false])  # fmt: skip
    session.table(
        "unseen frames (frame_score in standard deviations; reasons of the masked patches):",
        ("frame", "defects", "masked", "frame_score", "frame_flag", "reasons"),
        [(line.frame, ", ".join(line.defects) or "none", line.masked, line.score,
          "flagged" if line.flagged else "good", _main_reasons(line.reasons)) for line in results.frames],
    )  # fmt: skip


def _main_reasons(reasons: dict[str, float]) -> str:
    shown = [f"{name} {share:.0%}" for name, share in reasons.items() if share >= MIN_SHARE]
    return ", ".join(shown[:REASONS_SHOWN]) or "-"


def write(path: Path, results: DemoResults) -> Path:
    """Write the numbers of `show` as JSON and return the path."""
    found = {"alpha": results.alpha, **asdict(results.patches), "frames": list(map(asdict, results.frames))}
    path.write_text(strict_json(found, indent=1) + "\n")
    return path
