"""Transient candidates of scored frames: difference images with the verdict of the masks beside each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import sep
from astropy.wcs import WCS
from scipy import ndimage
from scipy.spatial import KDTree

from aqdask import flags
from aqdask.errors import FrameError
from aqdask.io.frame_ids import safe_name
from aqdask.io.wcs import sky_coordinates, wcs_transform
from aqdask.measurements.cutouts import WRITERS, Stamps
from aqdask.measurements.scored_frame import ScoredFrame, ScoredFrames
from aqdask.measurements.templates import Template, template_of
from aqdask.photometry.alignment import Alignment
from aqdask.photometry.apertures import aperture_masked
from aqdask.photometry.difference import MIN_STARS, STAMP, Difference, difference_image
from aqdask.photometry.difference_alignment import align_with_template
from aqdask.photometry.resampling import Transform, resample
from aqdask.photometry.sky_subtraction import SkySubtracted, brightest_sources, subtract_sky
from aqdask.products.columns import described_schema
from aqdask.products.flagged import flagged
from aqdask.text import plural, printable

GOOD, MASKED, MASKED_IN_TEMPLATE = "good", "masked", "masked in the template"
VERDICTS = (GOOD, MASKED, MASKED_IN_TEMPLATE)
APERTURE = 1.7  # FWHM of the broader epoch: radius of the aperture
CLEAN_STARS = 20  # that match PSF and scale alone, without those that a mask touches
STAR_THRESHOLD = 10.0  # sigma
STAR_RADIUS = 3.0  # px, of the aperture that ranks stars
RINGING = 2  # px around missing or saturated pixels that a cubic spline spoils
REASON_NAMES = {flag.value: flag.name for flag in flags.REASONS}
COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "id": (pa.string(), "id of the frame, '#' and the number of the candidate by significance"),
    "template": (pa.string(), "id of the template"),
    "x": (pa.float64(), "position in the frame, from 0"),
    "y": (pa.float64(), "position in the frame, from 0"),
    "ra": (pa.float64(), "right ascension (ICRS), null without a WCS"),
    "dec": (pa.float64(), "declination (ICRS), null without a WCS"),
    "significance": (pa.float32(), "peak of the difference smoothed to the PSF, sigma"),
    "sign": (pa.int8(), "1 = brighter than in the template, -1 = fainter"),
    "flux": (pa.float32(), "frame less template in the aperture, on the scale of the frame"),
    "flux_err": (pa.float32(), "standard deviation of the flux, for independent pixels"),
    "radius": (pa.float32(), "radius of the aperture"),
    "star_x": (pa.float64(), "nearest star of the template, position in the frame"),
    "star_y": (pa.float64(), "nearest star of the template, position in the frame"),
    "star_flux": (pa.float32(), "flux of that star within 3 pixels, on the scale of the template"),
    "star_distance": (pa.float32(), "distance to that star"),
    "masked_fraction": (pa.float32(), "masked fraction of the aperture in the frame"),
    "template_masked_fraction": (pa.float32(), "masked fraction of the aperture in the template"),
    "pvalue": (pa.float32(), "p-value of the patch in the frame, null without a score"),
    "reason": (pa.string(), "feature group with the smallest p-value of that patch"),
    "template_pvalue": (pa.float32(), "p-value of the patch in the template"),
    "template_reason": (pa.string(), "feature group with the smallest p-value of that patch"),
    "frame_flagged": (pa.bool_(), "the frame is flagged as a whole"),
    "template_flagged": (pa.bool_(), "the template is flagged as a whole"),
    "alignment": (pa.string(), "none (same pixels), wcs or stars"),
    "verdict": (pa.string(), f"{GOOD}; {MASKED} or {MASKED_IN_TEMPLATE}: a part of the aperture is"),
}
UNITS = dict.fromkeys(("x", "y", "radius", "star_x", "star_y", "star_distance"), "pixel")
UNITS |= dict.fromkeys(("flux", "flux_err", "star_flux"), "count") | {"ra": "deg", "dec": "deg"}
SCHEMA = described_schema(COLUMNS, UNITS)


class TemplateImage(NamedTuple):
    """Template as it is compared.

    ``pixels`` are float32, the median where ``missing``; ``stars`` are x, y, flux, the brightest first.
    """

    frame: ScoredFrame
    pixels: np.ndarray
    missing: np.ndarray
    stars: np.ndarray
    wcs: WCS | None


@dataclass(frozen=True)
class TransientSearch:
    """Measurement of transient candidates; see `aqdask.measurements.frame_tables.measure_frames`.

    Parameters
    ----------
    frames : ScoredFrames
        Reads the templates.
    templates : tuple of Template
        One for each camera, filter and field.
    threshold : float
        Sigma.
    gain : float
        Electrons per count; NaN: that of the header.
    cutouts : str
        'fits', 'png' or empty.
    folder : str
        Existing folder of the cut-outs.
    """

    frames: ScoredFrames
    templates: tuple[Template, ...]
    threshold: float
    gain: float = math.nan
    cutouts: str = ""
    folder: str = ""

    @property
    def schema(self) -> pa.Schema:
        """`COLUMNS`."""
        return SCHEMA

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings and templates."""
        gain = None if math.isnan(self.gain) else self.gain
        keys = [template.key for template in self.templates]
        return {"threshold": self.threshold, "gain": gain, "cutouts": self.cutouts, "templates": keys}

    def __call__(self, frame: ScoredFrame) -> pa.Table:
        """Search one frame; a template gives no rows.

        Raises
        ------
        FrameError
            Without a template, gain, sky or common stars.
        """
        template = template_of(frame, self.templates)
        if template.row == frame.row:
            return SCHEMA.empty_table()
        gain = self._gain(frame)
        other = _template_image(self.frames, template)
        sky = subtract_sky(frame.image, frame.invalid)
        if sky is None:
            raise FrameError("it has no measurable sky")
        wcs = frame.wcs.wcs.celestial if frame.wcs else None
        try:
            stars = _stars(sky)
            both: tuple[Transform, ...] = ()
            if wcs is not None and other.wcs is not None:
                both = wcs_transform(wcs, other.wcs), wcs_transform(other.wcs, wcs)
            alignment, common = align_with_template(frame.image.shape, stars, other.stars, *both)
            pair = Pair.of(frame, other, alignment)
            result = pair.difference(pair.unmasked(common), gain)
            found = result.candidates(result.invalid | pair.full, self.threshold)
        except RuntimeError as error:
            raise FrameError(str(error)) from error
        found = found[np.argsort(-found[:, 2], kind="stable")]
        columns = pair.columns(found, result)
        table = pa.table({n: columns[n] for n in COLUMNS}, schema=SCHEMA)
        if self.cutouts:
            first = np.argsort(np.asarray(columns["verdict"]) != GOOD, kind="stable")
            stamps = Stamps.of(table.take(first), (frame.image, pair.template, result.counts))
            WRITERS[self.cutouts](stamps, self._path(frame.frame_id))
        return table

    def has_files(self, frame_id: str) -> bool:
        """Return True if the cut-outs of a frame are there, or are not wanted."""
        is_template = any(one.frame_id == frame_id for one in self.templates)
        return not self.cutouts or is_template or self._path(frame_id).exists()

    def _path(self, frame_id: str) -> Path:
        return Path(self.folder) / f"{safe_name(frame_id)}.{self.cutouts}"

    def _gain(self, frame: ScoredFrame) -> float:
        gain = frame.gain if math.isnan(self.gain) else self.gain
        if math.isnan(gain):
            raise FrameError("its header states no gain, on which the noise of stars depends (--gain)")
        return gain


