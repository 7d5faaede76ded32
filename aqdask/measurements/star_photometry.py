"""Photometry of the same stars on every frame, as a measurement that runs on the workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aqdask import flags
from aqdask.errors import FrameError
from aqdask.io.wcs import pixel_positions
from aqdask.measurements.reference_stars import ReferenceStars, bright_detections
from aqdask.measurements.scored_frame import ScoredFrame
from aqdask.photometry.forced_photometry import (
    FLAGS,
    StarFluxes,
    forced_photometry,
    instrumental_magnitudes,
)
from aqdask.photometry.quality_weights import quality_weights, weighted_median
from aqdask.photometry.sky_subtraction import SkySubtracted, subtract_sky
from aqdask.photometry.star_matching import MIN_STARS, apply_affine, match_stars
from aqdask.photometry.star_positions import FOUND, recentre
from aqdask.products.columns import described
from aqdask.stats.masking import bad_patches
from aqdask.stats.robust import mad_sigma
from aqdask.text import plural

COMPARED = 100  # brightest stars by which positions are checked
AGREEMENT = 0.5  # mag, largest scatter of their magnitudes against those of the reference frame
REASON_NAMES = np.array([flag.name for flag in flags.REASONS], object)


BITS = ", ".join(f"{value} {name}" for name, value in FLAGS.items())
STAR_COLUMNS = (
    described("x", pa.float64(), "position from 0", "pixel"),
    described("y", pa.float64(), "position from 0", "pixel"),
    described("flux", pa.float64(), "flux in the aperture above the sky", "count"),
    described("flux_err", pa.float64(), "standard deviation of the flux from sky and photon noise", "count"),
    described("masked", pa.float64(), "masked fraction of the aperture"),
    described("pvalue", pa.float64(), "p-value of the star's patch, smaller is worse"),
    described("reason", pa.string(), "property of the patch with the smallest p-value"),
    described("flags", pa.uint8(), f"bits, 0 = clean: {BITS}"),
)
FRAME_VALUES = (
    described("exptime", pa.float64(), "exposure time", "s"),
    described("placed_by", pa.string(), "how stars were found: by the WCS, or by matching of the stars"),
    described("sky_weighted", pa.float64(), "median sky of unmasked patches, weighted by p-values", "count"),
    described("sky", pa.float64(), "median sky of all patches", "count"),
)
SCHEMA = pa.schema([described("star", pa.int32(), "number of the star"), *STAR_COLUMNS, *FRAME_VALUES])


@dataclass(frozen=True, eq=False)
class StarPhotometry:
    """Forced photometry of the stars of a reference frame.

    Parameters
    ----------
    stars : ReferenceStars
        The stars.
    """

    stars: ReferenceStars

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        return SCHEMA

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that the result depends on."""
        return {"stars": self.stars.digest, "reference": self.stars.frame_id, "radius": self.stars.radius}

    def __call__(self, frame: ScoredFrame) -> pa.Table:
        """Measure the stars of a frame; those beyond its edges are left out.

        Raises
        ------
        FrameError
            For a frame without measurable sky, or on which the stars cannot be found.
        """
        light = subtract_sky(frame.image, frame.invalid)
        if light is None:
            raise FrameError("no measurable sky")
        way, positions, measured = self._placed(frame, light)
        inside = np.flatnonzero(np.isfinite(measured.flux))
        x, y = positions[inside].T
        patch = frame.patch_of(x, y)
        columns = {
            "star": inside.astype(np.int32), "x": x, "y": y, "flux": measured.flux[inside],
            "flux_err": measured.error[inside], "masked": measured.masked[inside],
            "pvalue": frame.maps["pvalue"][patch].astype(np.float64),
            "reason": REASON_NAMES[frame.maps["reason"][patch]], "flags": measured.flags[inside],
        }  # fmt: skip
        sky = frame_sky(frame)
        values = dict(zip([field.name for field in FRAME_VALUES], (frame.exptime, way, *sky), strict=True))
        repeated = {name: pa.repeat(pa.scalar(value), len(inside)) for name, value in values.items()}
        return pa.table(columns | repeated, schema=SCHEMA)

    def _placed(self, frame: ScoredFrame, light: SkySubtracted) -> tuple[str, np.ndarray, StarFluxes]:
        """Find the stars by the WCS, else by their pattern; the first way by which the magnitudes agree."""
        masked, saturated = frame.masked, np.asarray(frame.image) >= frame.saturation
        problems = []
        for way, predicted, problem in self._predictions(frame, light):
            if predicted is None:
                problems.append(problem)
                continue
            positions = self._recentred(light, predicted, masked)
            if positions is None:
                problems.append(f"by {way}: its bright stars are not at these places")
                continue
            measured = forced_photometry(
                light, positions, self.stars.radius, masked=masked, saturated=saturated, gain=frame.gain
            )
            problem = self._disagreement(measured)
            if not problem:
                return way, positions, measured
            problems.append(f"by {way}: {problem}")
        raise FrameError(f"the stars of {self.stars.frame_id} were not found: {'; '.join(problems)}")

    def _predictions(
        self, frame: ScoredFrame, light: SkySubtracted
    ) -> Iterator[tuple[str, np.ndarray | None, str]]:
        """Yield ways, positions in the frame (None where there are none), and why there are none."""
        stars = self.stars
        if frame.wcs is not None and np.isfinite(stars.sky).all():
            yield "wcs", pixel_positions(frame.wcs, *stars.sky.T), "its WCS cannot be inverted"
        try:
            affine = match_stars(stars.detections, bright_detections(light, frame.masked, stars.radius))
        except FrameError as error:
            yield "stars", None, str(error)
        else:
            yield "stars", apply_affine(affine, stars.positions), ""

    def _recentred(
        self, light: SkySubtracted, predicted: np.ndarray, masked: np.ndarray
    ) -> np.ndarray | None:
        """Correct positions by the bright unmasked stars, or by all bright ones if these are too few."""
        stars = self.stars
        order = np.argsort(stars.mag, kind="stable")  # NaN last
        bright = np.isfinite(stars.mag) & np.isfinite(predicted).all(axis=1)
        height, width = masked.shape
        columns, rows = np.rint(np.nan_to_num(predicted)).astype(int).T
        good = bright & ~masked[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        chosen = good if good.sum() >= MIN_STARS else bright
        found = recentre(light.pixels, predicted[order], chosen[order], stars.fwhm, stars.radius)
        return None if found is None else found[np.argsort(order, kind="stable")]

    def _disagreement(self, measured: StarFluxes) -> str:
        """Return why these are other places than those of the stars; empty where magnitudes agree."""
        brightest = np.argsort(np.where(np.isfinite(measured.flux), self.stars.mag, np.inf), kind="stable")
        brightest = brightest[: min(COMPARED, np.isfinite(self.stars.mag).sum())]
        brightest = brightest[np.isfinite(measured.flux[brightest]) & (measured.flags[brightest] & 1 == 0)]
        if not len(brightest):
            return "no star lies in the frame"
        mag = instrumental_magnitudes(measured.flux, measured.flags)[brightest]
        seen = np.isfinite(mag)
        if len(brightest) < MIN_STARS:
            return ""  # too few to tell
        if seen.sum() < max(MIN_STARS, FOUND * len(brightest)):
            return f"{seen.sum()} of the {plural(len(brightest), 'brightest star')} can be measured there"
        scatter = float(mad_sigma((mag - self.stars.mag[brightest])[seen]))
        return f"magnitudes differ by {scatter:.2f} mag from star to star" if scatter > AGREEMENT else ""


def frame_sky(frame: ScoredFrame) -> tuple[float, float]:
    """Return the sky of a frame in counts: weighted by the p-values of its patches, and unweighted.

    NaN for methods without a map of the sky.
    """
    if "sky" not in frame.maps:
        return math.nan, math.nan
    sky, pvalue = frame.maps["sky"].astype(np.float64).ravel(), frame.maps["pvalue"].ravel()
    weights = np.where(bad_patches(pvalue, frame.alpha), 0.0, quality_weights(pvalue))
    return weighted_median(sky, weights), weighted_median(sky, np.ones(sky.shape))
