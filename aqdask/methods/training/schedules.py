"""Learning-rate schedules: rate against optimiser step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, *, warm_up: int = 0) -> float:
    """Half a cosine from 1 to 0 over ``steps``, after a linear rise over ``warm_up`` steps."""
    rise = min(1.0, (step + 1) / warm_up) if warm_up else 1.0
    return rise * 0.5 * (1 + math.cos(math.pi * (step / steps)))
