"""Shape of the sky of flagged frames against that of unflagged ones: a level, a gradient, or patches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

LEAST_USUAL = 5  # unflagged frames, below which nothing is said
LEAST_KNOWN = 0.5  # of the patches, with a sky in all frames
SHARED = 2 / 3  # of the flagged frames, which have one shape
ABOVE = 3.0  # times the median of the unflagged frames: rms of a tilt, a bowl or the rest that has a cause
PLANE = 0.85  # of the variance of a departure, explained by a plane, from which it is a gradient
CURVED = 0.85  # of it, explained by a parabola, up to which it is patchy
LEVEL = 1.1  # times the highest level of the unflagged frames, or 1 / so much of the lowest one
MOVES = 2.0  # times the median rest of the unflagged frames: patches that change from frame to frame
EDGE = 0.25  # of the highest departure, from which a patch belongs to a bright part
FILLED = 0.5  # of the bright patches, and of the box around them; and of the frame, by that box at most


@dataclass(frozen=True, eq=False)
class SkyChange:
    """Departure of the sky of some frames from that of unflagged ones.

    Parameters
    ----------
    kind : str
        'brighter', 'darker' (the level), 'gradient', 'patchy', or empty where the numbers do not tell.
    inside : ndarray (n_y, n_x) of bool
        Bright part of a patchy sky; all False for none that fills a box.
    moves : bool
        True for a patchy sky that changes from frame to frame.
    """

    kind: str
    inside: np.ndarray
    moves: bool = False


def sky_change(sky: np.ndarray, usual: np.ndarray) -> SkyChange:
    """Compare the sky of flagged frames with that of unflagged ones.

    Departures are fractions of the sky, after division by the median of each frame and by the median shape of
    the unflagged frames.

    Parameters
    ----------
    sky : ndarray (n, n_y, n_x)
        Sky level of each patch in counts, NaN where unknown.
    usual : ndarray (m, n_y, n_x)
        That of unflagged frames of the same camera and filter.

    Returns
    -------
    SkyChange
        The shape that `SHARED` of the frames have. Without a kind where there is none, with fewer than
        `LEAST_USUAL` unflagged frames, and for a sky that is not positive, as if subtracted.
    """
    unknown = SkyChange("", np.zeros(sky.shape[1:], bool))
    known = np.isfinite(sky).all(axis=0) & np.isfinite(usual).all(axis=0)
    if not len(sky) or len(usual) < LEAST_USUAL or known.mean() < LEAST_KNOWN:
        return unknown
    values, normal = sky[:, known].astype(float), usual[:, known].astype(float)
    levels, normal_levels = np.median(values, axis=1), np.median(normal, axis=1)
    if min(values.min(), normal.min()) <= 0:
        return unknown
    shape = np.median(normal / normal_levels[:, None], axis=0)
    departures, normal = (
        part / level[:, None] / shape - 1 for part, level in ((values, levels), (normal, normal_levels))
    )
    scatter = np.median(components(normal, known), axis=0)
    kinds = np.array([_shape(rms, ABOVE * scatter) for rms in components(departures, known)], object)
    kinds[(kinds == "level") & (levels > LEVEL * normal_levels.max())] = "brighter"
    kinds[(kinds == "level") & (levels < normal_levels.min() / LEVEL)] = "darker"
    ((kind, number),) = Counter(kinds.tolist()).most_common(1)
    if kind in ("", "level") or number < SHARED * len(sky):
        return unknown
    if kind != "patchy":
        return SkyChange(kind, unknown.inside)
    own = departures[kinds == kind]
    changes = components(own - own.mean(axis=0), known)[:, 2]
    return SkyChange(kind, _bright_part(own, known), bool(np.median(changes) > MOVES * scatter[2]))


def components(departures: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Divide maps into a plane, what a parabola of both axes adds, and the rest, and return the rms of each.

    Parameters
    ----------
    departures : ndarray (n, k)
        Values of the known patches.
    known : ndarray (n_y, n_x) of bool
        The k patches.

    Returns
    -------
    ndarray (n, 3)
    """
    y, x = (axis / max(length - 1, 1) for axis, length in zip(np.nonzero(known), known.shape, strict=True))
    terms = np.stack([np.ones_like(x), y, x, y * x, y**2, x**2], axis=1)
    plane, parabola = (
        design @ np.linalg.lstsq(design, departures.T, rcond=None)[0] for design in (terms[:, :3], terms)
    )
    return np.stack([np.std(part, axis=0) for part in (plane, parabola - plane, departures.T - parabola)], 1)


def _shape(rms: np.ndarray, limits: np.ndarray) -> str:
    """Name the shape of the sky of one frame by its `components`; 'level' for that of unflagged frames."""
    if (rms <= limits).all():
        return "level"
    tilt, _, rest = rms**2 / np.sum(rms**2)
    if rms[0] > limits[0] and tilt >= PLANE:
        return "gradient"
    return "patchy" if rms[2] > limits[2] and 1 - rest <= CURVED else ""


def _bright_part(departures: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Find the connected patches of a brighter sky, if they are most of these and fill a box."""
    above = np.zeros(known.shape)
    above[known] = np.median(departures, axis=0)
    above[known] -= np.quantile(above[known], 0.1)
    labels, _ = ndimage.label(above >= EDGE * np.quantile(above[known], 0.98))
    sizes = np.bincount(labels.ravel())[1:]
    largest = labels == 1 + int(sizes.argmax())
    box = largest[ndimage.find_objects(largest.astype(np.int8))[0]]
    is_part = sizes.max() >= FILLED * max(sizes.sum(), box.size) and box.size <= FILLED * known.size
    return largest if is_part else np.zeros(known.shape, bool)
