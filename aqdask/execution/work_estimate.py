"""Estimates of the time that one core takes for a stage: what is short runs in the process of the command.

The figures are on the safe side of `benchmarks/results/live.md`: a stage may take less, seldom more.
"""

from __future__ import annotations

from collections.abc import Sequence

IN_PROCESS_SECONDS = 10.0  # of estimated work; a cluster takes about 3 s to start
COSTS = {
    "look": (0.02, 0.0), "hash": (0.02, 20e-9), "ingest": (0.03, 60e-9), "clear": (0.05, 0.0),
    "score": (0.05, 150e-9), "run": (0.08, 210e-9), "select": (0.05, 60e-9), "calibrate": (0.1, 400e-9),
    "mask": (0.02, 10e-9), "export": (0.03, 20e-9), "pictures": (0.5, 30e-9), "verify": (0.02, 20e-9),
    "detect": (0.1, 100e-9),
    "align": (0.1, 600e-9), "combine": (0.01, 150e-9),
    "transients": (0.2, 800e-9),
    "photometry": (0.1, 150e-9),
}  # fmt: skip
"""Seconds by stage: for a frame (or a source), and for a pixel."""


def seconds(stage: str, frames: int, shape: Sequence[int] = (0, 0)) -> float:
    """Estimate the seconds that one core takes for ``frames`` frames of a shape ``(y, x)`` in a stage."""
    a_frame, a_pixel = COSTS[stage]
    return frames * (a_frame + a_pixel * shape[0] * shape[1])
