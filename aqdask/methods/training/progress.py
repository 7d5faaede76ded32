"""Progress reports of training and calibration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training or calibration.

    Parameters
    ----------
    stage : str
        'train' (``done`` of ``total`` steps), 'noise' and 'calibrate' (of frames) or 'note'.
    loss, held_out : float
        Loss of the last step, and the held-out one when last looked at; NaN before.
    seconds, eta_seconds : float
        Since the stage began, and to its end as far as can be told.
    note : str
        One sentence for the user, with the stage 'note'.
    """

    stage: str
    done: int = 0
    total: int = 0
    loss: float = math.nan
    held_out: float = math.nan
    seconds: float = 0.0
    eta_seconds: float = math.nan
    note: str = ""


Report = Callable[[TrainProgress], None]
