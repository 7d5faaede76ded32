"""FITS header cards (80 characters each) and their values, damaged cards included.

`StructuralCards` reads the cards that lay out the data and refuses any doubt. `Headers` reads descriptive
cards of an image header and its primary header, and marks doubtful values as `Unreadable`.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile

from astropy.io import fits

from aqdask.errors import FrameError
from aqdask.text import printable

CARD = 80  # characters of a card
# Keywords that are indented, in lower case or of the HIERARCH convention, against the standard.
LOOSE_KEYWORD = re.compile(r" {0,7}(?:HIERARCH +)?([A-Z]+[0-9]*)(?=[ =:]|$)", re.IGNORECASE)
HAS_VALUE = re.compile(r" {0,7}(?:HIERARCH +)?[A-Z]+[0-9]* *= ", re.IGNORECASE)
QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
# Nearly all cards match and are read here, because astropy takes twenty times longer.
SIMPLE_CARD = re.compile(r"[A-Z0-9 ]{8}= +(?:(-?[0-9]+)|([TF])|'([^']*)')(?: *| *\/.*)$")
# A number or a string for certain, without parsing its value.
PLAIN_CARD = re.compile(
    r"[A-Z0-9 ]{8}= +(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d+)?|'[^']*') *(?:/|$)", re.ASCII
)
COMMENTARY = ("COMMENT", "HISTORY", "CONTINUE", "")


@dataclass(frozen=True)
class Unreadable:
    """Value of a card that is present but cannot be known; ``reason`` follows the words 'the card X'."""

    reason: str


UNREADABLE = Unreadable("cannot be read")
CONTRADICTORY = Unreadable("appears twice with different values")

_lock = threading.Lock()
_already = threading.local()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and log messages of astropy; one thread at a time, as warning filters are global.

    A nested ``quiet()`` of the same thread costs nothing.
    """
    if getattr(_already, "quiet", False):
        yield
        return
    logger = logging.getLogger("astropy")
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True  # a new level would clear the caches of all loggers
        _already.quiet = True
        try:
            yield
        finally:
            _already.quiet = False
            logger.disabled = before


def parse(text: str) -> fits.Header:
    """Parse cards as an astropy header; astropy checks a value only when it is accessed."""
    with quiet():
        return fits.Header.fromstring(text)


def split_cards(text: str) -> list[str]:
    """Split a header into its cards of 80 characters."""
    return [text[at : at + CARD] for at in range(0, len(text), CARD)]


def _value_by_astropy(header: fits.Header, keyword: str) -> object:
    """Return the value of the first such card; None where missing or undefined, else `UNREADABLE`."""
    try:
        with quiet():
            value = header.get(keyword)
    except Exception:  # a damaged card can fail in any of astropy's parsers
        return UNREADABLE
    return None if isinstance(value, fits.card.Undefined) else value


