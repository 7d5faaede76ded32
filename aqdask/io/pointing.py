"""Airmass and sky position of a frame from its headers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import erfa
import numpy as np

from aqdask.io.cards import Headers, quiet
from aqdask.io.wcs import sky_coordinates
from aqdask.specs import FrameMetadata

AIRMASS = ("AIRMASS", "SECZ", "HIERARCH ESO TEL AIRM START")
# Latitude and longitude in degrees, east positive. Keywords whose sign of the longitude differs between
# observatories (LONGITUD, OBSLONG) are not used.
SITES = (
    ("OBSGEO-B", "OBSGEO-L"), ("LAT-OBS", "LONG-OBS"), ("SITELAT", "SITELONG"),
    ("HIERARCH ESO TEL GEOLAT", "HIERARCH ESO TEL GEOLON"),
)  # fmt: skip
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

    The airmass is that of the header, else it is computed for the middle of the exposure from the site, the
    time and the WCS, without refraction and polar motion and with UT1 = UTC.

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
    if metadata.time is None or not math.isfinite(ra):
        return Pointing(ra=ra, dec=dec)
    middle = metadata.time / 1e6 + (metadata.exptime if metadata.exptime > 0 else 0) / 2
    computed = (_airmass(ra, dec, *site, middle) for site in _sites(cards))
    return Pointing(next(computed, math.nan), ra, dec)


def _sites(cards: Headers) -> Iterator[tuple[float, float]]:
    """Yield latitude and longitude in degrees from each pair of cards that has both."""
    for keywords in SITES:
        latitude, longitude = (cards.number([keyword]) for keyword in keywords)
        if abs(latitude) <= 90 and abs(longitude) <= 360:
            yield latitude, longitude


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
