"""Pictures of a frame for its panel: pixels, reconstruction, residual and maps as small 8-bit images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.visualization import ZScaleInterval
from PIL import Image

from aqdask import flags
from aqdask.errors import AqdaskError, FrameError
from aqdask.execution.model_cache import calibration_spans, load_cached, one_thread
from aqdask.io.wcs import sky_coordinates
from aqdask.methods.base import reconstruct_frame
from aqdask.products.dq import DAMAGED_MAPS
from aqdask.products.report.patterns import LinePattern, line_pattern
from aqdask.specs import PatchGrid
from aqdask.stats.patches import stitch
from aqdask.store import layout
from aqdask.store.frame_store import ChosenFrames, FrameStore
from aqdask.store.ledger import Ledger, open_ledger
from aqdask.store.quality_store import QualityStore

MAX_SIDE = 1024  # px of the longer side of a picture
THUMBNAIL_SIDE = 192  # px of the longer side of the picture of a frame without a panel
MAP_SIDE = 256  # px of the longer side of a map, or one for each patch where that is more
JPEG_QUALITY = 80
SOFTENING = 0.1  # of astropy's asinh stretch
SKY_NODES = 17  # along each axis, between which sky positions are interpolated
RESIDUAL_SIGMA = 5.0
SCALED = "of the patch's range"  # unit of the method 'paper', which scales each patch from 0 to 1
RESIDUAL_SCALED = 0.5

REASON_COLOURS = {
    "no_data": "#9a9a9a", "residual": "#b0305c", "noise": "#228833", "background": "#44aa99",
    "sky": "#66ccee", "size": "#ee6677", "ellipticity": "#aa4499", "latent": "#4477aa",
    "spike": "#ddaa33", "line": "#ee7733", "stars": "#999933", "saturated": "#ee3377",
}  # fmt: skip
"""Colours of `aqdask.flags.REASONS` after Paul Tol's schemes for all kinds of colour vision."""


@dataclass(frozen=True)
class Plane:
    """Kind of picture in a panel.

    Parameters
    ----------
    title, unit : str
        As shown.
    palette : str
        'grey', 'diverging' or 'sequential'.
    note : str
        One clause on its scale.
    """

    title: str
    unit: str
    palette: str
    note: str = ""


PLANES: dict[str, Plane] = {
    "image": Plane("Image", "counts", "grey", "zscale limits, asinh stretch"),
    "smooth": Plane(
        "Reconstruction", "σ of the noise", "grey", "by the autoencoder, each patch above its own sky"
    ),
    "residual": Plane("Residual", "σ of the noise", "diverging", "image less reconstruction"),
    "score": Plane("Patch score", "", "sequential", "larger is worse"),
    "sky": Plane("Sky", "counts", "sequential"),
    "noise_ratio": Plane("Noise", "× expected", "sequential"),
    "size_ratio": Plane("Star size", "× references", "sequential"),
    "ellipticity": Plane("Ellipticity", "from references", "sequential"),
    "stars": Plane("Stars", "per patch", "sequential"),
    "mae": Plane("Residual, mean absolute", "", "sequential"),
}
"""Pictures by name, in the order of a panel; what a frame or a method lacks is left out."""


def reason_pictures(reasons: np.ndarray, good: int) -> list[str]:
    """Encode maps of reasons ``(n, n_y, n_x)``, uint8, as base64 of PNG, transparent where ``good``.

    Empty for a frame with nothing masked, or with nothing scored.
    """
    nothing = flags.code(flags.REASONS, "no_data")
    palette = b"".join(bytes.fromhex(colour[1:]) for colour in REASON_COLOURS.values())
    found = []
    for codes in reasons:
        if (codes == good).all() or (codes == nothing).all():
            found.append("")
            continue
        picture = Image.fromarray(np.where(codes == good, len(REASON_COLOURS), codes)[::-1], mode="P")
        picture.putpalette(palette + bytes(3))
        found.append(_encoded(picture, "PNG", transparency=len(REASON_COLOURS), bits=4))
    return found


