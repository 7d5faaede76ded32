"""A straight line in a frame, and the patches that it crosses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOUCH = 1e-6  # px; patches side by side share an edge


@dataclass(frozen=True)
class FrameLine:
    """Straight line in a frame.

    Parameters
    ----------
    kind : str
        'streak', 'column' or 'row'.
    start, end : tuple of float
        Ends ``(y, x)`` in pixels, integers at pixel centres.
    width : float
        Pixels.
    significance : float
        Sum along the line in units of the spread of such sums over the frame, positive for dark lines too.
    """

    kind: str
    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    significance: float


def crossed(line: FrameLine, tops: np.ndarray, lefts: np.ndarray, size: int) -> np.ndarray:
    """Find the patches of which the band of a line touches a pixel, corners included.

    Parameters
    ----------
    line : FrameLine
    tops : ndarray (n_y,)
    lefts : ndarray (n_x,)
        First row and first column of the patches in pixels.
    size : int
        Side of a patch in pixels.

    Returns
    -------
    ndarray (n_y, n_x) of bool
        True where a point of the patch, its pixels counted as squares, lies closer to the line than half its
        width.
    """
    start, end = np.array(line.start), np.array(line.end)
    low = [starts - 0.5 for starts in (tops[:, None], lefts[None, :])]
    high = [starts + size for starts in low]
    # Where the line is inside the patch: an interval of 0 to 1 along each axis.
    enter, leave = np.zeros((len(tops), len(lefts))), np.ones((len(tops), len(lefts)))
    for axis in (0, 1):
        step = end[axis] - start[axis]
        if abs(step) < 1e-9:
            outside = (start[axis] < low[axis]) | (start[axis] > high[axis])
            leave = np.where(outside, -1.0, leave)
        else:
            ends = [(edge - start[axis]) / step for edge in (low[axis], high[axis])]
            enter = np.maximum(enter, np.minimum(*ends))
            leave = np.minimum(leave, np.maximum(*ends))
    # Elsewhere the nearest points are an end of the line or a corner of the patch.
    nearest = np.full(enter.shape, np.inf)
    for y, x in (start, end):
        apart = [
            np.maximum(np.maximum(edge - value, value - other), 0)
            for value, edge, other in zip((y, x), low, high, strict=True)
        ]
        nearest = np.minimum(nearest, np.hypot(*apart))
    length = max(float((end - start) @ (end - start)), 1e-12)
    for y in (low[0], high[0]):
        for x in (low[1], high[1]):
            along = np.clip(
                ((y - start[0]) * (end - start)[0] + (x - start[1]) * (end - start)[1]) / length, 0, 1
            )
            away = np.hypot(y - start[0] - along * (end - start)[0], x - start[1] - along * (end - start)[1])
            nearest = np.minimum(nearest, away)
    return (enter <= leave) | (nearest < line.width / 2 - TOUCH)
