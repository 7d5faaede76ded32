"""What ``method="aqdask"`` knows of one camera and filter, and how a bundle keeps it as arrays and facts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from aqdask.kernels.calibration import ScoreTable
from aqdask.kernels.evidence import GROUPS, Camera
from aqdask.kernels.frame_tier import FrameReference
from aqdask.kernels.grouping import Distance, NormalScores, Tail
from aqdask.kernels.judge import Judge
from aqdask.kernels.noise import NoiseModel
from aqdask.models.bundle import Calibration

FLAT_FIELD = ("sky", "background")  # groups that measure against the flat field of a filter


@dataclass(frozen=True, eq=False)
class Knowledge:
    """One camera and filter, as its reference frames show it.

    Parameters
    ----------
    judge : Judge
        Camera, groups and calibration of the patches.
    frames : FrameReference
        What whole reference frames are like.
    saturation : float
        Counts from which a pixel is full; infinite where unknown.
    hot : ndarray (n, 2)
        Row and column of the hot pixels, int32.
    shape : tuple of int
        ``(y, x)`` of the reference frames: the hot pixels and the template belong to it.
    facts : dict
        Plain JSON for the user: frames of each set, patches, notes, groups that abstain and why.
    """

    judge: Judge
    frames: FrameReference
    saturation: float
    hot: np.ndarray
    shape: tuple[int, int]
    facts: dict[str, Any] = field(default_factory=dict)

    def calibration(self) -> Calibration:
        """As a bundle stores it."""
        judge, camera = self.judge, self.judge.camera
        if judge.first is None or judge.final is None:
            raise ValueError("a judge that was not calibrated cannot be stored")
        arrays = {"hot": self.hot, "shape_zero": camera.shape_zero.astype(np.float64)}
        if camera.template is not None:
            arrays["template"] = camera.template.astype(np.float32)
        arrays |= judge.first.arrays("first") | judge.final.arrays("final")
        tails = {}
        for name, distance in judge.distances.items():
            arrays[f"group/{name}/knots"] = distance.scores.knots.astype(np.float32)
            arrays[f"group/{name}/excess"] = distance.scores.excess.astype(np.float32)
            tail = judge.tails[name]
            arrays |= tail.table.arrays(f"group/{name}")
            tails[name] = [tail.start, tail.excess]
        facts = {
            "noise": asdict(camera.noise),
            "two_sided": camera.two_sided,
            "tails": tails,
            "first_alpha": judge.first_alpha,
            "frame_tier": {name: list(values) for name, values in self.frames.quantities.items()},
            "saturation": None if np.isinf(self.saturation) else self.saturation,
            "shape": list(self.shape),
            "patches": judge.final.total,
            "smallest_pvalue": judge.final.smallest,
        }
        return Calibration(arrays, facts | {"about": self.facts})

    @classmethod
    def of(cls, stored: Calibration) -> Knowledge:
        """What `calibration` stored; `KeyError` names what is not there."""
        arrays, facts = stored.arrays, stored.facts
        camera = Camera(
            NoiseModel(**facts["noise"]), arrays.get("template"), arrays["shape_zero"], facts["two_sided"]
        )
        distances, tails = {}, {}
        for group in GROUPS:
            if group.name in facts["tails"]:
                at = f"group/{group.name}"
                scores = NormalScores(arrays[f"{at}/knots"], arrays[f"{at}/excess"])
                distances[group.name] = Distance(scores, group.one_sided)
                tails[group.name] = Tail(ScoreTable.of(arrays, at), *facts["tails"][group.name])
        first, final = ScoreTable.of(arrays, "first"), ScoreTable.of(arrays, "final")
        judge = Judge(camera, distances, tails, first, final, facts["first_alpha"])
        tier = FrameReference({name: tuple(values) for name, values in facts["frame_tier"].items()})
        full = facts["saturation"]
        return cls(
            judge,
            tier,
            float("inf") if full is None else full,
            arrays["hot"],
            tuple(facts["shape"]),
            facts["about"],
        )

    def elsewhere(self, *, same_camera: bool) -> Knowledge:
        """As far as it holds for another filter, or for another camera, which has other hot pixels.

        A filter has its own flat field: in that of another one the sky of every patch would stand out, so
        the groups that look at it abstain.
        """
        judge = self.judge
        distances = {name: found for name, found in judge.distances.items() if name not in FLAT_FIELD}
        camera = replace(judge.camera, template=None)
        hot = self.hot if same_camera else self.hot[:0]
        return replace(self, judge=replace(judge, camera=camera, distances=distances), hot=hot)

    def hot_map(self) -> np.ndarray:
        """Hot pixels as bool ``(y, x)``."""
        found = np.zeros(self.shape, bool)
        found[self.hot[:, 0], self.hot[:, 1]] = True
        return found