class PanelMaker:
    """Maker of panels of the frames of an archive; reads their pixels and stored maps.

    Parameters
    ----------
    archive, quality : str
        The archive and its quality group; without maps where empty.
    rows : sequence of int
        Rows of the frames.
    ledger : Ledger, optional
        That of the archive, where it is open.
    """

    def __init__(self, archive: str, quality: str, rows: Sequence[int], ledger: Ledger | None = None) -> None:
        root = layout.open_root(archive)
        ledger = open_ledger(root) if ledger is None else ledger
        frames, entries = FrameStore.at(root), {entry.row: entry for entry in ledger.rows()}
        self.rows = [*rows]
        # All at once: a stored chunk holds the headers of thousands of frames.
        self.chosen = ChosenFrames.of(frames, [entries[row].place for row in rows])
        self.headers = [frames.coordinate(name, self.rows) for name in ("header", "primary_header")]
        self.store = QualityStore.open(archive, quality) if quality else None
        patch: Any = self.store.group.attrs["patch"] if self.store else 0
        self.patch = int(patch)
        self.patterns: dict[int, LinePattern] = {}  # by row, of the frames whose pixels were read
        self._scorer = lru_cache(maxsize=1)(self._load_scorer)

    def _load_scorer(self) -> Any:
        contents = self.store.bundle() if self.store else b""
        if not contents or self.store is None:
            return None
        return load_cached(contents, str(self.store.group.attrs["model_sha256"]))

    def panel(self, row: int) -> dict[str, Any]:
        """Make the panel of one frame.

        Returns
        -------
        dict
            ``planes``: by name of `PLANES`, ``src`` (data URL), ``low``, ``high`` (values of the levels 1 and
            255; level 0 is no data), ``asinh`` (bool), ``size`` (px that the picture spans, x and y), and
            ``unit`` where it is not that of `PLANES`.
            ``sky``: unit vectors of the nodes, ``(nodes, nodes, 3)`` nested, or None. ``problem``: reason
            for what could not be read, empty for none.
        """
        planes: dict[str, dict[str, Any]] = {}
        found: dict[str, Any] = {"planes": planes, "sky": None, "problem": ""}
        steps: tuple[Callable[[int, dict[str, Any]], None], ...] = (self._add_pixels, self._add_maps)
        for step in steps:
            try:
                step(row, found)
            except (AqdaskError, FrameError) as error:
                found["problem"] = f"{found['problem']} {error}".strip()
        found["planes"] = {name: planes[name] for name in PLANES if name in planes}
        return found

    def thumbnail(self, row: int, side: int = THUMBNAIL_SIDE) -> tuple[str, str]:
        """Make a small picture of the pixels of a frame: data URL, or empty with the reason second."""
        try:
            image, invalid = self.chosen.read(self.rows.index(row))
        except (AqdaskError, FrameError) as error:
            return "", str(error)
        self.patterns[row] = line_pattern(image, invalid)
        return str(_pixels(image, invalid, side=side)["src"]), ""

    def _add_pixels(self, row: int, found: dict[str, Any]) -> None:
        position = self.rows.index(row)
        header, primary = (str(cards[position]) for cards in self.headers)
        found["sky"] = sky_nodes(header, primary, self.chosen.store.spec.shape)
        image, invalid = self.chosen.read(position)
        self.patterns[row] = line_pattern(image, invalid)
        planes, about = found["planes"], self.chosen.metadata[position]
        planes["image"] = _pixels(image, invalid)
        scorer = self._scorer()
        if scorer is None:
            return
        with one_thread():
            band = calibration_spans(scorer.digest).filter_at(about.camera, about.filter, about.time)
            seen = reconstruct_frame(scorer, image, invalid, about.camera, band, in_counts=False)
        if seen is not None:
            planes["smooth"] = _pixels(seen.smooth, None)
            is_scaled = self.store is not None and self.store.group.attrs["method"] == "paper"
            reach = RESIDUAL_SCALED if is_scaled else RESIDUAL_SIGMA
            planes["residual"] = _pixels(seen.signal - seen.smooth, None, (-reach, reach))
            for name in ("smooth", "residual") if is_scaled else ():
                planes[name]["unit"] = SCALED

    def _add_maps(self, row: int, found: dict[str, Any]) -> None:
        if self.store is None:
            return
        wanted = {*PLANES, "e1", "e2"} & {*self.store.variables}
        try:
            maps = {name: self.store.read_map(name, row) for name in sorted(wanted)}
        except layout.UNREADABLE as error:
            raise FrameError(DAMAGED_MAPS) from error
        if {"e1", "e2"} <= maps.keys():
            maps["ellipticity"] = np.hypot(maps.pop("e1"), maps.pop("e2"))
        if "residual" in found["planes"]:
            maps.pop("mae", None)
        grid = PatchGrid(*self.chosen.store.spec.shape, self.patch)
        found["planes"] |= {n: _map(values, grid) for n, values in maps.items() if np.isfinite(values).any()}


