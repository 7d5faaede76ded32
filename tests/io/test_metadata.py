"""What cameras write and what we make of it; sky positions compared with astropy's own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from aqdask.io.metadata import header_gain, header_saturate, read_metadata
from aqdask.io.reader import probe
from aqdask.io.wcs import sky_coordinates
from aqdask.specs import FrameMetadata, ReadSpec


def cards(**values: object) -> str:
    """Headers as text; ``_`` in a name stands for ``-``."""
    pairs = [(key.replace("_", "-"), value) for key, value in values.items()]
    return fits.Header(pairs).tostring(endcard=False, padding=False)


def microseconds(iso: str) -> int:
    return int(np.datetime64(iso, "us").astype(int))


TIMES = [
    ({"DATE_OBS": "2022-10-30T01:21:36"}, "2022-10-30T01:21:36"),
    ({"DATE_OBS": "2017-06-11T04:09:03.311554"}, "2017-06-11T04:09:03.311554"),
    ({"DATE_OBS": "2017-06-11 04:09:03Z"}, "2017-06-11T04:09:03"),
    ({"DATE_OBS": "2001-01-20T5:33:58"}, "2001-01-20T05:33:58"),  # TIMMI2 writes hours so
    ({"DATE_OBS": "2018-08-17", "TIME_OBS": "00:52:21"}, "2018-08-17T00:52:21"),
    ({"DATE_OBS": "2020/05/28", "UTSTART": "14:32"}, "2020-05-28T14:32:00"),
    ({"DATE_OBS": "11/03/76", "UT": "17:38:00.00"}, "1976-03-11T17:38:00"),
    ({"DATE_OBS": "26/07/102", "TIME_OBS": "19:36:37"}, "2002-07-26T19:36:37"),  # year 102, seen in ASTRiDE's
    ({"DATE_OBS": "2009-06-25", "UTC_OBS": "2009-06-25T08:41:23.97"}, "2009-06-25T08:41:23.97"),
    ({"DATE_OBS": "30/12/91", "MJD_OBS": 48620.375}, "1991-12-30T09:00:00"),  # a date alone says less
    ({"DATE_BEG": "2024-02-29T00:00:01"}, "2024-02-29T00:00:01"),
    ({"MJD_BEG": 60000.5}, "2023-02-25T12:00:00"),
    ({"JD": 2459882.5}, "2022-10-30T00:00:00"),
    ({"DATE_OBS": "2005-04-03"}, None),  # a date alone is no instant, least of all midnight
    ({"DATE_OBS": "2016-12-31T23:59:59.5"}, "2016-12-31T23:59:59.5"),
    ({"DATE_OBS": "2016-12-31T23:59:60.5"}, "2016-12-31T23:59:59.5"),  # a leap second
    ({"DATE_OBS": "1999-01-19T23:55:12", "TIMESYS": "TT"}, "1999-01-19T23:54:07.816"),  # 32 + 32.184 s
    ({"DATE_OBS": "1999-01-19T23:55:12", "TIMESYS": "UT1"}, "1999-01-19T23:55:11.299249"),
    ({"DATE_OBS": "2024-13-45T00:00:00"}, None),
    ({"DATE_OBS": "2023-02-29T00:00:00"}, None),
    ({"DATE_OBS": "2023-02-29T00:00:00", "MJD_OBS": 60000.5}, "2023-02-25T12:00:00"),
    ({"DATE_OBS": "yesterday", "MJD_OBS": "soon"}, None),
    ({"MJD_OBS": 0.0}, None),
    ({}, None),
]


@pytest.mark.parametrize(("values", "expected"), TIMES)
def test_time(values: dict, expected: str | None) -> None:
    assert read_metadata(cards(**values), "").time == (None if expected is None else microseconds(expected))


OTHERS = [
    ({"EXPTIME": 60}, "exptime", 60.0),
    ({"EXPOSURE": "120.0   "}, "exptime", 120.0),
    ({"EXPTIME": "", "EXPOSURE": 3.5}, "exptime", 3.5),
    ({"EXPTIME": 0.0}, "exptime", 0.0),
    ({"EXPTIME": -1}, "exptime", math.nan),
    ({"EXPTIME": "long"}, "exptime", math.nan),
    ({"FILTER": "L       "}, "filter", "L"),
    ({"FILTER": "Clear"}, "filter", "Clear"),
    ({"FILTER": 3}, "filter", "3"),
    ({"FILTER1": "F606W", "FILTER2": "CLEAR2L"}, "filter", "F606W"),
    ({"FILTER1": "U", "FILTER2": "ND3"}, "filter", "U+ND3"),
    ({"FILTER1": "NOTPRESENT", "FILTER2": "gp"}, "filter", "gp"),
    ({"FILTER1": "OPEN", "FILTER2": "OPEN"}, "filter", "OPEN"),
    ({"FILTNAM1": "F673N", "FILTNAM2": "", "FILTER1": 33}, "filter", "F673N"),
    ({"INSFILTE": "R"}, "filter", "R"),
    ({}, "filter", ""),
    ({"INSTRUME": "STIS", "DETECTOR": "CCD"}, "camera", "STIS"),
    ({"INSTRUME": "  ", "CAMERA": "ASI  1600"}, "camera", "ASI 1600"),
    ({"INSTRUME": "CCD", "XBINNING": 1, "YBINNING": 1}, "camera", "CCD"),
    ({"INSTRUME": "CCD", "XBINNING": 2.0, "YBINNING": 2.0}, "camera", "CCD 2x2"),
    ({"INSTRUME": "CCD", "CCDSUM": "2 4"}, "camera", "CCD 2x4"),
    ({"INSTRUME": "CCD", "BINNING": 3}, "camera", "CCD 3x3"),
    ({"INSTRUME": "CCD", "XBINNING": 0, "YBINNING": "x"}, "camera", "CCD"),
    ({}, "camera", ""),
]


@pytest.mark.parametrize(("values", "coordinate", "expected"), OTHERS)
def test_other_coordinates(values: dict, coordinate: str, expected: object) -> None:
    assert getattr(read_metadata(cards(**values), ""), coordinate) == pytest.approx(expected, nan_ok=True)


def test_image_header_before_the_primary_one() -> None:
    card = read_metadata(cards(EXPTIME=1, FILTER="V"), cards(EXPTIME=2, INSTRUME="CCD", FILTER="R"))
    assert (card.exptime, card.filter, card.camera) == (1, "V", "CCD")


@pytest.mark.parametrize(
    ("override", "coordinate", "expected"),
    [
        (("time", "MIDPOINT"), "time", microseconds("2020-01-01T00:00:00")),
        (("time", "OBSMJD"), "time", microseconds("2023-02-25T12:00:00")),
        (("time", "OBSJD"), "time", microseconds("2022-10-30T00:00:00")),
        (("time", "ABSENT"), "time", None),
        (("exptime", "SHUTTER"), "exptime", 7.0),
        (("filter", "GLASS"), "filter", "H"),
        (("camera", "CHIP"), "camera", "EEV 2x2"),
    ],
)
def test_override(override: tuple[str, str], coordinate: str, expected: object) -> None:
    header = cards(
        DATE_OBS="2001-01-01T00:00:00", EXPTIME=1, FILTER="V", INSTRUME="I", MIDPOINT="2020-01-01T00:00:00",
        OBSMJD=60000.5, OBSJD=2459882.5, SHUTTER=7, GLASS="H", CHIP="EEV", XBINNING=2, YBINNING=2,
    )  # fmt: skip
    assert getattr(read_metadata(header, "", (override,)), coordinate) == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(-(10**9), 4 * 10**9).map(lambda s: s * 10**6 + 123457))
def test_time_is_exact_to_the_microsecond(time: int) -> None:
    iso = str(np.datetime64(time, "us"))
    assert read_metadata(cards(DATE_OBS=iso), "").time == time
    # a double holds an MJD to a microsecond; days with a leap second are a second longer
    mjd = 40587 + time / 86400e6
    assert read_metadata(cards(MJD_OBS=mjd), "").time == pytest.approx(time, abs=1.1e6)


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.characters(max_codepoint=255), max_size=400),
    st.sampled_from(["", "DATE-OBS= ", "EXPTIME = '"]),
)
def test_any_text_gives_a_card(text: str, start: str) -> None:
    assert isinstance(read_metadata((start + text).ljust(80), text), FrameMetadata)
    assert sky_coordinates(start + text, text, np.zeros(1), np.zeros(1)) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"GAIN": 1.5}, 1.5),
        ({"EGAIN": "2.25 ", "GAIN": 120}, 2.25),  # GAIN is a setting of the amplifier there
        ({"GAIN": 120}, math.nan),
        ({"GAIN": 0}, math.nan),
        ({"GAIN": "high"}, math.nan),
        ({"GAIN": True}, math.nan),
        ({"GAIN": "nan"}, math.nan),
        ({}, math.nan),
    ],
)
def test_gain(values: dict, expected: float) -> None:
    assert header_gain(cards(**values), "") == pytest.approx(expected, nan_ok=True)
    assert header_gain("", cards(**values)) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(
    st.text(max_size=400),
    st.sampled_from(
        ["", "GAIN    = ", "EGAIN   = '", "GAIN    = 1.5 / \xe9", "GAIN    = 1e999", "CONTINUE  '"]
    ),
)
def test_any_text_gives_a_gain_or_none(text: str, start: str) -> None:
    gain = header_gain((start + text).ljust(80), text)
    assert math.isnan(gain) or 0.01 <= gain <= 100


def tan(**more: object) -> str:
    header = fits.Header(
        [("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CRVAL1", 120.0), ("CRVAL2", -30.0)]
    )
    header.update(CRPIX1=11, CRPIX2=21, CDELT1=-0.001, CDELT2=0.001, **more)
    return header.tostring(endcard=False, padding=False)


class TestSky:
    @pytest.mark.parametrize("place", ["image", "primary"])
    def test_reference_pixel(self, place: str) -> None:
        texts = (tan(), "") if place == "image" else (cards(EXPTIME=1), tan())
        ra, dec = sky_coordinates(*texts, np.array([[20.0], [1020.0]]), np.array([10.0]))
        assert_allclose((ra[0, 0], dec[0, 0], dec[1, 0]), (120, -30, -29), atol=1e-3)

    def test_icrs_whatever_the_frame(self) -> None:
        """B1950 precesses by more than half a degree."""
        ra, _ = sky_coordinates(tan(RADESYS="FK4", EQUINOX=1950.0), "", np.array([20.0]), np.array([10.0]))
        assert_allclose(ra, 120.52, atol=0.05)

    @pytest.mark.parametrize("axes", [("", ""), ("LINEAR", "LINEAR"), ("RA---TAN", "FREQ")])
    def test_none(self, axes: tuple[str, str]) -> None:
        text = cards(CTYPE1=axes[0], CTYPE2=axes[1])
        assert sky_coordinates(text, "", np.zeros(2), np.zeros(2)) is None

    @pytest.mark.real
    def test_real_headers_give_positions_or_none(self, data_dir: Path) -> None:
        for name in ("bad_inputs/astropy_sip-wcs.fits", "formats/panoptes_solved.fits.fz"):
            (info,) = probe(data_dir / name, ReadSpec())
            found = sky_coordinates(info.header, info.primary_header, np.array([5.0]), np.array([5.0]))
            assert found is not None, name
            assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"SATURATE": 60000}, 60000.0),
        ({"SATURATE": "62000.5"}, 62000.5),
        ({"SATURATE": 0}, math.nan),
        ({"SATURATE": -1.0}, math.nan),
        ({"SATURATE": "yes"}, math.nan),
        ({"DATAMAX": 60000}, math.nan),
        ({}, math.nan),
    ],
    ids=str,
)
def test_saturate(values: dict, expected: float) -> None:
    assert header_saturate(cards(**values), "") == pytest.approx(expected, nan_ok=True)
    assert header_saturate("", cards(**values)) == pytest.approx(expected, nan_ok=True)
