"""When an exposure began, from any of the forms in which headers say it."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from astropy.time import Time

from aqdask.archive.cards import Cards, quiet

DATE = ("DATE-OBS", "DATE_OBS", "UTC-OBS", "DATE-BEG", "TDATEOBS")
CLOCK = ("TIME-OBS", "TIME_OBS", "UTSTART", "UT-STR", "UTC-OBS", "UT", "UTC", "TIME-BEG", "TTIMEOBS")
MJD = ("MJD-OBS", "MJD_OBS", "MJD-BEG", "MJD-STR", "EXPSTART", "OBSMJD", "MJD")
JD = ("JD-OBS", "JD-BEG", "OBSJD", "JD")
ISO = re.compile(r"(\d{4})[-/](\d\d?)[-/](\d\d?)(?:[T ]+(.*?))?Z?$")
OLD = re.compile(r"(\d\d?)[/](\d\d?)[/](\d\d\d?)$")  # dd/mm/yy means 19yy; 102 is a clock that missed 2000
HMS = re.compile(r"(\d\d?):(\d\d?)(?::(\d\d?(?:\.\d*)?))?$")
MJD_EPOCH, JD_EPOCH = 40587.0, 2440587.5  # of 1970-01-01


def start_time(cards: Cards) -> int | None:
    """The first of: a date with its clock; MJD; JD; a date alone, which is midnight for want of better."""
    scale = _scale(cards)
    clock = next((hms for value in cards.values(CLOCK) if (hms := _clock(value))), None)
    dates = [_date(value) for value in cards.values(DATE)]
    for day, hms in (date for date in dates if date):
        if (hms or clock) and (time := _instant(f"{day}T{hms or clock}", scale)) is not None:
            return time
    for keywords, epoch in ((MJD, MJD_EPOCH), (JD, JD_EPOCH)):
        number = cards.number(keywords)
        if 0 < number < 1e7:
            return _days(number, epoch, scale)
    return next((_instant(f"{date[0]}T00:00:00", scale) for date in dates if date), None)


def named_time(cards: Cards, keyword: str) -> int | None:
    """The time in one keyword: a date (with a clock keyword where it has none), an MJD or a JD."""
    scale = _scale(cards)
    number = cards.number((keyword,))
    if 0 < number < 1e7:
        return _days(number, JD_EPOCH if number > 1e6 else MJD_EPOCH, scale)
    clock = next((hms for value in cards.values(CLOCK) if (hms := _clock(value))), None)
    dates = (_date(value) for value in cards.values((keyword,)))
    return next((_instant(f"{d[0]}T{d[1] or clock or '00:00:00'}", scale) for d in dates if d), None)


def _scale(cards: Cards) -> str:
    # UT1 is left out: astropy would fetch tables from the network for it
    names = {"TDT": "tt", "ET": "tt", "IAT": "tai", "TT": "tt", "TAI": "tai", "TDB": "tdb", "TCB": "tcb"}
    return names.get(cards.text(("TIMESYS",)).upper(), "utc")


def _date(value: object) -> tuple[str, str | None] | None:
    """Date ``yyyy-mm-dd`` and, where the value has it, clock; None where it is no date."""
    text = str(value).strip()
    if match := ISO.match(text):
        year, month, day, rest = match.groups()
        clock = _clock(rest) if rest else None
    elif match := OLD.match(text):
        day, month, year = match.groups()
        year, clock = f"{1900 + int(year)}", None
    else:
        return None
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return f"{year}-{int(month):02}-{int(day):02}", clock


def _clock(value: object) -> str | None:
    """``hh:mm:ss[.f]`` from a clock or from the end of a full date; None for anything else."""
    match = HMS.match(str(value).strip().rsplit("T", 1)[-1].rstrip("Z"))
    if not match:
        return None
    hours, minutes, seconds = match.groups(default="00")
    return f"{int(hours):02}:{int(minutes):02}:{seconds if seconds[1:2].isdigit() else '0' + seconds}"


def _instant(iso: str, scale: str) -> int | None:
    return _microseconds(lambda: Time(iso, format="isot", scale=scale))


def _days(number: float, epoch: float, scale: str) -> int | None:
    # the difference first: a JD in one double is good to 40 microseconds only
    return _microseconds(lambda: Time(JD_EPOCH, number - epoch, format="jd", scale=scale))


def _microseconds(make: Callable[[], Time]) -> int | None:
    """Microseconds of POSIX time; None where the date does not exist.

    Through text, because `Time.unix` is stretched on days with a leap second, which itself counts as the
    second before it.
    """
    try:
        with quiet():
            time = make().utc
            time.precision = 6
            return int(np.datetime64(time.isot.replace(":60.", ":59."), "us").astype(np.int64))
    except (ValueError, OverflowError):
        return None
