"""What photometry and detection share: sky subtraction, extraction, masks under apertures, neighbours.

Positions are 0-based pixels ``(x, y)`` with whole numbers at pixel centres, arrays are ``(y, x)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep

MOST_INVALID = 0.9  # of a frame: beyond it there is no sky to measure
MINIMUM_AREA = 5  # pixels above the threshold
PIXEL_BUFFER = 30_000_000  # at most: sep's buffer of pixels above the threshold


@dataclass(frozen=True, eq=False)
class Subtracted:
    """A frame without its sky.

    Parameters
    ----------
    pixels : ndarray (y, x)
        float32, counts above the sky; 0 where invalid.
    rms : ndarray (y, x)
        float32, local noise of the sky in counts, as sep's mesh of 64 px gives it.
    invalid : ndarray (y, x)
        bool, True = no data.
    """

    pixels: np.ndarray
    rms: np.ndarray
    invalid: np.ndarray


def subtract_sky(image: np.ndarray, invalid: np.ndarray | None = None) -> Subtracted | None:
    """A frame of any real type without its sky; None where there is none to measure.

    ``invalid`` is bool ``(y, x)``; pixels that are not finite are added to it. A frame is refused where it is
    empty, constant, or for `MOST_INVALID` of its pixels no data.
    """
    pixels = np.array(image, dtype=np.float32, order="C")
    bad = ~np.isfinite(pixels)
    if invalid is not None:
        bad |= np.asarray(invalid, dtype=bool)
    if not pixels.size or bad.mean() > MOST_INVALID:
        return None
    if np.ptp(pixels[~bad]) == 0:  # sep says that its noise is 1
        return None
    pixels[bad] = 0
    background = sep.Background(pixels, mask=bad)
    level = float(background.globalrms)
    if not (np.isfinite(level) and level > 0):
        return None
    background.subfrom(pixels)
    pixels[bad] = 0
    rms = background.rms()
    rms[~(rms > 0)] = level
    return Subtracted(pixels, rms, bad)


def extract(
    pixels: np.ndarray,
    threshold: float,
    error: np.ndarray | None = None,
    invalid: np.ndarray | None = None,
    *,
    smooth: bool = True,
) -> np.ndarray:
    """Positions of what sep finds above ``threshold`` times the error: float64 ``(n, 2)`` of x, y.

    Without sep's cleaning, which takes a long bright track for an object with wings everywhere: a trail or
    a hot column made it drop 34 to 43 % of the stars of a whole frame, and fewer where nothing was wrong.

    Parameters
    ----------
    pixels : ndarray (y, x)
        float32 without sky.
    threshold : float
        In units of ``error``, or of ``pixels`` where there is none.
    error : ndarray (y, x), optional
        float32 noise of each pixel.
    invalid : ndarray (y, x) of bool, optional
        Where nothing is looked for.
    smooth : bool
        With sep's matched 3 x 3 filter (which takes the noise of pixels for independent).

    Raises
    ------
    RuntimeError
        For a frame so crowded or structured that even sep gives up.
    """
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) if smooth else None
    before = sep.get_extract_pixstack()
    try:
        while True:
            try:
                found = sep.extract(
                    pixels, threshold, err=error, mask=invalid, minarea=MINIMUM_AREA, filter_kernel=kernel,
                    clean=False,
                )  # fmt: skip
                return np.column_stack([found["x"], found["y"]])
            except Exception as failure:  # sep raises plain Exception for its buffer limits
                larger = 10 * sep.get_extract_pixstack()
                if "pixel buffer" not in str(failure) or larger > PIXEL_BUFFER:
                    raise RuntimeError(f"sep cannot extract sources: {failure}") from failure
                sep.set_extract_pixstack(larger)
    finally:
        sep.set_extract_pixstack(before)


def touched(mask: np.ndarray | None, positions: np.ndarray, radius: float) -> np.ndarray:
    """Whether a masked pixel lies under the circle of each position: bool ``(n,)``.

    Parameters
    ----------
    mask : ndarray (y, x) of bool, or None
        True = bad; None: nothing is.
    positions : ndarray (n, 2)
        x, y in pixels. What lies beyond the frame is not masked.
    radius : float
        Pixels; 0 asks for the pixel of the position alone.
    """
    if mask is None or not len(positions):
        return np.zeros(len(positions), dtype=bool)
    x, y = np.asarray(positions, dtype=float).T
    if radius > 0:
        bad = np.ascontiguousarray(mask, dtype=np.float32)
        return sep.sum_circle(bad, x, y, radius, subpix=0)[0] > 0
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    height, width = mask.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return inside & mask[row.clip(0, height - 1), column.clip(0, width - 1)].astype(bool)


def pairs_within(
    first: np.ndarray, second: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of positions at most ``radius`` apart: index in each list, and the distance, ``(m,)`` each.

    Parameters
    ----------
    first, second : ndarray (n, 2), (k, 2)
        x, y in pixels, finite.
    radius : float
        Pixels, above 0.

    Positions are sorted into square cells of ``radius``; the three neighbours along a row of cells have
    consecutive numbers, so that three searches give all candidates.
    """
    if not (len(first) and len(second)):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    origin = np.minimum(first.min(axis=0), second.min(axis=0))
    cells, others = (((some - origin) // radius).astype(np.int64) + 1 for some in (first, second))
    row = int(max(cells[:, 0].max(), others[:, 0].max())) + 2  # cells along x, with an empty one between rows
    number, theirs = cells[:, 1] * row + cells[:, 0], others[:, 1] * row + others[:, 0]
    order = np.argsort(theirs, kind="stable")
    theirs = theirs[order]
    left, right = [], []
    for shift in (-row, 0, row):
        start = np.searchsorted(theirs, number + shift - 1, side="left")
        count = np.searchsorted(theirs, number + shift + 1, side="right") - start
        left.append(np.repeat(np.arange(len(first)), count))
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        right.append(order[np.repeat(start, count) + within])
    one, two = np.concatenate(left), np.concatenate(right)
    distance = np.hypot(*(first[one] - second[two]).T)
    near = distance <= radius
    return one[near], two[near], distance[near]
