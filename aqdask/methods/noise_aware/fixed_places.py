"""Fixed places that are among the worst of the reference frames again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from aqdask.methods.noise_aware.pooling import Features
from aqdask.methods.noise_aware.two_pass import TwoPassDecision
from aqdask.specs import PatchGrid

WORST = 0.01  # of the patches of all frames
OFTEN = 0.5  # of the frames: more of them by chance is out of the question
SHOWN = 3  # places in the note, the largest


def fixed_place_notes(decision: TwoPassDecision, frames: Sequence[Features], grid: PatchGrid) -> list[str]:
    """Note the places whose patches are among the worst hundredth in more than half of the reference frames.

    They make the tails against which all other patches are compared, and so hide defects.

    Parameters
    ----------
    decision : TwoPassDecision
        Calibrated on the frames.
    frames : sequence of Features
        Of each reference frame.
    grid : PatchGrid
        Patches of the frames.
    """
    scores = np.nan_to_num([decision.score(features)[0] for features in frames], nan=-np.inf)
    known = scores[np.isfinite(scores)]
    often = (scores >= np.quantile(known, 1 - WORST)).mean(axis=0) > OFTEN
    if not often.any():
        return []
    labels, count = ndimage.label(often)
    order = np.argsort(-np.bincount(labels.ravel(), minlength=count + 1)[1:], kind="stable")
    boxes = [ndimage.find_objects(labels)[number] for number in order[:SHOWN]]
    places = [
        f"rows {grid.starts(0)[y.start]} to {grid.stops(0)[y.stop - 1] - 1}, "
        f"columns {grid.starts(1)[x.start]} to {grid.stops(1)[x.stop - 1] - 1}"
        for y, x in boxes
    ]
    more = f", and {count - SHOWN} more" if count > SHOWN else ""
    return [
        f"The same places are among the worst in more than half of the reference frames: {'; '.join(places)}"
        f"{more}. They hide defects elsewhere; mark them as bad (--bad-pixel-map) if they are."
    ]
