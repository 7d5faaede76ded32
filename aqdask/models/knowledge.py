"""What ``method="aqdask"`` knows of one camera and filter, and how a bundle keeps it as arrays and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from aqdask.kernels.calibration import ScoreTable
from aqdask.kernels.centring import Guard
from aqdask.kernels.evidence import GROUPS, Camera
from aqdask.kernels.frame_tier import FrameReference
from aqdask.kernels.grouping import Distance, NormalScores, Tail
from aqdask.kernels.judge import Judge
from aqdask.kernels.noise import NoiseModel
from aqdask.kernels.pooling import Columns
from aqdask.models.bundle import Calibration
from aqdask.models.centred import Centred, unflagged

FINAL = ("final", "final_region")  # tables of a judge, as they are stored
BRIGHTER = "brighter/"  # before the names of the arrays of a brighter sky
# Groups that measure against the flat field of a filter, or need its noise model to hold within 1 %.
FLAT_FIELD = ("sky", "background", "sky_frame", "noise_region")


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
    centred : Centred or None
        How frames of the references' field are judged; None: like all others.
    brighter : Knowledge or None
        What holds of frames whose median sky is above ``limit`` counts, from references of that sky.
    limit : float
    """

    judge: Judge
    frames: FrameReference
    saturation: float
    hot: np.ndarray
    shape: tuple[int, int]
    facts: dict[str, Any] = field(default_factory=dict)
    centred: Centred | None = None
    brighter: Knowledge | None = None
    limit: float = float("inf")

    def under_sky(self, columns: Columns) -> Knowledge:
        """What holds of a frame with these columns: that of its stratum of sky."""
        sky = columns["sky"][np.isfinite(columns["sky"])]
        if self.brighter is None or not sky.size or np.median(sky) <= self.limit:
            return self
        return self.brighter.under_sky(columns)

    def plain(self) -> Knowledge:
        """Without what belongs to places in the frame, and to one sky."""
        return replace(self, centred=None, brighter=None)

    def judge_for(self, columns: Columns) -> tuple[Judge, bool]:
        """Who judges a frame with these columns, and whether it is the centred one."""
        if self.centred is not None and self.centred.guard.passes(columns, unflagged(self.judge, columns)):
            return self.centred.judge, True
        return self.judge, False

    def calibration(self) -> Calibration:
        """As a bundle stores it."""
        judge, camera = self.judge, self.judge.camera
        arrays = {"hot": self.hot, "shape_zero": camera.shape_zero.astype(np.float64)}
        if camera.template is not None:
            arrays["template"] = camera.template.astype(np.float32)
        arrays |= _arrays(judge)
        facts: dict[str, Any] = {
            "noise": asdict(camera.noise),
            "two_sided": camera.two_sided,
            "tails": _tails(judge),
            "first_alpha": judge.first_alpha,
            "frame_tier": {name: list(values) for name, values in self.frames.quantities.items()},
            "frame_shapes": {name: list(values) for name, values in self.frames.shapes.items()},
            "saturation": None if np.isinf(self.saturation) else self.saturation,
            "shape": list(self.shape),
            "patches": judge.final[0].total,
            "smallest_pvalue": judge.smallest,
        }
        if self.centred is not None:
            arrays |= _arrays(self.centred.judge, "centred/")
            arrays["centred/pattern"] = self.centred.guard.pattern
            facts["centred"] = {"tails": _tails(self.centred.judge), "least": self.centred.guard.least}
        if self.brighter is not None:
            nested = self.brighter.calibration()
            arrays |= {f"{BRIGHTER}{name}": array for name, array in nested.arrays.items()}
            facts["brighter"] = {"limit": self.limit, "facts": dict(nested.facts)}
        return Calibration(arrays, facts | {"about": self.facts})

    @classmethod
    def of(cls, stored: Calibration) -> Knowledge:
        """What `calibration` stored; `KeyError` names what is not there."""
        arrays, facts = stored.arrays, stored.facts
        camera = Camera(
            NoiseModel(**facts["noise"]), arrays.get("template"), arrays["shape_zero"], facts["two_sided"]
        )
        judge = _judge(camera, arrays, facts["tails"], facts["first_alpha"])
        place = None
        if "centred" in facts:
            own = _judge(camera, arrays, facts["centred"]["tails"], facts["first_alpha"], "centred/")
            place = Centred(own, Guard(arrays["centred/pattern"], facts["centred"]["least"]))
        tables = (facts["frame_tier"], facts.get("frame_shapes", {}))
        tier = FrameReference(*({name: tuple(found) for name, found in one.items()} for one in tables))
        full = facts["saturation"]
        brighter, limit = None, float("inf")
        if "brighter" in facts:
            inside = {n.removeprefix(BRIGHTER): a for n, a in arrays.items() if n.startswith(BRIGHTER)}
            brighter = cls.of(Calibration(inside, facts["brighter"]["facts"]))
            limit = facts["brighter"]["limit"]
        return cls(
            judge,
            tier,
            float("inf") if full is None else full,
            arrays["hot"],
            tuple(facts["shape"]),
            facts["about"],
            place,
            brighter,
            limit,
        )

    def elsewhere(self, *, same_camera: bool) -> Knowledge:
        """As far as it holds for another filter, or for another camera, which has other hot pixels.

        A filter has its own flat field: in that of another one the sky of every patch would stand out, so
        the groups that look at it abstain. And what is usual at a place is so in one filter of one camera.
        """
        judge = self.judge
        distances = {name: found for name, found in judge.distances.items() if name not in FLAT_FIELD}
        camera = replace(judge.camera, template=None)
        hot = self.hot if same_camera else self.hot[:0]
        judge = replace(judge, camera=camera, distances=distances)
        # The counts of another camera say nothing about its sky.
        brighter = self.brighter.elsewhere(same_camera=True) if same_camera and self.brighter else None
        return replace(self, judge=judge, hot=hot, centred=None, brighter=brighter)

    def hot_map(self) -> np.ndarray | None:
        """Hot pixels as bool ``(y, x)``; None where there are none."""
        if not len(self.hot):
            return None
        found = np.zeros(self.shape, bool)
        found[self.hot[:, 0], self.hot[:, 1]] = True
        return found


