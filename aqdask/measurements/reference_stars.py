"""Stars whose light curves are measured: the bright ones of a reference frame, and targets of a user."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from scipy.spatial import KDTree

from aqdask.errors import UsageError
from aqdask.io.wcs import pixel_positions, sky_coordinates
from aqdask.measurements.scored_frame import ScoredFrame
from aqdask.photometry.alignment import MAX_OFFSET
from aqdask.photometry.aperture_photometry import MIN_SIGNAL_TO_NOISE, isolated_stars
from aqdask.photometry.forced_photometry import forced_photometry, instrumental_magnitudes
from aqdask.photometry.sky_subtraction import SkySubtracted, brightest_sources, subtract_sky
from aqdask.photometry.star_matching import COINCIDENT
from aqdask.photometry.star_positions import centroids, common_shift
from aqdask.references.image_statistics import measure
from aqdask.text import plural, printable, shortened

THRESHOLD = 5.0  # sigma, of detections that stars of other frames are matched to
MAX_STARS = 10_000
AUTO_STARS = 1_000
APERTURE = 1.7  # FWHM of the reference frame, radius
FALLBACK_FWHM = 2.5  # px, where no star can be measured
POSITIONS = (("ra", "dec"), ("x", "y"))


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets of a user: names and positions, float64 ``(n, 2)``.

    Positions are ICRS degrees if ``on_sky``, else pixels of the reference frame.
    """

    names: tuple[str, ...]
    positions: np.ndarray
    on_sky: bool


def read_targets(path: str | os.PathLike[str]) -> Targets:
    """Read a CSV file with a header line and the columns ra, dec (degrees, ICRS) or x, y; name is optional.

    Raises
    ------
    UsageError
        For a file that cannot be read, or has none or both of these pairs of columns, a cell that is no
        number, a name twice, no row, or more than 10,000 rows.
    """
    shown = printable(os.fspath(path))
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(
            f"the targets {shown} cannot be read: {why}",
            expected="a CSV file in UTF-8",
            consequence="Nothing was measured",
            remedy="check the path of --targets (targets=)",
        ) from error
    pairs = [pair for pair in POSITIONS if set(pair) <= set(columns)]
    if len(pairs) != 1 or not 0 < len(rows) <= MAX_STARS:
        raise UsageError(
            f"{shown} has the columns {', '.join(columns) or 'none'} and {plural(len(rows), 'row')}",
            expected="a header line with ra,dec (ICRS degrees) or x,y (pixels of the reference frame), and "
            f"name if you like; 1 to {MAX_STARS} rows",
            consequence="Nothing was measured",
            remedy="name the columns so",
        )
    names = tuple((row.get("name") or f"target {number}").strip() for number, row in enumerate(rows, start=1))
    double = next((name for name in names if names.count(name) > 1), None) if len(names) < 1000 else None
    if double or len(set(names)) < len(names):
        raise UsageError(
            f"{shown} has the name {double or '(one of many)'} twice", expected="a name for each star",
            consequence="Nothing was measured", remedy="change one of them, or leave the column name out",
        )  # fmt: skip
    values = [
        [_number(row.get(name), name, line, shown) for name in pairs[0]] for line, row in enumerate(rows, 2)
    ]
    return Targets(names, np.array(values), pairs[0] == POSITIONS[0])


