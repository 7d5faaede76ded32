"""Masked patches as DS9 region files and as MOCs (multi-order coverage maps of the sky)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aqdask import flags
from aqdask.io.cards import quiet
from aqdask.io.frame_ids import safe_name
from aqdask.io.wcs import celestial_wcs
from aqdask.products.dq import FrameMask
from aqdask.specs import PatchGrid

PATCH_BITS = sum(flag.value for flag in flags.DQ if flag.name in ("low_quality", "no_data"))
CELLS_PER_PATCH = 8  # side of a patch in cells of the MOC, at least
DEEPEST = 29  # order of the smallest cells of a MOC, 0.4 mas


def masked_rectangles(dq: np.ndarray, patch: int) -> list[tuple[int, int, int, int]]:
    """Merge the masked patches of a DQ image into few rectangles ``x0, y0, x1, y1`` that do not overlap.

    Patches in a row that are adjacent are one rectangle, and so are rows of the same width below each other.
    Invalid pixels of unmasked patches are in none of them.

    Parameters
    ----------
    dq : ndarray (y, x)
        uint8, bits of `aqdask.flags.DQ`.
    patch : int
        Side of a patch in pixels.
    """
    grid = PatchGrid(dq.shape[0], dq.shape[1], patch)
    edges = [grid.owner_bounds(axis) for axis in range(2)]
    masked = (dq[np.ix_(edges[0][:-1], edges[1][:-1])] & PATCH_BITS) != 0
    done: list[tuple[int, int, int, int]] = []
    open_: dict[tuple[int, int], int] = {}  # columns from, to: first row
    for row, line in enumerate([*masked, np.zeros(masked.shape[1], bool)]):
        steps = np.flatnonzero(np.diff(line.astype(np.int8), prepend=0, append=0))
        runs = set(zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True))
        done += [(run[0], open_.pop(run), run[1], row) for run in [*open_] if run not in runs]
        open_ |= {run: row for run in runs if run not in open_}
    y, x = (edge.tolist() for edge in edges)
    return sorted((x[a], y[b], x[c], y[d]) for a, b, c, d in done)


def write_regions(mask: FrameMask, folder: Path) -> str:
    """Write ``<frame>.reg``, the masked patches in the format of DS9's region files, by `regions`.

    Polygons on the sky (ICRS) where the frame has a whole WCS, else boxes in pixels of the frame.
    """
    import regions

    boxes = masked_rectangles(mask.dq, mask.patch)
    corners = [_corners(box) for box in boxes]
    sky = _to_sky(mask, corners) if corners else None
    found: list[Any] = []
    if sky is not None:
        found = [regions.PolygonSkyRegion(polygon) for polygon in sky]
    else:
        for x0, y0, x1, y1 in boxes:
            centre = regions.PixCoord((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)
            found.append(regions.RectanglePixelRegion(centre, x1 - x0, y1 - y0))
    text = regions.Regions(found).serialize(format="ds9", precision=9)
    return _write(folder, f"{safe_name(mask.frame_id)}.reg", lambda path: path.write_text(text or EMPTY))


def write_moc(mask: FrameMask, folder: Path) -> str:
    """Write ``<frame>.moc.fits``, the masked patches on the sky; nothing where the frame has no whole WCS.

    Cells at the border are included: what is covered is wider than the mask by an eighth of a patch at most.
    """
    import mocpy

    whole = (0, 0, mask.dq.shape[1], mask.dq.shape[0])
    boxes = masked_rectangles(mask.dq, mask.patch)
    sky = _to_sky(mask, [_corners(box) for box in (whole, *boxes)])
    if sky is None:
        return ""
    side = sky[0][0].separation(sky[0][1]).deg / mask.dq.shape[1] * mask.patch
    order = min(math.ceil(math.log2(CELL_OF_ORDER_0 * CELLS_PER_PATCH / side)), DEEPEST)
    moc = mocpy.MOC.new_empty(order)
    if boxes:
        moc = moc.union(*mocpy.MOC.from_polygons(sky[1:], max_depth=order, n_threads=1))
    name = f"{safe_name(mask.frame_id)}.moc.fits"
    return _write(folder, name, lambda path: moc.save(path, format="fits", overwrite=True))


EMPTY = "# Region file format: DS9 astropy/regions\n"
CELL_OF_ORDER_0 = math.degrees(math.sqrt(4 * math.pi / 12))  # side of a cell of order 0, degrees


def _corners(box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the corners of a rectangle in pixel coordinates, whole numbers at pixel centres: ``(4, 2)``."""
    x0, y0, x1, y1 = box
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - 0.5


def _to_sky(mask: FrameMask, polygons: list[np.ndarray]) -> list[Any] | None:
    """Return polygons as ICRS positions; None without a WCS, or with one that needs tables of the source."""
    found = celestial_wcs(mask.header, mask.primary_header)
    if found is None or found.is_partial:
        return None
    x, y = np.array(polygons).transpose(2, 0, 1)
    try:
        with quiet():
            sky = found.wcs.celestial.pixel_to_world(x, y).icrs
    except Exception:  # no transformation from its reference frame
        return None
    if not (np.isfinite(sky.ra.deg) & np.isfinite(sky.dec.deg)).all():
        return None
    return list(sky)


def _write(folder: Path, name: str, save: Callable[[Path], object]) -> str:
    """Write a file by a rename, and return its name."""
    partial = folder / f"{name}.{os.getpid()}.partial"
    try:
        save(partial)
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    return name
