"""Augmentation of training crops, by the names of `options.AUGMENTATIONS`.

Values ``(n, P, P)`` are proportional to light, 0 in the sky, in units of the noise of the sky.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

SKY_GRADIENT = 1.0  # sigma of the sky; largest rise from the middle of a crop to its edges
NOISE = 0.3  # sigma, at most
FAINTEST = 0.7  # of the flux
ZOOM = 0.1

ORIENTATIONS = "flips", "rotations"
_WORD = 13  # first word of generators' seeds


def orientations(turns: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Reduce ``turns`` 0 to 7 (`crops.orient`) to flips along either axis, to rotations, or to none."""
    flips, rotations = (name in names for name in ORIENTATIONS)
    if flips and rotations:
        return turns
    if flips:
        return turns // 2 * 2
    return turns % 4 if rotations else np.zeros_like(turns)


def distort(light: torch.Tensor, names: Sequence[str], seed: int, step: int) -> torch.Tensor:
    """Change values by each named augmentation but `ORIENTATIONS`, in the order of ``names``; on the CPU.

    ``seed`` and ``step`` seed the generator.
    """
    state = np.random.SeedSequence((_WORD, seed, step)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state) >> 1)
    for name in names:
        if name not in ORIENTATIONS:
            light = FUNCTIONS[name](light, generator)
    return light


def background(light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add a plane of up to `SKY_GRADIENT` at the edges."""
    along = torch.linspace(-1, 1, light.shape[-1])
    slope = SKY_GRADIENT * (2 * torch.rand(2, len(light), 1, 1, generator=generator) - 1)
    return light + slope[0] * along[:, None] + slope[1] * along


def noise(light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add normal noise of up to `NOISE`."""
    return light + NOISE * _each(light, generator) * torch.randn(light.shape, generator=generator)


def flux(light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Take up to 1 - `FAINTEST` of the light away, and put the noise of the sky back."""
    share = 1 - (1 - FAINTEST) * _each(light, generator)
    return share * light + (1 - share**2).sqrt() * torch.randn(light.shape, generator=generator)


def scale(light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Zoom by up to `ZOOM` to either side, bilinearly, which smooths the noise and changes the PSF."""
    size = 1 + ZOOM * (2 * _each(light, generator) - 1)
    grid = functional.affine_grid(
        torch.eye(2, 3) * size, [len(light), 1, *light.shape[1:]], align_corners=False
    )
    return functional.grid_sample(light[:, None], grid, padding_mode="reflection", align_corners=False)[:, 0]


def _each(light: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a number from 0 to 1 for each crop, ``(n, 1, 1)``."""
    return torch.rand(len(light), 1, 1, generator=generator)


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "background": background,
    "noise": noise,
    "flux": flux,
    "scale": scale,
}
