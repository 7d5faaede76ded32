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
TENTH, MOSTLY = 0.1, 0.8  # or in so many of the frames among so many of their patches
DOMINANT = 1 / 3  # of the worst: with less, such as stars of one field, defects elsewhere are not hidden
SHOWN = 3  # places in the note, the largest


def fixed_place_notes(decision: TwoPassDecision, frames: Sequence[Features], grid: PatchGrid) -> list[str]:
    """Note the places whose patches are among the worst in most reference frames.

    Among the worst hundredth in more than half, or among the worst tenth in nearly all, if such patches are a
    third of the worst hundredth or more. They make the tails against which all other patches are compared,
    and so hide defects.

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
    worst = scores >= np.quantile(known, 1 - WORST)
    nearly_always = (scores >= np.quantile(known, 1 - TENTH)).mean(axis=0) >= MOSTLY
    for often in (nearly_always, worst.mean(axis=0) > OFTEN):  # many patches share the worst among them
        if worst[:, often].sum() > DOMINANT * worst.sum():
            break
    else:
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
        f"The same places are among the worst in most of the reference frames: {'; '.join(places)}"
        f"{more}. They hide defects elsewhere; mark them as bad (--bad-pixel-map) if they are."
    ]
