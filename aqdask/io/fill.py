"""Constant fill: areas of exactly one value beyond the detector, in turned, dithered or round images."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

RUN = 16  # px of one value along the edge of the image, or side of a block inside it, that may be fill
EDGE_WIDTH = 4  # px; what touches the edge and is narrower is a defect of the detector
INNER_WIDTH = 32  # px; inside the image, no defect is as large
CHANCE = 1e-4  # probability that pixels of an image that have a common value make a square of the width
PERCOLATION = 0.2  # of the other pixels; where so many have the value, they join the fill far into the image
MOST = 0.99  # of the image: that much of one value is an empty frame
MAX_VALUES = 4  # that are tried


def find_fill(image: np.ndarray) -> np.ndarray | None:
    """Find the pixels of constant fill, bool ``(y, x)``; None where there is none.

    Fill is an area of exactly one value that touches the edge of the image, or is 32 px wide or more. The
    largest value of the image is saturation, and no fill. In images of few photons, where one value is
    frequent, the area must be wider than chance makes it.

    Parameters
    ----------
    image : ndarray (y, x)
        Any type; NaN is not looked for.
    """
    if min(image.shape) < RUN or not (candidates := _candidates(image)):
        return None
    top = np.fmax.reduce(image, axis=None) if image.dtype.kind == "f" else image.max()
    areas = [_area(image == value) for value in candidates if value != top]
    found = [area for area in areas if area is not None]
    if not found:
        return None
    fill = np.logical_or.reduce(found)
    return fill if fill.mean() < MOST else None


def _candidates(image: np.ndarray) -> list[float]:
    """List the values of runs along the edges and of constant blocks, the most frequent first."""
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    values = np.concatenate([*map(_run_values, edges), _block_values(image)])
    different, counts = np.unique(values, return_counts=True)
    return list(different[np.argsort(-counts)][:MAX_VALUES])


def _run_values(edge: np.ndarray) -> np.ndarray:
    """Return the value of each run of `RUN` equal pixels or more."""
    ends = np.flatnonzero(np.append(edge[1:] != edge[:-1], True))
    return edge[ends[np.diff(ends, prepend=-1) >= RUN]]


def _block_values(image: np.ndarray) -> np.ndarray:
    """Return the value of each constant block of `RUN` px; few pixels of the others are looked at."""
    height, width = (length // RUN * RUN for length in image.shape)
    upper, lower = image[:height:RUN], image[RUN - 1 : height : RUN]
    corner = upper[:, :width:RUN]
    same = corner == lower[:, RUN - 1 : width : RUN]
    same &= corner == upper[:, RUN - 1 : width : RUN]
    y, x = RUN * np.nonzero(same)[0], RUN * np.nonzero(same)[1]
    step = np.arange(RUN)
    whole = (image[y[:, None], x[:, None] + step] == image[y, x][:, None]).all(axis=1)
    y, x = y[whole], x[whole]
    blocks = sliding_window_view(image, (RUN, RUN))[y, x]
    return image[y, x][(blocks == image[y, x][:, None, None]).all(axis=(1, 2))]


def _area(same: np.ndarray) -> np.ndarray | None:
    """Mark the fill among the pixels that have its value; None where there is none."""
    share = _share_beside(same)
    width = EDGE_WIDTH
    if share > 0:  # below 1: there are other values in the blocks
        width = max(width, math.ceil(math.sqrt(math.log(CHANCE / same.size) / math.log(share))))
    wide, inner = opened(same, width), opened(same, max(width, INNER_WIDTH))
    if not wide.any():
        return None
    labels, _ = ndimage.label(same if share < PERCOLATION else wide)
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    size = np.bincount(labels.ravel())
    chosen = np.intersect1d(edges, labels[wide])
    is_fill = np.zeros(len(size), bool)
    is_fill[chosen[size[chosen] >= RUN * EDGE_WIDTH]] = True
    is_fill[labels[inner]] = True
    is_fill[0] = False
    return is_fill[labels] if is_fill.any() else None


def _share_beside(same: np.ndarray) -> float:
    """Return the share of the value in blocks of `RUN` px with other values too: the third quartile."""
    height, width = (length // RUN for length in same.shape)
    blocks = same[: height * RUN, : width * RUN].reshape(height, RUN, width, RUN).mean(axis=(1, 3))
    mixed = blocks[blocks < 1]
    return float(np.quantile(mixed, 0.75)) if mixed.size else 0.0


def opened(mask: np.ndarray, width: int) -> np.ndarray:
    """Open a mask by a square, which keeps the parts that a square of ``width`` px fits into.

    Windows are doubled, some times as fast as `scipy.ndimage.binary_opening`.
    """
    if width > min(mask.shape):
        return np.zeros_like(mask)
    for axis in (0, 1):
        mask = _windows(np.logical_and, mask, width, axis)
    for axis in (0, 1):
        beyond = [(width - 1, width - 1) if other == axis else (0, 0) for other in (0, 1)]
        mask = _windows(np.logical_or, np.pad(mask, beyond), width, axis)
    return mask


def _windows(function: np.ufunc, mask: np.ndarray, width: int, axis: int) -> np.ndarray:
    """Reduce all windows of ``width`` px along an axis, which becomes ``width - 1`` px shorter."""
    reached = 1
    while reached < width:
        step = min(reached, width - reached)
        length = mask.shape[axis] - step
        first = mask[:length] if axis == 0 else mask[:, :length]
        second = mask[step:] if axis == 0 else mask[:, step:]
        mask, reached = function(first, second), reached + step
    return mask
