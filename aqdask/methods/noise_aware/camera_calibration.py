"""`CameraCalibration`: the calibration of one camera and filter, and its storage in a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from aqdask.errors import ModelError
from aqdask.methods.bundle import Calibration
from aqdask.methods.noise_aware.anomaly_distance import AnomalyDistance, NormalScores, Tail
from aqdask.methods.noise_aware.dark_areas import dark_map
from aqdask.methods.noise_aware.feature_extractor import Detector
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS, CameraModel
from aqdask.methods.noise_aware.frame_score import ReferenceStatistics
from aqdask.methods.noise_aware.frame_tests import FrameDistributions
from aqdask.methods.noise_aware.line_test import LineTest
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.two_pass import TwoPassDecision
from aqdask.stats.conformal import ScoreTable

FINAL = ("final", "final_region")  # names of the tables of final p-values, as they are stored
BRIGHTER = "brighter/"  # prefix of the arrays of a brighter sky
FRAME_VALUES = "frame_values/"  # prefix of the arrays of `FrameDistributions`


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """Calibration of one camera and filter.

    Parameters
    ----------
    decision : TwoPassDecision
        Camera model, distributions of the feature groups, p-values.
    frames : ReferenceStatistics
        Statistics of whole reference frames.
    saturation : float
        Counts from which a pixel is saturated; infinite where unknown.
    hot : ndarray (n, 2)
        Row and column of the hot pixels, int32.
    dark : ndarray (n, 2)
        Row and column of the cells without sky (`dark_areas`), int32.
    shape : tuple of int
        ``(y, x)`` of the reference frames: hot pixels, dark cells and the template belong to it.
    facts : dict
        Plain JSON for the user: frames of each set, patches, notes, disabled groups with the reason.
    brighter : CameraCalibration or None
        Calibration of frames whose median sky is above ``limit`` counts, from references under that sky.
    limit : float
    """

    decision: TwoPassDecision
    frames: ReferenceStatistics
    saturation: float
    hot: np.ndarray
    dark: np.ndarray
    shape: tuple[int, int]
    facts: dict[str, Any] = field(default_factory=dict)
    brighter: CameraCalibration | None = None
    limit: float = float("inf")

    def under_sky(self, features: Features) -> CameraCalibration:
        """Return the calibration for the stratum of sky of a frame with these features."""
        sky = features["sky"][np.isfinite(features["sky"])]
        unit = self.decision.camera.noise.unit
        if self.brighter is None or not sky.size or np.median(sky) * unit <= self.limit:
            return self
        return self.brighter.under_sky(features)

    def without_strata(self) -> CameraCalibration:
        """Return a copy without the calibrations of brighter skies."""
        return replace(self, brighter=None)

    def stored(self) -> Calibration:
        """Convert to the arrays and facts of a bundle."""
        decision, camera = self.decision, self.decision.camera
        arrays = {"hot": self.hot, "shape_zero": camera.shape_zero.astype(np.float64)}
        if camera.template is not None:
            arrays["template"] = camera.template.astype(np.float32)
        if len(self.dark):
            arrays["dark"] = self.dark
        arrays |= _arrays(decision)
        facts: dict[str, Any] = {
            "noise": asdict(camera.noise),
            "two_sided": camera.two_sided,
            "relative": camera.relative,
            "tails": _tails(decision),
            "first_alpha": decision.first_alpha,
            "frame_tier": {name: list(values) for name, values in self.frames.quantities.items()},
            "frame_shapes": {name: list(values) for name, values in self.frames.shapes.items()},
            "saturation": None if np.isinf(self.saturation) else self.saturation,
            "shape": list(self.shape),
            "patches": decision.final[0].total,
            "smallest_pvalue": decision.smallest,
        }
        if decision.frame_tests:
            values = decision.frame_tests.values
            arrays |= {f"{FRAME_VALUES}{name}": np.array(found, float) for name, found in values.items()}
        if decision.lines:
            facts["lines"] = decision.lines.stored()
        if self.brighter is not None:
            nested = self.brighter.stored()
            arrays |= {f"{BRIGHTER}{name}": array for name, array in nested.arrays.items()}
            facts["brighter"] = {"limit": self.limit, "facts": dict(nested.facts)}
        return Calibration(arrays, facts | {"about": self.facts})

    @classmethod
    def from_stored(cls, stored: Calibration) -> CameraCalibration:
        """Restore the result of `stored`; `KeyError` names what is missing.

        Raises
        ------
        ModelError
            For a calibration with position centring, which earlier releases could make.
        """
        arrays, facts = stored.arrays, stored.facts
        camera = CameraModel(
            NoiseModel(**facts["noise"]),
            arrays.get("template"),
            arrays["shape_zero"],
            facts["two_sided"],
            facts.get("relative", False),
        )
        decision = _decision(camera, arrays, facts["tails"], facts["first_alpha"])
        if values := _of_prefix(arrays, FRAME_VALUES):
            decision = replace(decision, frame_tests=FrameDistributions(values, two_sided=camera.two_sided))
        if "lines" in facts:
            decision = replace(decision, lines=LineTest.from_stored(facts["lines"]))
        if "centred" in facts:
            raise ModelError(
                "a calibration with position centring (`--centred`)",
                expected="one without: position centring was removed, since it gained nothing measurable",
                consequence="Its p-values would not be those that it was calibrated for",
                remedy="calibrate the model again (`aqdask calibrate`)",
            )
        tables = (facts["frame_tier"], facts.get("frame_shapes", {}))
        references = ReferenceStatistics(
            *({name: tuple(found) for name, found in one.items()} for one in tables)
        )
        full = facts["saturation"]
        brighter, limit = None, float("inf")
        if "brighter" in facts:
            inside = _of_prefix(arrays, BRIGHTER)
            brighter = cls.from_stored(Calibration(inside, facts["brighter"]["facts"]))
            limit = facts["brighter"]["limit"]
        return cls(
            decision,
            references,
            float("inf") if full is None else full,
            arrays["hot"],
            arrays.get("dark", arrays["hot"][:0]),
            tuple(facts["shape"]),
            facts["about"],
            brighter,
            limit,
        )

    def transferred(self, *, same_camera: bool) -> CameraCalibration:
        """Return the part that holds for another filter, or for another camera, which has other hot pixels.

        A filter has its own flat field: against that of another one the sky of every patch would stand out,
        so the groups that use it are disabled.
        """
        decision = self.decision
        flat_field = {group.name for group in FEATURE_GROUPS if group.flat_field}
        distances = {name: found for name, found in decision.distances.items() if name not in flat_field}
        camera = replace(decision.camera, template=None)
        hot, dark = (cells if same_camera else cells[:0] for cells in (self.hot, self.dark))
        decision = replace(decision, camera=camera, distances=distances, frame_tests=None)
        if decision.lines and not same_camera:
            decision = replace(decision, lines=decision.lines.of_another_camera())
        # The counts of another camera say nothing about its sky.
        brighter = self.brighter.transferred(same_camera=True) if same_camera and self.brighter else None
        return replace(self, decision=decision, hot=hot, dark=dark, brighter=brighter)

    def unusable_map(self) -> np.ndarray | None:
        """Return the hot and dark pixels as bool ``(y, x)``; None where there are none."""
        return unusable_map(self.hot, self.dark, self.shape)

    @property
    def detector(self) -> Detector:
        """Noise model and saturation level, as the feature extractor needs them."""
        return Detector(self.decision.camera.noise, self.saturation)


def _of_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Select the arrays whose names begin with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def unusable_map(hot: np.ndarray, dark: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
    """Mark hot pixels and the pixels of dark cells, ``(n, 2)`` each: bool ``(y, x)``, None for none."""
    found = dark_map(dark, shape)
    if not len(hot):
        return found
    if found is None:
        found = np.zeros(shape, bool)
    found[hot[:, 0], hot[:, 1]] = True
    return found


def _arrays(decision: TwoPassDecision) -> dict[str, np.ndarray]:
    """Convert a calibrated decision to arrays by name."""
    if decision.first is None or not decision.final:
        raise ValueError("a decision that was not calibrated cannot be stored")
    arrays = decision.first.arrays("first")
    for name, table in zip(FINAL, decision.final, strict=False):
        arrays |= table.arrays(name)
    for name, distance in decision.distances.items():
        at = f"group/{name}"
        arrays[f"{at}/knots"] = distance.scores.knots.astype(np.float32)
        arrays[f"{at}/excess"] = distance.scores.excess.astype(np.float32)
        arrays |= decision.tails[name].table.arrays(at)
    return arrays


def _tails(decision: TwoPassDecision) -> dict[str, list[float]]:
    """Return start and excess of the tails by group."""
    return {name: [decision.tails[name].start, decision.tails[name].excess] for name in decision.distances}


def _decision(
    camera: CameraModel,
    arrays: Mapping[str, np.ndarray],
    stored: Mapping[str, Sequence[float]],
    first_alpha: float,
) -> TwoPassDecision:
    """Restore the decision that `_arrays` and `_tails` stored."""
    distances, tails = {}, {}
    for group in FEATURE_GROUPS:
        if group.name in stored:
            at = f"group/{group.name}"
            scores = NormalScores(arrays[f"{at}/knots"], arrays[f"{at}/excess"])
            distances[group.name] = AnomalyDistance(scores, group.one_sided)
            tails[group.name] = Tail(ScoreTable.of(arrays, at), *stored[group.name])
    first = ScoreTable.of(arrays, "first")
    tables = FINAL if any(group.regional and group.name in stored for group in FEATURE_GROUPS) else FINAL[:1]
    final = tuple(ScoreTable.of(arrays, name) for name in tables)
    return TwoPassDecision(camera, distances, tails, first, final, first_alpha)
