"""Whether reference frames can say what is normal: alike, fit by the noise model, and enough of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aqdask.errors import UsageError
from aqdask.kernels.frame_tier import LEAST_SPREAD, FrameReference, FrameValues

NOISE_RANGE = (0.93, 1.08)  # of the noise ratio on frames that did not fit the noise
UNLIKE = 8.0  # robust sigma from the other references at which a frame is no reference
ODD = 5.0  # and at which it is worth a word
FEW_FRAMES = 10


def check_alike(ids: Sequence[str], values: Sequence[FrameValues]) -> list[str]:
    """Refuse references of which one is far from all the others, by what; name those that are a little."""
    found: dict[str, float] = {}
    for k, frame_id in enumerate(ids):
        others = FrameReference.fit([*values[:k], *values[k + 1 :]])
        sigmas = others.sigmas(values[k], two_sided=True)
        worst = max(sigmas, key=sigmas.__getitem__, default="")
        if worst and sigmas[worst] > ODD:
            found[f"{frame_id} ({worst}, {sigmas[worst]:.0f} robust sigma)"] = sigmas[worst]
    # The spread of a few frames is a poor measure: with five of them the limit is twice as wide.
    limit = UNLIKE * max(1.0, FEW_FRAMES / len(ids))
    unlike = [text for text, sigma in found.items() if sigma > limit]
    if unlike:
        raise UsageError(
            f"of {len(ids)} reference frames {len(unlike)} unlike the others: {', '.join(unlike[:5])}",
            expected="frames of one kind: focus, guiding, sky and noise within "
            f"{limit:.0f} robust sigma of their median (least spread: {_spreads()})",
            consequence="What is normal would be whatever they span, and bad frames would pass",
            remedy="leave them out, or calibrate them apart",
        )
    return [f"Look at {', '.join(found)}: unlike the other reference frames."] if found else []


def _spreads() -> str:
    return ", ".join(f"{name} {spread:g}" for name, spread in LEAST_SPREAD.items() if name != "stars")


def check_noise(values: Sequence[FrameValues]) -> None:
    """Refuse a noise model that does not hold on frames that did not fit it."""
    ratio = float(np.exp(np.median([value.noise for value in values]) / 2))
    if not NOISE_RANGE[0] <= ratio <= NOISE_RANGE[1]:
        raise UsageError(
            f"on held-out reference frames the noise is {ratio:.2f} times what the noise model says",
            expected=f"a ratio of {NOISE_RANGE[0]} to {NOISE_RANGE[1]}",
            consequence="With the wrong gain everything would be masked, or nothing",
            remedy="check that all reference frames are of one camera, gain setting and reduction",
        )


def check_alpha(patches: int, alpha: float, frames: int, total: int) -> None:
    """Refuse where no p-value could be as small as alpha.

    ``patches`` good patches of ``frames`` frames set the threshold, of ``total`` reference frames in all.
    """
    if 1 / (patches + 1) > alpha:
        needed = math.ceil(total * (1 / alpha - 1) / max(patches, 1))
        raise UsageError(
            f"{total} reference frames, of which {frames} with {patches} patches set the threshold",
            expected=f"about {needed} reference frames of this size for alpha = {alpha:g}",
            consequence="No patch could be masked at that alpha",
            remedy="give more reference frames, or accept a larger alpha",
        )
