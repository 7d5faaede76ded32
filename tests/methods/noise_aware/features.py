"""Columns of synthetic frames as the extractor gives them."""

from __future__ import annotations

import numpy as np
import torch

from aqdask.methods.noise_aware.feature_groups import CameraModel
from aqdask.methods.noise_aware.noise_model import NoiseModel
from aqdask.methods.noise_aware.patch_statistics import LINE_SUMS, SUBPATCHES_PER_SIDE, pack, table

NOISE = NoiseModel(a=-300.0, b=0.7, floor=1.0)
CAMERA = CameraModel(NOISE, shape_zero=np.array([0.4, 0.0, 0.1]))
NAMES = tuple(name for row in table(3) for name in row.names if name not in LINE_SUMS)


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
    features |= line_features(noise_sums(rng, shape))
    return {name: values.astype(np.float32) for name, values in features.items()}


def noise_sums(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """`sums_of` patches of unit noise, cut at 1.5 and divided by that."""
    pixels = np.clip(rng.standard_normal((*shape, 64, 64), dtype=np.float32), -1.5, 1.5) / 1.5
    return sums_of(pixels)


def sums_of(pixels: np.ndarray) -> np.ndarray:
    """Means over cells, columns and rows of patches ``(n_y, n_x, 64, 64)``: ``(n_y, n_x, 384)``."""
    cells = pixels.reshape(*pixels.shape[:2], 16, 4, 16, 4).mean(axis=(3, 5)).reshape(*pixels.shape[:2], 256)
    return np.concatenate([cells, pixels.mean(axis=2), pixels.mean(axis=3)], axis=2)


def line_features(sums: np.ndarray, tops: object = None, lefts: object = None) -> dict[str, np.ndarray]:
    """Features for lines from sums ``(n_y, n_x, 384)``, on a regular grid by default."""
    n_y, n_x, number = sums.shape
    packed = pack(torch.tensor(sums.reshape(-1, number))).reshape(n_y, n_x, -1).numpy()
    tops = 64 * np.arange(n_y) if tops is None else np.asarray(tops)
    lefts = 64 * np.arange(n_x) if lefts is None else np.asarray(lefts)
    places = {"top": np.repeat(tops[:, None], n_x, axis=1), "left": np.repeat(lefts[None], n_y, axis=0)}
    return {name: packed[..., k] for k, name in enumerate(LINE_SUMS)} | places


def changed(features: dict[str, np.ndarray], at: object, **values: float) -> dict[str, np.ndarray]:
    """A copy with other values in some patches; ``all=NaN`` changes every column."""
    found = {name: array.copy() for name, array in features.items()}
    for name in found if "all" in values else values:
        found[name][at] = values.get(name, values.get("all"))
    return found
