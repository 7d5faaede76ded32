"""Weight maps: inverse variance of each pixel of a frame, zero where it is masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from aqdask.methods import dispatch
from aqdask.methods.bundle import Bundle
from aqdask.specs import PatchGrid
from aqdask.stats.patches import stitch
from aqdask.stats.robust import mad_sigma

MODEL, MEASURED = "noise model at the sky of each patch", "measured noise of each patch"


def weight_map(
    bundle: Bundle | None,
    camera: str,
    filter: str,
    maps: Mapping[str, np.ndarray],
    dq: np.ndarray,
    grid: PatchGrid,
    read_image: Callable[[], np.ndarray],
) -> tuple[np.ndarray, str]:
    """Compute the weight of each pixel of a frame.

    ``1 / Var(S)`` with the noise model ``Var(I) = a + b I + c I**2`` at the sky S of the patch. Where the
    model does not hold for any sky (unknown gain, subtracted sky, a camera without calibration), its product
    with ``noise_ratio**2``, the measured noise; for a method without a noise model, `measured_variance`.

    Parameters
    ----------
    bundle : Bundle or None
        The model that made the maps; None: one that cannot be read.
    camera, filter : str
        Choose the calibration.
    maps : mapping of str to ndarray (patch_y, patch_x)
        Quality maps, of which ``sky`` and ``noise_ratio`` are used.
    dq : ndarray (y, x)
        uint8, 0 = good.
    grid : PatchGrid
        Patches of the frame.
    read_image : callable
        Returns the pixels ``(y, x)``; called only without a noise model.

    Returns
    -------
    ndarray (y, x), str
        float32, 1 / count**2, 0 where masked or unknown; and `MODEL` or `MEASURED`.
    """
    found = None
    if bundle is not None and "sky" in maps:
        sky = np.asarray(maps["sky"], np.float64)
        level = float(np.median(sky[np.isfinite(sky)])) if np.isfinite(sky).any() else 0.0
        found = dispatch.patch_variance(bundle, camera, filter, sky, level)
    if found is None:
        variance, exact = measured_variance(read_image(), dq != 0, grid), False
    else:
        variance, exact = found
        variance = variance if exact else variance * np.square(maps["noise_ratio"], dtype=np.float64)
    known = np.isfinite(variance) & (variance > 0)
    weight = stitch(np.divide(1, variance, out=np.zeros_like(variance), where=known), grid)
    weight[dq != 0] = 0
    return weight.astype(np.float32), MODEL if exact else MEASURED


def measured_variance(image: np.ndarray, invalid: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Measure the noise variance of each patch in the diagonal high-pass ``(I11 - I10 - I01 + I00) / 2``.

    White noise keeps its variance there, sky and stars are mostly removed; that of correlated noise is too
    small.

    Parameters
    ----------
    image : ndarray (y, x)
        Counts.
    invalid : ndarray (y, x)
        bool, pixels that are left out.
    grid : PatchGrid
        Patches of the frame.

    Returns
    -------
    ndarray (patch_y, patch_x)
        float64, counts squared, from the MAD (from the mean square where that is 0); NaN without a pixel.
    """
    pixels = image.astype(np.float32)
    pixels[invalid] = np.nan
    across = np.diff(np.diff(pixels, axis=0), axis=1) / 2
    variance = np.full(grid.shape, np.nan)
    for y, x in np.ndindex(grid.shape):
        rows, columns = (slice(grid.starts(n)[k], grid.stops(n)[k] - 1) for n, k in ((0, y), (1, x)))
        values = across[rows, columns]
        values = values[np.isfinite(values)]
        if values.size:
            variance[y, x] = float(mad_sigma(values, 0)) ** 2 or float(np.mean(values**2))
    return variance