def _stars(sky: SkySubtracted) -> np.ndarray:
    return brightest_sources(sky, STAR_THRESHOLD, STAR_RADIUS, subpix=1)


@lru_cache(maxsize=2)
def _template_image(frames: ScoredFrames, template: Template) -> TemplateImage:
    """Read a template; kept, since the frames of a part mostly have the same."""
    try:
        frame = frames.read(template.place)
        sky = subtract_sky(frame.image, frame.invalid)
        if sky is None:
            raise FrameError("it has no measurable sky")
        pixels = frame.image.astype(np.float32)
        pixels[sky.invalid] = np.median(pixels[~sky.invalid])
        wcs = frame.wcs.wcs.celestial if frame.wcs else None
        return TemplateImage(frame, pixels, sky.invalid, _stars(sky), wcs)
    except (FrameError, RuntimeError) as error:
        raise FrameError(f"its template {template.frame_id}: {error}") from error


@dataclass(frozen=True, eq=False)
class Pair:
    """Frame and its template on the pixels of the frame.

    Parameters
    ----------
    frame : ScoredFrame
        The frame, as it is stored.
    other : TemplateImage
        The template as it is stored.
    alignment : Alignment
        From pixels of the frame to those of the template.
    template : ndarray (y, x)
        float32, counts of the template; 0 where ``invalid``.
    invalid : ndarray (y, x)
        bool, no data in one of them.
    full : ndarray (y, x)
        bool, saturated in one of them.
    template_masked : ndarray (y, x)
        bool, masked pixels of the template.
    """

    frame: ScoredFrame
    other: TemplateImage
    alignment: Alignment
    template: np.ndarray
    invalid: np.ndarray
    full: np.ndarray
    template_masked: np.ndarray

    @classmethod
    def of(cls, frame: ScoredFrame, other: TemplateImage, alignment: Alignment) -> Pair:
        """Bring a template to the pixels of a frame: by cubic splines, masks by the nearest pixel."""
        shape, template = frame.image.shape, other.frame
        pixels, missing, masked = other.pixels, other.missing, template.masked
        full = template.image >= template.saturation
        if alignment.is_identity(shape):
            alignment = Alignment(alignment.transform, "none")
        else:
            pixels = resample(pixels, shape, alignment.transform)
            missing, full, masked = (
                _nearest(alignment, part, shape, grow)
                for part, grow in ((missing, RINGING), (full, RINGING), (masked, 0))
            )
            missing |= ~np.isfinite(pixels)
        invalid = missing | frame.invalid | ~np.isfinite(frame.image)
        full = full | (frame.image >= frame.saturation)
        return cls(
            frame, other, alignment, np.where(missing, 0, pixels).astype(np.float32), invalid, full, masked
        )

    def unmasked(self, stars: np.ndarray) -> np.ndarray:
        """Return the stars that no mask touches; all of them where fewer than `CLEAN_STARS` are left."""
        clean = ~aperture_masked(self.frame.masked | self.template_masked, stars[:, :2], STAMP)
        return stars[clean] if np.count_nonzero(clean) >= CLEAN_STARS else stars

    def difference(self, common: np.ndarray, gain: float) -> Difference:
        """Subtract the template; ``common`` are stars of both, x, y and flux.

        Raises
        ------
        FrameError
            For a pair that cannot be subtracted.
        """
        result = difference_image(
            self.template, self.frame.image, common, gain=gain, saturation=self.frame.saturation,
            invalid=self.invalid,
        )  # fmt: skip
        if result is None:
            raise FrameError("it shares too little of the sky with its template")
        if result.stars < MIN_STARS:
            raise FrameError(
                f"{plural(result.stars, 'common star')}, too few to match its PSF to the template's"
            )
        if not result.scale > 0:
            raise FrameError("its stars are no multiple of the template's")
        return result

    def columns(self, found: np.ndarray, result: Difference) -> dict[str, Any]:
        """Describe candidates, rows of `Difference.candidates`, by the names of `COLUMNS`."""
        frame, template, n = self.frame, self.other.frame, len(found)
        x, y = (np.ascontiguousarray(column) for column in found[:, :2].T)
        places = self.alignment.transform(found[:, :2])
        there_x, there_y = places.T
        radius = APERTURE * result.fwhm
        flux, error, _ = sep.sum_circle(result.counts, x, y, radius, err=result.noise, mask=result.invalid)
        ra, dec = _sky(frame, x, y)
        area = sep.sum_circle(np.ones(frame.image.shape, np.float32), x, y, radius)[0]
        masked, template_masked = (
            sep.sum_circle(mask.astype(np.float32), x, y, radius)[0] / area
            for mask in (frame.masked, self.template_masked)
        )
        verdict = np.where(masked > 0, MASKED, np.where(template_masked > 0, MASKED_IN_TEMPLATE, GOOD))
        return {
            "id": [f"{printable(frame.frame_id)}#{number}" for number in range(1, n + 1)],
            "template": [printable(template.frame_id)] * n,
            "x": x, "y": y, "ra": ra, "dec": dec,
            "significance": found[:, 2].astype(np.float32), "sign": found[:, 3].astype(np.int8),
            "flux": flux.astype(np.float32), "flux_err": error.astype(np.float32),
            "radius": np.full(n, radius, np.float32),
            **self._nearest_stars(places, found[:, :2]),
            "masked_fraction": masked.astype(np.float32),
            "template_masked_fraction": template_masked.astype(np.float32),
            **_patches(frame, x, y, ""), **_patches(template, there_x, there_y, "template_"),
            "frame_flagged": [_is_flagged(frame)] * n, "template_flagged": [_is_flagged(template)] * n,
            "alignment": [self.alignment.method] * n, "verdict": verdict.astype(object),
        }  # fmt: skip

    def _nearest_stars(self, places: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest star of the template; its place in the frame is that in the template, shifted as nearby."""
        distance, index = KDTree(self.other.stars[:, :2]).query(places)
        stars = self.other.stars[index]
        at = found + stars[:, :2] - places
        return {
            "star_x": at[:, 0], "star_y": at[:, 1], "star_flux": stars[:, 2].astype(np.float32),
            "star_distance": distance.astype(np.float32),
        }  # fmt: skip


def _nearest(alignment: Alignment, mask: np.ndarray, shape: tuple[int, int], grow: int) -> np.ndarray:
    if grow and mask.any():
        mask = ndimage.maximum_filter(mask, 2 * grow + 1, mode="constant")
    return resample(mask, shape, alignment.transform, order=0) > 0  # NaN beyond the template is False


def _sky(frame: ScoredFrame, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = sky_coordinates(frame.header, frame.primary_header, y, x) if len(x) else None
    return found if found is not None else (np.full(len(x), np.nan), np.full(len(x), np.nan))


def _patches(frame: ScoredFrame, x: np.ndarray, y: np.ndarray, prefix: str) -> dict[str, Any]:
    """P-value and reason of the patches at positions."""
    patch = frame.patch_of(x, y)
    reasons = [REASON_NAMES.get(int(code), "") for code in frame.maps["reason"][patch]]
    return {f"{prefix}pvalue": frame.maps["pvalue"][patch].astype(np.float32), f"{prefix}reason": reasons}


def _is_flagged(frame: ScoredFrame) -> bool:
    values = {name: np.array([value]) for name, value in frame.values.items()}
    return bool(flagged(values, np.array([frame.masked.mean()]))[0])
