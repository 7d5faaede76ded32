"""Gain, read noise and full pixels of a camera, from frames and from their headers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from simulated import Frames

from aqdask.methods.noise_aware.camera_noise import fit_camera_noise


@pytest.mark.parametrize(
    ("cut", "saturate", "expected"),
    [
        (None, math.nan, math.inf),
        (None, 40_000.0, 40_000.0),  # the frames show none
        (3000, math.nan, 3000.0),
        (3000, 40_000.0, 3000.0),  # they show it below
        (3000, 2500.0, 2500.0),  # or above: the smaller of both
        (None, 1.0, math.inf),  # of rescaled frames: not believed
    ],
)
def test_full_pixels_are_the_headers_the_frames_or_the_smaller_of_both(cut, saturate, expected):
    def spoil(index, pixels):
        full = pixels > 45_000  # no frame is cut off by itself
        pixels[full] = 45_000 + np.arange(full.sum())
        return pixels if cut is None else np.minimum(pixels, cut)

    frames = Frames(4, spoil=spoil)
    frames.metadata = [replace(card, saturate=saturate) for card in frames.metadata]
    assert fit_camera_noise(frames, range(4), 64).saturation == expected
