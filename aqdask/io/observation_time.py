"""Start time of an exposure from its headers; unknown if they are silent, unreadable or contradictory.

Each card about the start is a `Statement`: an instant or a day, with a margin for its number of digits. The
first instant is the result, unless another statement contradicts it. No time of day is ever made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.time import Time
from astropy.utils import iers

from aqdask.io.cards import Headers, Unreadable, as_number, quiet
from aqdask.io.date_formats import SYSTEMS, ParsedDate, TimeOfDay, last_digit, parse_date, parse_time_of_day

DATE = (
    "DATE-OBS", "DATE_OBS", "DATEOBS", "UTC-OBS", "DATE-BEG", "DATE_BEG", "DATEBEG", "OBS-DATE", "OBSDATE",
    "UT-DATE", "UTDATE", "UTC-DATE", "UTCDATE", "TDATEOBS",
)  # fmt: skip
TIME_OF_DAY = (
    "TIME-OBS", "TIME_OBS", "TIMEOBS", "UTSTART", "UT-STR", "UTC-OBS", "UT-OBS", "UTOBS", "UT", "UTC",
    "UT-TIME", "UTTIME", "UTC-TIME", "UTCTIME", "TIME-BEG", "TIME_BEG", "TTIMEOBS",
)  # fmt: skip
MJD = ("MJD-OBS", "MJD_OBS", "MJDOBS", "MJD-BEG", "MJD-STR", "EXPSTART", "OBSMJD", "MJD")
JD = ("JD-OBS", "JD_OBS", "JD-BEG", "OBSJD", "JD")
MJD_EPOCH, JD_EPOCH = 40587.0, 2440587.5  # of 1970-01-01
MJD_RANGE, JD_RANGE = (1.0, 125e3), (2.39e6, 2.525e6)  # 1858 and 1831 to 2201
SECOND, DAY = 10**6, 86400 * 10**6
TOLERANCE = 2 * SECOND  # cards of one exposure are written by several computers
LARGEST_OFFSET = 70 * SECOND  # of a time system from UTC: TIMESYS may be meant for the date alone, or for MJD
EPOCH_YEAR = re.compile(r"\d{4}(\.\d*)?")  # TIMESYS of old headers: an epoch, not a time scale

Found = tuple[int | None, tuple[str, ...]]


class Statement(NamedTuple):
    """Start of the exposure as one card states it.

    Parameters
    ----------
    keyword : str
        Keyword of the card.
    centres : tuple of int
        Possible times, microseconds of POSIX time; the noon of a day.
    margin : int
        Half width around each centre, microseconds.
    is_instant : bool
        False for statements that can only contradict others.
    note : str
        Note for the user.
    """

    keyword: str
    centres: tuple[int, ...]
    margin: int
    is_instant: bool = True
    note: str = ""


class Unknown(NamedTuple):
    """Reason for a card without a time; not a fault if only another card is missing."""

    reason: str
    is_fault: bool = True


def start_time(cards: Headers, exposure: float = 0.0) -> Found:
    """Return the start of the exposure in microseconds of POSIX time, and notes.

    The first of a date with its time of day, an MJD and a JD; the image header comes before the primary
    header. None where none is present, or where they differ by more than ``exposure`` seconds.
    """
    found: list[Statement | Unknown] = []
    system = _time_system(cards)
    for scope in cards.scopes():
        found = list(_statements(scope, system))
        if any(isinstance(item, Statement) and item.is_instant for item in found):
            break
    offset = 0 if SYSTEMS.get(system or "UTC") == SYSTEMS["UTC"] else LARGEST_OFFSET
    return _agreed(found, round(exposure * SECOND) + TOLERANCE + offset)


def named_time(cards: Headers, keyword: str) -> Found:
    """Return the time in one keyword, and notes: a date (with a time card if it has none), an MJD or a JD."""
    system = _time_system(cards)
    number = cards.number((keyword,))
    if any(low <= number <= high for low, high in (MJD_RANGE, JD_RANGE)):
        found = list(_numbers(cards, (keyword,), (MJD_RANGE, JD_RANGE), system))
    elif not (found := list(_dates(cards, (keyword,), system))) and cards.text((keyword,)):
        found = [Unknown(f"the date in {keyword} is not understood")]
    elif not found and (reason := cards.absence(keyword)):
        found = [Unknown(reason)]
    return _agreed(found, TOLERANCE)


def _agreed(found: list[Statement | Unknown], tolerance: int) -> Found:
    """Return the first instant, unless another statement differs by more than tolerance and both margins."""
    statements = [item for item in found if isinstance(item, Statement)]
    answer = next((item for item in statements if item.is_instant), None)
    if answer is None:
        reasons = [item.reason for item in found if isinstance(item, Unknown)]
        return None, tuple(f"{reason}: time unknown" for reason in dict.fromkeys(reasons))
    time = answer.centres[0]
    for other in statements:
        distance = min(abs(time - centre) for centre in other.centres)
        if distance > tolerance + answer.margin + other.margin:
            pair = f"{answer.keyword} and {other.keyword}"
            return None, (f"{pair} contradict each other: time unknown",)
    earlier = [item.reason for item in found[: found.index(answer)] if isinstance(item, Unknown)]
    notes = [f"{reason}: time taken from {answer.keyword}" for reason in dict.fromkeys(earlier)]
    return time, (*notes, *filter(None, [answer.note]))


def _statements(cards: Headers, system: str | None) -> Iterator[Statement | Unknown]:
    """Yield dates, MJD and JD in order of precedence; reasons that are not faults come last."""
    late: list[Unknown] = []
    for item in _dates(cards, DATE, system):
        if isinstance(item, Unknown) and not item.is_fault:
            late.append(item)  # MJD or JD may have the time
        else:
            yield item
    yield from _numbers(cards, MJD, (MJD_RANGE, JD_RANGE), system)
    yield from _numbers(cards, JD, (JD_RANGE,), system)
    yield from late


def _dates(cards: Headers, keywords: tuple[str, ...], system: str | None) -> Iterator[Statement | Unknown]:
    """Yield the statements of the dates, each with its own time of day or that of the first time card."""
    clock_key, clock, problems = _first_time_of_day(cards)
    is_first, is_dated = True, False
    for key, value in cards.items(keywords):
        if isinstance(value, Unreadable):
            yield Unknown(f"the card {key} {value.reason}")
            continue
        day = parse_date(value)
        if day is None and key in TIME_OF_DAY and parse_time_of_day(value):
            continue  # UTC-OBS is a date or a time of day
        is_dated = True
        if day is None:
            yield Unknown(f"the date in {key} is not understood")
            continue
        if not (is_first or day.four_digits):
            continue  # 20/11/20 beside a full date: the year may come first
        is_first = False
        own = parse_time_of_day(day.rest, after_date=True) if day.rest else None
        if own is None:
            if day.rest:
                yield Unknown(f"the time of day in {key} is not understood")
            yield from problems
            if not (day.rest or problems or clock):
                yield Unknown(f"{key} has a date but no time of day", is_fault=False)
        source = clock_key if clock and not own and (day.rest or problems) else key
        yield from _of_date(source, day, own or clock, system)
        if own and clock and clock_key != key:
            yield from _beside(clock_key, day, clock, system)
    if not is_dated and len(keywords) > 1:
        yield from problems
        if clock:
            yield Unknown(f"{clock_key} has a time of day but no date", is_fault=False)


def _first_time_of_day(cards: Headers) -> tuple[str, TimeOfDay | None, list[Unknown]]:
    """Return the first time card that is understood, and the faults of those before it."""
    problems = []
    for key, value in cards.items(TIME_OF_DAY):
        if isinstance(value, Unreadable):
            problems.append(Unknown(f"the card {key} {value.reason}"))
        elif clock := parse_time_of_day(value):
            return key, clock, problems
        elif not ((day := parse_date(value)) and not day.rest):
            problems.append(Unknown(f"the time of day in {key} is not understood"))
    return "", None, problems


def _of_date(
    key: str, day: ParsedDate, clock: TimeOfDay | None, system: str | None
) -> Iterator[Statement | Unknown]:
    """Yield the statement of a date: an instant, or one or two possible days without a time of day."""
    if len(day.days) > 1:
        yield Unknown(f"day and month in {key} are ambiguous")
    scale = _scale(key, clock, system)
    if isinstance(scale, Unknown):
        yield scale
        return
    times = [_instant(date, clock or TimeOfDay("12:00:00"), scale) for date in day.days]
    centres = tuple(time for time, _ in times if time is not None)
    if not centres:
        yield Unknown(f"the time of day in {key} is not understood")
    elif clock:
        yield Statement(key, centres, round(clock.unit * SECOND), len(day.days) == 1, times[0][1])
    else:
        yield Statement(key, centres, DAY // 2, is_instant=False)


def _beside(key: str, day: ParsedDate, clock: TimeOfDay, system: str | None) -> Iterator[Statement]:
    """Yield a time card beside a date with its own time: on any of three days, as midnight may be between."""
    for item in _of_date(key, day, clock, system):
        if isinstance(item, Statement):
            centres = tuple(centre + shift for centre in item.centres for shift in (-DAY, 0, DAY))
            yield item._replace(centres=centres, is_instant=False)


def _numbers(
    cards: Headers, keywords: tuple[str, ...], ranges: tuple[tuple[float, float], ...], system: str | None
) -> Iterator[Statement | Unknown]:
    """Yield the first MJD or JD among the keywords, told apart by size, after the faults of those before."""
    for key, value in cards.items(keywords):
        number = as_number(value)
        bounds = next((bounds for bounds in ranges if bounds[0] <= number <= bounds[1]), None)
        scale = _scale(key, None, system)
        if isinstance(value, Unreadable):
            yield Unknown(f"the card {key} {value.reason}")
        elif bounds is None:
            yield Unknown(f"the number in {key} is not a date")
        elif isinstance(scale, Unknown):
            yield scale
        else:
            # the difference first: a double holds a JD to 40 microseconds only
            days = number - (MJD_EPOCH if bounds == MJD_RANGE else JD_EPOCH)
            with quiet():
                time, note = _microseconds(Time(JD_EPOCH, days, format="jd", scale=scale[0]), scale)
            yield Statement(key, (time,), round(last_digit(number) * DAY), note=note)
            return


def _time_system(cards: Headers) -> str | None:
    """Return the name in TIMESYS, empty if absent; None if not understood."""
    if cards.unreadable(("TIMESYS",)):
        return None
    name = cards.text(("TIMESYS",)).upper().partition("(")[0].strip()  # UTC(NIST), TT(TAI)
    if EPOCH_YEAR.fullmatch(name):
        return ""
    return name if name in SYSTEMS or not name else None


def _scale(key: str, clock: TimeOfDay | None, system: str | None) -> tuple[str, int] | Unknown:
    """Return astropy's time scale and seconds to add, from the time card itself and TIMESYS."""
    own = SYSTEMS[clock.system] if clock and clock.system else None
    if system is None:
        return own or Unknown("the time system in TIMESYS is not understood")
    stated = SYSTEMS[system] if system else None
    if own and stated and own != stated and {own[0], stated[0]} != {"utc", "ut1"}:
        return Unknown(f"{key} and TIMESYS contradict each other")
    return stated or own or SYSTEMS["UTC"]


