"""Dates and times of day in the notations of cameras; None for text that is not understood.

A notation is one row of `DATES` or `TIMES_OF_DAY`. Nothing is guessed: an ambiguous time of day is not
understood, and an ambiguous date keeps both of its days, so that other cards can contradict it.
"""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from aqdask.io.cards import as_number, as_text

# TIMESYS: astropy's scale, and the seconds to add (FITS 4.0, table 30; GPS time is TAI - 19 s)
SYSTEMS = {
    "UTC": ("utc", 0), "UT": ("utc", 0), "GMT": ("utc", 0), "Z": ("utc", 0), "UT1": ("ut1", 0),
    "TAI": ("tai", 0), "IAT": ("tai", 0), "GPS": ("tai", 19), "TT": ("tt", 0), "TDT": ("tt", 0),
    "ET": ("tt", 0), "TDB": ("tdb", 0), "TCB": ("tcb", 0), "TCG": ("tcg", 0),
}  # fmt: skip
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july",
    "august", "september", "october", "november", "december",
)  # fmt: skip
YEARS = range(1840, 2200)  # no photographic plate is older; 0001, 1601 and the like mean "not set"

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
        r"(?P<d>\d\d?)/(?P<m>\d\d?)/(?P<yy>1?\d\d)$",  # FITS before 2000: 19yy, and its overflow: 102
    )
]
TIMES_OF_DAY = [
    re.compile(
        # before the time a time system; after it a.m. or p.m., the time system and the zone
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
# a dash or a dot only before a complete time of day: 2024-03-05-03:00 is a date with its zone
BETWEEN = re.compile(r" ?[Tt_:/,] ?(?!\.)| |[-.](?=\d\d?([-:._])\d\d?\1\d)|-(?=\d{6})")
DAY_FRACTION = re.compile(r"\.\d{3,}")  # 2024-03-05.899259
UTC_ONLY = re.compile(r"[(\[]?(?:UTC?|GMT|Z)[)\]]?", re.IGNORECASE)


class ParsedDate(NamedTuple):
    """Parsed date: ISO days that it may mean, the text after it, and if its year has four digits."""

    days: tuple[str, ...]
    rest: str
    four_digits: bool


class TimeOfDay(NamedTuple):
    """Parsed time of day.

    Parameters
    ----------
    hms : str
        ``hh:mm:ss.f``.
    days : int
        Days to add to the date.
    unit : float
        Value of the last digit, seconds.
    zone : int
        Minutes east of UTC.
    system : str
        Time system, a key of `SYSTEMS`; empty if not stated.
    """

    hms: str
    days: int = 0
    unit: float = 1.0
    zone: int = 0
    system: str = ""


def normalised(value: object) -> str:
    """Return a card's value in one spelling: single blanks, no quotes, no padding, ASCII minus."""
    text = " ".join(as_text(value).strip("'\" ").replace("\u2212", "-").split())
    return PADDING.sub("", text)


def parse_date(value: object) -> ParsedDate | None:
    """Parse the date at the start of a value; None for no date or one that does not exist."""
    text = normalised(value)
    text = text[match.end() :] if (match := WEEKDAY.match(text)) else text
    for pattern in DATES:
        if match := pattern.match(text):
            found = match.groupdict()
            rest = found.get("rest") or text[match.end() :]
            if not (days := _days(found)):
                return None
            rest = rest[separator.end() :] if (separator := BETWEEN.match(rest)) else rest
            return ParsedDate(days, "" if UTC_ONLY.fullmatch(rest) else rest, "yy" not in found)
    return None


def _days(found: dict[str, str]) -> tuple[str, ...]:
    """Return the ISO days of a match of `DATES`: two for ambiguous day and month, none for no such day."""
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
    """Return the number of the month; 0 for a word that is not an English month."""
    if "m" in found:
        return int(found["m"])
    name = found["mon"].lower()
    name = "sep" if name == "sept" else name
    return next((n for n, month in enumerate(MONTHS, start=1) if name in (month, month[:3])), 0)


def parse_time_of_day(value: object, after_date: bool = False) -> TimeOfDay | None:
    """Parse the time of day in a value, alone or after a date, as text or number; None for no time.

    ``after_date`` tells that the value follows a date, where '.899259' is the fraction of a decimal day.
    """
    if isinstance(value, int | float):
        return _number(float(value))
    text = normalised(value)
    if (day := parse_date(value)) and day.rest:
        return parse_time_of_day(day.rest, after_date=True)
    for pattern in TIMES_OF_DAY:
        if match := pattern.fullmatch(text):
            return _checked(match)
    number = as_number(text)
    if DAY_FRACTION.fullmatch(text):
        return _fraction(86400, number) if after_date else None
    decimals = len(text.partition(".")[2])  # 21.34 may be hours and minutes
    return _number(number) if np.isfinite(number) and (decimals > 2 or number >= 3600) else None


def _checked(match: re.Match[str]) -> TimeOfDay | None:
    """Check a match of `TIMES_OF_DAY`; second 60 is left to astropy, hour 24 is midnight of the next day."""
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
    return TimeOfDay(hms, int(ends_day), unit, zone, system)


def _number(number: float) -> TimeOfDay | None:
    """Parse a single number: hours, or seconds or hhmmss if only one of the two is possible."""
    if 0 < number < 24:
        return None if number.is_integer() else _fraction(3600, number)  # an integer may be anything
    unit = last_digit(number)
    readings = []
    if 3600 <= number < 86400:
        readings.append(_of_day(number, unit))
    hour, minute, second = number // 10000, number // 100 % 100, number % 100
    if 3600 <= number < 240000 and minute < 60 and second < 60:
        readings.append(_of_day(3600 * hour + 60 * minute + second, unit))
    return readings[0] if len(readings) == 1 else None


def _fraction(seconds: int, number: float) -> TimeOfDay:
    """Convert a number of units of ``seconds`` each, rounded to the last digit of the number."""
    unit = seconds * last_digit(number)
    return _of_day(round(seconds * number, max(0, int(np.floor(-np.log10(unit))))), unit)


def _of_day(seconds: float, unit: float) -> TimeOfDay:
    micro = round(1e6 * seconds)
    minutes, micro = divmod(micro, 60_000_000)
    days, minutes = divmod(minutes, 1440)
    return TimeOfDay(f"{minutes // 60:02}:{minutes % 60:02}:{micro / 1e6:09.6f}", days, unit)


def last_digit(number: float) -> float:
    """Return the value of a number's last decimal, or its float32 spacing if it was in single precision."""
    exponent = Decimal(repr(float(number))).normalize().as_tuple().exponent
    unit = 10.0 ** min(int(exponent), 0)
    single = np.float32(number)
    return max(unit, float(np.spacing(single))) if float(single) == number else unit