def _number(text: str | None, column: str, line: int, shown: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(
            f"{shown} has {column} = '{text or ''}' in line {line}",
            expected="a decimal number (degrees for ra and dec)",
            consequence="Nothing was measured",
        )
    return value


@dataclass(frozen=True, eq=False)
class ReferenceStars:
    """Stars of a reference frame, targets first, then the others from bright to faint.

    Parameters
    ----------
    frame_id : str
        The reference frame.
    names : tuple of str
        One a star.
    positions : ndarray (n, 2)
        x, y in the reference frame, pixels.
    sky : ndarray (n, 2)
        Right ascension and declination, ICRS degrees; NaN without a WCS.
    mag : ndarray (n,)
        Instrumental magnitudes in the reference frame; NaN for targets without one.
    comparison : ndarray (n,) of bool
        Stars that zero points are made from.
    detections : ndarray (m, 2)
        x, y of what the reference frame shows above 5 sigma, brightest first.
    fwhm, radius : float
        Size of the stars and radius of the apertures, pixels.
    exptime : float
        Exposure time of the reference frame, seconds; NaN where unknown.
    notes : tuple of str
        What is odd about the targets.
    """

    frame_id: str
    names: tuple[str, ...]
    positions: np.ndarray
    sky: np.ndarray
    mag: np.ndarray
    comparison: np.ndarray
    detections: np.ndarray
    fwhm: float
    radius: float
    exptime: float
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of all that a measurement depends on."""
        arrays = (self.positions, self.sky, self.mag, self.comparison, self.detections)
        known = hashlib.sha256(repr((self.names, self.fwhm, self.radius)).encode())
        for array in arrays:
            known.update(np.ascontiguousarray(array).tobytes())
        return known.hexdigest()


def bright_detections(light: SkySubtracted, masked: np.ndarray, radius: float) -> np.ndarray:
    """Detect sources above 5 sigma outside of masked areas, or anywhere if there are fewer than ten.

    Returns
    -------
    ndarray (n, 2)
        x, y in pixels, brightest first.
    """
    try:
        found = brightest_sources(light, THRESHOLD, radius, light.invalid | masked)
        if len(found) < 10:
            found = brightest_sources(light, THRESHOLD, radius)
    except RuntimeError:  # a frame so crowded or structured that sep gives up
        return np.empty((0, 2))
    return found[:, :2]


def reference_stars(
    frame: ScoredFrame, targets: Targets | None, number: int, radius: float | None
) -> ReferenceStars:
    """Choose the stars of a reference frame.

    Taken automatically are the brightest isolated detections with a signal to noise of 20, neither saturated
    nor masked nor at the edge. Centres of targets are measured, where the star is bright enough for that.

    Parameters
    ----------
    frame : ScoredFrame
        The reference frame.
    targets : Targets, optional
        Stars of the user.
    number : int
        Largest number of stars that are taken automatically.
    radius : float, optional
        Aperture radius in pixels; None: 1.7 FWHM.

    Raises
    ------
    UsageError
        For a frame without measurable sky or stars, targets on the sky without a WCS, or outside the frame.
    """
    light = subtract_sky(frame.image, frame.invalid)
    if light is None:
        raise _unusable(frame, "has no measurable sky")
    fwhm = measure(frame.image, frame.invalid).fwhm
    fwhm = fwhm if math.isfinite(fwhm) else FALLBACK_FWHM
    aperture = radius or APERTURE * fwhm
    detections = bright_detections(light, frame.masked, aperture)
    own, notes = np.empty((0, 2)), tuple[str, ...]()
    if targets is not None:
        given = _target_positions(frame, targets)
        own, has_star = _centred(frame, light, given, fwhm, aperture)
        notes = _target_notes(frame, targets, given, has_star, detections)
    both = np.concatenate([own, detections])
    saturated = np.asarray(frame.image) >= frame.saturation
    found = forced_photometry(
        light, both, aperture, masked=frame.masked, saturated=saturated, gain=frame.gain
    )
    mag = instrumental_magnitudes(found.flux, found.flags)
    clean = np.isfinite(mag) & (found.masked == 0) & (found.flux >= MIN_SIGNAL_TO_NOISE * found.error)
    clean &= isolated_stars(np.column_stack([both, np.nan_to_num(found.flux)]), aperture)
    clean[: len(own)] = False
    chosen = np.concatenate([np.arange(len(own)), np.flatnonzero(clean)[: max(number, 0)]]).astype(int)
    if not len(chosen) or not np.isfinite(mag[chosen]).any():
        raise _unusable(frame, "has no star that can be measured" + (" at the targets" if not number else ""))
    automatic = chosen >= len(own)
    names = targets.names if targets else ()
    taken = set(names)
    free = (name for n in count(1) if (name := f"star {n}") not in taken)
    names += tuple(islice(free, int(automatic.sum())))
    sky = sky_coordinates(frame.header, frame.primary_header, both[chosen, 1], both[chosen, 0])
    return ReferenceStars(
        frame_id=frame.frame_id, names=names, positions=both[chosen],
        sky=np.full((len(chosen), 2), np.nan) if sky is None else np.column_stack(sky), mag=mag[chosen],
        comparison=automatic if number else np.ones(len(chosen), bool), detections=detections,
        fwhm=fwhm, radius=aperture, exptime=frame.exptime, notes=notes,
    )  # fmt: skip


def _target_positions(frame: ScoredFrame, targets: Targets) -> np.ndarray:
    """Pixels of the targets by their coordinates, float64 ``(n, 2)``."""
    positions = targets.positions
    if targets.on_sky:
        found = pixel_positions(frame.wcs, *targets.positions.T) if frame.wcs else None
        if found is None and frame.wcs:
            raise UsageError(
                f"the WCS of {printable(frame.frame_id)} has no pixels for the positions of the targets",
                expected="right ascensions of 0 to 360 and declinations of -90 to 90 degrees, in its field",
                consequence="Nothing was measured",
                remedy="check the coordinates, or name another --reference",
            )
        if found is None:
            raise UsageError(
                f"the targets have sky positions, and {printable(frame.frame_id)} no WCS",
                expected="a reference frame with a celestial WCS, or targets as x,y",
                consequence="Nothing was measured",
                remedy="name a frame with a WCS by --reference, or give x,y in pixels of the reference frame",
            )
        positions = found
    height, width = frame.image.shape
    inside = ((positions > -0.5) & (positions < (width - 0.5, height - 0.5))).all(axis=1)
    if not inside.all():
        outside = [targets.names[number] for number in np.flatnonzero(~inside)]
        raise UsageError(
            f"outside of the reference frame {printable(frame.frame_id)}: {plural(len(outside), 'target')}, "
            f"{shortened(list(map(printable, outside)))}",
            expected=f"targets within its {width} x {height} pixels",
            consequence="Nothing was measured",
            remedy="check the coordinates, or name another --reference",
        )
    return positions


def _centred(
    frame: ScoredFrame, light: SkySubtracted, positions: np.ndarray, fwhm: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move positions to the centres of their stars where these have one; return also where, bool ``(n,)``."""
    centres = centroids(light.pixels, positions, fwhm, reach)
    none = np.zeros(light.invalid.shape, bool)
    measured = forced_photometry(light, positions, reach, masked=none, saturated=none, gain=frame.gain)
    bright = measured.flux >= MIN_SIGNAL_TO_NOISE * measured.error
    has_star = bright & np.isfinite(centres[:, 0])
    return np.where(has_star[:, None], centres, positions), has_star


def _target_notes(
    frame: ScoredFrame, targets: Targets, positions: np.ndarray, has_star: np.ndarray, stars: np.ndarray
) -> tuple[str, ...]:
    """Compare the coordinates of targets with the stars of the reference frame, in words."""
    away = KDTree(stars).query(positions)[0] if len(stars) else np.full(len(positions), np.inf)
    lost = [name for name, far in zip(targets.names, ~has_star & (away > COINCIDENT), strict=True) if far]
    notes = []
    found = common_shift(positions, stars, frame.image.shape)
    if found and np.hypot(*found[0]) > MAX_OFFSET:
        (x, y), number = found
        cause = "its WCS, or the epoch of the coordinates" if targets.on_sky else "the first pixel is 0, 0"
        notes.append(
            f"warning: {number} of {plural(len(positions), 'target')} lie {np.hypot(x, y):.1f} px "
            f"(x {x:+.1f}, y {y:+.1f}) from stars of the reference frame {printable(frame.frame_id)}: "
            f"check {cause}"
        )
    if lost:
        notes.append(
            f"warning: no star above {THRESHOLD:g} sigma within {COINCIDENT:g} px of "
            f"{plural(len(lost), 'target')} on the reference frame {printable(frame.frame_id)} "
            f"({shortened(list(map(printable, lost)))}): measured where the coordinates say"
        )
    return tuple(notes)


def _unusable(frame: ScoredFrame, why: str) -> UsageError:
    return UsageError(
        f"the reference frame {printable(frame.frame_id)} {why}",
        expected="a good frame of the field",
        consequence="Nothing was measured",
        remedy="name another frame by --reference; `aqdask info ARCHIVE --frames` lists them",
    )
