"""Catalogues of the sources of scored frames, with what decides whether to believe a source."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

from aqdask import flags
from aqdask.errors import FrameError, place_failed
from aqdask.execution.executors import Executor
from aqdask.execution.reporter import Reporter
from aqdask.io.frame_ids import safe_name
from aqdask.io.places import absolute, sweep
from aqdask.io.wcs import sky_coordinates
from aqdask.measurements.frame_tables import check_folder, measure_frames
from aqdask.measurements.scored_frame import ScoredFrame, check_radius, scored_places
from aqdask.photometry.sky_subtraction import subtract_sky
from aqdask.photometry.source_catalogue import (
    GAUSSIAN_FWHM,
    DetectSpec,
    aperture_name,
    masked_fractions,
    measure_sources,
)
from aqdask.products.columns import described
from aqdask.products.dq import wcs_cards, write_whole
from aqdask.products.flagged import flagged
from aqdask.text import printable
from aqdask.version import __version__

SEGMENTATION = ".seg.fits"
TILE_ROWS = 64
REASON = pa.dictionary(pa.int8(), pa.string())
# Name, type, unit and description of the columns; those of apertures follow `flux_radius`.
MEASURED = (
    ("number", pa.int32(), "", "number of the source in the frame, from 1; value in the segmentation map"),
    ("x", pa.float64(), "pixel", "barycentre along x, from 0 at the centre of the first pixel"),
    ("y", pa.float64(), "pixel", "barycentre along y, from 0 at the centre of the first pixel"),
    ("ra", pa.float64(), "deg", "right ascension, ICRS; null without WCS"),
    ("dec", pa.float64(), "deg", "declination, ICRS; null without WCS"),
    ("flux", pa.float64(), "count", "isophotal flux above the sky"),
    ("flux_err", pa.float64(), "count", "standard deviation of flux"),
    ("flux_auto", pa.float64(), "count", "flux in an ellipse of 2.5 Kron radii, at least 1.75 px"),
    ("flux_auto_err", pa.float64(), "count", "standard deviation of flux_auto"),
    ("kron_radius", pa.float64(), "", "Kron radius in units of a and b; 0 where the light there is negative"),
    (
        "flux_radius",
        pa.float64(),
        "pixel",
        "radius of the circle with half of flux_auto; null where it fails",
    ),
)
SHAPE = (
    ("a", pa.float64(), "pixel", "semi-major axis, rms"),
    ("b", pa.float64(), "pixel", "semi-minor axis, rms"),
    ("theta", pa.float64(), "rad", "angle of the major axis from +x towards +y"),
    ("ellipticity", pa.float64(), "", "1 - b / a"),
    ("fwhm", pa.float64(), "pixel", "full width at half maximum of a Gaussian, 2 sqrt(ln 2 (a**2 + b**2))"),
    ("peak", pa.float64(), "count", "largest value above the sky"),
    ("npix", pa.int64(), "pixel", "number of pixels above the threshold"),
    ("flag", pa.int16(), "", "bits of sep: 1 deblended, 2 truncated, 4 deblending overflow, 8 singular; of "
     "the aperture of flux_auto: 16 truncated, 32 has invalid pixels, 64 all invalid, 128 no Kron radius"),
    ("saturated", pa.bool_(), "", "the peak reaches SATURATE of the header or the end of the integer type; "
     "null where neither is known"),
    ("gain", pa.float32(), "electron/count", "gain of the header; null: errors without photon noise"),
)  # fmt: skip
BELIEF = (
    ("pvalue", pa.float32(), "", "p-value of the patch of the position; null where it has no score"),
    ("reason", REASON, "", "feature group with the smallest p-value of the patch"),
    ("size_ratio", pa.float32(), "", "PSF size of the patch over the references'; null without such a map"),
    ("noise_ratio", pa.float32(), "", "noise of the patch over the noise model's; null without such a map"),
    ("frame_flagged", pa.bool_(), "", "the frame as a whole is flagged"),
)  # fmt: skip


@dataclass(frozen=True)
class SourceDetection:
    """Measurement (`aqdask.measurements.frame_tables.Measurement`): the catalogue of a frame.

    Sources are detected on the unmasked frame: masked regions are reported beside each source, and invalid
    pixels are blanked.

    Parameters
    ----------
    spec : DetectSpec
        Settings.
    segmentation : str
        Existing folder that receives ``<frame>.seg.fits``; empty for none.
    """

    spec: DetectSpec
    segmentation: str = ""

    @property
    def schema(self) -> pa.Schema:
        """Columns with their units and descriptions."""
        apertures = [
            column
            for radius in self.spec.apertures
            for column in _aperture_columns(aperture_name(radius), f"a circle with radius {radius:g} px")
        ]
        masked = ("masked_fraction", pa.float32(), "", "masked fraction of the aperture of flux_auto")
        rows = (*MEASURED, *apertures, *SHAPE, masked, *BELIEF)
        return pa.schema([described(name, kind, text, unit) for name, kind, unit, text in rows])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that the catalogue depends on."""
        return asdict(self.spec)

    def __call__(self, frame: ScoredFrame) -> pa.Table:
        """Detect and measure the sources of a frame.

        Raises
        ------
        FrameError
            For a frame without measurable sky, or one so crowded that sep gives up.
        """
        sky = subtract_sky(frame.image, frame.invalid)
        if sky is None:
            raise FrameError("no measurable sky: the frame is constant, or more than 90 % of it is no data")
        try:
            found = measure_sources(sky, self.spec, frame.gain, segmentation=bool(self.segmentation))
        except RuntimeError as error:
            raise FrameError(f"{error}; a higher threshold finds fewer sources") from error
        columns: dict[str, Any] = found.columns | masked_fractions(frame.masked, found.columns, self.spec)
        columns |= _derived(frame, columns) | _belief(frame, columns)
        if found.segmentation is not None:
            self._write(frame, found.segmentation)
        rows = len(columns["x"])
        arrays = [_array(columns[field.name], field.type, rows) for field in self.schema]
        return pa.table(arrays, schema=self.schema)

    def has_files(self, frame_id: str) -> bool:
        """Return True if the segmentation map of a frame is there, with these settings, or is not wanted."""
        if not self.segmentation:
            return True
        try:
            return fits.getheader(self._path(frame_id)).get("SETTINGS") == self._settings_key()
        except (OSError, ValueError):
            return False

    def _path(self, frame_id: str) -> Path:
        return Path(self.segmentation) / f"{safe_name(frame_id)}{SEGMENTATION}"

    def _settings_key(self) -> str:
        text = json.dumps([__version__, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _write(self, frame: ScoredFrame, labels: np.ndarray) -> None:
        """Write a segmentation map as compressed FITS with the WCS of the frame."""
        primary = fits.PrimaryHDU()
        primary.header["FRAMEID"] = (ascii(printable(frame.frame_id))[1:-1], "frame in the archive")
        primary.header["SETTINGS"] = (self._settings_key(), "hash of the settings of the detection")
        primary.header["ORIGIN"] = (f"aqdask {__version__}", "program that detected the sources")
        tiles = (min(TILE_ROWS, labels.shape[0]), labels.shape[1])
        cards = wcs_cards(frame.header, frame.primary_header)
        image = fits.CompImageHDU(
            labels, cards, name="SEGMENTATION", compression_type="RICE_1", tile_shape=tiles
        )
        try:
            write_whole(self._path(frame.frame_id), fits.HDUList([primary, image]), checksum=False)
        except OSError as error:
            raise place_failed(self.segmentation, error) from error


def _aperture_columns(name: str, where: str) -> tuple[tuple[str, pa.DataType, str, str], ...]:
    return (
        (f"flux_{name}", pa.float64(), "count", f"flux above the sky in {where}"),
        (f"flux_{name}_err", pa.float64(), "count", f"standard deviation of flux_{name}"),
        (f"flag_{name}", pa.int16(), "", f"bits of sep for {where}, as in flag"),
        (f"masked_{name}", pa.float32(), "", f"masked fraction of {where}"),
    )


def _derived(frame: ScoredFrame, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Columns from those of sep and the header; None for a column of nulls."""
    x, y, a, b = (columns[name] for name in "xyab")
    ra, dec = sky_coordinates(frame.header, frame.primary_header, y, x) or (None, None)
    kind = frame.image.dtype
    full = np.iinfo(kind).max if kind.kind in "iu" and kind.itemsize <= 2 else np.nan
    full = np.fmin(frame.saturate, full)
    peaks = frame.image[columns["ypeak"], columns["xpeak"]]
    return {
        "number": np.arange(1, len(x) + 1), "ra": ra, "dec": dec, "ellipticity": 1 - b / a,
        "fwhm": GAUSSIAN_FWHM * np.hypot(a, b), "saturated": None if np.isnan(full) else peaks >= full,
        "gain": np.full(len(x), frame.gain),
    }  # fmt: skip


def _belief(frame: ScoredFrame, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Columns of the patch and of the frame; None for a column of nulls."""
    patch = frame.patch_of(columns["x"], columns["y"])
    names = [flag.name for flag in flags.REASONS]
    codes = frame.maps["reason"][patch].astype(np.int8)
    pvalue = frame.maps["pvalue"]
    masked = 1 - np.mean(pvalue > frame.alpha)  # what has no score is masked, too
    is_flagged = flagged(
        {name: np.array([value]) for name, value in frame.values.items()}, np.array([masked])
    )
    ratios = {
        name: frame.maps[name][patch] if name in frame.maps else None
        for name in ("size_ratio", "noise_ratio")
    }
    return {
        "pvalue": pvalue[patch],
        "reason": pa.DictionaryArray.from_arrays(codes, names),
        "frame_flagged": np.full(len(codes), bool(is_flagged[0])),
        **ratios,
    }


def _array(values: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """Convert a column; NaN and None become null."""
    if values is None:
        return pa.nulls(rows, kind)
    return values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True).cast(kind)


@dataclass(frozen=True)
class Detections:
    """Result of `detect_archive`.

    Parameters
    ----------
    path : Path
        Folder of the catalogue.
    frames, sources : int
        Numbers of frames with a catalogue, and of their sources.
    problems : list of tuple of str
        Id and reason of each frame without.
    """

    path: Path
    frames: int
    sources: int
    problems: list[tuple[str, str]]


def detect_archive(
    archive: str | os.PathLike[str],
    quality: str,
    alpha: float,
    folder: Path,
    spec: DetectSpec,
    executor: Executor,
    reporter: Reporter,
    *,
    segmentation: str | os.PathLike[str] | None = None,
    patterns: Sequence[str] | None = None,
    band: str | None = None,
) -> Detections:
    """Write the catalogues of all scored frames; see `aqdask.detect`."""
    measurement = SourceDetection(spec, absolute(segmentation) if segmentation else "")
    check_radius(max(spec.apertures), archive)
    places, without = scored_places(archive, quality, patterns, band)
    check_folder(folder)
    if segmentation:
        try:
            Path(segmentation).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise place_failed(segmentation, error) from error
    found, problems = measure_frames(
        archive, quality, alpha, measurement, folder, executor, reporter, stage="detect", places=places
    )
    if segmentation:
        sweep(Path(segmentation), f"*{SEGMENTATION}.*")
    sources = sum(result.rows for result in found)
    return Detections(folder, sum(not result.problem for result in found), sources, problems + without)
