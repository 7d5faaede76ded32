"""Test of the lines across a frame against the strongest lines of reference frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aqdask.methods.noise_aware.frame_line import FrameLine
from aqdask.methods.noise_aware.frame_lines import (
    CANDIDATES,
    FLOOR,
    FOLLOWED,
    columns_and_rows,
    find_lines,
    patches_crossed,
    shared_lines,
)
from aqdask.methods.noise_aware.frame_sums import FrameSums
from aqdask.methods.noise_aware.line_parts import MIN_PARTS
from aqdask.methods.noise_aware.line_threshold import LineThreshold
from aqdask.methods.noise_aware.pooling import Features
from aqdask.references.detector_lines import NO_LINES, DetectorLine, FrameLines, uneven_lines, when

LINE = "line_frame"  # name of the test
REASON = "line"  # of the patches that it masks (`aqdask.flags.REASONS`)
SMALLEST = 1e-30  # p-value
MIN_COVERAGE = 0.025  # of the patches, as which a shorter line counts
SHOWN = 3  # columns and rows in notes


@dataclass(frozen=True)
class LineTest:
    """Test of the lines across a frame.

    Parameters
    ----------
    threshold : LineThreshold
        Distribution of the strongest line of a good frame.
    known : tuple of FrameLine
        Columns and rows that the references share, which are the detector's and no line of a frame.
    """

    threshold: LineThreshold
    known: tuple[FrameLine, ...] = ()

    @classmethod
    def fit(cls, references: Sequence[Features]) -> LineTest | None:
        """Fit to the features of reference frames; None where none is large enough for lines."""
        found = [find_lines(features, floor=math.inf) for features in references]
        if known := shared_lines(found):
            found = [find_lines(features, known, math.inf) for features in references]
        strongest = [lines[0].significance for lines in found if lines]
        return cls(LineThreshold.fit(strongest), known) if strongest else None

    def pvalue(self, line: FrameLine, coverage: float) -> float:
        """Compute the probability that a good patch is crossed by a line at least as significant.

        That of such a line in a good frame, times the fraction ``coverage`` of the patches that it crosses.
        Of shorter lines than `MIN_COVERAGE` there are more places in a frame.
        """
        return float(self.threshold.pvalue(line.significance)) * max(coverage, MIN_COVERAGE)

    def neg_log10_p(self, features: Features) -> np.ndarray:
        """Compute ``-log10`` of the smallest `pvalue` of the lines across each patch, ``(n_y, n_x)``.

        0 without a line, NaN without data.
        """
        known = np.isfinite(features["sky"])
        found = np.where(known, 0.0, np.nan)
        for line in find_lines(features, self.known, max(FLOOR, self.threshold.typical)):
            there = patches_crossed(features, line) & known
            pvalue = self.pvalue(line, float(there.sum() / known.sum()))
            found[there] = np.maximum(found[there], -np.log10(max(pvalue, SMALLEST)))
        return found

    def of_another_camera(self) -> LineTest:
        """Return a copy without the lines of the detector."""
        return LineTest(self.threshold)

    def stored(self) -> dict[str, Any]:
        """Return the test as plain JSON."""
        return {"threshold": self.threshold.stored(), "known": [asdict(line) for line in self.known]}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> LineTest:
        """Invert `stored`."""
        known = (
            {**line, "start": tuple(line["start"]), "end": tuple(line["end"])} for line in stored["known"]
        )
        return cls(LineThreshold.from_stored(stored["threshold"]), tuple(FrameLine(**line) for line in known))


def uneven_line_notes(references: Sequence[Features], times: Sequence[int | None]) -> list[str]:
    """Name the columns and rows that some reference frames have and others have not.

    ``times`` are those of the frames, in microseconds since 1970-01-01.
    """
    notes = []
    for line in uneven_lines([_lines_of(features) for features in references])[:SHOWN]:
        apart = ([time for k, time in enumerate(times) if (k in line.members) == inside] for inside in (1, 0))
        notes.append(
            f"The {line.kind} {line.position} differs from its neighbours in {len(line.members)} of the "
            f"{len(times)} reference frames{when(*apart)}, and not in the others. It hides fainter lines "
            "and counts as normal where it is in most: leave those frames out, or mark it (--bad-pixel-map)."
        )
    return notes


def _lines_of(features: Features) -> FrameLines:
    """Return the columns and rows of a frame; none for frames of less than `MIN_PARTS` patches a side."""
    if min(features["top"].shape) < MIN_PARTS or not np.isfinite(features["top"]).any():
        return NO_LINES
    lines = columns_and_rows(FrameSums.of(features))
    listed = [
        DetectorLine(line.kind, round(line.start[line.kind == "column"]), line.significance) for line in lines
    ]
    weakest = min((line.strength for line in listed), default=0.0) if len(listed) >= CANDIDATES else 0.0
    return FrameLines(tuple(listed), max(FOLLOWED, weakest))