def _arrays(judge: Judge, prefix: str = "") -> dict[str, np.ndarray]:
    """A calibrated judge as arrays, their names behind ``prefix``."""
    if judge.first is None or not judge.final:
        raise ValueError("a judge that was not calibrated cannot be stored")
    arrays = judge.first.arrays(f"{prefix}first")
    for name, table in zip(FINAL, judge.final, strict=False):
        arrays |= table.arrays(f"{prefix}{name}")
    for name, distance in judge.distances.items():
        at = f"{prefix}group/{name}"
        arrays[f"{at}/knots"] = distance.scores.knots.astype(np.float32)
        arrays[f"{at}/excess"] = distance.scores.excess.astype(np.float32)
        arrays |= judge.tails[name].table.arrays(at)
        if name in judge.means:
            arrays[f"{at}/mean"] = judge.means[name]
    return arrays


def _tails(judge: Judge) -> dict[str, list[float]]:
    """What of a judge's tails is no array: start and excess by group."""
    return {name: [judge.tails[name].start, judge.tails[name].excess] for name in judge.distances}


def _judge(
    camera: Camera,
    arrays: Mapping[str, np.ndarray],
    stored: Mapping[str, Sequence[float]],
    first_alpha: float,
    prefix: str = "",
) -> Judge:
    """The judge that `_arrays` and `_tails` stored."""
    distances, tails, means = {}, {}, {}
    for group in GROUPS:
        if group.name in stored:
            at = f"{prefix}group/{group.name}"
            scores = NormalScores(arrays[f"{at}/knots"], arrays[f"{at}/excess"])
            distances[group.name] = Distance(scores, group.one_sided)
            tails[group.name] = Tail(ScoreTable.of(arrays, at), *stored[group.name])
            if f"{at}/mean" in arrays:
                means[group.name] = arrays[f"{at}/mean"]
    first = ScoreTable.of(arrays, f"{prefix}first")
    tables = FINAL if any(group.regional and group.name in stored for group in GROUPS) else FINAL[:1]
    final = tuple(ScoreTable.of(arrays, f"{prefix}{name}") for name in tables)
    return Judge(camera, distances, tails, first, final, first_alpha, means)
