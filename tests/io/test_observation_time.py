"""Start times of exposures: notations of cameras, contradictions, time systems; never a made-up time."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from astropy.time import Time
from astropy.utils import iers
from header_text import INSTANT, cards, described, microseconds, of_file, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from aqdask.io.cards import Headers
from aqdask.io.metadata import read_metadata
from aqdask.io.observation_time import DATE, start_time
from aqdask.specs import FrameMetadata


@pytest.mark.real
def test_clocks(make_trouble: ModuleType, tmp_path: Path) -> None:
    for name, right in make_trouble.clocks(tmp_path).items():
        card = of_file(tmp_path / f"{name}.fits")
        assert card.time == microseconds(right), name
        assert (card.time is None) == bool(card.notes), name


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
    assert read_metadata(header, "") == FrameMetadata(time=right)
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
    assert (
        described({"DATE-LOC": INSTANT, "LOCTIME": "11:34:56", "TIMEZONE": -10, "DATE": INSTANT})
        == FrameMetadata()
    )


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
