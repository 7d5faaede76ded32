"""Columns of synthetic frames as the extractor gives them."""

from __future__ import annotations

import numpy as np

from aqdask.methods.noise_aware.feature_groups import CameraModel
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.patch_statistics import SUBPATCHES_PER_SIDE, table

NOISE = NoiseModel(a=-300.0, b=0.7, floor=1.0)
CAMERA = CameraModel(NOISE, shape_zero=np.array([0.4, 0.0, 0.1]))
NAMES = tuple(name for row in table(3) for name in row.names)


def good_frame(seed: int, shape: tuple[int, int] = (8, 8), moody: float = 0.1) -> dict[str, np.ndarray]:
    """A good frame; ``moody`` is how far a whole frame is from others, in sigma of a patch."""
    rng = np.random.default_rng(seed)

    def draw(scale: float = 1.0) -> np.ndarray:
        return scale * (rng.standard_normal(shape) + moody * rng.standard_normal())

    sky = 1200 + 200 * rng.random() + draw(2.0)
    features = {name: draw() for name in NAMES}
    features |= {f"cell_{n}": draw(0.06) for n in range(SUBPATCHES_PER_SIDE**2)}
    features |= {
        "valid": np.ones(shape),
        "saturated": np.zeros(shape),
        "sky": sky,
        "noise": (NOISE.a + NOISE.b * sky + 0.375 * NOISE.b**2) * np.exp(draw(0.03)),
        "mae": np.exp(draw(0.1)),
        "stars": rng.poisson(6, shape).astype(float),
    }
    for k, name in enumerate(("size", "e1", "e2")):
        features[f"{name}_weight"] = rng.uniform(5, 40, shape)
        features[f"{name}_sum"] = features[f"{name}_weight"] * (CAMERA.shape_zero[k] + draw(0.1))
    return {name: values.astype(np.float32) for name, values in features.items()}


def changed(features: dict[str, np.ndarray], at: object, **values: float) -> dict[str, np.ndarray]:
    """A copy with other values in some patches; ``all=NaN`` changes every column."""
    found = {name: array.copy() for name, array in features.items()}
    for name in found if "all" in values else values:
        found[name][at] = values.get(name, values.get("all"))
    return found
