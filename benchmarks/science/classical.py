"""A classical baseline: background maps, plain statistics, columns and star moments, no network.

Per patch: level and rms of the background meshes of sep and of photutils, median and MAD of the pixels,
columns and rows that stand out, detections, and the moments of the stars in 3 x 3 patches. Levels are
compared with the camera's own illumination, noise with what the camera has at that level, both from reference
frames.
One robust Mahalanobis distance of all of them is the score.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import sep
from photutils.background import Background2D

from aqdask.specs import PatchGrid
from aqdask.stats.conformal import ScoreTable, conformal_pvalue
from aqdask.stats.patches import cut

DETECTION = 5.0  # sigma of the sky
SHAPE_SIGNAL = 20.0  # sigma at the peak of stars whose moments are taken
SHRINK = 0.1  # of the correlation matrix towards no correlation
CUT = 5.0  # robust sigma at which features are cut for the correlation
LARGEST = 50.0  # robust sigma at which a single feature is cut
LEVELS = ("sep_level", "photutils_level", "median")
NOISES = ("sep_rms", "photutils_rms", "mad")


def features(image: np.ndarray, patch: int = 64) -> dict[str, np.ndarray]:
    """Measure a frame ``(y, x)`` of counts: arrays ``(n_y, n_x)`` by name.

    Levels and noises are in counts; columns and rows in sigma; counts of detections as square roots; 'size'
    is ln of the half-light radius in px; 'e1' and 'e2' are ``(a**2 - b**2) / (a**2 + b**2)`` of the second
    moments along the axes and the diagonals. Where no star is near, size and shape are NaN.
    """
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    grid = PatchGrid(*pixels.shape, patch)
    mesh = sep.Background(pixels, bw=patch, bh=patch)
    at = np.ix_(*((grid.starts(axis) + grid.stops(axis)) // 2 for axis in (0, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowded meshes are told of, not lost
        other = Background2D(pixels, patch, filter_size=3, exclude_percentile=90)
    found = {"sep_level": mesh.back()[at], "sep_rms": mesh.rms()[at]}
    found |= {"photutils_level": other.background[at], "photutils_rms": other.background_rms[at]}
    return found | _pixels(cut(pixels, grid)) | _stars(pixels - mesh.back(), mesh.rms(), grid)


def _pixels(patches: np.ndarray) -> dict[str, np.ndarray]:
    """Median, MAD (as sigma), and the largest column and row above the rest in sigma of their median."""
    flat = patches.reshape(*patches.shape[:2], -1)
    median = np.median(flat, axis=-1)
    mad = 1.4826 * np.median(np.abs(flat - median[..., None]), axis=-1)
    found = {"median": median, "mad": mad}
    for name, axis in (("column", -2), ("row", -1)):
        lines = np.median(patches, axis=axis) - median[..., None]
        found[name] = np.abs(lines).max(axis=-1) / (1.2533 * mad / np.sqrt(patches.shape[-1]) + 1e-6)
    return found


def _stars(pixels: np.ndarray, rms: np.ndarray, grid: PatchGrid) -> dict[str, np.ndarray]:
    """Number of detections, and medians of the moments of bright single stars over 3 x 3 patches."""
    sep.set_extract_pixstack(3_000_000)
    try:
        stars = sep.extract(pixels, DETECTION, err=rms)
    except Exception:  # sep raises plain Exception where a frame is too crowded for its buffers
        return {name: np.full(grid.shape, np.nan) for name in ("detections", "around", "size", "e1", "e2")}
    rows = np.minimum(stars["y"].astype(int) // grid.size, grid.shape[0] - 1)
    columns = np.minimum(stars["x"].astype(int) // grid.size, grid.shape[1] - 1)
    number = np.zeros(grid.shape)
    np.add.at(number, (rows, columns), 1)
    padded = np.pad(number, 1)
    around = sum(padded[y : y + grid.shape[0], x : x + grid.shape[1]] for y in range(3) for x in range(3))
    good = (stars["flag"] == 0) & (stars["peak"] > SHAPE_SIGNAL * np.median(rms)) & (stars["b"] > 0)
    a2, b2, angle = stars["a"][good] ** 2, stars["b"][good] ** 2, 2 * stars["theta"][good]
    stretch = (a2 - b2) / (a2 + b2)
    where = stars["x"][good], stars["y"][good], 6 * stars["a"][good]
    half, _ = sep.flux_radius(pixels, *where, 0.5)
    moments = {
        "size": np.log(np.maximum(half, 0.3)),
        "e1": stretch * np.cos(angle),
        "e2": stretch * np.sin(angle),
    }
    found = {"detections": np.sqrt(number), "around": np.sqrt(around)}
    return found | _pooled(moments, rows[good], columns[good], grid.shape)


def _pooled(
    moments: dict[str, np.ndarray], rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Medians over the stars in 3 x 3 patches, ``(n_y, n_x)``; NaN without any."""
    found = {name: np.full(shape, np.nan) for name in moments}
    for y, x in np.ndindex(shape):
        near = np.flatnonzero((np.abs(rows - y) <= 1) & (np.abs(columns - x) <= 1))
        if near.size:
            for name, values in moments.items():
                found[name][y, x] = np.median(values[near])
    return found


