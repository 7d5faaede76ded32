"""Learning-rate schedules: factor of the rate against the fraction of the steps done, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

RISE, FIRST, LAST = 0.3, 1 / 25, 1 / 250_000  # of one cycle


def cosine(done: float) -> float:
    """Half a cosine to zero.

    From Loshchilov & Hutter (2017, arXiv 1608.03983).
    """
    return 0.5 * (1 + math.cos(math.pi * done))


def step(done: float) -> float:
    """A tenth after each third of the steps."""
    return 0.1 ** int(3 * done)


def one_cycle(done: float) -> float:
    """Up over the first three tenths of the steps, then down to nearly zero.

    From Smith & Topin (2018, arXiv 1708.07120), with the settings of torch's `OneCycleLR`.
    """
    if done < RISE:
        return 1 + (FIRST - 1) * cosine(done / RISE)
    return LAST + (1 - LAST) * cosine((done - RISE) / (1 - RISE))


def constant(done: float) -> float:
    """Always the same rate."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "step": step,
    "one-cycle": one_cycle,
    "constant": constant,
}


def factor(schedule: str, number: int, steps: int, warm_up: int = 0) -> float:
    """Return the factor of the rate at step ``number`` (from 0), rising over ``warm_up`` steps."""
    rise = min(1.0, (number + 1) / warm_up) if warm_up else 1.0
    return rise * SCHEDULES[schedule](number / steps)
