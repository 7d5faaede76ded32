"""Crops of reference frames in units of their camera's noise: what `method="aqdask"` learns from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aqdask.kernels.noise import clipped_variance, difference, sky_level, stabilise
from aqdask.kernels.normalise import as_float
from aqdask.models.crops import FrameSource
from aqdask.models.measurer import fill
from aqdask.models.references import CameraNoise, star_sigma


class Stabilise:
    """Crops in units of their camera's noise, with what the head needs to know of each (`crops.Normalise`).

    Facts are ``q = b / sqrt V(S)`` and the Gaussian sigma of the frame's stars in pixels, NaN where unknown.

    Parameters
    ----------
    frames : FrameSource
    cameras : mapping of int to CameraNoise
        By position of the frame.
    """

    facts = 2

    def __init__(self, frames: FrameSource, cameras: Mapping[int, CameraNoise]) -> None:
        self.frames, self.cameras = frames, cameras
        self.sigmas: dict[int, float] = {}

    def __call__(self, pixels: np.ndarray, valid: np.ndarray, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        if index not in self.sigmas:
            self.sigmas[index] = star_sigma(*self.frames.read(index))
        if not len(pixels):
            return np.empty(pixels.shape, np.float32), np.empty((0, 2), np.float32)
        noise = self.cameras[index].noise
        counts = as_float(pixels, "cpu")
        mask = None if valid.all() else torch.from_numpy(valid)
        variance = clipped_variance(difference(counts, mask, noise.lag))
        sky = sky_level(counts, mask, variance)
        u = stabilise(counts, sky, noise).float()
        if mask is not None:
            u = fill(u, mask)
        q = (noise.b / noise.variance(sky).sqrt()).float()
        sigma = torch.full_like(q, self.sigmas[index])
        return u.numpy(), torch.stack([q, sigma], dim=1).numpy()
