"""Statistics of a whole frame compared with the reference frames: a score that ranks, and a flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aqdask.flags import OUTSIDE
from aqdask.methods.noise_aware.feature_groups import FrameFeatures, sky_sigma
from aqdask.methods.noise_aware.frame_tests import equivalent_sigma
from aqdask.methods.noise_aware.networks import SHAPE_UNITS
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.stats.robust import mad_sigma

# Statistics that are compared, and their smallest spread: among equal references .5 % is no outlier.
MIN_SPREAD = {"size": 0.02, "ellipticity": 0.01, "sky": 0.05, "noise": 0.02, "stars": 0.1}
FLAG_SIGMA = 5.0  # robust sigma in size, ellipticity, sky or noise
FLAG_MASKED = 0.2  # fraction of patches masked
# Beyond the references: by how much (ln) stars a patch, sky, and noise ratio may leave their range.
RANGE_SLACK = {"density": np.log(1.5), "sky": np.log(1.3), "gain": np.log(1.14)}


@dataclass(frozen=True)
class FrameStatistics:
    """Statistics of a whole frame; NaN where they cannot be measured.

    Parameters
    ----------
    size : float
        ln of the PSF's size relative to the references'.
    ellipticity : float
        ``|e|`` about the references'.
    sky : float
        Median sky in counts, with its pedestal.
    brightness : float
        The same as the variance expected there in counts squared, where a pedestal hides nothing; in counts
        where the noise model does not know it.
    noise : float
        ln of measured over expected variance.
    stars : float
        Stars a patch without gaps, the mean.
    """

    size: float
    ellipticity: float
    sky: float
    brightness: float
    noise: float
    stars: float


def frame_statistics(frame: FrameFeatures) -> FrameStatistics:
    """Compute sums and medians over the typical patches of a frame."""
    features, camera, known = frame.features, frame.camera, frame.typical
    if not known.any():
        return FrameStatistics(*[float("nan")] * 6)
    found = frame.shape * np.asarray(SHAPE_UNITS)
    return FrameStatistics(
        size=float(found[0]),
        ellipticity=float(np.hypot(found[1], found[2])),
        sky=float(np.median(features["sky"][known])),
        brightness=brightness(float(np.median(features["sky"][known])), camera.noise),
        noise=float(np.median(frame.noise_ratio[known])),
        stars=float(features["stars"][known].sum() / frame.valid[known].sum()),
    )


@dataclass(frozen=True)
class ReferenceStatistics:
    """Distribution of the statistics of reference frames.

    Parameters
    ----------
    quantities : mapping of str to tuple
        Median, spread, smallest and largest value.
    shapes : mapping of str to tuple
        Size and ellipticity of every frame, in calibrations of earlier releases; else empty.
    """

    quantities: Mapping[str, tuple[float, float, float, float]]
    shapes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def fit(cls, frames: Sequence[FrameStatistics]) -> ReferenceStatistics:
        """Fit to at least one reference frame."""
        found = {}
        for name, min_spread in MIN_SPREAD.items():
            values = np.array([_compared(frame, name) for frame in frames])
            values = values[np.isfinite(values)]
            if values.size:
                centre = float(np.median(values))
                spread = max(float(mad_sigma(values, centre)), min_spread)
                found[name] = (centre, spread, float(values.min()), float(values.max()))
        return cls(found)

    def widened(self, factor: float) -> ReferenceStatistics:
        """Return a copy with spreads ``factor`` times as wide, if above 1: few frames show theirs poorly."""
        wider = {
            name: (centre, spread * max(factor, 1.0), low, high)
            for name, (centre, spread, low, high) in self.quantities.items()
        }
        return replace(self, quantities=wider)

    def pvalue(self, frame: FrameStatistics, name: str, *, two_sided: bool = False) -> float:
        """Compute the split conformal p-value of a frame's 'size' or 'ellipticity'; NaN where unknown.

        ``(1 + #{reference frames at least as bad}) / (n + 1)``; wider or longer is bad, with ``two_sided``
        what is farther from the median.
        """
        references, value = np.array(self.shapes.get(name, ())), getattr(frame, name)
        if not references.size or not np.isfinite(value):
            return float("nan")
        centre = float(np.median(references))
        bad, this = (np.abs(references - centre), abs(value - centre)) if two_sided else (references, value)
        return float(1 + np.count_nonzero(bad >= this)) / (references.size + 1)

    def sigmas(self, frame: FrameStatistics, *, two_sided: bool = False) -> dict[str, float]:
        """Compute the robust z-score of each statistic, 0 where it is on the good side or unknown.

        Bad are wider (with ``two_sided`` also sharper) and longer stars, a brighter or darker sky, more or
        less noise. Few stars are reported by `outside` and by the patches.
        """
        found = {}
        for name in ("size", "ellipticity", "sky", "noise"):
            if name not in self.quantities:
                continue
            centre, spread, *_ = self.quantities[name]
            z = (_compared(frame, name) - centre) / spread
            both = name in ("sky", "noise") or (name == "size" and two_sided)
            found[name] = float(np.nan_to_num(abs(z) if both else max(z, 0.0)))
        return found

    def score(
        self,
        frame: FrameStatistics,
        masked: float,
        *,
        two_sided: bool = False,
        tests: Mapping[str, float] | None = None,
    ) -> float:
        """Return the number of sigma, or 25 (`FLAG_SIGMA` / `FLAG_MASKED`) times the masked fraction.

        The sigma of the p-values of ``tests`` and of the level of the sky (`frame_tests.equivalent_sigma`);
        without tests, in calibrations of earlier releases, the largest of `sigmas`. A frame is flagged if it
        is more than `FLAG_SIGMA` from the references, or if more than `FLAG_MASKED` of its patches are
        masked.
        """
        sigmas = self.sigmas(frame, two_sided=two_sided)
        if tests is None:
            distance = max(sigmas.values(), default=0.0)
        else:
            distance = equivalent_sigma(tests, sigmas.get("sky", 0.0))
        return max(masked * FLAG_SIGMA / FLAG_MASKED, distance)

    def outside(self, frame: FrameStatistics) -> int:
        """Return bits of `OUTSIDE` for statistics outside the range of the references."""
        bits = 0
        for name, quantity in (("density", "stars"), ("sky", "sky"), ("gain", "noise")):
            value = _compared(frame, quantity)
            if quantity in self.quantities and np.isfinite(value):
                _, _, low, high = self.quantities[quantity]
                slack = RANGE_SLACK[name]
                bits |= OUTSIDE[name] * (not low - slack <= value <= high + slack)
        return bits


def brightness(sky: float, noise: NoiseModel) -> float:
    """Compute the sky as a variance; see `FrameStatistics`. NaN where the sky was subtracted."""
    if noise.source == "subtracted":
        return float("nan")
    if noise.b <= 0:
        return sky
    return float(sky_sigma({"sky": np.array(sky)}, noise) ** 2)


def _compared(frame: FrameStatistics, name: str) -> float:
    """Return a statistic as it is compared: sky and star counts as logarithms."""
    if name == "stars":
        return float(np.log(max(frame.stars, 0.1)))
    if name == "sky":
        return float(np.log(np.maximum(frame.brightness, 1e-3)))
    return float(getattr(frame, name))
