"""``method="aqdask"``: stabilised noise, an autoencoder, a PSF head, groups of evidence in two passes.

The parts are in the kernels: noise (`noise`), what is measured in a patch (`statistics`), groups of evidence
(`evidence`), distances and tails (`grouping`), the passes (`judge`), the frame as a whole (`frame_tier`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from aqdask import flags
from aqdask.errors import ModelError
from aqdask.kernels.evidence import GROUPS, noise_ratio
from aqdask.kernels.frame_tier import FLAG_SIGMA, frame_values
from aqdask.kernels.normalise import as_float
from aqdask.kernels.patches import gather, padded
from aqdask.kernels.pooling import Columns, shape
from aqdask.models.bundle import POOLED, Bundle, calibration_key
from aqdask.models.distort import SPREAD
from aqdask.models.knowledge import Knowledge
from aqdask.models.measurer import Detector, Measurer
from aqdask.models.networks import Networks
from aqdask.models.scorer import BATCH
from aqdask.specs import MIN_VALID, Variable

SATURATED = 0.5  # fraction of a patch's pixels that are full, from which it says nothing else
BRIGHTER = 5.0  # sigma of a pixel above the other patches, from which a plateau is full


def _map(name: str, long_name: str, units: str = "1") -> Variable:
    return Variable(name, "float32", np.nan, {"long_name": long_name, "units": units})


def _number(name: str, long_name: str, units: str = "1") -> Variable:
    return Variable(name, "float32", np.nan, {"long_name": long_name, "units": units}, per_frame=True)


# Per patch: judgement, the published quantity, physical maps. Per frame: a rank, a flag, the same physics.
VARIABLES: tuple[Variable, ...] = (
    _map("score", "patch score, -log10 of the smallest group p-value, larger is worse"),
    _map("pvalue", "split conformal p-value of the score through both passes"),
    Variable(
        "reason",
        "uint8",
        flags.code(flags.REASONS, "no_data"),
        {"long_name": "evidence that was worst", **flags.cf_values(flags.REASONS)},
    ),
    _map("mae", "mean absolute residual of the reconstruction in units of the noise"),
    _map("sky", "sky of the patch", "count"),
    _map("noise_ratio", "measured over expected standard deviation of the noise"),
    _map("size_ratio", "PSF size relative to the reference frames, above 1 = wider"),
    _map("e1", "PSF ellipticity along the axes less that of the reference frames"),
    _map("e2", "PSF ellipticity along the diagonals less that of the reference frames"),
    _map("stars", "stars in the patch above 5 sigma"),
    _number("frame_score", "how far the frame is from the references in robust sigma, larger is worse"),
    Variable(
        "frame_flag",
        "uint8",
        255,  # not scored
        {
            "long_name": "frame is flagged: frame_score above 5 (robust sigma of size, ellipticity, sky or "
            "noise, or more than 20 % of the patches masked)",
            "flag_values": [0, 1, 255],
            "flag_meanings": "good flagged not_scored",
        },
        per_frame=True,
    ),
    _number(
        "frame_size_ratio",
        "PSF size of the frame over the median of the fitted references, above 1 = wider",
    ),
    _number("frame_ellipticity", "PSF ellipticity of the frame less that of the reference frames"),
    _number("frame_size_pvalue", "conformal p-value of the frame's PSF size, at least 1 / (references + 1)"),
    _number(
        "frame_ellipticity_pvalue",
        "conformal p-value of its PSF ellipticity, at least 1 / (references + 1)",
    ),
    _number("frame_sky", "median sky of the patches, pedestal included", "count"),
    _number("frame_noise_ratio", "median measured over expected standard deviation of the noise"),
    _number("frame_stars", "mean number of stars a patch"),
    Variable(
        "out_of_reference",
        "uint8",
        0,
        {
            "long_name": "what of the frame lies outside the range of the reference frames",
            "flag_masks": list(flags.OUTSIDE.values()),
            "flag_meanings": " ".join(flags.OUTSIDE),
        },
        per_frame=True,
    ),
    Variable(
        "centred",
        "uint8",
        255,  # not scored
        {
            "long_name": "patches were judged against the mean of the reference frames at their place",
            "flag_values": [0, 1, 255],
            "flag_meanings": "plain centred not_scored",
        },
        per_frame=True,
    ),
)


def networks_of(bundle: Bundle) -> tuple[Networks, int]:
    """The bundle's networks on the CPU, and the channels of the latent.

    Raises
    ------
    ModelError
        If the weights do not fit the architecture that the bundle states.
    """
    try:
        settings = {name: bundle.architecture[name] for name in ("width", "inner", "latent")}
        networks = Networks(**settings)
        # A copy: arrays that come from bytes are read-only, which torch cannot express.
        networks.load_state_dict({key: torch.tensor(array) for key, array in bundle.weights.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"the weights of the model {bundle.name} do not fit its architecture {dict(bundle.architecture)}",
            expected="one array for every layer",
            consequence="It cannot reconstruct a patch",
            remedy="train again with this release of aqdask",
        ) from error
    return networks, settings["latent"]


class AqdaskScorer:
    """Scores frames and patches with a bundle of this method (see `aqdask.models.scorer`).

    Parameters
    ----------
    bundle : Bundle
        With ``method="aqdask"``.
    device : str
        'cpu', 'cuda', ...

    Raises
    ------
    ModelError
        If the weights do not fit the architecture that the bundle states.
    """

    variables = VARIABLES

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.name, self.digest, self.patch = bundle.name, bundle.digest, bundle.patch
        self._bundle = bundle
        self.measurer = Measurer(*networks_of(bundle), device)
        self.columns = self.measurer.columns
        self._known = lru_cache(maxsize=16)(self._knowledge)

    def _knowledge(self, key: str) -> tuple[Knowledge, np.ndarray | None]:
        """What is known of a camera and filter, and its hot pixels.

        Where nothing is: what holds of another filter of the camera, or of the pooled frames.
        """
        known = self._bundle.calibrations
        camera = key.rpartition("|")[0]
        same = [other for other in sorted(known) if other and other.rpartition("|")[0] == camera]
        nearest = key if key in known else same[0] if same else POOLED
        try:
            knowledge = Knowledge.of(known[nearest])
        except KeyError as error:
            raise ModelError(
                f"the calibration of the model {self.name} for {nearest!r} lacks {error}",
                expected="a calibration of this release of aqdask",
                consequence="No patch can be judged",
                remedy="calibrate the model again (`aqdask calibrate`)",
            ) from error
        if key not in known:
            knowledge = knowledge.elsewhere(same_camera=bool(same))
        return knowledge, knowledge.hot_map()

    def knowledge(self, camera: str, filter: str) -> tuple[Knowledge, np.ndarray | None]:
        """What is known of this camera and filter, as far as it is; and its `Knowledge.hot_map`."""
        return self._known(calibration_key(camera, filter))

    def measure(
        self,
        patches: np.ndarray,
        valid: np.ndarray | None,
        tops: np.ndarray,
        lefts: np.ndarray,
        camera: str = "",
        filter: str = "",
    ) -> np.ndarray:
        """See `aqdask.models.scorer.Scorer.measure`."""
        knowledge, hot = self.knowledge(camera, filter)
        found = [np.empty((0, len(self.columns)), np.float32)]
        for first in range(0, len(patches), BATCH):
            part = slice(first, first + BATCH)
            usable = without(None if valid is None else valid[part], hot, tops[part], lefts[part], self.patch)
            found.append(measure_batch(self.measurer, patches[part], usable, knowledge))
        return np.concatenate(found)

    def judge(self, measured: np.ndarray, camera: str = "", filter: str = "") -> dict[str, np.ndarray]:
        """See `aqdask.models.scorer.Scorer.judge`."""
        knowledge, _ = self.knowledge(camera, filter)
        columns = {name: measured[..., k] for k, name in enumerate(self.columns)}
        found = judged(knowledge, blank(columns))
        found["reason"][saturated(columns)] = flags.code(flags.REASONS, "saturated")
        typed = {variable.name: np.dtype(variable.dtype) for variable in self.variables}
        return {name: np.asarray(found[name]).astype(dtype) for name, dtype in typed.items()}


def measure_batch(
    measurer: Measurer, patches: np.ndarray, valid: np.ndarray | None, knowledge: Knowledge
) -> np.ndarray:
    """Columns ``(n, k)`` of at most `BATCH` patches of any type, padded to that many."""
    integer = patches.dtype.kind in "iu" and patches.dtype.itemsize <= 2  # no detector counts in 32 bits
    limit = np.iinfo(patches.dtype).max if integer else np.inf
    detector = Detector(knowledge.judge.camera.noise, float(min(knowledge.saturation, limit)))
    values = as_float(padded(patches, BATCH), measurer.device)
    mask = None if valid is None else torch.from_numpy(padded(valid, BATCH)).to(measurer.device)
    if patches.dtype.kind == "f":  # NaN and infinity are no data, whatever the mask says
        finite = values.isfinite()
        mask = finite if mask is None else mask & finite
    if mask is not None and bool(mask.all()):
        mask = None  # the same bits, and less work
    return measurer.measure(values, mask, detector)[: len(patches)]


def without(
    valid: np.ndarray | None, hot: np.ndarray | None, tops: np.ndarray, lefts: np.ndarray, size: int
) -> np.ndarray | None:
    """``valid`` less the hot pixels (`Knowledge.hot_map`)."""
    if hot is None:
        return valid
    there = gather(hot, tops, lefts, size)
    return ~there if valid is None else valid & ~there


def saturated(columns: Columns) -> np.ndarray:
    """Which patches are mostly full, bool ``(n_y, n_x)``.

    Where saturation is not known (`measurer`), those with a plateau that is brighter than the other patches:
    zeros where there are no data are flat, too, and a constant frame is none that is full.
    """
    share, sky, variance = (columns[name] for name in ("saturated", "sky", "noise"))
    flat = share < -SATURATED
    others = ~flat & np.isfinite(sky) & np.isfinite(variance)
    if flat.any() and others.any():
        flat &= sky > np.median(sky[others]) + BRIGHTER * np.sqrt(np.median(variance[others]))
    else:
        flat[:] = False
    return flat | (share > SATURATED)


def blank(columns: Columns) -> dict[str, np.ndarray]:
    """Columns with NaN in the patches that say nothing: too few valid pixels, or mostly saturated."""
    mute = ~(columns["valid"] >= MIN_VALID) | saturated(columns)
    return {name: np.where(mute, np.nan, values) for name, values in columns.items()}


_CODES = {group.name: flags.code(flags.REASONS, group.reason) for group in GROUPS}


def judged(knowledge: Knowledge, columns: Columns) -> dict[str, np.ndarray]:
    """Every variable from the columns of a whole frame, untyped."""
    knowledge = knowledge.under_sky(columns)
    judge, centred = knowledge.judge_for(columns)
    camera = judge.camera
    score, pvalue, worst = judge.score(columns)
    codes = _CODES | {"": flags.code(flags.REASONS, "no_data")}
    about = shape(columns, camera.shape_zero) * np.array(SPREAD)
    about[np.isnan(columns["sky"])] = np.nan
    masked = 1 - float((pvalue > judge.first_alpha).mean())  # what has no score is masked, too
    values = frame_values(columns, camera, SPREAD)
    rank = knowledge.frames.score(values, masked, two_sided=camera.two_sided)
    return {
        "score": score,
        "pvalue": pvalue,
        "reason": np.vectorize(codes.__getitem__, otypes=[np.uint8])(worst),
        "mae": columns["mae"],
        "sky": columns["sky"],
        "noise_ratio": np.exp(noise_ratio(columns, camera.noise) / 2),
        "size_ratio": np.exp(about[..., 0]),
        "e1": about[..., 1],
        "e2": about[..., 2],
        "stars": columns["stars"],
        "frame_score": np.array(rank),
        "frame_flag": np.array(rank > FLAG_SIGMA),
        "frame_size_ratio": np.exp(values.size),
        "frame_ellipticity": np.array(values.ellipticity),
        "frame_size_pvalue": np.array(knowledge.frames.pvalue(values, "size", two_sided=camera.two_sided)),
        "frame_ellipticity_pvalue": np.array(knowledge.frames.pvalue(values, "ellipticity")),
        "frame_sky": np.array(values.sky),
        "frame_noise_ratio": np.exp(values.noise / 2),
        "frame_stars": np.array(values.stars),
        "out_of_reference": np.array(knowledge.frames.outside(values)),
        "centred": np.array(centred),
    }
