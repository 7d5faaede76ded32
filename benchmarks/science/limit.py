"""Limit of the precision of star sizes: Fisher information of stars at known places."""

from __future__ import annotations

import numpy as np
from seeds import SEEDS

from aqdask.simulate.scene import SceneSpec

REACH = 20  # px about a star
STEP = 1e-3  # of ln FWHM, for the derivative


def moffat(fwhm: float, beta: float, reach: int = REACH) -> np.ndarray:
    """Moffat's profile (1969, A&A 3, 455) of unit flux at the middle of pixels, ``(2 reach + 1,) * 2``."""
    y, x = np.indices((2 * reach + 1,) * 2) - reach
    core = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (beta - 1) / (np.pi * core**2) * (1 + (y**2 + x**2) / core**2) ** -beta


def star_information(flux: np.ndarray, scene: SceneSpec) -> np.ndarray:
    """Fisher information of each star ``(n,)`` about ln FWHM, its flux (electrons) being unknown, too.

    ``c - b**2 / a`` with the elements a, b, c of the information matrix of flux and ln FWHM, for Gaussian
    noise of sky, read-out and star; the place of a star adds nothing by symmetry, other stars are left out.
    """
    profile = moffat(scene.fwhm, scene.beta)
    wide, narrow = (moffat(scene.fwhm * np.exp(step), scene.beta) for step in (STEP, -STEP))
    slope = (wide - narrow) / (2 * STEP)
    found = []
    for one in flux:
        weight = 1 / (scene.sky + scene.read_noise**2 + one * profile)
        a = (weight * profile**2).sum()
        b, c = (weight * profile * slope).sum() * one, (weight * slope**2).sum() * one**2
        found.append(c - b**2 / a)
    return np.array(found)


def best_sizes(stars: np.ndarray, scene: SceneSpec, span: tuple[float, float], number: int) -> np.ndarray:
    """The best estimate of ln FWHM for each patch of 64 px, and its weight, ``(2, n_y, n_x)``.

    The mean of the estimate from the stars ``(n, 3)`` and of a prior as wide as ``span`` (px).
    """
    rows, columns = scene.height // 64, scene.width // 64
    cell = np.floor(stars[:, 1::-1] / 64).astype(int)
    inside = ((cell >= 0) & (cell < (rows, columns))).all(axis=1)
    known = np.zeros((rows, columns))
    np.add.at(known, tuple(cell[inside].T), star_information(stars[inside, 2], scene))
    low, high = np.log(span)
    prior = 12 / (high - low) ** 2
    noise = np.random.default_rng([SEEDS["sizes"], number, 1]).standard_normal(known.shape)
    away = np.log(scene.fwhm) - (low + high) / 2
    estimate = (known * away + np.sqrt(known) * noise) / (known + prior)
    return np.stack([estimate, known + prior])
