"""Base class of the simulated defects, and the definition of an affected pixel.

A pixel is affected if the defect changes its expected signal by more than `TRUTH_SIGMA` times the noise of
the good frame at that pixel. Defects of the whole frame (focus, guiding, read noise, gain) affect all pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aqdask.simulate.scene import Light, SceneSpec

# 0.3 rather than 0.5: coherent structure of half a sigma per pixel (banding, a ghost of 2 % of the sky) is
# visible and spoils photometry.
TRUTH_SIGMA = 0.3


@dataclass(frozen=True)
class Defect:
    """Base class of all defects.

    A subclass overrides `change`, or `scene` alone for a defect of the whole frame.

    Parameters
    ----------
    amplitude : float
        Strength in the ``unit`` of the class.
    """

    amplitude: float
    kind: ClassVar[str]
    unit: ClassVar[str]

    def scene(self, spec: SceneSpec) -> SceneSpec:
        """Return the scene with this defect."""
        return spec

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray | None:
        """Electrons added to each pixel, float32 ``(y, x)``; None for a defect that acts by `scene` alone."""
        return None
