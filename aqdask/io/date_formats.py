"""Dates and clocks as cameras write them; ISO text for astropy, or None where they are not understood.

A new dialect is one row of `DATES` or `CLOCKS`. Nothing is guessed: text that has two readings has none,
except that a date keeps both, so that other cards can contradict it.
"""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from aqdask.io.cards import as_number, words

# TIMESYS: astropy's scale, and the seconds to add (FITS 4.0, table 30; GPS time is TAI - 19 s)
SYSTEMS = {
    "UTC": ("utc", 0), "UT": ("utc", 0), "GMT": ("utc", 0), "Z": ("utc", 0), "UT1": ("ut1", 0),
    "TAI": ("tai", 0), "IAT": ("tai", 0), "GPS": ("tai", 19), "TT": ("tt", 0), "TDT": ("tt", 0),
    "ET": ("tt", 0), "TDB": ("tdb", 0), "TCB": ("tcb", 0), "TCG": ("tcg", 0),
}  # fmt: skip
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FULL_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july",
    "august", "september", "october", "november", "december",
)  # fmt: skip
YEARS = range(1840, 2200)  # no plate is older; 0001, 1601 and the like stand for "not set"

SECONDS = r"(?P<s>\d\d?(?:[.,]\d*)?)"
DATES = [
    re.compile(pattern, re.ASCII | re.IGNORECASE)
    for pattern in (
        r"(?:\+0)?(?P<y>\d{4})(?P<sep>[-/.:_ ])(?P<m>\d\d?)(?P=sep)(?P<d>\d\d?)(?!\d)",  # 2024-03-05
        r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)(?=\D|\d{6}(?!\d)|$)",  # 20240305, 20240305213456
        r"(?P<y>\d{4})[-/:]?(?P<doy>\d{3})(?!\d)",  # 2024:065
        r"(?P<y>\d{4})[-/. ](?P<mon>[a-z]{3,9})[-/. ](?P<d>\d\d?)(?!\d)",  # 2024-Mar-05
        r"(?P<d>\d\d?)(?:st|nd|rd|th)?[-/. ]*(?P<mon>[a-z]{3,9})[-/., ]*(?P<y>\d{4})(?!\d)",  # 05-Mar-2024
        r"(?P<mon>[a-z]{3,9})\.? (?P<d>\d\d?)(?:st|nd|rd|th)?,? (?P<y>\d{4})(?!\d)",  # March 5, 2024
        r"(?P<mon>[a-z]{3}) (?P<d>\d\d?) (?P<rest>\d\d:\d\d:\d\d(?: UTC| GMT)?) (?P<y>\d{4})$",  # ctime, date
        r"(?P<a>\d\d?)(?P<sep>[-/.])(?P<b>\d\d?)(?P=sep)(?P<y>\d{4})(?!\d)",  # 05/03/2024: May or March
        r"(?P<d>\d\d?)/(?P<m>\d\d?)/(?P<yy>1?\d\d)$",  # FITS before 2000: 19yy, and what came of it: 102
    )
]
CLOCKS = [
    re.compile(
        # a word before the clock, or a.m. and p.m., the time system and the zone behind it
        rf"(?:(?:UTC?|GMT)[:= ]+)?(?:{pattern})(?: ?(?P<half>[ap])\.?m\.?)?"
        r" ?[(\[]?(?P<system>UTC|UT1|UT|GMT|Z|TAI|IAT|GPS|TT|TDT|TDB|TCB|TCG)?"
        r" ?(?:(?P<sign>[+-])(?P<zh>\d\d?)(?::?(?P<zm>\d\d))?)?[)\]]?",
        re.ASCII | re.IGNORECASE,
    )
    for pattern in (
        rf"(?P<h>\d\d?):(?P<m>\d\d?):{SECONDS}",  # 21:34:56.25
        r"(?P<h>\d\d?):(?P<m>\d\d)(?P<s>)",  # 21:34
        r"(?P<h>\d\d?):(?P<m>\d\d):(?P<s>\d\d:\d{3})",  # 21:34:56:250
        rf"(?P<h>\d\d?)(?P<sep>[-._ ])(?P<m>\d\d?)(?P=sep){SECONDS}",  # 21-34-56, 21.34.56, 21 34 56.2
        rf"(?P<h>\d\d?) ?h ?(?P<m>\d\d?) ?m(?:in)? ?(?:{SECONDS} ?s?(?:ec)?)?",  # 21h34m56.2s
        r"(?P<h>\d\d)(?P<m>\d\d)(?P<s>\d\d(?:[.,]\d*)?)?",  # 213456.2
    )
]
WEEKDAY = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? ", re.IGNORECASE)
PADDING = re.compile(r"(?<=[-/:]) (?=\d)| (?=:)")  # "2024- 3- 5", "21: 4: 6.2", "21 : 34 : 56"
# a dash or a dot only before a whole clock: 2024-03-05-03:00 is a date with its zone
BETWEEN = re.compile(r" ?[Tt_:/,] ?(?!\.)| |[-.](?=\d\d?([-:._])\d\d?\1\d)|-(?=\d{6})")
DAY_FRACTION = re.compile(r"\.\d{3,}")  # 2024-03-05.899259
SAYS_UTC = re.compile(r"[(\[]?(?:UTC?|GMT|Z)[)\]]?", re.IGNORECASE)


class Day(NamedTuple):
    """A date: ISO days that it may mean, the text behind it, and whether its year has four digits."""

    days: tuple[str, ...]
    rest: str
    four_digits: bool


class Clock(NamedTuple):
    """``hh:mm:ss.f``, days to add, the last digit in seconds, minutes east of UTC, and the time system."""

    hms: str
    days: int = 0
    unit: float = 1.0
    zone: int = 0
    system: str = ""


