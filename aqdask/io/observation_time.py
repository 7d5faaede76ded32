"""Start of an exposure, from any of the forms in which headers state it; unknown where they do not.

Each card about the start is a `Statement`: an instant or a day, with a margin for the digits that it has. The
first instant is the answer, unless another statement contradicts it. No clock is ever made up.
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

from aqdask.io.cards import Cards, Unreadable, as_number, quiet
from aqdask.io.date_formats import SYSTEMS, Clock, Day, last_digit, read_clock, read_day
from aqdask.text import printable

DATE = (
    "DATE-OBS", "DATE_OBS", "DATEOBS", "UTC-OBS", "DATE-BEG", "DATE_BEG", "DATEBEG", "OBS-DATE", "OBSDATE",
    "UT-DATE", "UTDATE", "UTC-DATE", "UTCDATE", "TDATEOBS",
)  # fmt: skip
CLOCK = (
    "TIME-OBS", "TIME_OBS", "TIMEOBS", "UTSTART", "UT-STR", "UTC-OBS", "UT-OBS", "UTOBS", "UT", "UTC",
    "UT-TIME", "UTTIME", "UTC-TIME", "UTCTIME", "TIME-BEG", "TIME_BEG", "TTIMEOBS",
)  # fmt: skip
MJD = ("MJD-OBS", "MJD_OBS", "MJDOBS", "MJD-BEG", "MJD-STR", "EXPSTART", "OBSMJD", "MJD")
JD = ("JD-OBS", "JD_OBS", "JD-BEG", "OBSJD", "JD")
MJD_EPOCH, JD_EPOCH = 40587.0, 2440587.5  # of 1970-01-01
MJD_RANGE, JD_RANGE = (1.0, 125e3), (2.39e6, 2.525e6)  # 1858 and 1831 to 2201
SECOND, DAY = 10**6, 86400 * 10**6
SLACK = 2 * SECOND  # cards of one exposure are written by several computers
LARGEST_OFFSET = 70 * SECOND  # of a time system from UTC: TIMESYS may be meant for the date alone, or for MJD
EPOCH_YEAR = re.compile(r"\d{4}(\.\d*)?")  # TIMESYS before FITS knew it: an epoch, and no time scale

Found = tuple[int | None, tuple[str, ...]]


class Statement(NamedTuple):
    """Microseconds of POSIX time that a card may mean, give or take ``margin``; a day is its noon.

    ``is_instant`` tells cards that answer from those that can only contradict; ``note`` is for the user.
    """

    keyword: str
    centres: tuple[int, ...]
    margin: int
    is_instant: bool = True
    note: str = ""


class Unknown(NamedTuple):
    """A reason why a card gives no time; no fault where only something beside the card is missing."""

    reason: str
    is_fault: bool = True


def start_time(cards: Cards, exposure: float = 0.0) -> Found:
    """The start of the exposure in microseconds of POSIX time, and notes.

    The first of: a date with its clock; MJD; JD. The image's own header answers before the primary one.
    None where there is none of them, or where they differ by more than ``exposure`` seconds.
    """
    found: list[Statement | Unknown] = []
    system = _time_system(cards)
    for scope in cards.scopes():
        found = list(_statements(scope, system))
        if any(isinstance(item, Statement) and item.is_instant for item in found):
            break
    offset = 0 if SYSTEMS.get(system or "UTC") == SYSTEMS["UTC"] else LARGEST_OFFSET
    return _agreed(found, round(exposure * SECOND) + SLACK + offset)


def named_time(cards: Cards, keyword: str) -> Found:
    """The time in one keyword: a date (with a clock keyword where it has none), an MJD or a JD."""
    system = _time_system(cards)
    number = cards.number((keyword,))
    if any(low <= number <= high for low, high in (MJD_RANGE, JD_RANGE)):
        found = list(_numbers(cards, (keyword,), (MJD_RANGE, JD_RANGE), system))
    elif not (found := list(_dates(cards, (keyword,), system))) and cards.text((keyword,)):
        found = [Unknown(f"the date in {keyword} is not understood")]
    elif not found and (reason := absence(cards, keyword)):
        found = [Unknown(reason)]
    return _agreed(found, SLACK)


def absence(cards: Cards, keyword: str) -> str:
    """The reason why a card that the user names says nothing; empty where it says something."""
    if any(cards.items([keyword])):
        return ""
    what = "has no value" if cards.holds(keyword) else "is not there"
    return f"the card {printable(keyword)} of --keyword {what}"


def _agreed(found: list[Statement | Unknown], tolerance: int) -> Found:
    """The first instant, unless another statement is further away than tolerance and both margins."""
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


def _statements(cards: Cards, system: str | None) -> Iterator[Statement | Unknown]:
    """Dates, MJD, JD in the order in which they answer; reasons that are no faults come last."""
    late: list[Unknown] = []
    for item in _dates(cards, DATE, system):
        if isinstance(item, Unknown) and not item.is_fault:
            late.append(item)  # MJD or JD may have the time
        else:
            yield item
    yield from _numbers(cards, MJD, (MJD_RANGE, JD_RANGE), system)
    yield from _numbers(cards, JD, (JD_RANGE,), system)
    yield from late


def _dates(cards: Cards, keywords: tuple[str, ...], system: str | None) -> Iterator[Statement | Unknown]:
    """Statements of the dates, each with its own clock or else with that of the first clock card."""
    clock_key, clock, problems = _first_clock(cards)
    is_first, is_dated = True, False
    for key, value in cards.items(keywords):
        if isinstance(value, Unreadable):
            yield Unknown(f"the card {key} {value.reason}")
            continue
        day = read_day(value)
        if day is None and key in CLOCK and read_clock(value):
            continue  # UTC-OBS is a date or a clock
        is_dated = True
        if day is None:
            yield Unknown(f"the date in {key} is not understood")
            continue
        if not (is_first or day.four_digits):
            continue  # 20/11/20 beside a full date: the year may stand first
        is_first = False
        own = read_clock(day.rest, behind_date=True) if day.rest else None
        if own is None:
            unread = [Unknown(f"the clock in {key} is not understood")] if day.rest else []
            none = (
                []
                if unread or problems or clock
                else [Unknown(f"{key} has a date and no clock", is_fault=False)]
            )
            yield from (*unread, *problems, *none)
        source = clock_key if clock and not own and (day.rest or problems) else key
        yield from _of_date(source, day, own or clock, system)
        if own and clock and clock_key != key:
            yield from _beside(clock_key, day, clock, system)
    if not is_dated and len(keywords) > 1:
        yield from problems
        yield from [Unknown(f"{clock_key} has a clock and no date", is_fault=False)] if clock else []


def _first_clock(cards: Cards) -> tuple[str, Clock | None, list[Unknown]]:
    """The first clock card that is understood, and the faults of those before it."""
    problems = []
    for key, value in cards.items(CLOCK):
        if isinstance(value, Unreadable):
            problems.append(Unknown(f"the card {key} {value.reason}"))
        elif clock := read_clock(value):
            return key, clock, problems
        elif not ((day := read_day(value)) and not day.rest):
            problems.append(Unknown(f"the clock in {key} is not understood"))
    return "", None, problems


def _of_date(key: str, day: Day, clock: Clock | None, system: str | None) -> Iterator[Statement | Unknown]:
    """An instant; a day, or two of which it is one, where that cannot be said."""
    if len(day.days) > 1:
        yield Unknown(f"day and month in {key} can be exchanged")
    scale = _scale(key, clock, system)
    if isinstance(scale, Unknown):
        yield scale
        return
    times = [_instant(date, clock or Clock("12:00:00"), scale) for date in day.days]
    centres = tuple(time for time, _ in times if time is not None)
    if not centres:
        yield Unknown(f"the clock in {key} is not understood")
    elif clock:
        yield Statement(key, centres, round(clock.unit * SECOND), len(day.days) == 1, times[0][1])
    else:
        yield Statement(key, centres, DAY // 2, is_instant=False)


def _beside(key: str, day: Day, clock: Clock, system: str | None) -> Iterator[Statement]:
    """A clock card beside a date that has its own clock: on whichever day is nearest, for midnights."""
    for item in _of_date(key, day, clock, system):
        if isinstance(item, Statement):
            centres = tuple(centre + shift for centre in item.centres for shift in (-DAY, 0, DAY))
            yield item._replace(centres=centres, is_instant=False)


def _numbers(
    cards: Cards, keywords: tuple[str, ...], ranges: tuple[tuple[float, float], ...], system: str | None
) -> Iterator[Statement | Unknown]:
    """The first MJD or JD among the keywords, told apart by size, and the faults of those before it."""
    for key, value in cards.items(keywords):
        number = as_number(value)
        bounds = next((bounds for bounds in ranges if bounds[0] <= number <= bounds[1]), None)
        scale = _scale(key, None, system)
        if isinstance(value, Unreadable):
            yield Unknown(f"the card {key} {value.reason}")
        elif bounds is None:
            yield Unknown(f"the number in {key} is no date")
        elif isinstance(scale, Unknown):
            yield scale
        else:
            # the difference first: a JD in one double is good to 40 microseconds only
            days = number - (MJD_EPOCH if bounds == MJD_RANGE else JD_EPOCH)
            with quiet():
                time, note = _microseconds(Time(JD_EPOCH, days, format="jd", scale=scale[0]), scale)
            yield Statement(key, (time,), round(last_digit(number) * DAY), note=note)
            return


def _time_system(cards: Cards) -> str | None:
    """The name in TIMESYS, empty where there is none; None where it is not understood."""
    if cards.unreadable(("TIMESYS",)):
        return None
    name = cards.text(("TIMESYS",)).upper().partition("(")[0].strip()  # UTC(NIST), TT(TAI)
    if EPOCH_YEAR.fullmatch(name):
        return ""
    return name if name in SYSTEMS or not name else None


def _scale(key: str, clock: Clock | None, system: str | None) -> tuple[str, int] | Unknown:
    """astropy's time scale and the seconds to add, from the clock's own words and TIMESYS together."""
    own = SYSTEMS[clock.system] if clock and clock.system else None
    if system is None:
        return own or Unknown("the time system in TIMESYS is not understood")
    stated = SYSTEMS[system] if system else None
    if own and stated and own != stated and {own[0], stated[0]} != {"utc", "ut1"}:
        return Unknown(f"{key} and TIMESYS contradict each other")
    return stated or own or SYSTEMS["UTC"]


def _instant(day: str, clock: Clock, scale: tuple[str, int]) -> tuple[int | None, str]:
    """Microseconds of POSIX time, or None where the date does not exist; and a note, see `_microseconds`."""
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
    """Microseconds of POSIX time, and a note where they are good to a second only.

    Through text, because `Time.unix` is stretched on days with a leap second, which itself counts as the
    second before it.
    """
    note = ""
    if scale[0] == "ut1":
        # the table that comes with astropy: the default one would be fetched from the network
        delta, status = iers.IERS_B.open().ut1_utc(time.jd1, time.jd2, return_status=True)
        is_covered = status == iers.FROM_IERS_B
        time.delta_ut1_utc = delta.to_value(u.s) if is_covered else 0.0
        note = "" if is_covered else "UT1 is taken for UTC, from which it differs by less than 0.9 s"
    utc = (time + scale[1] * u.s if scale[1] else time).utc
    utc.precision = 6
    return int(np.datetime64(utc.isot.replace(":60.", ":59."), "us").astype(np.int64)), note
