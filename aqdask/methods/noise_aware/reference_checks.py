"""Validate reference frames: consistent with each other and with the noise model, and numerous enough."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from aqdask.errors import OutlierFramesError, UsageError
from aqdask.methods.noise_aware.anomaly_distance import fraction_beyond_others
from aqdask.methods.noise_aware.feature_groups import FEATURE_GROUPS, FrameFeatures, sky_sigma
from aqdask.methods.noise_aware.frame_score import MIN_SPREAD, FrameStatistics, ReferenceStatistics
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.reference_split import STRATUM_FRAMES
from aqdask.methods.noise_aware.two_pass import BEYOND_SET
from aqdask.specs import FrameMetadata
from aqdask.stats.robust import mad_sigma

NOISE_RANGE = (0.93, 1.08)  # of the noise ratio on frames that did not fit the noise
NOISE_SCATTER = 0.06  # robust sigma of ln noise variance over frames of one gain: they had .007 at most
OUTLIER = 8.0  # robust sigma from the other references at which a frame is rejected
SUSPECT = 5.0  # and at which it is noted
SAME_GAIN = 1.05  # factor between header gains that may be one setting, measured twice
OUTLYING_PATCHES = 0.2  # fraction of outlying patches at which a frame is rejected
SUSPECT_PATCHES = 0.06  # and at which it is noted: one of ten sets of 14 to 17 good frames had as many
MIN_SUSPECT = 4.5  # patches: a small frame has a few by chance
INFORMATIVE = 0.5  # of a reference frame's patches
FEW_FRAMES = 10
ANCHORS = 60  # frames through which lines of variance against sky are drawn
MOST_NAMED = 5  # frames that a message lists
COUNTS = re.compile(r"\s*|adu|dn|counts?|e-?|electrons?", re.IGNORECASE)
LOGARITHMIC = re.compile(r"\b(mag|dex|dB|log)", re.IGNORECASE)


@contextmanager
def naming_unit(units: Iterable[str]) -> Iterator[None]:
    """Name the unit of the pixels (BUNIT) in the errors of a calibration, where it is not one of counts."""
    try:
        yield
    except OutlierFramesError:
        raise
    except UsageError as error:
        known = sorted({unit for unit in units if not COUNTS.fullmatch(unit)})
        if not known:
            raise
        raise UsageError(
            f"{error.got} (unit of the pixels, BUNIT: {', '.join(known)})",
            expected=error.expected,
            consequence=error.consequence,
            remedy=f"{error.remedy}; raw frames in counts can always be calibrated",
        ) from error


def check_unit(units: Iterable[str]) -> None:
    """Reject pixels that are logarithms, such as magnitudes: their noise does not add up."""
    if found := sorted({unit for unit in units if LOGARITHMIC.search(unit)}):
        raise UsageError(
            f"the unit of the pixels (BUNIT) is {', '.join(found)}",
            expected="pixels in proportion to the light",
            consequence="Noise and stars cannot be modelled in magnitudes or logarithms",
            remedy="use the frames before that conversion",
        )


def check_informative(ids: Sequence[str], frames: Sequence[Features]) -> None:
    """Reject frames with mostly uninformative patches: constant, saturated, or without data."""
    shares = [float(np.isfinite(features["sky"]).mean()) for features in frames]
    if uninformative := {
        name: f"{1 - share:.0%} of its patches are saturated or without data"
        for name, share in zip(ids, shares, strict=True)
        if share < INFORMATIVE
    }:
        raise _outliers(
            len(ids),
            uninformative,
            f"frames of which at least {INFORMATIVE:.0%} of the patches can be measured",
        )
    noisy = [features["noise"][np.isfinite(features["sky"])] for features in frames]
    if flat := {
        name: "its pixels have no noise: a constant image"
        for name, noise in zip(ids, noisy, strict=True)
        if np.median(noise) <= 0
    }:
        raise _outliers(len(ids), flat, "frames whose counts show the noise")


def check_consistency(ids: Sequence[str], values: Sequence[FrameStatistics]) -> list[str]:
    """Reject frames whose statistics are outliers; return notes on those that are so a little."""
    found: dict[str, tuple[str, float]] = {}
    for k, frame_id in enumerate(ids):
        others = ReferenceStatistics.fit([*values[:k], *values[k + 1 :]])
        sigmas = others.sigmas(values[k], two_sided=True)
        worst = max(sigmas, key=sigmas.__getitem__, default="")
        if worst and sigmas[worst] > SUSPECT:
            found[frame_id] = f"{worst}, {sigmas[worst]:.0f} robust sigma", sigmas[worst]
    # The spread of a few frames is a poor measure: with five of them the limit is twice as wide.
    limit = OUTLIER * max(1.0, FEW_FRAMES / len(ids))
    if outliers := {name: text for name, (text, sigma) in found.items() if sigma > limit}:
        raise _outliers(
            len(ids),
            outliers,
            "frames of one kind: focus, guiding, sky and noise within "
            f"{limit:.0f} robust sigma of their median (least spread: {_spreads()})",
        )
    return _note({name: text for name, (text, _) in found.items()})


def check_patches(ids: Sequence[str], frames: Sequence[FrameFeatures], disabled: Container[str]) -> list[str]:
    """Reject frames with many outlying patches; return notes on those with few.

    A cloud, a ghost or a gradient in one frame. The size of stars, which changes from frame to frame, is left
    to `check_consistency`. A defect of more than a quarter of the frames is not found (see
    `fraction_beyond_others`). ``disabled`` names groups that are not used.
    """
    worst = dict.fromkeys(range(len(ids)), (0.0, ""))
    patches = max(int(np.isfinite(frame.features["sky"]).sum()) for frame in frames)
    for group in FEATURE_GROUPS:
        if group.regional or group.retired or group.name in disabled:
            continue
        statistics = [finite_rows(group.function(frame)) for frame in frames]
        smallest = max(group.min_effect_size, group.check_effect_size)
        for k, share in enumerate(fraction_beyond_others(statistics, group.one_sided, smallest)):
            worst[k] = max(worst[k], (float(share), group.reason))
    suspect = max(SUSPECT_PATCHES * max(1.0, FEW_FRAMES / len(ids)), MIN_SUSPECT / max(patches, 1))
    found = {
        ids[k]: (f"{reason}, {share:.0%} of its patches", share)
        for k, (share, reason) in worst.items()
        if share > min(suspect, OUTLYING_PATCHES)
    }
    if outliers := {name: text for name, (text, share) in found.items() if share > OUTLYING_PATCHES}:
        raise _outliers(
            len(ids),
            outliers,
            f"frames that are good all over: at most {OUTLYING_PATCHES:.0%} of the patches of one are "
            "beyond those of the others",
        )
    return _note({name: text for name, (text, _) in found.items()})


def finite_rows(statistics: np.ndarray) -> np.ndarray:
    """Select the patches that have all statistics, ``(n, k)``."""
    flat = statistics.reshape(-1, statistics.shape[-1])
    return flat[np.isfinite(flat).all(axis=1)]


def _outliers(total: int, outliers: Mapping[str, str], expected: str) -> OutlierFramesError:
    """Make the error on outliers; ``outliers`` gives the reason for each frame id."""
    named = [f"{frame_id} ({text})" for frame_id, text in sorted(outliers.items())]
    verb = "is an outlier" if len(named) == 1 else "are outliers"
    error = OutlierFramesError(
        f"{len(outliers)} of {total} reference frames {verb}: {_listed(named)}",
        expected=expected,
        consequence="The normal range would include them, and bad frames would pass",
        remedy="leave them out, or calibrate them apart: under a camera or filter name of their own, or, if "
        f"it is their sky, with {STRATUM_FRAMES} frames or more of each sky in one call",
    )
    error.frames = tuple(sorted(outliers))
    return error


def _note(found: Mapping[str, str]) -> list[str]:
    """Write a note on frames that are outliers a little; none for none."""
    named = ", ".join(f"{frame_id} ({text})" for frame_id, text in found.items())
    return [f"Inspect {named}: nearly outliers among the reference frames."] if named else []


def _spreads() -> str:
    return ", ".join(f"{name} {spread:g}" for name, spread in MIN_SPREAD.items() if name != "stars")


def check_gains(camera: str, cards: Mapping[str, FrameMetadata]) -> None:
    """Reject frames of one camera with several gains in their headers; ``cards`` by frame id, NaN is unknown.

    Frames of all settings but the most frequent are named. They may be left out where they are fewer than
    half of the frames of each filter: otherwise a filter with a setting of its own would have none left.
    """
    settings = _gain_settings({name: card.gain for name, card in cards.items()})
    if len(settings) < 2:
        return
    usual = max(settings, key=len)
    others = sorted(name for one in settings if one is not usual for name in one)
    every = Counter(card.filter for card in cards.values())
    excluded = Counter(cards[name].filter for name in others)
    minority = all(2 * number < every[filter] for filter, number in excluded.items())
    error = (OutlierFramesError if minority else UsageError)(
        f"the headers of the reference frames of {camera or 'an unnamed camera'} say gains of "
        + ", ".join(_setting(one, named=one is not usual) for one in settings),
        expected="one gain setting of a camera, in electrons a count",
        consequence="One noise model cannot fit frames with different gains",
        remedy="choose frames of one setting; the other needs a camera name and calibration of its own",
    )
    if isinstance(error, OutlierFramesError):
        error.frames = tuple(others)
    raise error


def _gain_settings(gains: Mapping[str, float]) -> list[dict[str, float]]:
    """Group frames and gains by setting, ascending; a setting is within `SAME_GAIN` of its smallest gain."""
    settings: list[dict[str, float]] = []
    known = {name: round(gain, 4) for name, gain in gains.items() if math.isfinite(gain)}
    for name, gain in sorted(known.items(), key=lambda item: item[1]):
        if not settings or gain > SAME_GAIN * min(settings[-1].values()):
            settings.append({})
        settings[-1][name] = gain
    return [dict(sorted(setting.items())) for setting in settings]


def _setting(gains: Mapping[str, float], *, named: bool) -> str:
    """Write a gain setting in words: gain, number of frames and, where ``named``, their ids."""
    which = f": {_listed(list(gains))}" if named else ""
    values = _span(f"{value:g}" for value in (min(gains.values()), max(gains.values())))
    return f"{values} ({len(gains)} frame{'s'[: len(gains) != 1]}{which})"


def _listed(ids: Sequence[str]) -> str:
    """List at most `MOST_NAMED` ids, and the number of the others."""
    more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
    return ", ".join(ids[:MOST_NAMED]) + more


def _span(ends: Iterable[str]) -> str:
    """Write ``a to b``, or one of them where both are the same."""
    return " to ".join(dict.fromkeys(ends))


def check_scatter(ids: Sequence[str], values: Sequence[FrameStatistics], noise: NoiseModel) -> None:
    """Reject frames that no single noise model fits; where half have another gain, none is an outlier.

    ``noise`` is the model that ``values`` were measured with, which fits none where gains are mixed. Named
    are the frames that the gain of most does not fit; where there is none, those beside the widest gap
    between noise levels. They are never left out unasked: most of the frames are off the noise model.
    """
    found = {
        name: value for name, value in zip(ids, values, strict=True) if math.isfinite(value.noise + value.sky)
    }
    noises = np.array([value.noise for value in found.values()])
    if noise.source == "subtracted" or not noises.size or mad_sigma(noises) <= NOISE_SCATTER:
        return
    order = np.argsort(noises, kind="stable")
    known, ascending = [list(found)[k] for k in order], noises[order]
    at = 1 + int(np.argmax(np.diff(ascending)))
    parted = max(np.ptp(ascending[:at]), np.ptp(ascending[at:])) < NOISE_SCATTER
    one = _of_one_gain(list(found.values()), noise)
    outliers = [name for name, fits in zip(found, one, strict=True) if not fits]
    if not parted and not outliers:
        what = "one gain fits all of them, but not that of the noise model"
    elif not parted and len(outliers) < len(one) / 2:
        what = f"one gain fits {one.sum()} of them, and not: {_listed(outliers)}"
    else:
        outliers = sorted(known[at:] if at >= len(known) / 2 else known[:at])
        times = _span(f"{np.exp(found[name].noise / 2):.2f}" for name in _ends(outliers, known))
        what = f"of {len(outliers)} of them, beside the widest gap, {times} times: {_listed(outliers)}"
    every = _span(f"{np.exp(found[name].noise / 2):.2f}" for name in (known[0], known[-1]))
    raise UsageError(
        f"the noise of {len(values)} reference frames is {every} times that of the noise model; {what}",
        expected=f"a scatter of less than {NOISE_SCATTER / 2:.0%} from frame to frame",
        consequence="Of several gain settings, or of clouds among clear skies, no noise model holds",
        remedy="check that all reference frames are of one camera, gain setting and reduction, and good",
    )


def _ends(some: Sequence[str], order: Sequence[str]) -> tuple[str, str]:
    """Return the first and the last of ``some`` in the order of all."""
    return min(some, key=order.index), max(some, key=order.index)


def _of_one_gain(frames: Sequence[FrameStatistics], noise: NoiseModel) -> np.ndarray:
    """Find the most frames on one line of variance against sky, within `NOISE_SCATTER`; bool ``(n,)``.

    Lines through two frames (of `ANCHORS` of them), and level ones: a few frames of another gain pull none.
    """
    sky = np.array([frame.sky for frame in frames])
    variance = sky_sigma({"sky": sky}, noise) ** 2 * np.exp([frame.noise for frame in frames])
    anchors = np.unique(np.linspace(0, len(frames) - 1, ANCHORS).astype(int))
    first, second = (anchors[k] for k in np.triu_indices(len(anchors)))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.nan_to_num((variance[second] - variance[first]) / (sky[second] - sky[first]), posinf=0)
        slope = np.maximum(slope, 0)  # a variance falls with no sky
        line = variance[first, None] + slope[:, None] * (sky - sky[first, None])
        fits = np.abs(np.log(variance / np.maximum(line, 0))) < NOISE_SCATTER
    return fits[fits.sum(axis=1).argmax()]


def check_noise(values: Sequence[FrameStatistics], noise: NoiseModel) -> None:
    """Reject a noise model that does not hold on held-out frames, but where the sky was subtracted."""
    if noise.source == "subtracted":
        return
    ratio = float(np.exp(np.median([value.noise for value in values]) / 2))
    if not NOISE_RANGE[0] <= ratio <= NOISE_RANGE[1]:
        raise UsageError(
            f"on held-out reference frames the noise is {ratio:.2f} times that of the noise model",
            expected=f"a ratio of {NOISE_RANGE[0]} to {NOISE_RANGE[1]}",
            consequence="With the wrong gain everything would be masked, or nothing",
            remedy="check that all reference frames are of one camera, gain setting and reduction",
        )


def check_alpha(patches: int, alpha: float, frames: int, total: int) -> None:
    """Reject a number of patches with which no p-value could be as small as alpha.

    ``patches`` good patches of ``frames`` frames set the threshold, of ``total`` reference frames in all.
    """
    if 1 / (patches + 1) / BEYOND_SET > alpha:
        needed = math.ceil(total * (1 / alpha / BEYOND_SET - 1) / max(patches, 1))
        raise UsageError(
            f"{total} reference frames, of which {frames} with {patches} patches set the threshold",
            expected=f"about {needed} reference frames of this size for alpha = {alpha:g}",
            consequence="No patch could be masked at that alpha",
            remedy="give more reference frames, or accept a larger alpha",
        )
