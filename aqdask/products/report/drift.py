"""Monthly medians of frame-level variables, compared with the span of the reference frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import stats

from aqdask.products.report.values import Band, Drift

LEAST_FRAMES = 3  # of a month that is compared
LEAST_MONTHS = 6  # of a trend where no references are known
SIGNIFICANCE = 0.01  # of that trend


def drifts(
    frames: Mapping[str, np.ndarray],
    variables: list[str],
    references: Mapping[tuple[str, str], Mapping[str, Band]],
) -> tuple[Drift, ...]:
    """Return the monthly medians of frame-level variables by camera and filter.

    Parameters
    ----------
    frames : mapping of str to ndarray (n,)
        Columns, see `aqdask.products.report.values.ReportData`.
    variables : list of str
        Columns to follow.
    references : mapping of (camera, filter) to mapping of str to Band
        Where the references are known, months whose median is outside their span are named; elsewhere a
        monotonic trend of the medians (Kendall's tau) over at least six months.

    Returns
    -------
    tuple of Drift
        Of cameras and filters with frames of two months at least.
    """
    months = frames["time"].astype("datetime64[M]")
    pairs = np.array([frames["camera"], frames["filter"]], object).T
    found: list[Drift] = []
    for camera, band in sorted({(str(c), str(f)) for c, f in pairs}):
        here = (frames["camera"] == camera) & (frames["filter"] == band) & ~np.isnat(months)
        if len(np.unique(months[here])) > 1:
            spans = references.get((camera, band), {})
            own = {name: frames[name][here] for name in variables}
            found += _of_one(camera, band, months[here], own, spans)
    return tuple(found)


def _of_one(
    camera: str, filter: str, months: np.ndarray, values: Mapping[str, np.ndarray], spans: Mapping[str, Band]
) -> Iterator[Drift]:
    for name, column in values.items():
        known = np.isfinite(column)
        listed, places = np.unique(months[known], return_inverse=True)
        if len(listed) > 1:
            medians = np.array([np.median(column[known][places == n]) for n in range(len(listed))])
            counts = np.bincount(places)
            compared = counts >= LEAST_FRAMES
            text = _text(name, f"{camera} {filter}".strip(), listed, medians, compared, spans.get(name))
            yield Drift(name, camera, filter, listed, medians, counts, text)


def _text(
    name: str, where: str, months: np.ndarray, medians: np.ndarray, compared: np.ndarray, band: Band | None
) -> str:
    words = name.removeprefix("frame_").replace("_", " ")
    of = f"{words} of {where}" if where else words
    if band is None:
        if np.count_nonzero(compared) < LEAST_MONTHS:
            return ""
        tau = stats.kendalltau(months[compared].astype(int), medians[compared])
        if not tau.pvalue < SIGNIFICANCE:
            return ""
        first, last = medians[compared][[0, -1]]
        way = "rises" if tau.statistic > 0 else "falls"
        return f"The monthly median of {of} {way} from {first:.4g} to {last:.4g}."
    outside = compared & ((medians < band.low) | (medians > band.high))
    if not outside.any():
        return ""
    shown = ", ".join(f"{median:.4g} in {month}" for month, median in
                      list(zip(months[outside], medians[outside], strict=True))[:3])  # fmt: skip
    more = np.count_nonzero(outside) - 3
    return (
        f"The monthly median of {of} left the span of the reference frames ({band.low:.4g} to "
        f"{band.high:.4g}): {shown}{f' and in {more} more months' if more > 0 else ''}."
    )
