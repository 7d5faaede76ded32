"""Airmass and position of the centre of a frame, from its headers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.utils import iers

from aqdask.io.pointing import pointing
from aqdask.specs import FrameMetadata

WCS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 20.0, "CRPIX1": 50.5,
    "CRPIX2": 33.0, "CDELT1": -1e-3, "CDELT2": 1e-3,
}  # fmt: skip
SITE = {"SITELAT": 28.3, "SITELONG": -16.5}
EVENING = int(np.datetime64("2024-05-07T22:00:00", "us").astype(int))
KNOWN = FrameMetadata(time=EVENING, exptime=600.0)


def found(metadata=KNOWN, **cards):
    header = fits.Header(list(cards.items()))
    return pointing("".join(card.image for card in header.cards), "", (65, 100), metadata)


def test_the_centre_of_the_frame_and_the_airmass_of_the_header():
    assert found(AIRMASS=1.25, **WCS) == pytest.approx((1.25, 150, 20), abs=1e-9)


@pytest.mark.parametrize("wrong", [0.0, -1.0, 99.0, "unknown"])
def test_an_airmass_that_is_none_is_computed_for_the_middle_of_the_exposure(wrong):
    airmass = found(AIRMASS=wrong, **WCS, **SITE).airmass
    place = EarthLocation.from_geodetic(-16.5 * u.deg, 28.3 * u.deg)
    with iers.conf.set_temp("auto_download", False):
        frame = AltAz(obstime=Time(EVENING / 1e6 + 300, format="unix"), location=place)
        sky = SkyCoord(150 * u.deg, 20 * u.deg).transform_to(frame)
    assert airmass == pytest.approx(float(sky.secz), rel=2e-3)


@pytest.mark.parametrize(
    "cards",
    [WCS, SITE, {**WCS, "SITELAT": 95.0, "SITELONG": 0.0}, {**WCS, "SITELAT": -89.0, "SITELONG": 0.0}],
)
def test_without_site_position_or_altitude_there_is_no_airmass(cards):
    assert math.isnan(found(**cards).airmass)


@pytest.mark.parametrize(
    "cards",
    [
        {"OBJCTRA": "10 00 00", "OBJCTDEC": "+20 00 00", **SITE},
        {"RA": 150.0, "DEC": 20.0, "SITELAT": "28 18 00", "SITELONG": "-16 30 00"},
        {"TELRA": "10:00:00.0", "TELDEC": "20:00:00", "OBSGEO-B": 28.3, "OBSGEO-L": -16.5},
    ],
)
def test_without_wcs_the_airmass_is_that_of_the_telescope_and_the_position_unknown(cards):
    assert found(**cards) == pytest.approx((found(**WCS, **SITE).airmass, math.nan, math.nan), nan_ok=True)


@pytest.mark.parametrize("wrong", ["here", "99 99 99", 1e9])
def test_a_pointing_that_is_none_gives_no_airmass(wrong):
    assert math.isnan(found(OBJCTRA=wrong, OBJCTDEC="+20 00 00", **SITE).airmass)


def test_without_time_there_is_no_airmass():
    assert found(FrameMetadata(), **WCS, **SITE) == pytest.approx((math.nan, 150, 20), nan_ok=True)


def test_what_is_unknown_is_not_recorded():
    assert found().known() == {}
    assert set(found(**WCS).known()) == {"ra", "dec"}