def plain(value: object) -> str:
    """A card's value in one spelling: single blanks, no quotes, no padding, ASCII minus."""
    text = " ".join(words(value).strip("'\" ").replace("\u2212", "-").split())
    return PADDING.sub("", text)


def read_day(value: object) -> Day | None:
    """The date at the start of a value; None where there is none or it does not exist."""
    text = plain(value)
    text = text[match.end() :] if (match := WEEKDAY.match(text)) else text
    for pattern in DATES:
        if match := pattern.match(text):
            found = match.groupdict()
            rest = found.get("rest") or text[match.end() :]
            days = _days(found)
            rest = rest[separator.end() :] if (separator := BETWEEN.match(rest)) else rest
            return Day(days, "" if SAYS_UTC.fullmatch(rest) else rest, "yy" not in found) if days else None
    return None


def _days(found: dict[str, str]) -> tuple[str, ...]:
    """ISO days of a match of `DATES`: two where day and month can be exchanged, none where none exists."""
    year = int(found["y"]) if "y" in found else 1900 + int(found["yy"])
    if year not in YEARS:
        return ()
    if "doy" in found:
        day = datetime.date(year, 1, 1) + datetime.timedelta(int(found["doy"]) - 1)
        return (day.isoformat(),) if day.year == year else ()
    if "a" in found:
        pairs = {(int(found["a"]), int(found["b"])), (int(found["b"]), int(found["a"]))}
    else:
        pairs = {(_month(found), int(found["d"]))}
    days = []
    for month, day_of_month in sorted(pairs):
        try:
            days.append(datetime.date(year, month, day_of_month).isoformat())
        except ValueError:  # no such day
            continue
    return tuple(days)


def _month(found: dict[str, str]) -> int:
    """Number of the month; 0, which is none, for a word that is no English month."""
    if "m" in found:
        return int(found["m"])
    name = found["mon"].lower()
    is_month = name in FULL_MONTHS or name in MONTHS or name == "sept"
    return MONTHS.index(name[:3]) + 1 if is_month else 0


def read_clock(value: object, behind_date: bool = False) -> Clock | None:
    """The clock in a value, alone or with a date, as text or as a number; None where there is none.

    ``behind_date``: the value is what stands behind a date, where '.899259' is the rest of a decimal day.
    """
    if isinstance(value, int | float):
        return _number(float(value))
    text = plain(value)
    if (day := read_day(value)) and day.rest:
        return read_clock(day.rest, behind_date=True)
    for pattern in CLOCKS:
        if match := pattern.fullmatch(text):
            return _clock(match)
    number = as_number(text)
    if DAY_FRACTION.fullmatch(text):
        return _fraction(86400, number) if behind_date else None
    decimals = len(text.partition(".")[2])  # 21.34 may be hours and minutes
    return _number(number) if np.isfinite(number) and (decimals > 2 or number >= 3600) else None


def _clock(match: re.Match[str]) -> Clock | None:
    """A match of `CLOCKS`, checked; second 60 is left to astropy, hour 24 is the next day's midnight."""
    found = match.groupdict()
    hour, minute = int(found["h"]), int(found["m"])
    seconds = (found["s"] or "00").replace(",", ".").replace(":", ".")
    if found["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found["half"] in "pP" else 0)
    ends_day = hour == 24 and minute == 0 and float(seconds) == 0
    if (hour > 23 and not ends_day) or minute > 59 or float(seconds) >= 61:
        return None
    zone, system = 0, (found["system"] or "").upper()
    if found["sign"]:
        zone = 60 * int(found["zh"]) + int(found["zm"] or 0)
        if zone > 14 * 60 or int(found["zm"] or 0) > 59 or system not in ("", "UTC", "UT", "GMT"):
            return None
        zone, system = (-zone if found["sign"] == "-" else zone), "UTC"
    unit = 10.0 ** -len(seconds.partition(".")[2]) if found["s"] else 60.0
    whole, _, fraction = seconds.partition(".")
    hms = f"{hour % 24:02}:{minute:02}:{int(whole):02}" + (f".{fraction}" if fraction else "")
    return Clock(hms, int(ends_day), unit, zone, system)


def _number(number: float) -> Clock | None:
    """A clock that is one number: hours, or where only one of them is possible seconds or hhmmss."""
    if 0 < number < 24:
        return None if number.is_integer() else _fraction(3600, number)  # a whole hour alone is no clock
    unit = last_digit(number)
    readings = []
    if 3600 <= number < 86400:
        readings.append(_of_day(number, unit))
    hour, minute, second = number // 10000, number // 100 % 100, number % 100
    if 3600 <= number < 240000 and minute < 60 and second < 60:
        readings.append(_of_day(3600 * hour + 60 * minute + second, unit))
    return readings[0] if len(readings) == 1 else None


def _fraction(seconds: int, number: float) -> Clock:
    """A number of units of so many seconds, rounded to its own last digit."""
    unit = seconds * last_digit(number)
    return _of_day(round(seconds * number, max(0, int(np.floor(-np.log10(unit))))), unit)


def _of_day(seconds: float, unit: float) -> Clock:
    micro = round(1e6 * seconds)
    minutes, micro = divmod(micro, 60_000_000)
    days, minutes = divmod(minutes, 1440)
    return Clock(f"{minutes // 60:02}:{minutes % 60:02}:{micro / 1e6:09.6f}", days, unit)


def last_digit(number: float) -> float:
    """The value of a number's last decimal; of single precision, where it has been through that."""
    exponent = Decimal(repr(float(number))).normalize().as_tuple().exponent
    unit = 10.0 ** min(int(exponent), 0)
    single = np.float32(number)
    return max(unit, float(np.spacing(single))) if float(single) == number else unit
