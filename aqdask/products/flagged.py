"""Flagged frames of an archive and the reason of each flag, from stored frame-level values and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np

from aqdask.methods import dispatch
from aqdask.methods.bundle import Bundle
from aqdask.products.mask_summaries import MaskSummaries
from aqdask.store.quality_store import QualityStore

FLAG_MASKED = 0.2  # fraction of the patches masked from which a frame is bad, whatever else it has
VARIABLE_REASONS = {
    "frame_size_ratio": "size",
    "frame_ellipticity": "ellipticity",
    "frame_noise_ratio": "noise",
    "frame_sky": "sky",
}
Spans = Mapping[str, tuple[float, float, float]]
"""Smallest value, median and largest value over the reference frames, by variable."""
SpansOf = Callable[[str, str], Spans]
"""Returns the spans for a camera and filter, empty where the calibration has none."""


class StoredModel:
    """Model that made a quality group, as far as its tables go.

    Parameters
    ----------
    store : QualityStore or None
        None, and one whose model is damaged: nothing is known.
    """

    def __init__(self, store: QualityStore | None) -> None:
        contents = store.bundle() if store else b""
        self.bundle = Bundle.from_bytes(contents) if contents else None

    @cached_property
    def spans(self) -> SpansOf:
        """Spans over the reference frames by camera and the filter of a calibration, as a function."""
        bundle = self.bundle
        return lru_cache(
            lambda camera, band: dispatch.reference_spans(bundle, camera, band) if bundle else {}
        )

    def distant_reason(self, camera: str, band: str, values: Mapping[str, float]) -> str:
        """Return the reason of a flag without a calibration of its own; see `dispatch.distant_reason`."""
        return dispatch.distant_reason(self.bundle, camera, band, values) if self.bundle else ""

    def filters_at(self, cameras: Iterable[str], filters: Iterable[str], times: np.ndarray) -> list[str]:
        """Return the filters of the calibrations that score frames; see `CalibrationSpans.filters_at`."""
        return self.bundle.spans.filters_at(cameras, filters, times) if self.bundle else list(filters)


def flagged(values: Mapping[str, np.ndarray], masked: np.ndarray) -> np.ndarray:
    """Return flagged frames, bool ``(n,)``.

    Parameters
    ----------
    values : mapping of str to ndarray (n,)
        Frame-level variables. ``frame_flag`` decides where the model has it.
    masked : ndarray (n,)
        Fraction of the patches masked, NaN where unknown; above `FLAG_MASKED` a frame of a model without
        flags of its own is flagged.
    """
    if "frame_flag" in values:
        return np.asarray(values["frame_flag"]) == 1
    return np.nan_to_num(masked) > FLAG_MASKED


def flag_reasons(
    is_flagged: np.ndarray,
    values: Mapping[str, np.ndarray],
    masks: MaskSummaries,
    model: StoredModel,
    cameras: Sequence[str] | np.ndarray,
    filters: Sequence[str] | np.ndarray,
) -> np.ndarray:
    """Return the reason (`aqdask.flags.REASONS`) of each frame's flag, object ``(n,)``; empty without flag.

    A test of the whole frame masks nearly all of its patches, so that the main reason of the mask is the
    reason of the flag. Frames with few masked patches are flagged for the variable that is farthest beyond
    the span of the references, in units of that span; without a calibration of their own for that farthest
    from the references that scored it, in standard deviations.
    """
    found = np.where(is_flagged, masks.main_reasons, "").astype(object)
    few = np.flatnonzero(is_flagged & ~(masks.masked > FLAG_MASKED))
    for at in few.tolist():
        camera, band = str(cameras[at]), str(filters[at])
        span = model.spans(camera, band)
        beyond = {
            reason: _beyond(float(values[name][at]), *span[name])
            for name, reason in VARIABLE_REASONS.items()
            if name in span and name in values
        }
        worst = max(beyond, key=lambda reason: beyond[reason], default="")
        if not span and {*values} >= {*VARIABLE_REASONS}:
            own = {name: float(column[at]) for name, column in values.items()}
            found[at] = model.distant_reason(camera, band, own) or found[at]
        elif worst and beyond[worst] > 0:
            found[at] = worst
    return found


def _beyond(value: float, low: float, median: float, high: float) -> float:
    """Return the distance of a value beyond a span, in units of its width; 0 inside, and for NaN."""
    width = max(high - low, 1e-3 * abs(median), 1e-9)
    return max(low - value, value - high, 0.0) / width if np.isfinite(value) else 0.0
