"""Lines in a frame: columns and rows that differ from their neighbours, and streaks across it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter, uniform_filter

from aqdask.stats.compiled import exact
from aqdask.stats.discrete_radon import SAMPLE, STEPS, line_sums, line_weights
from aqdask.stats.robust import mad_sigma

CELL = 8  # px a side
LARGEST_IMAGE = 256  # cells a side; those of larger frames are joined
SMALLEST = 128  # px; smaller frames have too few cells
PARTS = 32  # of a column or row, at least, in large frames
PIXEL_CUT, CELL_CUT = 3.0, 1.75  # sigma: stars make no line
NEIGHBOURS = 8  # columns on either side whose median is subtracted; so many at the edges are not judged
AROUND = 9  # cells a side, whose mean is subtracted from each
LISTED, MOST_LISTED = 5.0, 24  # strength and number of the columns, and rows, of a frame
CLEAR = 8.0  # strength of a line that a frame has without doubt


class DetectorLine(NamedTuple):
    """Column or row that differs from its neighbours, over the frame or a half of it.

    Parameters
    ----------
    kind : str
        'column' or 'row'.
    position : int
        Pixel, from 0.
    strength : float
        Difference in units of the spread over all columns or rows; negative for dark ones.
    """

    kind: str
    position: int
    strength: float

    def is_same(self, other: DetectorLine) -> bool:
        """Return True for a line of the same kind and sign at most a pixel away."""
        is_alike = self.kind == other.kind and (self.strength > 0) == (other.strength > 0)
        return is_alike and abs(self.position - other.position) <= 1


@dataclass(frozen=True)
class FrameLines:
    """Lines of one frame.

    Parameters
    ----------
    listed : tuple of DetectorLine
        The strongest columns and rows.
    floor : float
        Strength that a column or row which is not listed may have.
    streak : float
        Sum along the strongest straight line in any direction, in units of the spread over all lines.
    """

    listed: tuple[DetectorLine, ...] = ()
    floor: float = LISTED
    streak: float = 0.0


NO_LINES = FrameLines()
_TOLD = re.compile(r"\b(column|row) (\d+) (?:is (?:brighter|darker) than|differs from)")


@dataclass(frozen=True)
class UnevenLine:
    """Column or row that some frames have and others have not.

    Parameters
    ----------
    kind : str
        'column' or 'row'.
    position : int
        Pixel, from 0.
    is_bright : bool
    members : tuple of int
        Positions of the frames that have it.
    """

    kind: str
    position: int
    is_bright: bool
    members: tuple[int, ...]

    @property
    def text(self) -> str:
        """The line in words."""
        return f"{self.kind} {self.position} is {'brighter' if self.is_bright else 'darker'} than beside it"


def measure_lines(pixels: np.ndarray, bad: np.ndarray, rms: float) -> FrameLines:
    """Measure the lines of one frame.

    Parameters
    ----------
    pixels : ndarray (y, x)
        Float32, above the sky.
    bad : ndarray (y, x) of bool
        True for pixels without data.
    rms : float
        Noise of the sky in the same unit.

    Returns
    -------
    FrameLines
        Without any for frames of less than `SMALLEST` pixels a side.
    """
    if min(pixels.shape) < SMALLEST:
        return NO_LINES
    down, across = _sums(pixels, bad, rms)
    columns, highest = _listed("column", down)
    rows, other = _listed("row", across.T)
    cells = across[: len(down) * CELL].reshape(len(down), CELL, -1).sum(axis=1)
    cells[[0, -1]] = cells[:, [0, -1]] = 0
    for line in (*columns, *rows):
        image = cells if line.kind == "row" else cells.T
        image[line.position // CELL : line.position // CELL + 1] = 0
    return FrameLines((*columns, *rows), max(highest, other), _streak(cells))


def _sums(pixels: np.ndarray, bad: np.ndarray, rms: float) -> tuple[np.ndarray, np.ndarray]:
    """Sum `CELL` px along y, and along x, in units of the noise of such sums."""
    height, width = (length // CELL for length in pixels.shape)
    down = np.zeros((height, pixels.shape[1]), np.float32)
    across = np.zeros((len(pixels), width), np.float32)
    _add(pixels, bad, np.float32(1 / (CELL**0.5 * rms)), np.float32(PIXEL_CUT / CELL**0.5), down, across)
    return down, across


@exact
def _add(
    pixels: np.ndarray,
    bad: np.ndarray,
    scale: np.float32,
    cut: np.float32,
    down: np.ndarray,
    across: np.ndarray,
) -> None:
    line = np.empty(pixels.shape[1], np.float32)
    for row in range(pixels.shape[0]):
        for column in range(line.size):
            value = min(max(pixels[row, column] * scale, -cut), cut)
            line[column] = np.float32(0) if bad[row, column] else value
        if row // CELL < down.shape[0]:
            total = down[row // CELL]
            for column in range(line.size):
                total[column] += line[column]
        for place in range(across.shape[1]):
            value = np.float32(0)
            for column in range(CELL * place, CELL * place + CELL):
                value += line[column]
            across[row, place] = value


def _listed(kind: str, cells: np.ndarray) -> tuple[list[DetectorLine], float]:
    """List the strongest columns of cells ``(n, W)`` of one pixel width, and the floor of `FrameLines`.

    The median over the parts of a column: stars, their spikes and bleeding fill less than half of it.
    """
    joined = max(len(cells) // PARTS, 1)
    number = len(cells) // joined
    parts = cells[: number * joined].reshape(number, joined, -1).sum(axis=1) / np.float32(joined**0.5)
    levels = []
    for part in (parts, parts[: number // 2], parts[number // 2 :]):
        profile = np.median(part, axis=0)
        profile -= median_filter(profile, 2 * NEIGHBOURS + 1, mode="mirror")
        profile *= math.sqrt(len(part) / (math.pi / 2))  # variance of a median
        levels.append(profile / max(float(mad_sigma(profile, 0.0)), 1.0))
    strength = np.take_along_axis(np.array(levels), np.abs(levels).argmax(axis=0)[None], axis=0)[0]
    strength[:NEIGHBOURS] = strength[-NEIGHBOURS:] = 0
    found: list[DetectorLine] = []
    while np.abs(strength).max() >= LISTED:
        place = int(np.abs(strength).argmax())
        if len(found) == MOST_LISTED:
            return found, float(abs(strength[place]))
        found.append(DetectorLine(kind, place, float(strength[place])))
        strength[max(place - 1, 0) : place + 2] = 0
    return found, LISTED


def _streak(cells: np.ndarray) -> float:
    """Return the strongest sum over lines of cells ``(Y, X)`` in units of the spread of such sums."""
    while max(cells.shape) > LARGEST_IMAGE:
        height, width = (length // 2 * 2 for length in cells.shape)
        cells = cells[:height, :width].reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3))
    for _ in range(2):  # above the sky around, without stars in it
        cells = cells - uniform_filter(cells, AROUND)
        spread = float(mad_sigma(cells.ravel()[:: 1 + cells.size // SAMPLE]))
        cells = np.clip(cells / max(spread, 1e-6), -CELL_CUT, CELL_CUT)
    weights, sample = line_weights(cells.shape, np.ones(cells.shape, bool).tobytes())
    sums = line_sums(np.rint(STEPS * cells)) * weights
    known = sums.ravel()[sample]
    return float((sums.max() - np.median(known)) / max(float(mad_sigma(known)), 1e-6))


def uneven_lines(frames: Sequence[FrameLines]) -> list[UnevenLine]:
    """Find the columns and rows that some frames have and others have not, the strongest first.

    A frame has not what it does not list where half of the usual strength of the others would be listed.
    """
    found: list[UnevenLine] = []
    seen: list[DetectorLine] = []
    strong = [line for one in frames for line in one.listed if abs(line.strength) >= CLEAR]
    for line in sorted(strong, key=lambda line: -abs(line.strength)):
        if any(line.is_same(other) for other in seen):
            continue
        seen.append(line)
        own = [
            max((abs(other.strength) for other in one.listed if line.is_same(other)), default=0.0)
            for one in frames
        ]
        usual = float(np.median([strength for strength in own if strength >= CLEAR]))
        if any(not value and one.floor < usual / 2 for value, one in zip(own, frames, strict=True)):
            members = tuple(k for k, value in enumerate(own) if value)
            found.append(UnevenLine(line.kind, line.position, line.strength > 0, members))
    return found


def told_line(note: str) -> tuple[str, int] | None:
    """Return kind and pixel of the line that a note of a calibration names; None without any."""
    found = _TOLD.search(note)
    return (found[1], int(found[2])) if found else None


def when(inside: Sequence[int | None], outside: Sequence[int | None]) -> str:
    """Tell the time of some frames apart from others: ', from 2026-01-05T01:10 on'; empty where unknown.

    Times are microseconds since 1970-01-01.
    """
    known, others = ([time for time in times if time is not None] for times in (inside, outside))
    if not known or len(known) < len(inside):
        return ""
    first, last = (str(np.datetime64(time, "us").astype("M8[m]")) for time in (min(known), max(known)))
    if len(others) == len(outside) and min(known) > max(others, default=math.inf):
        return f", from {first} on"
    return f", at {first}" if first == last else f", from {first} to {last}"
