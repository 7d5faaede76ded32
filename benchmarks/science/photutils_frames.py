"""Frames of another simulator than the one that trained the networks, photutils.

Few references, backgrounds, wide and elongated stars. A frame has Gaussian stars, Poisson and read noise, and
nothing else: no optics, no vignetting, no natural structure. Each draw is a camera of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import output
from astropy.modeling.models import Gaussian2D
from astropy.table import QTable
from draws import CAMERA, FILTER, MemoryFrames
from photutils.datasets import make_model_image
from scipy.ndimage import gaussian_filter
from seeds import SEEDS

from aqdask.methods.base import score_frame
from aqdask.methods.noise_aware.calibrate import calibrate_bundle
from aqdask.methods.noise_aware.scorer import NoiseAwareScorer
from aqdask.methods.shipped import load_shipped
from aqdask.methods.training.settings import TrainSpec
from aqdask.specs import FrameMetadata
from aqdask.stats.masking import bad_patches

ALPHA = 0.01
SIDE = 512  # px
REFERENCES = (5, 20)
SKIES = (100.0, 1000.0)  # e-
DRAWS, GOOD, SPOILT = 5, 8, 4
PER_DRAW = 1000  # seeds of a draw
STARS, GAIN, READ_NOISE, PEDESTAL = 330, 1.5, 8.0, 300.0
SIGMA_PER_FWHM = 1 / 2.3548


@dataclass(frozen=True)
class Kind:
    """Frames of one kind: relative PSF size, ellipticity, rms of the background and its scale in px."""

    wider: float = 1.0
    ellipticity: float = 0.0
    background: float = 0.0
    scale: float = 8.0


KINDS = {
    "background 3 %, 8 px": Kind(background=0.03),
    "background 10 %, 8 px": Kind(background=0.1),
    "background 3 %, 32 px": Kind(background=0.03, scale=32),
    "background 10 %, 32 px": Kind(background=0.1, scale=32),
    "PSF 1.4 x wider": Kind(wider=1.4),
    "ellipticity 0.15": Kind(ellipticity=0.15),
}


def frame(kind: Kind, sky: float, fwhm: float, seed: int) -> np.ndarray:
    """Simulate a frame in counts, uint16 ``(SIDE, SIDE)``."""
    rng = np.random.default_rng(seed)
    sigma = kind.wider * fwhm * rng.uniform(0.95, 1.05) * SIGMA_PER_FWHM
    along, across = (sigma * np.sqrt(1 + sign * kind.ellipticity) for sign in (1, -1))
    flux = 10 ** rng.uniform(2.5, 5, STARS)
    stars = QTable(
        {
            "amplitude": flux / (2 * np.pi * along * across),
            "x_mean": rng.uniform(0, SIDE, STARS),
            "y_mean": rng.uniform(0, SIDE, STARS),
            "x_stddev": np.full(STARS, along),
            "y_stddev": np.full(STARS, across),
            "theta": np.full(STARS, rng.uniform(0, np.pi)),
        }
    )
    shape = (SIDE, SIDE)
    level = np.full(shape, sky * rng.uniform(0.8, 1.2))
    if kind.background:
        field = gaussian_filter(rng.normal(size=shape), kind.scale * SIGMA_PER_FWHM, mode="wrap")
        level *= np.maximum(1 + kind.background * field / field.std(), 0)
    light = level + make_model_image(
        shape, Gaussian2D(), stars, model_shape=(41, 41), x_name="x_mean", y_name="y_mean"
    )
    counts = (rng.poisson(light) + rng.normal(0, READ_NOISE, shape)) / GAIN + PEDESTAL
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def photutils_frames(quick: bool = False) -> list[dict[str, Any]]:
    """Rows by sky and number of references: masked fractions of good frames, and of each kind."""
    rows = []
    for sky in SKIES[: 1 if quick else None]:
        for count in REFERENCES[: 1 if quick else None]:
            row: dict[str, Any] = {
                "sky": sky,
                "references": count,
                "good": [],
                **{kind: [] for kind in KINDS},
            }
            for draw in range(1 if quick else DRAWS):
                seed = SEEDS["photutils"] + PER_DRAW * draw
                fwhm = float(np.random.default_rng(seed).uniform(2.2, 4))
                masked = _scorer(sky, fwhm, count, seed)
                row["good"] += [masked(frame(Kind(), sky, fwhm, seed + 100 + k)) for k in range(GOOD)]
                for number, (name, kind) in enumerate(KINDS.items()):
                    first = seed + 200 + 50 * number
                    row[name] += [masked(frame(kind, sky, fwhm, first + k)) for k in range(SPOILT)]
            rows.append(row)
    return rows


def _scorer(sky: float, fwhm: float, count: int, seed: int) -> Callable[[np.ndarray], float]:
    """Calibrate `wide-field` on good frames: the masked fraction of a frame."""
    images = [frame(Kind(), sky, fwhm, seed + k) for k in range(count)]
    card = FrameMetadata(camera=CAMERA, filter=FILTER, gain=GAIN)
    source = MemoryFrames(images, [f"{k:03}" for k in range(count)], card)
    bundle = calibrate_bundle(load_shipped(), source, TrainSpec(name="photutils"), lambda note: None)
    scorer = NoiseAwareScorer(bundle)
    return lambda image: float(
        bad_patches(score_frame(scorer, image, None, CAMERA, FILTER)["pvalue"], ALPHA).mean()
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Write the Markdown table."""
    cells = [
        (f"{row['sky']:.0f}", row["references"], f"{np.mean(row['good']):.4f} ({max(row['good']):.3f})",
         *(f"{np.mean(row[kind]):.2f}" for kind in KINDS))
        for row in rows
    ]  # fmt: skip
    columns = ("sky, e-", "references", "good frames masked, mean (most)", *KINDS)
    note = (
        f"{DRAWS} cameras, {SIDE} px a side, FWHM 2.2 to 4 px. Masked fraction of {GOOD} good frames and "
        f"{SPOILT} of each kind at alpha {ALPHA:g}; backgrounds are rms fractions of the sky, their scale "
        "is the FWHM of the smoothing."
    )
    return output.markdown("Frames simulated with photutils", columns, cells, note)
