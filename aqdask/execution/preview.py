"""Small pictures of frames with their masks, made by workers for the live page, rarely enough to cost little.

A process makes none again before `SHARE` of its time pays for the last one; of bad frames more often.
"""

from __future__ import annotations

import io
import threading
import time

import numpy as np
from astropy.visualization import ZScaleInterval
from PIL import Image

from aqdask.stats.masking import bad_patches

SIDE = 192  # px of the longer side of a picture, at most
ROWS = 3  # rows of a block that are averaged: reading all of a large frame takes longer than the rest
SHARE, SHARE_OF_BAD = 0.004, 0.02  # of the time of a process, spent on pictures at most
MOSTLY = 0.2  # masked fraction of a bad frame, for methods without a flag
OFTEN, SELDOM = 0.25, 60.0  # seconds between two pictures of a process, for few frames and for many
FRAMES_A_SECOND = 500  # frames of a run for each second between two pictures
ALPHA = 0.01  # false-mask rate of the masks that are shown
RED, BLUE = (255, 60, 40), (70, 110, 255)  # masked, no data
_lock = threading.Lock()
_next = _next_bad = 0.0


def interval(frames: int) -> float:
    """Return the seconds between two pictures of a process, for a run over so many frames."""
    return float(np.clip(frames / FRAMES_A_SECOND, OFTEN, SELDOM))


def preview_now(
    image: np.ndarray,
    invalid: np.ndarray | None,
    pvalue: np.ndarray | None,
    patch: int,
    every: float,
    *,
    is_bad: bool = False,
) -> bytes:
    """Return `preview`, or nothing where the last picture of this process is too recent.

    ``every`` is the shortest time between two pictures of good frames, in seconds; infinity for none at all.
    """
    global _next, _next_bad
    with _lock:
        started = time.monotonic()
        if every == np.inf or started < (_next_bad if is_bad else _next):
            return b""
        _next, _next_bad = max(_next, started + every), started + OFTEN
    made = preview(image, invalid, pvalue, patch)
    seconds = time.monotonic() - started
    with _lock:
        _next = max(_next, started + seconds / SHARE)
        _next_bad = max(_next_bad, started + seconds / SHARE_OF_BAD)
    return made


def preview(
    image: np.ndarray, invalid: np.ndarray | None = None, pvalue: np.ndarray | None = None, patch: int = 0
) -> bytes:
    """Draw a frame in grey with its masked patches in red, and patches and pixels without data in blue.

    Parameters
    ----------
    image : ndarray (H, W)
        Counts of any real type.
    invalid : ndarray (H, W) of bool, optional
        True where a pixel is not data.
    pvalue : ndarray (n_y, n_x), optional
        p-values of the patches; NaN for no score.
    patch : int
        Side of a patch in px, with ``pvalue``.

    Returns
    -------
    bytes
        JPEG, with the first row of the frame at the bottom.
    """
    step = max(1, -(-max(image.shape) // SIDE))
    small, known = _reduced(image, invalid, step)
    values = small[known]
    low, high = ZScaleInterval().get_limits(values) if values.size else (0.0, 1.0)
    grey = np.clip((small - low) / max(high - low, 1e-30), 0, 1) * 255
    colours = np.repeat(np.where(known, grey, 0).astype(np.uint8)[..., None], 3, axis=2)
    _tint(colours, ~known, BLUE)
    if pvalue is not None:
        rows, columns = (np.arange(n) * step // patch for n in small.shape)
        spread = pvalue[
            np.ix_(*(np.minimum(i, n - 1) for i, n in zip((rows, columns), pvalue.shape, strict=True)))
        ]
        _tint(colours, bad_patches(spread, ALPHA) & ~np.isnan(spread), RED)
        _tint(colours, np.isnan(spread) & known, BLUE)
    stream = io.BytesIO()
    Image.fromarray(colours[::-1]).save(stream, "JPEG", quality=80, subsampling=0)
    return stream.getvalue()


def _reduced(image: np.ndarray, invalid: np.ndarray | None, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Average blocks of ``step`` columns over some rows; return means, float32, and where they are known."""
    height, width = (max(n // step, 1) for n in image.shape)
    total = np.zeros((height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    for offset in sorted({step * n // ROWS for n in range(ROWS)}):
        part = image[offset::step][:height, : width * step].astype(np.float32)
        good = np.isfinite(part)
        if invalid is not None:
            good &= ~invalid[offset::step][:height, : width * step]
        shape = (height, width, -1)
        total += np.where(good, part, 0).reshape(shape).sum(axis=2)
        count += good.reshape(shape).sum(axis=2)
    return total / np.maximum(count, 1), count > 0


def _tint(colours: np.ndarray, where: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Blend a colour into the pixels of a picture, in place."""
    colours[where] = (0.6 * colours[where] + 0.4 * np.array(colour)).astype(np.uint8)