def _pixels(
    image: np.ndarray,
    invalid: np.ndarray | None,
    limits: tuple[float, float] | None = None,
    side: int = MAX_SIDE,
) -> dict[str, Any]:
    """Encode pixels ``(H, W)`` as JPEG; zscale limits and an asinh stretch unless limits are given."""
    step = max(1, -(-max(image.shape) // side))
    small = block_mean(image, invalid, step)
    stretch = limits is None
    finite = small[np.isfinite(small)]
    low, high = limits or (ZScaleInterval().get_limits(finite) if finite.size else (0.0, 1.0))
    unit = (small - low) / (high - low if high > low else 1.0)
    if stretch:
        unit = np.arcsinh(np.clip(unit, 0, 1) / SOFTENING) / np.arcsinh(1 / SOFTENING)
    size = (step * small.shape[1], step * small.shape[0])
    return _plane(unit, float(low), float(high), size, "JPEG", asinh=stretch)


def _map(values: np.ndarray, grid: PatchGrid) -> dict[str, Any]:
    """Encode a map ``(n_y, n_x)`` as PNG, from its 1st to its 99th percentile."""
    low, high = np.nanpercentile(values, (1, 99))
    unit = (values - low) / (high - low if high > low else 1.0)
    step = max(1, max(grid.height, grid.width) // max(MAP_SIDE, *grid.shape))
    size = (grid.width, grid.height)
    return _plane(
        stitch(unit, grid)[step // 2 :: step, step // 2 :: step], float(low), float(high), size, "PNG"
    )


def _plane(
    unit: np.ndarray, low: float, high: float, size: tuple[int, int], kind: str, *, asinh: bool = False
) -> dict[str, Any]:
    levels = np.where(np.isfinite(unit), 1 + np.rint(254 * np.clip(unit, 0, 1)), 0).astype(np.uint8)
    source = f"data:image/{kind.lower()};base64,{_encoded(Image.fromarray(levels[::-1]), kind)}"
    return {"src": source, "low": low, "high": high, "asinh": asinh, "size": size}


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    """Encode a picture, whose first row is the top, as base64."""
    stream = io.BytesIO()
    picture.save(stream, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {}), **options)
    return base64.b64encode(stream.getvalue()).decode()


def block_mean(image: np.ndarray, invalid: np.ndarray | None, step: int) -> np.ndarray:
    """Compute means of ``step`` x ``step`` px, float64, NaN without data; incomplete blocks are dropped."""
    known = None if image.dtype.kind in "iub" else np.isfinite(image)
    if invalid is not None:
        known = ~invalid if known is None else known & ~invalid
    if known is not None and known.all():
        known = None
    total = _block_sum(image if known is None else np.where(known, image, 0), step)
    count = step**2 if known is None else _block_sum(known, step)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _block_sum(values: np.ndarray, step: int) -> np.ndarray:
    height, width = (n // step for n in values.shape)
    total = np.zeros((height, width))
    for y, x in np.ndindex(step, step):  # three times as fast as a sum over a reshaped view
        total += values[y : step * height : step, x : step * width : step]
    return total


def sky_nodes(header: str, primary_header: str, shape: tuple[int, int]) -> list[Any] | None:
    """Compute unit vectors (ICRS) of pixels on a grid over a frame, for interpolation; None without a WCS."""
    y, x = (np.linspace(0, length - 1, SKY_NODES) for length in shape)
    found = sky_coordinates(header, primary_header, y[:, None], x[None, :])
    if found is None or not np.isfinite(found).all():
        return None
    ra, dec = np.radians(found)
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    nodes: list[Any] = np.round(vectors, 9).tolist()
    return nodes


def reasons_listed() -> list[Mapping[str, Any]]:
    """List code, name, cause, meaning and colour of each reason."""
    return [{**vars(flag), "code": flag.value, "colour": REASON_COLOURS[flag.name]} for flag in flags.REASONS]
