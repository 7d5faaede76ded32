"""Patterns along the rows or columns of whole frames, as electronic interference makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from aqdask.products.report.sentences import interval
from aqdask.text import plural, printable, shortened

ACROSS = 512  # pixels of a line that are averaged, at most
TREND = 65  # lines of the running median that is subtracted: what varies more slowly is sky
STRONG = 3.0  # times the noise, the other direction, and the unflagged frames
CUT = 3.0  # times the noise, beyond which a pixel counts as the median of its line
MAD_SIGMA = 1.4826  # sigma over the median absolute deviation of normal noise
NAMED = 4


class LinePattern(NamedTuple):
    """Scatter of the means of rows, and of columns, about their trend, in units of that of noise alone."""

    rows: float
    columns: float


def line_pattern(image: np.ndarray, invalid: np.ndarray | None) -> LinePattern:
    """Measure patterns along the rows and columns of one frame.

    Parameters
    ----------
    image : ndarray (y, x)
        Pixels in any unit.
    invalid : ndarray (y, x) of bool, optional
        True for pixels without data.

    Returns
    -------
    LinePattern
        NaN for frames of less than `TREND` pixels a side.
    """
    if min(image.shape) < TREND:
        return LinePattern(np.nan, np.nan)
    return LinePattern(_strength(image, invalid), _strength(image.T, None if invalid is None else invalid.T))


def _strength(image: np.ndarray, invalid: np.ndarray | None) -> float:
    """Scatter of the means of rows: robust, so that stars, trails and bad lines hardly count."""
    step = max(1, image.shape[1] // ACROSS)
    pixels = image[:, ::step].astype(np.float32)
    bad = ~np.isfinite(pixels) if invalid is None else invalid[:, ::step] | ~np.isfinite(pixels)
    if bad.all():
        return np.nan
    if bad.any():
        pixels[bad] = np.median(pixels[~bad])
    noise = _noise(np.abs(np.diff(pixels, axis=1)))  # along the rows, where their pattern is constant
    away = pixels - np.median(pixels, axis=1, keepdims=True)
    means = (pixels - np.where(np.abs(away) > CUT * noise, away, 0)).mean(axis=1)
    away = means - median_filter(means, TREND, mode="nearest")
    scatter = MAD_SIGMA * float(np.median(np.abs(away - np.median(away))))
    return scatter * pixels.shape[1] ** 0.5 / noise if noise > 0 else np.nan


def _noise(steps: np.ndarray) -> float:
    """Sigma of the pixels from the sizes of the steps between neighbours, without the largest ones."""
    for _ in range(2):
        steps = steps[steps <= CUT * steps.mean()]
    return float(steps.mean()) * np.pi**0.5 / 2


def patterned(found: Mapping[int, LinePattern], is_flagged: np.ndarray) -> dict[int, str]:
    """Find the frames with a pattern that their unflagged neighbours do not have.

    Parameters
    ----------
    found : mapping of int to LinePattern
        Of the frames whose pixels were read, by position.
    is_flagged : ndarray (n,) of bool
        Of all frames. A pattern of most unflagged frames is the detector's own.

    Returns
    -------
    dict of int to str
        "rows" or "columns", by position.
    """
    usual = [found[at] for at in found if not is_flagged[at]]
    own = LinePattern(*(np.nanmedian(usual, axis=0) if np.isfinite(usual).any() else (1.0, 1.0)))
    told = {}
    for at, (rows, columns) in sorted(found.items()):
        if rows > STRONG * np.nanmax([1.0, columns, own.rows]):
            told[at] = "rows"
        elif columns > STRONG * np.nanmax([1.0, rows, own.columns]):
            told[at] = "columns"
    return told


def pattern_sentences(frames: Mapping[str, np.ndarray], told: Mapping[int, str], looked_at: int) -> list[str]:
    """Tell which frames have a pattern, with their times and names.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns in the order of time, see `aqdask.products.report.values.ReportData`.
    told : mapping of int to str
        See `patterned`.
    looked_at : int
        Number of frames whose pixels were read.
    """
    found = []
    for kind in ("rows", "columns"):
        chosen = [at for at in sorted(told) if told[at] == kind]
        if not chosen:
            continue
        names = [printable(frames["frame_id"][at]) for at in chosen]
        listed = shortened(names, NAMED)
        if len(chosen) > 2 and chosen[-1] - chosen[0] + 1 == len(chosen):
            listed = f"{names[0]} to {names[-1]}"
        when = "" if np.isnat(frames["time"][chosen]).any() else f", {interval(frames['time'][chosen])} (UTC)"
        found.append(
            f"{len(chosen)} of {plural(looked_at, 'frame')} whose pixels were read for this page "
            f"{'has' if len(chosen) == 1 else 'have'} a pattern along {kind} (electronic interference?): "
            f"{listed}{when}. It disturbs the sizes and shapes of stars that are measured there."
        )
    return found


def pattern_note(kind: str, pattern: LinePattern) -> str:
    """Tell the pattern of one frame, for its panel."""
    strength = pattern.rows if kind == "rows" else pattern.columns
    return f"Its {kind} have a pattern of {strength:.1f} times their noise (interference?)."
