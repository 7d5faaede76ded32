"""What the demonstration says of its masks: recall, false masks, and a line for each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aqdask.cli.common import Session
from aqdask.monitor.strict_json import strict_json

if TYPE_CHECKING:
    from aqdask.simulate.demo import DemoFrame
    from aqdask.simulate.truth import Evaluation, FrameVerdict

REASONS_SHOWN, LEAST_SHARE = 3, 0.05


@dataclass(frozen=True)
class FrameLine:
    """What was found in one frame.

    Parameters
    ----------
    frame : str
    defects : tuple of str
        Kinds; none in a good frame.
    masked : float
        Fraction of the patches.
    score : float
        ``frame_score``, in robust sigma.
    flagged : bool
        ``frame_flag``.
    reasons : dict of str to float
        Of the masked patches, the share of each reason; most frequent first.
    """

    frame: str
    defects: tuple[str, ...]
    masked: float
    score: float
    flagged: bool
    reasons: dict[str, float]


@dataclass(frozen=True)
class Findings:
    """The masks of the unseen frames at ``alpha``, patch by patch and frame by frame."""

    alpha: float
    patches: Evaluation
    frames: tuple[FrameLine, ...]


def evaluate_frames(
    archive: Path, model: str, sources: Path, plan: Sequence[DemoFrame], alpha: float
) -> Findings:
    """Compare the masks of these frames with their truth; bad frames come first."""
    from aqdask import api
    from aqdask.simulate.demo import read_truth, truth_path
    from aqdask.simulate.truth import FrameVerdict, evaluate
    from aqdask.specs import PatchGrid
    from aqdask.stats.masking import bad_patches

    quality = api.open_quality(archive, model)
    rows = {str(name): row for row, name in enumerate(quality["frame_id"].values)}
    lines: list[FrameLine] = []

    def verdict(frame: DemoFrame) -> FrameVerdict:
        maps = quality[["pvalue", "reason", "frame_score", "frame_flag"]].isel(frame=rows[frame.name]).load()
        mask = bad_patches(maps["pvalue"].values, alpha)
        lines.append(
            FrameLine(
                frame.name,
                tuple(defect.kind for defect in frame.defects),
                float(mask.mean()),
                float(maps["frame_score"]),
                bool(maps["frame_flag"]),
                _shares(maps["reason"].values[mask]),
            )
        )
        return FrameVerdict(mask, read_truth(truth_path(sources, frame.name)))

    spec = plan[0].spec
    ordered = sorted(plan, key=lambda frame: frame.good)
    rates = evaluate((verdict(frame) for frame in ordered), PatchGrid(spec.height, spec.width))
    return Findings(alpha, rates, tuple(lines))


def _shares(reasons: np.ndarray) -> dict[str, float]:
    """Names of the reasons and their shares, most frequent first."""
    from aqdask import flags

    names = {flag.value: flag.name for flag in flags.REASONS}
    values, counts = np.unique(reasons, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {names[int(values[k])]: float(counts[k] / reasons.size) for k in order}


def show(session: Session, findings: Findings) -> None:
    """Print the three tables."""
    alpha, found = findings.alpha, findings.patches
    rows = [(kind, rate.patches, rate.masked, rate.rate) for kind, rate in found.recall.items()]
    title = f"recall of known defects at alpha = {alpha} (patches of unseen frames):"
    session.table(title, ("defect", "affected", "masked", "recall"), rows)
    false = (("good frames", found.good_frames), ("untouched patches of bad frames", found.untouched))
    session.table(f"false masks, alpha = {alpha} promised on good frames:",
                  ("where", "patches", "masked", "rate"),
                  [(where, rate.patches, rate.masked, rate.rate) for where, rate in false])  # fmt: skip
    session.table(
        "unseen frames (frame_score in robust sigma of the references; reasons of the masked patches):",
        ("frame", "defects", "masked", "frame_score", "frame_flag", "reasons"),
        [(line.frame, ", ".join(line.defects) or "none", line.masked, line.score,
          "flagged" if line.flagged else "good", _dominating(line.reasons)) for line in findings.frames],
    )  # fmt: skip


def _dominating(reasons: Mapping[str, float]) -> str:
    most = [f"{name} {share:.0%}" for name, share in reasons.items() if share >= LEAST_SHARE]
    return ", ".join(most[:REASONS_SHOWN]) or "-"


def write(path: Path, findings: Findings) -> Path:
    """Keep the same numbers as JSON."""

    def numbers(rate: Any) -> Mapping[str, int]:
        return {"patches": rate.patches, "masked": rate.masked}

    found = {
        "alpha": findings.alpha,
        "recall": {kind: numbers(rate) for kind, rate in findings.patches.recall.items()},
        "good_frames": numbers(findings.patches.good_frames),
        "untouched": numbers(findings.patches.untouched),
        "frames": [asdict(line) for line in findings.frames],
    }
    path.write_text(strict_json(found, indent=1) + "\n")
    return path
