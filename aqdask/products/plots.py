"""Pictures to look at: a mask over its frame."""

from __future__ import annotations

import os

import numpy as np
from astropy.visualization import ZScaleInterval

from aqdask.errors import UsageError

SIDE = 1024  # px of the picture's longer side, at most


def mask_over_frame(
    image: np.ndarray, mask: np.ndarray, path: str | os.PathLike[str], title: str = ""
) -> None:
    """Write a PNG of a frame in grey (zscale) with its mask in red.

    Parameters
    ----------
    image : ndarray (H, W)
        Pixels.
    mask : ndarray (H, W) of bool
        True = bad.
    path : path
        The PNG.

    Raises
    ------
    UsageError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "matplotlib is not installed", expected="it, for pictures", remedy="pip install 'aqdask[plots]'"
        ) from error
    step = max(1, -(-max(image.shape) // SIDE))
    small = _block_mean(image, step)
    red = _block_mean(mask, step)
    low, high = ZScaleInterval().get_limits(small)
    height = 8 * small.shape[0] / small.shape[1]
    figure = Figure(figsize=(8, height + 0.4), layout="constrained")
    axes = figure.add_subplot()
    extent = (0, image.shape[1], 0, image.shape[0])
    axes.imshow(small, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
    overlay = np.zeros((*red.shape, 4))
    overlay[..., 0], overlay[..., 3] = 1, 0.35 * red
    axes.imshow(overlay, origin="lower", extent=extent)
    axes.set(title=title, xlabel="x [px]", ylabel="y [px]")
    figure.savefig(path, dpi=110)


def _block_mean(values: np.ndarray, step: int) -> np.ndarray:
    """Mean of blocks of ``step`` x ``step``; what does not fill a block is left out of the picture."""
    height, width = (n - n % step for n in values.shape)
    blocks = values[:height, :width].reshape(height // step, step, width // step, step)
    return blocks.mean(axis=(1, 3), dtype=np.float64)
