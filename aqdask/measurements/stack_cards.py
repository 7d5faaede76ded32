"""Cards of a stack about the exposures in it: what holds for all, and a comment on what does not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.io import fits
from astropy.time import Time

from aqdask.measurements.align import Aligned
from aqdask.products.dq import ascii_text
from aqdask.text import plural

# What the WCS of the reference says of its own time, which is not that of the stack.
OF_REFERENCE = (
    "DATE-OBS", "DATE-BEG", "DATE-AVG", "DATE-END", "MJD-OBS", "MJD-BEG", "MJD-AVG", "MJD-END", "XPOSURE",
    "TELAPSE",
)  # fmt: skip


def set_exposure(
    cards: fits.Header,
    used: Sequence[Aligned],
    exptime: float,
    about: dict[str, Sequence[str]],
    *,
    weighted: bool,
) -> None:
    """Set EXPTIME, EXPTOTAL, GAIN, the span of time, and texts such as FILTER.

    Parameters
    ----------
    cards : Header
        Changed; times of one frame in it are removed.
    used : sequence of Aligned
        The frames that are stacked.
    exptime : float
        Exposure time of the reference, whose counts the stack has, seconds; NaN where unknown.
    about : dict of str to sequence of str
        Texts of the frames by keyword, such as their filters.
    weighted : bool
        The mean is weighted by inverse variance.
    """
    for keyword in OF_REFERENCE:
        cards.remove(keyword, ignore_missing=True)
    for keyword, texts in about.items():
        found = sorted(set(texts))
        if len(found) > 1:
            cards.add_comment(ascii_text(f"{keyword} differs: {', '.join(found)}"))
        elif found[0]:
            cards[keyword] = ascii_text(found[0])
    if math.isfinite(exptime):
        cards["EXPTIME"] = (exptime, "s, of REFFRAME, whose counts these are")
    exposures, gains = (np.array([getattr(one, name) for one in used]) for name in ("exptime", "gain"))
    if _all_known(cards, "EXPTOTAL", exposures):
        cards["EXPTOTAL"] = (_rounded(exposures.sum()), f"s, sum over frames{_range(exposures)}")
    if _all_known(cards, "GAIN", gains):
        value = effective_gain(used, weighted=weighted)
        cards["GAIN"] = (_rounded(value), f"electron/count without masks; frames{_range(gains)}")
    _set_times(cards, used, exposures)


def effective_gain(used: Sequence[Aligned], *, weighted: bool) -> float:
    """Return the gain by which the counts of a mean have their photon noise, electrons per count.

    ``1 / G = sum(w**2 s / g) / sum(w)**2`` with weights w, scale s and gain g of the frames: N times the gain
    of N frames that are alike. Weights are those of the median noise of a frame, as where nothing is masked.
    """
    scale, noise, gain = (np.array([getattr(one, n) for one in used]) for n in ("scale", "noise", "gain"))
    weight = 1 / (scale * noise) ** 2 if weighted else np.ones(len(used))
    return float(weight.sum() ** 2 / (weight**2 * scale / gain).sum())


def _set_times(cards: fits.Header, used: Sequence[Aligned], exposures: np.ndarray) -> None:
    """Set begin and end of the exposures."""
    starts = np.array([math.nan if one.time is None else one.time for one in used])
    for name, times in (("OBS", starts), ("END", starts + 1e6 * exposures)):
        if _all_known(cards, f"DATE-{name}", times):
            at = times.min() if name == "OBS" else times.max()
            time = Time(np.datetime64(int(at), "us"), scale="utc")
            told = "begin of the first frame, UTC" if name == "OBS" else "end of the last frame, UTC"
            cards[f"DATE-{name}"] = (time.isot, told)
            cards[f"MJD-{name}"] = (time.mjd, told)


def _all_known(cards: fits.Header, keyword: str, values: np.ndarray) -> bool:
    """Return True if all values are known; else say in a comment that they are not."""
    unknown = int(np.count_nonzero(~np.isfinite(values)))
    if unknown:
        cards.add_comment(
            f"{keyword} is not known: {unknown} of {plural(len(values), 'frame')} do not state it."
        )
    return not unknown


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f" of {low:.4g} each" if low == high else f" of {low:.4g} to {high:.4g}"


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
