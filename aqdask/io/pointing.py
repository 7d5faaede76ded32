"""Airmass and sky position of a frame from its headers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import erfa
import numpy as np
from astropy.coordinates import Angle

from aqdask.io.cards import Headers, as_number, quiet
from aqdask.io.wcs import sky_coordinates
from aqdask.specs import FrameMetadata

AIRMASS = ("AIRMASS", "SECZ", "HIERARCH ESO TEL AIRM START")
# Latitude and longitude in degrees, east positive. Keywords whose sign of the longitude differs between
# observatories (LONGITUD, OBSLONG) are not used.
SITES = (
    ("OBSGEO-B", "OBSGEO-L"), ("LAT-OBS", "LONG-OBS"), ("SITELAT", "SITELONG"),
    ("HIERARCH ESO TEL GEOLAT", "HIERARCH ESO TEL GEOLON"),
)  # fmt: skip
# Where the telescope was pointed, good enough for an airmass: degrees, or sexagesimal hours and degrees.
TELESCOPE = (("OBJCTRA", "OBJCTDEC"), ("RA", "DEC"), ("TELRA", "TELDEC"))
HIGHEST = 40.0  # airmass at the horizon: 38 (Pickering 2002)


class Pointing(NamedTuple):
    """Airmass and position of the centre of a frame in degrees (ICRS); NaN where unknown."""

    airmass: float = math.nan
    ra: float = math.nan
    dec: float = math.nan

    def known(self) -> dict[str, float]:
        """Return the values that are not NaN, by name."""
        return {name: value for name, value in self._asdict().items() if math.isfinite(value)}


def pointing(header: str, primary_header: str, shape: tuple[int, ...], metadata: FrameMetadata) -> Pointing:
    """Return the pointing of a frame.

    The position is that of the WCS. The airmass is that of the header, else it is computed for the middle of
    the exposure from the site, the time and the position (without WCS, where the telescope was pointed),
    without refraction and polar motion and with UT1 = UTC.

    Parameters
    ----------
    header, primary_header : str
        Cards as in `aqdask.specs.FrameInfo`.
    shape : tuple of int
        ``(y, x)`` of the frame.
    metadata : FrameMetadata
        Time and exposure are used.
    """
    cards = Headers(header, primary_header)
    ra = dec = math.nan
    if cards.holds("CTYPE1"):  # most of the time is wcslib's
        y, x = ((length - 1) / 2 for length in shape)
        found = sky_coordinates(header, primary_header, np.array(y), np.array(x))
        ra, dec = (float(value) for value in found) if found is not None else (ra, dec)
    stated = cards.number(AIRMASS)
    if 1 <= stated <= HIGHEST:
        return Pointing(stated, ra, dec)
    if metadata.time is None:
        return Pointing(ra=ra, dec=dec)
    place = (ra, dec) if math.isfinite(ra) else next(_pairs(cards, TELESCOPE, "hourangle", "deg"), None)
    site = next(_pairs(cards, SITES, "deg", "deg"), None)
    if place is None or site is None or abs(place[1]) > 90 or abs(site[0]) > 90:
        return Pointing(ra=ra, dec=dec)
    middle = metadata.time / 1e6 + (metadata.exptime if metadata.exptime > 0 else 0) / 2
    return Pointing(_airmass(*place, *site, middle), ra, dec)


def _pairs(cards: Headers, keywords: Sequence[tuple[str, str]], *units: str) -> Iterator[tuple[float, float]]:
    """Yield two angles in degrees from each pair of cards that has both."""
    for pair in keywords:
        one, other = (_angle(cards, keyword, unit) for keyword, unit in zip(pair, units, strict=True))
        if abs(one) <= 360 and abs(other) <= 360:
            yield one, other


def _angle(cards: Headers, keyword: str, unit: str) -> float:
    """Return an angle in degrees, given so or sexagesimal in ``unit``; NaN where absent or unreadable."""
    text = cards.text([keyword])
    if not text or math.isfinite(as_number(text)):
        return as_number(text)
    try:
        return float(Angle(text, unit).deg)
    except Exception:  # astropy's parser may fail on any damaged card
        return math.nan


def _airmass(ra: float, dec: float, latitude: float, longitude: float, unix: float) -> float:
    """Compute the airmass (Pickering 2002) of an ICRS position in degrees at a Unix time; NaN once set."""
    place = np.radians([ra, dec]), np.radians([longitude, latitude])
    date = 2440587.5, unix / 86400
    with quiet():  # of years without leap seconds
        _, zenith, *_ = erfa.atco13(*place[0], 0, 0, 0, 0, *date, 0, *place[1], 0, 0, 0, 0, 0, 0, 0.5)
    altitude = 90 - math.degrees(zenith)
    if altitude <= 0:
        return math.nan
    return 1 / math.sin(math.radians(altitude + 244 / (165 + 47 * altitude**1.1)))