@dataclass(frozen=True, eq=False)
class Classical:
    """The baseline, fitted.

    Parameters
    ----------
    flats : dict of str to ndarray (n_y, n_x)
        By kind of level: the references' level at each place over that of the frame, less the pedestal.
    lines : dict of str to ndarray (2,)
        By kind of noise: its square as a line of the level, slope first.
    centre, spread : ndarray (k,)
        Median and robust sigma of each feature.
    inverse : ndarray (k, k)
        Inverse of the shrunk correlation matrix.
    table : ScoreTable or None
        Scores of held-out reference patches.
    """

    flats: dict[str, np.ndarray]
    lines: dict[str, np.ndarray]
    centre: np.ndarray
    spread: np.ndarray
    inverse: np.ndarray
    table: ScoreTable | None = None

    @classmethod
    def fit(cls, images: list[np.ndarray], held_out: list[np.ndarray]) -> Classical:
        """Fit to reference frames; ``held_out`` ones calibrate."""
        seen = [features(image) for image in images]
        flats = {name: np.median([_offset(one[name]) for one in seen], axis=0) for name in LEVELS}
        lines = {name: _noise_line(seen, name) for name in NOISES}
        first = cls(flats, lines, np.zeros(1), np.ones(1), np.eye(1))
        rows = np.concatenate([first.vectors(one).reshape(-1, _WIDTH) for one in seen])
        centre = np.nanmedian(rows, axis=0)
        spread = np.maximum(1.4826 * np.nanmedian(np.abs(rows - centre), axis=0), 1e-3)
        z = np.nan_to_num(np.clip((rows - centre) / spread, -CUT, CUT))
        correlation = (1 - SHRINK) * np.nan_to_num(np.corrcoef(z, rowvar=False)) + SHRINK * np.eye(_WIDTH)
        np.fill_diagonal(correlation, 1)
        fitted = cls(flats, lines, centre, spread, np.linalg.inv(correlation))
        scores = np.concatenate([fitted.distance(features(image)).ravel() for image in held_out])
        return cls(*list(vars(fitted).values())[:-1], ScoreTable.from_scores(scores))

    def vectors(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """Features as they are compared, ``(n_y, n_x, k)``; shapes without stars are NaN."""
        levels = [_offset(found[name]) - self.flats[name] for name in LEVELS]
        noises = []
        for name in NOISES:
            usual = np.maximum(np.polyval(self.lines[name], found["median"]), 1e-3)
            noises.append(np.log(np.maximum(found[name], 1e-3) ** 2 / usual))
        others = [np.log(found[name] + 1e-3) for name in ("column", "row")]
        stars = [found[name] for name in ("detections", "around", "size", "e1", "e2")]
        return np.stack([*levels, *noises, *others, *stars], axis=-1)

    def distance(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """Robust Mahalanobis distance of every patch, ``(n_y, n_x)``; unknown features are normal."""
        z = (self.vectors(found) - self.centre) / self.spread
        z = np.nan_to_num(np.clip(z, -LARGEST, LARGEST))
        return np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", z, self.inverse, z), 0))

    def score(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score, p-value and ln of the star size in px of every patch, ``(n_y, n_x)``."""
        found = features(image)
        distance = self.distance(found)
        pvalue = np.ones_like(distance) if self.table is None else conformal_pvalue(distance, self.table)
        return distance, pvalue, found["size"]


_WIDTH = len(LEVELS) + len(NOISES) + 2 + 5


def _offset(level: np.ndarray) -> np.ndarray:
    """Level above the median of the frame, in counts."""
    return level - np.median(level)


def _noise_line(seen: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    """Noise squared as a line of the median, through the lower half of the patches in bins of level."""
    level = np.concatenate([one["median"].ravel() for one in seen])
    square = np.concatenate([one[name].ravel() for one in seen]) ** 2
    parts = np.array_split(np.argsort(level), 10)
    return np.polyfit([np.median(level[p]) for p in parts], [np.median(square[p]) for p in parts], 1)
