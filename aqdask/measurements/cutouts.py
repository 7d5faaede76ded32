"""Cut-outs of candidates: frame, template and difference side by side, as FITS or PNG."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.table import Table
from astropy.visualization import ZScaleInterval
from PIL import Image

from aqdask.errors import place_failed
from aqdask.io.places import PARTIAL
from aqdask.stats.robust import mad_sigma

SIDE = 63  # px
MOST = 100  # candidates of a frame
NAMES = ("FRAME", "TEMPLATE", "DIFFERENCE")
ACROSS = 4  # candidates beside each other in a picture
GAP = 3  # px


@dataclass(frozen=True, eq=False)
class Stamps:
    """Cut-outs of 63 x 63 px around candidates.

    Parameters
    ----------
    table : pyarrow.Table
        The candidates, at most 100.
    pixels : ndarray (3, n, 63, 63)
        float32, by `NAMES`; NaN beyond the frame.
    """

    table: pa.Table
    pixels: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, images: Sequence[np.ndarray]) -> Stamps:
        """Cut the first candidates of a table out of images of one shape."""
        table = table.slice(0, MOST)
        x, y = (np.rint(table[name].to_numpy()).astype(np.intp) for name in "xy")
        steps = np.arange(SIDE) - SIDE // 2
        rows, columns = y[:, None, None] + steps[:, None], x[:, None, None] + steps
        height, width = images[0].shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        at = rows.clip(0, height - 1), columns.clip(0, width - 1)
        return cls(table, np.stack([np.where(inside, image[at], np.float32(np.nan)) for image in images]))


def write_fits(stamps: Stamps, path: Path) -> None:
    """Write FITS: the images FRAME, TEMPLATE and DIFFERENCE ``(n, 63, 63)`` and the table CANDIDATES."""
    images = [
        fits.ImageHDU(pixels.astype(np.float32), name=name)
        for name, pixels in zip(NAMES, stamps.pixels, strict=True)
    ]
    table = fits.table_to_hdu(Table(stamps.table.to_pydict(), names=stamps.table.column_names))
    table.name = "CANDIDATES"
    hdus = fits.HDUList([fits.PrimaryHDU(), *images, table])
    _replaced(path, lambda partial: hdus.writeto(partial))


def write_png(stamps: Stamps, path: Path) -> None:
    """Write a picture: frame, template and difference of each candidate, four candidates to a row.

    Frame and template have zscale limits, the difference spans 5 robust sigma either side of 0.
    """
    tile = 3 * SIDE + GAP, SIDE + GAP
    count = len(stamps.table)
    canvas = np.full((max(1, -(-count // ACROSS)) * tile[1], ACROSS * tile[0]), 255, np.uint8)
    for number in range(count):
        top, left = number // ACROSS * tile[1], number % ACROSS * tile[0]
        grey = np.hstack(
            [_grey(pixels[number], name) for name, pixels in zip(NAMES, stamps.pixels, strict=True)]
        )
        canvas[top : top + SIDE, left : left + 3 * SIDE] = grey
    picture = Image.fromarray(canvas)
    _replaced(path, lambda partial: picture.save(partial, "PNG"))


WRITERS: dict[str, Callable[[Stamps, Path], None]] = {"fits": write_fits, "png": write_png}
"""Writers by the suffix of their files."""


def _grey(pixels: np.ndarray, name: str) -> np.ndarray:
    """Scale a cut-out to uint8, first row at the bottom; black without data."""
    finite = pixels[np.isfinite(pixels)]
    if name == "DIFFERENCE":
        high = 5 * float(mad_sigma(finite, 0.0)) if finite.size else 1.0
        low = -high
    else:
        low, high = ZScaleInterval().get_limits(finite) if finite.size else (0.0, 1.0)
    unit = (pixels - low) / ((high - low) or 1.0)
    return np.where(np.isfinite(unit), 255 * np.clip(unit, 0, 1), 0).astype(np.uint8)[::-1]


def _replaced(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise place_failed(path, error) from error
    finally:
        partial.unlink(missing_ok=True)
