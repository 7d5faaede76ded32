"""Filters, cameras and levels of odd headers: several wheels and detectors, unreadable and repeated cards."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from astropy.io import fits
from header_text import INSTANT, cards, described, microseconds, of_file, raw

from aqdask.io.metadata import header_gain, header_saturate, read_metadata
from aqdask.io.reader import probe
from aqdask.specs import FrameMetadata as Meta
from aqdask.specs import ReadSpec


@pytest.mark.real
class TestTrouble:
    def test_filters(self, make_trouble: ModuleType, tmp_path: Path) -> None:
        right = make_trouble.filters(tmp_path)
        found = {path.stem: of_file(path).filter for path in tmp_path.glob("*.fits")}
        assert all(name.isprintable() for name in found.values())
        for group in (right["all of these differ"], *right["differ"]):
            assert len({found[name] for name in group}) == len(group)
        assert {name: found[name] for name in right["is"]} == right["is"]
        assert (found["none"], found["halpha_utf8"], found["gruen_latin1"]) == ("", "Hα", "grün")

    def test_chips(self, make_trouble: ModuleType, tmp_path: Path) -> None:
        make_trouble.chips(tmp_path)
        paths = sorted(tmp_path.rglob("*.fits"))
        named = [tuple(info.metadata.camera for info in probe(path, ReadSpec(hdu="all"))) for path in paths]
        assert set(named) == {("MosCam IM1", "MosCam IM2", "MosCam IM3", "MosCam IM4")}
        # the same name, however the chip was asked for
        for hdu, camera in (("first", "MosCam IM1"), ("im3", "MosCam IM3"), ("4", "MosCam IM4")):
            assert probe(paths[0], ReadSpec(hdu=hdu))[0].metadata.camera == camera


FILTERS = [
    ({"FILTER": "R", "FILTER2": "ND1"}, "R+ND1"),
    ({"FILTER": "R", "FILTER1": "R", "FILTER2": "Open"}, "R"),
    ({"FILTER": "gp", "FILTER1": "gp", "FILTER2": "air", "FILTER3": "air"}, "gp"),
    ({"FILTER": "air,gp", "FILTER1": "air", "FILTER2": "gp"}, "air,gp"),
    ({"FILTER": "", "FILTER1": "Clear", "FILTER2": "empty"}, "Clear"),
    ({"FILTER1": "open1-6", "FILTER2": "r_G0303"}, "r_G0303"),
    ({"FILTER1": "CLEAR1L", "FILTER2": "CLEAR2S"}, "CLEAR1L"),
    ({"FILTER1": "ND1", "FILTER2": "ND1"}, "ND1+ND1"),
    ({"FILTER": "V ND", "FILTER2": "ND"}, "V ND+ND"),
    ({"FILTER1": "Na", "FILTER2": "NaI"}, "Na+NaI"),
    ({"FILTER1": "ClearCH4", "FILTER2": "OpenCaT"}, "ClearCH4+OpenCaT"),
    ({"FILTER1": "FreeSpectrum", "FILTER2": "Nonesuch"}, "FreeSpectrum+Nonesuch"),
    ({"FILTER1": "0.5ND", "FILTER2": "0"}, "0.5ND"),
    ({"FILTER01": "g", "FILTER02": "ND", "FILTER03": "Empty 3"}, "g+ND"),
    ({"FILTER": "None", "FILTNAM": "Ha"}, "Ha"),
    ({"FILTER": "Clear", "FILTERID": 7}, "Clear"),
    ({"ALFLTNM": "Open", "FAFLTNM": "g'_SDSS", "FBFLTNM": "Open"}, "g'_SDSS"),
    ({"FILTER_A": "V", "FILTER_B": "FREE"}, "V"),
    ({"HIERARCH ESO INS FILT1 NAME": "OPEN", "HIERARCH ESO INS FILT2 NAME": "H"}, "H"),
    ({"FILTER": "K", "HIERARCH ESO INS FILT1 NAME": "K", "HIERARCH ESO INS FILT2 NAME": "ND"}, "K+ND"),
    ({"FILTER": "F444W", "PUPIL": "F405N"}, "F444W+F405N"),
    ({"FILTER": "F444W", "PUPIL": "CLEAR"}, "F444W"),
    ({"FILTER": "F150W", "PUPIL": "CLEARP"}, "F150W"),
    ({"FILTER": "CLEAR", "PUPIL": "CLEAR"}, "CLEAR"),
    ({"FILTER": "R", "PUPIL": 8.2}, "R"),  # metres
    ({"FILTER": "No Filter", "FILTER1": "V"}, "V"),
    ({"FILTER": "Blank"}, "Blank"),
    ({"FILTER": "Hα".encode().decode("latin-1")}, "Hα"),
    ({"FILTER": "Ångström".encode().decode("latin-1"), "FILTER2": "ND"}, "Ångström+ND"),
    ({"FILTER": "gr\xfcn"}, "grün"),
    ({"FILTER": "a\x01b"}, "a\\x01b"),
    ({"FILTER": "a\x1fb"}, "a\\x1fb"),
    ({"FILTER": "R\0\0\0"}, "R"),
    ({"FILTER": "H\xa0'\xe9'"}, "H\xa0'é'"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "right"), FILTERS)
def test_filter(values: dict, right: str) -> None:
    lines = [
        f"{key:8}= " + (f"'{value.replace(chr(39), chr(39) * 2)}'" if isinstance(value, str) else str(value))
        for key, value in values.items()
    ]
    assert read_metadata(raw(*lines), "") == Meta(filter=right)


def test_long_name_beyond_ascii() -> None:
    lines = (
        "FILTER  = 'Continuum \xe9&'",
        "CONTINUE  'toil\xe9&' / c",
        "CONTINUE  ' \xb5'",
        "FILTER2 = 'ND'",
    )
    assert read_metadata(raw(*lines), "").filter == "Continuum étoilé µ+ND"


CAMERAS = [
    ({"INSTRUME": "MosCam", "CCDNUM": 3}, "MosCam 3"),
    ({"INSTRUME": "MosCam", "CCDNAME": "E2V-7"}, "MosCam E2V-7"),
    ({"INSTRUME": "MosCam", "CHIPID": "chip 2"}, "MosCam chip 2"),
    ({"INSTRUME": "NIRCAM", "DETECTOR": "NRCA1"}, "NIRCAM NRCA1"),
    ({"INSTRUME": "ACS", "DETECTOR": "WFC", "CCDCHIP": 2}, "ACS WFC 2"),
    ({"INSTRUME": "WFPC2", "DETECTOR": 2}, "WFPC2 2"),
    ({"INSTRUME": "STIS", "DETECTOR": "NUV-MAMA"}, "STIS NUV-MAMA"),
    ({"INSTRUME": "ZTF/MOSAIC", "CCDID": 4, "QID": 2}, "ZTF/MOSAIC 4 2"),
    ({"INSTRUME": "TESS Photometer", "CAMERA": 1, "CCD": 4}, "TESS Photometer 4 1"),
    ({"INSTRUME": "NICMOS", "CAMERA": 2}, "NICMOS 2"),
    ({"INSTRUME": "Cam", "CAMERA": "driver 1.25"}, "Cam"),
    ({"INSTRUME": "Cam", "DETECTOR": "UNKNOWN", "CCDNAME": "default"}, "Cam"),
    ({"CAMERA": 1}, "1"),
    ({"DETECTOR": "E2"}, "E2"),
    ({"INSTRUME": "Cam 1", "CCDID": 1, "QID": 2}, "Cam 1 1 2"),
    ({"INSTRUME": "Cam 1", "CCDID": 2, "QID": 1}, "Cam 1 2 1"),
    ({"INSTRUME": "KCWI", "DETECTOR": "KCWI blue"}, "KCWI blue"),
    ({"INSTRUME": "EEV 42-40", "CCDNAME": "EEV 42-40"}, "EEV 42-40"),
    ({"INSTRUME": "MosCam", "CCDNUM": 3, "XBINNING": 2, "YBINNING": 2}, "MosCam 3 2x2"),
    ({"DETECTOR": "SITe 3"}, "SITe 3"),
]


@pytest.mark.parametrize(("values", "right"), CAMERAS)
def test_camera(values: dict, right: str) -> None:
    assert described(values).camera == right


@pytest.mark.parametrize("name", ["SCI", "IMAGE", "PRIMARY", "COMPRESSED_IMAGE", "obs00123", ""])
def test_extension_name_that_is_no_chip(name: str) -> None:
    assert read_metadata(cards({"EXTNAME": name, "INSTRUME": "Cam"}), cards({"EXPTIME": 1.0})).camera == "Cam"


def cameras(path: Path, *extensions: dict[str, object]) -> list[str]:
    """Camera names of a file with these image extensions under one INSTRUME."""
    primary = fits.PrimaryHDU()
    primary.header["INSTRUME"], primary.header["DATE-OBS"] = "Cam", INSTANT
    images = [fits.ImageHDU(np.ones((4, 4), "i2"), fits.Header(list(e.items()))) for e in extensions]
    fits.HDUList([primary, *images]).writeto(path)
    return [info.metadata.camera for info in probe(path, ReadSpec(hdu="all"))]


FILES = [
    ([{"EXTNAME": "NORTH"}, {"EXTNAME": "SOUTH"}], ["Cam NORTH", "Cam SOUTH"]),
    ([{}, {}], ["Cam 1", "Cam 2"]),
    ([{"EXTNAME": "SCI", "EXTVER": 1}, {"EXTNAME": "SCI", "EXTVER": 2}], ["Cam SCI,1", "Cam SCI,2"]),
    ([{"EXTNAME": "SCI"}, {"EXTNAME": "ERR"}], ["Cam", "Cam ERR"]),
    ([{"EXTNAME": "SCI"}], ["Cam"]),
    ([{"CCDNUM": 1}, {"CCDNUM": 2}], ["Cam 1", "Cam 2"]),
    ([{"CCDNUM": 1, "EXTNAME": "a"}, {"CCDNUM": 1, "EXTNAME": "b"}], ["Cam 1 a", "Cam 1 b"]),
    # two exposures of one detector
    ([{"EXTVER": 1, "MJD-OBS": 60374.5}, {"EXTVER": 2, "MJD-OBS": 60374.51}], ["Cam", "Cam"]),
]


@pytest.mark.parametrize(("extensions", "right"), FILES)
def test_detectors_of_one_file(extensions: list[dict], right: list[str], tmp_path: Path) -> None:
    assert cameras(tmp_path / "a.fits", *extensions) == right


NOT_SECONDS = "the card EXPTIME is not an exposure time: exposure time unknown"
UNREADABLE = [
    (raw("EXPTIME = 60,0"), Meta(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME = 1 2"), Meta(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME = NaN"), Meta(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME=60.0"), Meta(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME = '60,0'"), Meta(notes=(NOT_SECONDS,))),
    (raw("EXPTIME = '6_0'"), Meta(notes=(NOT_SECONDS,))),
    (
        raw("EXPTIME = 60,0", "EXPOSURE= 30.0"),
        Meta(exptime=30.0, notes=("the card EXPTIME cannot be read: exposure time taken from EXPOSURE",)),
    ),
    (raw("EXPTIME ="), Meta()),  # undefined, as the standard allows
    (raw("EXPTIME =   / seconds"), Meta()),
    # another card says the same: one is enough
    (raw("FILTER  = 'R'", "BAND    = 5-8 GHz"), Meta(filter="R")),
    (raw("INSTRUME= 'A'", "CAMNAME = B C"), Meta(camera="A")),
    (raw("INSTRUME= 'A'", "XBINNING= 2", "YBINNING= 2", "BINNING = 2x2"), Meta(camera="A 2x2")),
    (raw("FILTER  = R"), Meta(notes=("the card FILTER cannot be read: filter unknown",))),
    (raw("FILTER  = 'R", "FILTER1 = 'V'"), Meta(notes=("the card FILTER cannot be read: filter unknown",))),
    (raw("FILTER  = 'H\xe9' x"), Meta(notes=("the card FILTER cannot be read: filter unknown",))),
    (raw("FILTER  = 'R'", "FILTER2 = ND"), Meta(notes=("the card FILTER2 cannot be read: filter unknown",))),
    (raw("INSTRUME= A B", "CAMERA  = 1"), Meta(notes=("the card INSTRUME cannot be read: camera unknown",))),
    (raw("INSTRUME= 'A'", "CCDNUM  = 1,2"), Meta(notes=("the card CCDNUM cannot be read: camera unknown",))),
    (raw("INSTRUME= 'A'", "XBIN    = 2,0"), Meta(notes=("the card XBIN cannot be read: camera unknown",))),
    (raw("DATE-OBS= 2024-03-05T21:34:56"), Meta(notes=("the card DATE-OBS cannot be read: time unknown",))),
    (
        raw("DATE-OBS= 2024-03-05T21:34:56", "MJD-OBS = 60374.875"),
        Meta(
            microseconds("2024-03-05T21:00:00"),
            notes=("the card DATE-OBS cannot be read: time taken from MJD-OBS",),
        ),
    ),
    (
        raw("DATE-OBS= '2024-03-05'", "UT      = 21:34:56", "TIME    = 3"),
        Meta(notes=("the card UT cannot be read: time unknown",)),
    ),
    (
        raw("DATE-OBS= '2024-03-05T21:34:56'", "TIMESYS = TAI"),
        Meta(notes=("the time system in TIMESYS is not understood: time unknown",)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("header", "right"), UNREADABLE)
def test_card_that_cannot_be_read(header: str, right: Meta) -> None:
    for found in (read_metadata(header, ""), read_metadata(header, cards({"OBJECT": "x"}))):
        assert found.exptime == pytest.approx(right.exptime, nan_ok=True)
        assert (found.time, found.filter, found.camera, found.notes) == (
            right.time, right.filter, right.camera, right.notes,
        )  # fmt: skip


@pytest.mark.parametrize("coordinate", ["time", "exptime", "filter", "camera"])
def test_named_card_that_cannot_be_read(coordinate: str) -> None:
    card = read_metadata(raw("MINE    = 1 2", "EXPTIME = 1.0"), "", ((coordinate, "MINE"),))
    (note,) = card.notes
    assert note.startswith("the card MINE cannot be read: ")
    assert getattr(card, coordinate) in (None, "") or math.isnan(getattr(card, coordinate))


@pytest.mark.parametrize("text", ["EGAIN   = 1,5", "EGAIN   = 1 5", "EGAIN   = 'high'", "EGAIN=1.5"])
def test_gain_that_cannot_be_read_is_not_the_amplifier_setting(text: str) -> None:
    assert math.isnan(header_gain(raw(text, "GAIN    = 1.0"), ""))
    assert math.isnan(header_saturate(raw("SATURATE= 60 000"), ""))


TWICE = "appears twice with different values"
D = "DATE-OBS= '2024-03-05T21:34:56'"
REPEATED = [
    ((D, "DATE-OBS= '2020-01-01T00:00:00'"), Meta(notes=(f"the card DATE-OBS {TWICE}: time unknown",))),
    (("FILTER  = 'R'", "FILTER  = 'B'"), Meta(notes=(f"the card FILTER {TWICE}: filter unknown",))),
    (("EXPTIME = 10.0", "EXPTIME = 30.0"), Meta(notes=(f"the card EXPTIME {TWICE}: exposure time unknown",))),
    (("INSTRUME= 'A'", "INSTRUME= 'B'"), Meta(notes=(f"the card INSTRUME {TWICE}: camera unknown",))),
    (("SATURATE= 60000", "SATURATE= 50000"), Meta(notes=(f"the card SATURATE {TWICE}: saturation unknown",))),
    (("GAIN    = 1.5", "GAIN    = 2.5"), Meta(notes=(f"the card GAIN {TWICE}: gain unknown",))),
    (
        ("EXPTIME = 10.0", "EXPTIME = 30.0", "EXPOSURE= 10.0"),
        Meta(exptime=10.0, notes=(f"the card EXPTIME {TWICE}: exposure time taken from EXPOSURE",)),
    ),
    (("FILTER  = 'R'", "FILTER  = B"), Meta(notes=("the card FILTER cannot be read: filter unknown",))),
    (
        ("FILTER  = 'R&'", "CONTINUE  'a'", "FILTER  = 'R&'", "CONTINUE  'b'"),
        Meta(notes=(f"the card FILTER {TWICE}: filter unknown",)),
    ),
    (("FILTER  = 'R&'", "CONTINUE  'a'", "FILTER  = 'Ra'"), Meta(filter="Ra")),
    ((D, D + " / again"), Meta(microseconds("2024-03-05T21:34:56"))),
    (("EXPTIME = 10", "EXPTIME = 10.0 / s", "EXPTIME = '10'"), Meta(exptime=10.0)),
    (("FILTER  = 'R'", "FILTER  ="), Meta(filter="R")),
    (("FILTER  =", "FILTER  = 'R'"), Meta(filter="R")),
    (("COMMENT = 1", "COMMENT = 2", "HISTORY a", "HISTORY b", "FILTER  = 'R'", "", ""), Meta(filter="R")),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "right"), REPEATED)
def test_card_that_stands_twice(lines: tuple[str, ...], right: Meta) -> None:
    for found in (read_metadata(raw(*lines), ""), read_metadata(cards({"OBJECT": "x"}), raw(*lines))):
        assert found.exptime == pytest.approx(right.exptime, nan_ok=True)
        assert (found.time, found.filter, found.camera, found.notes) == (
            right.time, right.filter, right.camera, right.notes,
        )  # fmt: skip
    assert math.isnan(header_gain(raw(*lines), ""))
    assert math.isnan(header_saturate(raw(*lines), ""))


@pytest.mark.parametrize(
    ("lines", "notes"),
    [
        (["SATURATE= 60 000"], ("the card SATURATE cannot be read: saturation unknown",)),
        (["GAIN    = 1,5"], ("the card GAIN cannot be read: gain unknown",)),
        (["EGAIN   = 1,5", "GAIN    = 120"], ("the card EGAIN cannot be read: gain unknown",)),
        (["EGAIN   = 1.5", "GAIN    = 1,2"], ()),
        (["GAIN    = 'high'", "SATURATE= 60000"], ()),
        (["CTYPE1  = 'RA---TAN'", "CRVAL1  = 12345,0", "CRPIX1  = -1.5D2", "CRPIX2  = 1e3", "CRVAL2  ="],
         ("the card CRVAL1 cannot be read: sky positions unknown",)),
        (["CTYPE1  = 'RA---TAN'", "CRPIX2  = 1.0", "CRPIX2  = 2.0"],
         (f"the card CRPIX2 {TWICE}: sky positions unknown",)),
        (["CRVAL1  = 12345,0"], ()),  # of no WCS
    ],
)  # fmt: skip
def test_notes_on_levels_and_sky(lines: list[str], notes: tuple[str, ...]) -> None:
    assert read_metadata(raw(*lines), "").notes == read_metadata("", raw(*lines)).notes == notes


def test_saturation_that_cannot_be_read_is_not_that_of_the_primary_header() -> None:
    assert math.isnan(header_saturate(raw("SATURATE= 60 000"), raw("SATURATE= 100")))


@pytest.mark.parametrize(
    ("coordinate", "what"),
    [("time", "time"), ("exptime", "exposure time"), ("filter", "filter"), ("camera", "camera")],
)
def test_named_card_that_says_nothing(coordinate: str, what: str) -> None:
    full = raw(D, "EXPTIME = 1.0", "FILTER  = 'R'", "INSTRUME= 'A'", "BLANKED =")
    for keyword, reason in (("NOPE", "is missing"), ("BLANKED", "has no value")):
        card = read_metadata(full, "", ((coordinate, keyword),))
        assert card.notes == (f"the card {keyword} of --keyword {reason}: {what} unknown",)
        assert getattr(card, coordinate) in (None, "") or math.isnan(getattr(card, coordinate))