class StructuralCards:
    """Cards of one header that define the layout and scaling of its data, read strictly.

    An unreadable card never counts as absent, and two different values of a keyword are an error.

    Parameters
    ----------
    text : str
        Cards of 80 characters each.
    header : str
        Name of the header in error messages.
    """

    def __init__(self, text: str, header: str) -> None:
        self.text, self.header = text, header
        self._at: dict[str, list[int]] = {}
        for at in range(0, len(text), CARD):
            keyword = text[at : at + 8].rstrip()
            if not (keyword.isalnum() and keyword.isupper()) or keyword == "HIERARCH":
                card = text[at : at + CARD]
                loose = LOOSE_KEYWORD.match(card)
                keyword = loose[1].upper() if loose and (card[0] != " " or "=" in card) else ""
            self._at.setdefault(keyword, []).append(at)

    def get(self, keyword: str) -> object:
        """Return the value of a card; None if it is absent.

        Raises
        ------
        FrameError
            If the card cannot be read, has no value, or is repeated with another value.
        """
        places = self._at.get(keyword)
        if places is None:
            return None
        first = self._value(places[0])
        for at in places[1:]:
            value = self._value(at)
            if value != first or isinstance(value, bool) != isinstance(first, bool):
                raise FrameError(
                    f"{self.header} has {keyword} twice with different values:"
                    f" {self._shown(places[0])} and {self._shown(at)}"
                )
        return first

    def number(self, keyword: str) -> float | None:
        """Return a finite number; None if the card is absent. `FrameError` as `get`, or for another value."""
        value = self.get(keyword)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise FrameError(f"{self.header} has {keyword} = {printable(repr(value))}, which is not a number")
        return value

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return an integer, also one that is written as a float, or ``default`` if the card is absent.

        Raises
        ------
        FrameError
            As `get`; for another value; or if the card is absent and there is no default.
        """
        value = self.get(keyword)
        if value is None:
            if default is None:
                raise FrameError(f"{self.header} has no readable {keyword}")
            return default
        # not value // 1, which is NaN for an infinite value
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            raise FrameError(
                f"{self.header} has {keyword} = {printable(repr(value))}, which is not an integer"
            )
        return int(value)

    def first(self, keyword: str) -> object:
        """Return the first value of a keyword, long strings included; None where absent or unreadable."""
        if keyword not in self._at:
            return None
        start = stop = self._at[keyword][0]
        while self.text.startswith("CONTINUE", stop + CARD):
            stop += CARD
        if start == stop and SIMPLE_CARD.match(self.text[start : start + CARD]):
            return self._value(start)
        value = _value_by_astropy(parse(self.text[start : stop + CARD]), keyword)
        return None if value is UNREADABLE else value

    def _value(self, at: int) -> object:
        text = self.text[at : at + CARD]
        if simple := SIMPLE_CARD.match(text):
            number, logical, string = simple.groups()
            return int(number) if number else logical == "T" if logical else string.rstrip(" ")
        value: object = fits.card.UNDEFINED
        if HAS_VALUE.match(text):
            # a damaged card can fail in any of astropy's parsers
            with suppress(Exception), quiet():
                value = fits.Card.fromstring(text.lstrip(" ")).value
        if isinstance(value, fits.card.Undefined):
            raise FrameError(f"{self.header} has a card that cannot be read: {self._shown(at)}")
        return value

    def _shown(self, at: int) -> str:
        return f"'{printable(self.text[at : at + CARD].rstrip())}'"


class HeaderCards:
    """Cards of one header by keyword, with their text, since astropy drops or mends cards it cannot parse.

    Attributes
    ----------
    raw : dict of str to str
        First card of each keyword, 80 characters, with the CONTINUE cards after it.
    repeats : dict of str to list of str
        Further cards of the keywords that appear more than once.
    """

    def __init__(self, text: str) -> None:
        self.raw: dict[str, str] = {}
        self.repeats: dict[str, list[str]] = {}
        keyword, before = "", "no card"
        for card in split_cards(text):
            if card.startswith("CONTINUE") and keyword in self.repeats:
                self.repeats[keyword][-1] += card
                continue
            if card.startswith("CONTINUE") and self.raw.get(keyword, "").endswith(before):
                self.raw[keyword] = self.raw.get(keyword, "") + card
                before = card
                continue
            before = card
            keyword = " ".join((card.partition("=")[0] if "=" in card else card[:8]).upper().split())
            if self.raw.setdefault(keyword, card) is not card and keyword not in COMMENTARY:
                self.repeats.setdefault(keyword, []).append(card)

    def value(self, keyword: str) -> object:
        """Return the value of a keyword; None where absent, undefined or blank, else maybe `Unreadable`."""
        card = self.raw.get(keyword)
        if card is None:
            return None
        first = self._first(keyword, card)
        if keyword not in self.repeats:
            return first
        others = [HeaderCards(other).value(keyword) for other in self.repeats[keyword] if other != card]
        values = [value for value in (first, *others) if value is not None]
        if UNREADABLE in values:
            return UNREADABLE
        if not all(same_value(values[0], value) for value in values[1:]):
            return CONTRADICTORY
        return values[0] if values else None

    def is_plain(self, keyword: str) -> bool:
        """Return True if the value of a keyword is readable for certain, without parsing it."""
        card = self.raw.get(keyword)
        return card is None or (keyword not in self.repeats and PLAIN_CARD.match(card) is not None)

    def _first(self, keyword: str, card: str) -> object:
        """Return the value of the first card of a keyword, whose text is ``card``."""
        if "=" in card[:CARD] and card[8:10] != "= " and not card.startswith("HIERARCH "):
            return UNREADABLE  # astropy takes such a card for a comment, or for another keyword
        try:
            with quiet():
                value = fits.Header.fromstring(card).get(keyword)  # this card alone: a header has hundreds
        except Exception:  # a damaged card can fail in any of astropy's parsers
            value = _quoted_string(card)
        blank = isinstance(value, fits.card.Undefined) or (isinstance(value, str) and not value.strip(" \0"))
        return None if blank else value


def _quoted_string(card: str) -> object:
    """Return the string of a card that astropy refuses for characters beyond printable ASCII."""
    first, *rest = split_cards(card)
    value = first.partition("=")[2]
    matches = [QUOTED.match(value), *(QUOTED.match(piece[8:]) for piece in rest)]
    strings = [match[1].replace("''", "'") for match in matches if match]
    after = value[matches[0].end() :].strip() if matches[0] else "?"
    if len(strings) < len(matches) or (after and not after.startswith("/")):
        return UNREADABLE
    return "".join(string.rstrip().removesuffix("&") for string in strings[:-1]) + strings[-1]


class Headers:
    """Values from an image header, then from the primary header of its file."""

    def __init__(self, *texts: str) -> None:
        self.parts = [HeaderCards(text) for text in texts if text]

    def scopes(self) -> Iterator[Headers]:
        """Yield the image header alone, then all headers together."""
        for count in sorted({1, len(self.parts)} - {0}):
            scope = Headers()
            scope.parts = self.parts[:count]
            yield scope

    def items(self, keywords: Iterable[str]) -> Iterator[tuple[str, object]]:
        """Yield the keywords that are present with their values, `Unreadable` ones included."""
        for keyword in keywords:
            for part in self.parts:
                if (value := part.value(keyword)) is not None:
                    yield keyword, value

    def holds(self, keyword: str) -> bool:
        """Return True if a card of this keyword is present, whatever its value."""
        return any(keyword in part.raw for part in self.parts)

    def absence(self, keyword: str) -> str:
        """Return the reason why a keyword named by the user has no value; empty if it has one."""
        if any(self.items([keyword])):
            return ""
        reason = "has no value" if self.holds(keyword) else "is missing"
        return f"the card {printable(keyword)} of --keyword {reason}"

    def unreadable(self, keywords: Iterable[str]) -> dict[str, str]:
        """Return reasons, by keyword, of the unreadable cards before the first readable one."""
        before = takewhile(lambda item: isinstance(item[1], Unreadable), self.items(keywords))
        found: dict[str, str] = {}
        for keyword, value in before:
            if isinstance(value, Unreadable):
                found.setdefault(keyword, value.reason)
        return found

    def text(self, keywords: Iterable[str]) -> str:
        """Return the first readable value as printable text; empty where there is none."""
        values = (value for _, value in self.items(keywords) if not isinstance(value, Unreadable))
        return next(map(as_text, values), "")

    def number(self, keywords: Iterable[str]) -> float:
        """Return the first value that is a finite number, also as a string; NaN where there is none."""
        numbers = (as_number(value) for _, value in self.items(keywords))
        return next(filter(math.isfinite, numbers), math.nan)


def same_value(one: object, other: object) -> bool:
    """Return True if two values are equal as text or as numbers, such as 10, 10.0 and '10'."""
    return as_text(one) == as_text(other) or as_number(one) == as_number(other)


def as_text(value: object) -> str:
    """Return a value as printable text; bytes beyond ASCII count as UTF-8 if possible, else as Latin-1."""
    text = str(value).strip(" \0")
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return printable(re.sub(" +", " ", text))


def as_number(value: object) -> float:
    """Return a number, or a string that is one in FITS notation, as float; NaN for anything else."""
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
