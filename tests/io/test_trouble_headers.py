"""Times, filters and detectors of headers that go wrong: those of the trouble folder, and their siblings."""

from __future__ import annotations

import datetime
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.utils import iers
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.io.cards import Headers
from aqdask.io.metadata import header_gain, header_saturate, read_metadata
from aqdask.io.observation_time import DATE, start_time
from aqdask.io.reader import probe
from aqdask.specs import Card, ReadSpec


def cards(values: dict[str, object]) -> str:
    return fits.Header(list(values.items())).tostring(endcard=False, padding=False)


def raw(*lines: str) -> str:
    return "".join(line.ljust(80) for line in lines)


def described(values: dict[str, object]) -> Card:
    return read_metadata(cards(values), "")


def microseconds(iso: str | None) -> int | None:
    return None if iso is None else int(np.datetime64(iso, "us").astype(int))


@pytest.fixture(scope="module")
def trouble(data_dir: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_trouble", data_dir / "trouble" / "make_trouble.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_file(path: Path) -> Card:
    return probe(path, ReadSpec())[0].card


@pytest.mark.real
class TestTrouble:
    def test_clocks(self, trouble: ModuleType, tmp_path: Path) -> None:
        for name, right in trouble.clocks(tmp_path).items():
            card = of_file(tmp_path / f"{name}.fits")
            assert card.time == microseconds(right), name
            assert (card.time is None) == bool(card.notes), name

    def test_filters(self, trouble: ModuleType, tmp_path: Path) -> None:
        right = trouble.filters(tmp_path)
        found = {path.stem: of_file(path).filter for path in tmp_path.glob("*.fits")}
        assert all(name.isprintable() for name in found.values())
        for group in (right["all of these differ"], *right["differ"]):
            assert len({found[name] for name in group}) == len(group)
        assert {name: found[name] for name in right["is"]} == right["is"]
        assert (found["none"], found["halpha_utf8"], found["gruen_latin1"]) == ("", "Hα", "grün")

    def test_chips(self, trouble: ModuleType, tmp_path: Path) -> None:
        trouble.chips(tmp_path)
        paths = sorted(tmp_path.rglob("*.fits"))
        named = [tuple(info.card.camera for info in probe(path, ReadSpec(hdu="all"))) for path in paths]
        assert set(named) == {("MosCam IM1", "MosCam IM2", "MosCam IM3", "MosCam IM4")}
        # the same name, however the chip was asked for
        for hdu, camera in (("first", "MosCam IM1"), ("im3", "MosCam IM3"), ("4", "MosCam IM4")):
            assert probe(paths[0], ReadSpec(hdu=hdu))[0].card.camera == camera


INSTANT = "2024-03-05T21:34:56"
DIALECTS = [
    "2024-03-05T21:34:56", "2024-03-05T21:34:56Z", "2024-03-05t21:34:56z", "2024/03/05 21:34:56",
    "2024.03.05 21:34:56", "2024:03:05 21:34:56", "2024_03_05_21:34:56", "2024-3-5T21:34:56",
    "2024- 3- 5 21:34:56", "2024-03-05  21:34:56", "2024-03-05-21:34:56", "2024-03-05, 21:34:56",
    "2024-03-05T21:34:56 UTC", "2024-03-05T21:34:56 (UT)", "2024-03-05T21:34:56[UTC]",
    "2024-03-05T21:34:56GMT",
    "2024-03-05 UT 21:34:56", "2024-03-05T21:34:56+00", "2024-03-05T21:34:56-00:00",
    "2024-03-05T21:34:56+0000",
    "2024-03-06T03:04:56+0530", "2024-03-06T03:04:56 +05:30", "2024-03-05T18:34:56-03:00",
    "2024-03-05T18:34:56-3",
    "2024-03-05T11:34:56 UTC-10", "2024-03-05T23:34:56 GMT+02:00", "2024-03-05T18:34:56\u221203:00",
    "2024-03-05T21:34:56,", "2024-03-05T21:34:56,000", "2024-03-05T21:34:56:000", "2024-03-05T21_34_56",
    "2024-03-05 21 34 56", "2024-03-05T21h34m56s", "2024-03-05 21h 34m 56.0s", "20240305213456",
    "20240305 213456",
    "20240305T213456Z", "20240305T213456.000+0000", "2024-065T21:34:56", "2024:065:21:34:56",
    "2024065T213456",
    "05-MAR-2024 21:34:56", "5 March 2024 21:34:56", "Mar 5, 2024 21:34:56", "2024-Mar-05T21:34:56",
    "Tue, 05 Mar 2024 21:34:56 GMT", "Tue Mar  5 21:34:56 2024", "Tue Mar  5 21:34:56 UTC 2024",
    "2024-03-05 09:34:56 p.m.", "2024-03-05 9:34:56pm", "2024-03-05T21:33:60+00:00", "'2024-03-05T21:34:56'",
    "2024-03-05T21:35:33 TAI", "2024-03-05T21:36:05.184(TT)", "2024-03-05T21:35:14 GPS",
    "5th March 2024 21:34:56", "2024-03-05T21 : 34 : 56",
    "2024.03.05.21.34.56", "2024-03-05-21-34-56", "20240305-213456", "+02024-03-05T21:34:56",
]  # fmt: skip


@pytest.mark.parametrize("text", DIALECTS)
def test_dialect(text: str) -> None:
    right = microseconds("2024-03-05T21:34:00" if ":33:60" in text else INSTANT)
    header = raw(f"DATE-OBS= '{text.replace(chr(39), chr(39) * 2)}'".encode().decode("latin-1"))
    assert read_metadata(header, "") == Card(time=right)
    assert read_metadata(header, "", (("time", "DATE-OBS"),)).time == right


DATED = [
    ({"DATE-OBS": "25/12/2023", "UT": "01:02:03"}, "2023-12-25T01:02:03"),  # no month has the number 25
    ({"DATE-OBS": "12-25-2023", "UT": "01:02:03"}, "2023-12-25T01:02:03"),
    ({"DATE-OBS": "05.05.2024", "UT": "01:02:03"}, "2024-05-05T01:02:03"),
    ({"DATE-OBS": "05/03/2024", "UT": "21:34:56", "MJD-OBS": 60374.899259}, "2024-03-05T21:34:55.977600"),
    ({"DATE-OBS": "2024-03-05", "UT": "21 34 56"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": "21h34m56s"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": "UT 21:34:56"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": "21: 34: 56"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": "9:34:56 PM"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": "213456"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": "21.582222"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": 77696.0}, INSTANT),  # seconds: 7:76:96 is no clock
    ({"DATE-OBS": "2024-03-05", "UT": 213456.0}, INSTANT),  # hhmmss: a day has no such second
    ({"DATE-OBS": "2024-03-05", "UT": "23:34:56+02:00"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UT": "12:34 AM"}, "2024-03-05T00:34:00"),
    ({"DATE-OBS": "2024-03-05Z", "UT": "21:34:56"}, INSTANT),
    ({"DATE-OBS": "2024-03-05 (UTC)", "TIME-OBS": "21:34:56"}, INSTANT),
    ({"DATE_OBS": "2024-03-05", "TIMEOBS": "21:34:56"}, INSTANT),
    ({"UTDATE": "2024-03-05", "UT": "21:34:56"}, INSTANT),
    ({"DATE-OBS": "2024-03-05", "UTC": "2024-03-05T21:34:56"}, INSTANT),
    ({"DATE-OBS": "2024-03-05T2!:34", "UT": "21:34:56"}, INSTANT),
    ({"DATE-OBS": "2024-03-05T??:??:??", "MJD-OBS": 60374.875}, "2024-03-05T21:00:00"),
    ({"DATE-OBS": "2024-03-05", "UT": "??", "JD": 2460375.375}, "2024-03-05T21:00:00"),
    ({"MJD-OBS": 2460375.375}, "2024-03-05T21:00:00"),  # a JD under the wrong name
    ({"MJD-OBS": "60374.875"}, "2024-03-05T21:00:00"),
    ({"DATE-OBS": INSTANT, "DATE-LOC": "2024-03-05T11:34:56", "LOCTIME": "11:34:56"}, INSTANT),
    ({"DATE-OBS": INSTANT, "UT": "nonsense"}, INSTANT),
    ({"DATE-OBS": INSTANT + "+00:00", "TIMESYS": "LOCAL"}, INSTANT),
    ({"DATE-OBS": "2024 03 05.899259"}, "2024-03-05T21:34:56"),  # as the Minor Planet Center writes
    ({"DATE-OBS": "2016-12-31T24:00:00"}, "2017-01-01T00:00:00"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "right"), DATED)
def test_instant_of_several_cards(values: dict, right: str) -> None:
    assert described(values).time == microseconds(right)


NO_INSTANT = [
    *({"DATE-OBS": text} for text in (
        "2024-03-05", "2024-03-05T", "2024-03-05Z", "2024-03-05T21", "2024-03-05T25:00:00",
        "2024-03-05T21:60:00",
        "2024-03-05T21:34:61", "2024-03-05T24:00:01", "2024-03-05T21:34:56 EST", "2024-03-05T21:34:56 local",
        "2024-03-05T21:34:56+25:00", "2024-03-05T21:34:56+02:75", "2024-03-05T21:34.5", "2024-03-05T21.34",
        "2024-03-05 13:00 PM", "2024-03-05T-1:34:56", "2024-03-05T21:34:56.2.5", "2024-03-05T21;34;56",
        "2024-03-05T??:??:??", "2024-03-05TNaN", "2024-03-05+02:00", "2024-02-30T21:34:56",
        "2024-00-05T21:34:56",
        "2024-366T21:34:56.5x", "2023-366T21:34:56", "0001-01-01T00:00:00", "0000-00-00T00:00:00",
        "1601-01-01T00:00",
        "05/03/2024 21:34:56", "5-3-2024T21:34:56", "05.03.2024 21:34:56", "05-Mar-24 21:34:56",
        "05/03/24 21:34:56",
        "5 Mai 2024 21:34:56", "Mars 5, 2024 21:34:56", "21:34:56", "UNKNOWN", "N/A",
        "2024-03-05T21:34:56/21:40:00",
        "2024-03-05-03:00", "2024-03-05 -03:00", "2024-03-05T21:3", "2024-03-05T.899259", "60374.899",
        "Tue Mar  5 21:34:56 EST 2024", "2024-03-05T21:34:56 ET",
    )),
    *({"DATE-OBS": "2024-03-05", "UT": clock} for clock in (
        "21", 3.0, ".582222", "21.34", "??", "-", "N/A", 21, 0.0, -3.5, 24.5, 13456.2, 1709674496.25, True,
        "21:34:56 MST", "25:00:00",
    )),
    *({"DATE-OBS": INSTANT, "TIMESYS": system} for system in ("LOCAL", "XYZ", "UTC+2", "LST", "??")),
    {"MJD-OBS": 60374.875, "TIMESYS": "LOCAL"},
    {"DATE-OBS": INSTANT + "Z", "TIMESYS": "TAI"},
    {"DATE-OBS": INSTANT + "+02:00", "TIMESYS": "GPS"},
    {"JD": 60374.899}, {"MJD-OBS": 1.2e8}, {"MJD-OBS": -1.0}, {"DATE-OBS": 60374},
    {"DATE-OBS": INSTANT, "MJD-OBS": 60373.899259},
    {"DATE-OBS": INSTANT, "JD": 2460374.399259},
    {"DATE-OBS": INSTANT, "MJD-OBS": 60374.815926, "EXPTIME": 60.0},  # two hours: a time zone
    {"DATE-OBS": INSTANT, "MJD-OBS": 60374.903, "EXPTIME": 60.0},
    {"DATE-OBS": INSTANT, "DATE-BEG": "2024-03-04T21:34:56"},
    {"DATE-OBS": "2024-03-05T00:00:00", "UT": "21:34:56"},  # a midnight for want of better
    {"DATE-OBS": "2024-03-05T00:00:00", "MJD-OBS": 60374.899259},
    {"DATE-OBS": "2024-03-04", "MJD-OBS": 60375.125},
    {"DATE-OBS": "05/03/24", "UT": "21:34:56", "MJD-OBS": 60374.899259},  # 1924 by the standard
    {"MJD-OBS": 60374.899259, "JD": 2460374.399259},
]  # fmt: skip


@pytest.mark.parametrize("values", NO_INSTANT, ids=str)
def test_no_instant_is_a_note_and_never_midnight(values: dict) -> None:
    card = described(values)
    assert card.time is None
    assert card.notes
    assert all(note.endswith(": time unknown") for note in card.notes)


def test_local_times_are_no_times() -> None:
    assert described({"DATE-LOC": INSTANT, "LOCTIME": "11:34:56", "TIMEZONE": -10, "DATE": INSTANT}) == Card()


AGREEING = [
    {"DATE-OBS": INSTANT, "MJD-OBS": 60374.899259, "EXPTIME": 0.0},
    {"DATE-OBS": INSTANT, "MJD-OBS": 60374.899606, "EXPTIME": 60.0},  # the middle of the exposure
    {"DATE-OBS": INSTANT, "MJD-OBS": 60374.899954, "EXPTIME": 60.0},  # its end
    {"DATE-OBS": INSTANT, "MJD-OBS": 60374.9},  # few digits
    {"DATE-OBS": INSTANT, "MJD-OBS": 60374},  # the night
    {"DATE-OBS": INSTANT, "MJD-OBS": float(np.float32(60374.899259))},  # has been in single precision
    {"DATE-OBS": INSTANT, "JD": 2460375.39926, "MJD": 60374.89926},
    {"DATE-OBS": INSTANT, "UT": "21:34:57.1", "EXPTIME": 1.0},  # another computer
    {"DATE-OBS": INSTANT, "DATE_OBS": "24/03/05", "TIME-OBS": "21:34"},
    {"DATE-OBS": INSTANT, "MJD-OBS": 0.0},
    {"DATE-OBS": INSTANT, "EXPSTART": 8.26e8},  # seconds of a mission
    {"DATE-OBS": INSTANT, "TIMESYS": "UTC(NIST)"},
    {"DATE-OBS": INSTANT, "TIMESYS": "1993.0"},  # an epoch
]  # fmt: skip


def test_time_system_of_the_date_alone_is_no_contradiction() -> None:
    values = {"DATE-OBS": "2024-03-05T21:35:33", "TIMESYS": "TAI", "MJD-OBS": 60374.899259}
    assert described(values).time == microseconds(INSTANT)


def test_note_names_the_clock_that_answered() -> None:
    values = {"DATE-OBS": "2024-03-05", "TIME-OBS": "??", "UT": "21:34:56"}
    note = "the time of day in TIME-OBS is not understood: time taken from UT"
    assert (described(values).time, described(values).notes) == (microseconds(INSTANT), (note,))


@pytest.mark.parametrize("values", AGREEING, ids=str)
def test_cards_that_agree(values: dict) -> None:
    card = described(values)
    assert (card.time, card.notes) == (microseconds(INSTANT), ())


def test_clocks_on_both_sides_of_midnight_agree() -> None:
    values = {"DATE-OBS": "2024-03-05T23:59:59.9", "TIME-OBS": "00:00:00.4"}
    assert described(values).time == microseconds("2024-03-05T23:59:59.9")


def test_own_header_answers_before_the_primary_one() -> None:
    """The second exposure of a file whose primary header has the start of the first."""
    card = read_metadata(cards({"MJD-OBS": 60374.875}), cards({"DATE-OBS": "2024-03-05T18:00:00"}))
    assert (card.time, card.notes) == (microseconds("2024-03-05T21:00:00"), ())
    mixed = read_metadata(cards({"UT": "21:34:56"}), cards({"DATE-OBS": "2024-03-05"}))
    assert mixed.time == microseconds(INSTANT)


@pytest.mark.parametrize("scale", ["tai", "tt", "tdb", "tcb", "tcg", "ut1"])
def test_time_systems_as_astropy_has_them(scale: str) -> None:
    time = described({"DATE-OBS": "2019-03-05T21:34:56.25", "TIMESYS": scale.upper()}).time
    right = (
        Time("2019-03-05T21:34:56.25", scale=scale).utc.to_value("datetime64").astype("M8[us]").astype(int)
    )
    assert time == pytest.approx(int(right), abs=20)


@pytest.mark.parametrize(
    ("name", "shift"), [("GPS", -18), ("IAT", -37), ("TDT", -69.184), ("ET", -69.184), ("GMT", 0), ("UT", 0)]
)
def test_time_systems_by_other_names(name: str, shift: float) -> None:
    right = microseconds(INSTANT) + round(1e6 * shift)
    assert described({"DATE-OBS": INSTANT, "TIMESYS": name}).time == right
    assert described({"MJD-OBS": 60374.875, "TIMESYS": name}).time == pytest.approx(
        microseconds("2024-03-05T21:00:00") + round(1e6 * shift), abs=2
    )


def test_ut1_never_asks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iers.IERS_Auto, "open", lambda *_: pytest.fail("astropy's own table is asked for"))
    for year in (1959, 2019, 2150):
        assert described({"DATE-OBS": f"{year}-03-05T21:34:56", "TIMESYS": "UT1"}).time is not None


def test_ut1_beyond_the_table_is_told() -> None:
    card = described({"DATE-OBS": "2150-03-05T21:34:56", "TIMESYS": "UT1"})
    assert card.time == microseconds("2150-03-05T21:34:56")
    assert card.notes == ("UT1 is taken as UTC, from which it differs by less than 0.9 s",)


FORMATS = (
    "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f UTC", "%Y-%m-%dT%H:%M:%S.%f+00:00", "%Y/%m/%d %H-%M-%S.%f",
    "%Y%m%dT%H%M%S.%f", "%d-%b-%Y %H.%M.%S.%f", "%B %d, %Y %I:%M:%S.%f %p", "%Y-%jT%H:%M:%S,%f",
    "%Y-%m-%dT%Hh%Mm%S.%fs", "%a, %d %b %Y %H:%M:%S.%f GMT",
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(
    st.datetimes(
        min_value=datetime.datetime(1901, 1, 1),
        max_value=datetime.datetime(2150, 1, 1),
    )
)
def test_any_instant_in_any_dialect(instant: datetime.datetime) -> None:
    right = microseconds(instant.isoformat())
    for pattern in FORMATS:
        assert described({"DATE-OBS": instant.strftime(pattern)}).time == right, pattern
    day = instant.strftime("%Y-%m-%d")
    for clock in ("%H:%M:%S.%f", "%H %M %S.%f", "%H%M%S.%f"):
        assert described({"DATE-OBS": day, "UT": instant.strftime(clock)}).time == right, clock


@settings(deadline=None, max_examples=200)
@given(
    st.text(st.sampled_from("0123456789-:./T +Zapm"), max_size=30),
    st.sampled_from(["", "2024-03-05", "2024-03-05T", "2024-03-05T21:34:56"]),
)
def test_any_text_gives_an_instant_or_a_note(text: str, start: str) -> None:
    time, notes = start_time(Headers(cards({DATE[0]: start + text})))
    assert time is not None or notes or not (start + text).strip()
    if time is not None and time % (86400 * 10**6) == 0:
        assert any(digits in text for digits in ("00", "24", "12", "0:0", "+", "-", "0 0", "0.0"))


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
    assert read_metadata(raw(*lines), "") == Card(filter=right)


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
    return [info.card.camera for info in probe(path, ReadSpec(hdu="all"))]


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
    (raw("EXPTIME = 60,0"), Card(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME = 1 2"), Card(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME = NaN"), Card(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME=60.0"), Card(notes=("the card EXPTIME cannot be read: exposure time unknown",))),
    (raw("EXPTIME = '60,0'"), Card(notes=(NOT_SECONDS,))),
    (raw("EXPTIME = '6_0'"), Card(notes=(NOT_SECONDS,))),
    (
        raw("EXPTIME = 60,0", "EXPOSURE= 30.0"),
        Card(exptime=30.0, notes=("the card EXPTIME cannot be read: exposure time taken from EXPOSURE",)),
    ),
    (raw("EXPTIME ="), Card()),  # undefined, as the standard allows
    (raw("EXPTIME =   / seconds"), Card()),
    # another card says the same: one is enough
    (raw("FILTER  = 'R'", "BAND    = 5-8 GHz"), Card(filter="R")),
    (raw("INSTRUME= 'A'", "CAMNAME = B C"), Card(camera="A")),
    (raw("INSTRUME= 'A'", "XBINNING= 2", "YBINNING= 2", "BINNING = 2x2"), Card(camera="A 2x2")),
    (raw("FILTER  = R"), Card(notes=("the card FILTER cannot be read: filter unknown",))),
    (raw("FILTER  = 'R", "FILTER1 = 'V'"), Card(notes=("the card FILTER cannot be read: filter unknown",))),
    (raw("FILTER  = 'H\xe9' x"), Card(notes=("the card FILTER cannot be read: filter unknown",))),
    (raw("FILTER  = 'R'", "FILTER2 = ND"), Card(notes=("the card FILTER2 cannot be read: filter unknown",))),
    (raw("INSTRUME= A B", "CAMERA  = 1"), Card(notes=("the card INSTRUME cannot be read: camera unknown",))),
    (raw("INSTRUME= 'A'", "CCDNUM  = 1,2"), Card(notes=("the card CCDNUM cannot be read: camera unknown",))),
    (raw("INSTRUME= 'A'", "XBIN    = 2,0"), Card(notes=("the card XBIN cannot be read: camera unknown",))),
    (raw("DATE-OBS= 2024-03-05T21:34:56"), Card(notes=("the card DATE-OBS cannot be read: time unknown",))),
    (
        raw("DATE-OBS= 2024-03-05T21:34:56", "MJD-OBS = 60374.875"),
        Card(
            microseconds("2024-03-05T21:00:00"),
            notes=("the card DATE-OBS cannot be read: time taken from MJD-OBS",),
        ),
    ),
    (
        raw("DATE-OBS= '2024-03-05'", "UT      = 21:34:56", "TIME    = 3"),
        Card(notes=("the card UT cannot be read: time unknown",)),
    ),
    (
        raw("DATE-OBS= '2024-03-05T21:34:56'", "TIMESYS = TAI"),
        Card(notes=("the time system in TIMESYS is not understood: time unknown",)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("header", "right"), UNREADABLE)
def test_card_that_cannot_be_read(header: str, right: Card) -> None:
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
    ((D, "DATE-OBS= '2020-01-01T00:00:00'"), Card(notes=(f"the card DATE-OBS {TWICE}: time unknown",))),
    (("FILTER  = 'R'", "FILTER  = 'B'"), Card(notes=(f"the card FILTER {TWICE}: filter unknown",))),
    (("EXPTIME = 10.0", "EXPTIME = 30.0"), Card(notes=(f"the card EXPTIME {TWICE}: exposure time unknown",))),
    (("INSTRUME= 'A'", "INSTRUME= 'B'"), Card(notes=(f"the card INSTRUME {TWICE}: camera unknown",))),
    (("SATURATE= 60000", "SATURATE= 50000"), Card(notes=(f"the card SATURATE {TWICE}: saturation unknown",))),
    (("GAIN    = 1.5", "GAIN    = 2.5"), Card(notes=(f"the card GAIN {TWICE}: gain unknown",))),
    (
        ("EXPTIME = 10.0", "EXPTIME = 30.0", "EXPOSURE= 10.0"),
        Card(exptime=10.0, notes=(f"the card EXPTIME {TWICE}: exposure time taken from EXPOSURE",)),
    ),
    (("FILTER  = 'R'", "FILTER  = B"), Card(notes=("the card FILTER cannot be read: filter unknown",))),
    (
        ("FILTER  = 'R&'", "CONTINUE  'a'", "FILTER  = 'R&'", "CONTINUE  'b'"),
        Card(notes=(f"the card FILTER {TWICE}: filter unknown",)),
    ),
    (("FILTER  = 'R&'", "CONTINUE  'a'", "FILTER  = 'Ra'"), Card(filter="Ra")),
    ((D, D + " / again"), Card(microseconds("2024-03-05T21:34:56"))),
    (("EXPTIME = 10", "EXPTIME = 10.0 / s", "EXPTIME = '10'"), Card(exptime=10.0)),
    (("FILTER  = 'R'", "FILTER  ="), Card(filter="R")),
    (("FILTER  =", "FILTER  = 'R'"), Card(filter="R")),
    (("COMMENT = 1", "COMMENT = 2", "HISTORY a", "HISTORY b", "FILTER  = 'R'", "", ""), Card(filter="R")),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "right"), REPEATED)
def test_card_that_stands_twice(lines: tuple[str, ...], right: Card) -> None:
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
