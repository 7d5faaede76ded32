"""Defects that are put into real frames at known places: a trail, a ghost, noise, blur."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import output
import torch
from methods import frame_features
from seeds import SEEDS

from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.simulate.truth import AFFECTED_FRACTION, NARROW_FRACTIONS, patch_fraction
from aqdask.specs import PatchGrid
from aqdask.stats.masking import bad_patches

ALPHA = 0.01
CAMERA = "STXL-6303"
TRAIL_SIGMA = 6.0  # peak of the trail in sigma of a sky pixel
GHOST = 0.03  # of the sky above the pedestal
PEDESTAL = 590.0  # counts
MORE_NOISE = 0.25  # of the standard deviation
BLUR = 2.5  # px, sigma of the Gaussian

Put = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Pixels and sigma of the sky, float ``(y, x)``, in; pixels and bool affected ones out."""


def trail(pixels: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A line of the width of the stars (FWHM 8 px) across the frame."""
    y, x = np.indices(pixels.shape)
    angle = rng.uniform(0, np.pi)
    middle = (np.array(pixels.shape) * rng.uniform(0.3, 0.7, 2))[:, None, None]
    distance = (y - middle[0]) * np.cos(angle) - (x - middle[1]) * np.sin(angle)
    change = TRAIL_SIGMA * sigma * np.exp(-0.5 * (distance / 3.4) ** 2)
    return pixels + change, change > 0.3 * sigma


def ghost(pixels: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A disc of 150 px radius."""
    y, x = np.indices(pixels.shape)
    middle = (np.array(pixels.shape) * rng.uniform(0.3, 0.7, 2))[:, None, None]
    inside = np.hypot(y - middle[0], x - middle[1]) < 150
    sky = np.median(pixels) - PEDESTAL
    return pixels + GHOST * sky * inside, inside


def noise(pixels: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A quarter more noise in a square of 384 px."""
    inside = _square(pixels.shape, rng)
    extra = sigma * np.sqrt((1 + MORE_NOISE) ** 2 - 1) * rng.standard_normal(pixels.shape)
    return pixels + extra * inside, inside


def blur(pixels: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The whole frame blurred, with the noise that blurring took given back."""
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(pixels.shape[1]), np.fft.fftfreq(pixels.shape[0])))
    gain = np.exp(-2 * (np.pi * BLUR * frequency) ** 2)
    smooth = np.fft.irfft2(np.fft.rfft2(pixels) * gain, s=pixels.shape)
    white = np.fft.rfft2(sigma * rng.standard_normal(pixels.shape))
    lost = np.fft.irfft2(white * np.sqrt(1 - gain**2), s=pixels.shape)
    return smooth + lost, np.ones(pixels.shape, bool)


def _square(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    top, left = (int(rng.uniform(0.1, 0.5) * length) for length in shape)
    inside = np.zeros(shape, bool)
    inside[top : top + 384, left : left + 384] = True
    return inside


PUT: dict[str, Put] = {
    f"trail of {TRAIL_SIGMA:g} sigma": trail,
    f"ghost of {GHOST:.0%}": ghost,
    f"noise +{MORE_NOISE:.0%}": noise,
    f"blur of {BLUR} px": blur,
}


def injected(scorer: NoiseAwareScorer, images: Sequence[np.ndarray], filter: str) -> list[dict[str, Any]]:
    """Recall in affected patches and rate in untouched ones at `ALPHA`, over held-out frames, by defect."""
    calibration, _ = scorer.calibration(CAMERA, filter)
    model = calibration.decision.camera.noise
    rows = []
    for title, put in PUT.items():
        hit, free = [], []
        for number, image in enumerate(images):
            rng = np.random.default_rng([SEEDS["injected"], number])
            pixels = image.astype(np.float64)
            level = torch.full((), float(np.median(pixels)), dtype=torch.float64)
            sigma = np.full(pixels.shape, float(model.variance(level).sqrt()))
            spoilt, affected = put(pixels, sigma, rng)
            limit = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else np.inf
            spoilt = np.clip(np.rint(spoilt), 0, limit).astype(image.dtype)
            mask = _mask(scorer, spoilt, filter)
            fraction = patch_fraction(affected, PatchGrid(*image.shape))
            least = NARROW_FRACTIONS["trail"] if put is trail else AFFECTED_FRACTION
            hit.append(mask[fraction >= least])
            free.append(mask[fraction == 0])
        hit, free = np.concatenate(hit), np.concatenate(free)
        untouched = float(free.mean()) if free.size else float("nan")
        rows.append({"defect": title, "frames": len(images), "patches": int(hit.size),
                     "recall": float(hit.mean()), "untouched": untouched})  # fmt: skip
    return rows


def _mask(scorer: NoiseAwareScorer, image: np.ndarray, filter: str) -> np.ndarray:
    found = scorer.score_features(frame_features(scorer, image, CAMERA, filter), CAMERA, filter)
    return bad_patches(found["pvalue"], ALPHA)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the Markdown table."""
    cells = [
        (r["defect"], r["frames"], r["patches"], f"{r['recall']:.3f}", f"{r['untouched']:.3f}") for r in rows
    ]
    columns = ("defect", "frames", "affected patches", "recall", "untouched masked")
    return output.markdown(f"Defects put into held-out L frames, alpha {ALPHA:g}", columns, cells)
