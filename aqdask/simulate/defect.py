"""What a defect is: it changes the scene or the expected light, at known pixels.

The rule of truth: a pixel is affected where the defect changes its expected signal by more than
`TRUTH_SIGMA` of the noise of the good frame there. Defects of the whole frame (focus, guiding, read noise,
gain) affect every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aqdask.simulate.scene import Light, SceneSpec

# 0.3 rather than 0.5: coherent structure of half a sigma a pixel (banding, a ghost of 2 % of the sky) is
# plain to the eye and spoils photometry.
TRUTH_SIGMA = 0.3


@dataclass(frozen=True)
class Defect:
    """Base of all defects; ``amplitude`` is in the class's ``unit``.

    A subclass overrides `change`, or only `scene`: then the whole frame is affected.
    """

    amplitude: float
    kind: ClassVar[str]
    unit: ClassVar[str]

    def scene(self, spec: SceneSpec) -> SceneSpec:
        """The scene under this defect."""
        return spec

    def change(self, light: Light, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray | None:
        """Electrons that the defect adds to each pixel, float32 ``(y, x)``; None where it acts by `scene`."""
        return None