def _instant(day: str, clock: TimeOfDay, scale: tuple[str, int]) -> tuple[int | None, str]:
    """Return microseconds of POSIX time, None for a date that does not exist; note as of `_microseconds`."""
    hours, minutes, seconds = clock.hms.split(":")
    if scale == SYSTEMS["UTC"] and not seconds.startswith("60"):
        # integers: before 1972 some days of UTC are stretched by a tenth of a second
        midnight = int(np.datetime64(day, "us").astype(np.int64))
        seconds_of_minute = round(Decimal(seconds) * SECOND)
        time, note = midnight + (60 * int(hours) + int(minutes)) * 60 * SECOND + seconds_of_minute, ""
    else:
        try:
            with quiet():
                time, note = _microseconds(Time(f"{day}T{clock.hms}", format="isot", scale=scale[0]), scale)
        except (ValueError, OverflowError):
            return None, ""
    return time + clock.days * DAY - clock.zone * 60 * SECOND, note


def _microseconds(time: Time, scale: tuple[str, int]) -> tuple[int, str]:
    """Return microseconds of POSIX time, and a note if they are accurate to a second only.

    Converted through text, because `Time.unix` is stretched on days with a leap second. The leap second
    itself counts as the second before it.
    """
    note = ""
    if scale[0] == "ut1":
        # the table that comes with astropy: the default one is fetched from the network
        delta, status = iers.IERS_B.open().ut1_utc(time.jd1, time.jd2, return_status=True)
        is_covered = status == iers.FROM_IERS_B
        time.delta_ut1_utc = delta.to_value(u.s) if is_covered else 0.0
        note = "" if is_covered else "UT1 is taken as UTC, from which it differs by less than 0.9 s"
    utc = (time + scale[1] * u.s if scale[1] else time).utc
    utc.precision = 6
    return int(np.datetime64(utc.isot.replace(":60.", ":59."), "us").astype(np.int64)), note
