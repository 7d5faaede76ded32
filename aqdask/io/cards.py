"""Cards and their values, from whatever a file has in its headers, without a warning or an exception."""

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

CARD = 80
# A keyword that is not where the standard wants it, in lower case, or of the HIERARCH convention.
LOOSE = re.compile(r" {0,7}(?:HIERARCH +)?([A-Z]+[0-9]*)(?=[ =:]|$)", re.IGNORECASE)
READABLE = re.compile(r" {0,7}(?:HIERARCH +)?[A-Z]+[0-9]* *= ", re.IGNORECASE)
QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
# What nearly all cards are like, read without astropy, which takes twenty times longer.
SIMPLE_CARD = re.compile(r"[A-Z0-9 ]{8}= +(?:(-?[0-9]+)|([TF])|'([^']*)')(?: *| *\/.*)$")
# A card whose value is surely a number or a string, told without parsing it.
PLAIN_CARD = re.compile(
    r"[A-Z0-9 ]{8}= +(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d+)?|'[^']*') *(?:/|$)", re.ASCII
)
COMMENTARY = ("COMMENT", "HISTORY", "CONTINUE", "")


@dataclass(frozen=True)
class Unreadable:
    """The value of a card that is there and cannot be known; ``reason`` is said behind 'the card X'."""

    reason: str


UNREADABLE = Unreadable("cannot be read")
CONTRADICTORY = Unreadable("stands twice with different values")

_lock = threading.Lock()
_already = threading.local()


@contextmanager
def quiet() -> Iterator[None]:
    """No warning and no log line of astropy inside; one thread at a time, as warning filters are global.

    Inside another ``quiet()`` of the same thread it costs nothing: a header has many cards.
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
    """Cards as a header; nothing is checked until a value is asked for, see `lookup`."""
    with quiet():
        return fits.Header.fromstring(text)


def lookup(header: fits.Header, keyword: str) -> object:
    """The value of the first card of that name; None where it is missing, undefined or cannot be read."""
    try:
        with quiet():
            value = header.get(keyword)
    except Exception:  # a damaged card can fail in any of astropy's parsers
        return None
    return None if isinstance(value, fits.card.Undefined) else value


class Structure:
    """The cards of one header that say how its data lie and scale, read without forgiveness.

    A card that is there and cannot be read is never taken as absent, and of two that differ none is right.

    Parameters
    ----------
    text : str
        Cards of 80 characters each.
    where : str
        Name of the header in messages.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self._at: dict[str, list[int]] = {}
        for at in range(0, len(text), CARD):
            word = text[at : at + 8].rstrip()
            if not (word.isalnum() and word.isupper()) or word == "HIERARCH":
                card = text[at : at + CARD]
                loose = LOOSE.match(card)
                word = loose[1].upper() if loose and (card[0] != " " or "=" in card) else ""
            self._at.setdefault(word, []).append(at)

    def get(self, keyword: str) -> object:
        """The value of a card; None where there is none.

        Raises
        ------
        FrameError
            For a card that cannot be read, has no value, or is given again with another value.
        """
        places = self._at.get(keyword)
        if places is None:
            return None
        values = [self._value(at) for at in places]
        first = values[0]
        for at, value in zip(places[1:], values[1:], strict=True):
            if value != first or isinstance(value, bool) != isinstance(first, bool):
                raise FrameError(
                    f"{self.where} has {keyword} twice with different values:"
                    f" {self._shown(places[0])} and {self._shown(at)}"
                )
        return first

    def first(self, keyword: str) -> object:
        """The value of the first card of that name, long strings included; None where it cannot be read."""
        if keyword not in self._at:
            return None
        start = stop = self._at[keyword][0]
        while self.text.startswith("CONTINUE", stop + CARD):
            stop += CARD
        if start == stop and SIMPLE_CARD.match(self.text[start : start + CARD]):
            return self._value(start)
        return lookup(parse(self.text[start : stop + CARD]), keyword)

    def _value(self, at: int) -> object:
        text = self.text[at : at + CARD]
        if simple := SIMPLE_CARD.match(text):
            number, logical, string = simple.groups()
            return int(number) if number else logical == "T" if logical else string.rstrip(" ")
        value: object = fits.card.UNDEFINED
        if READABLE.match(text):
            try:
                with quiet():
                    value = fits.Card.fromstring(text.lstrip(" ")).value
            except Exception:  # a damaged card can fail in any of astropy's parsers
                value = fits.card.UNDEFINED
        if isinstance(value, fits.card.Undefined):
            raise FrameError(f"{self.where} has a card that cannot be read: {self._shown(at)}")
        return value

    def _shown(self, at: int) -> str:
        return f"'{printable(self.text[at : at + CARD].rstrip())}'"


class Part:
    """One header with the text of its cards, as astropy forgets or mends what it cannot parse.

    ``raw`` maps each keyword to its first card, 80 characters, with the CONTINUE cards behind it, and
    ``repeats`` those that are there again to their further cards.
    """

    def __init__(self, text: str) -> None:
        self.raw: dict[str, str] = {}
        self.repeats: dict[str, list[str]] = {}
        keyword, before = "", "no card"
        for start in range(0, len(text), CARD):
            card = text[start : start + CARD]
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
        """The value of a card; None where it is missing, undefined or blank."""
        card = self.raw.get(keyword)
        if card is None:
            return None
        first = self._first(keyword, card)
        if keyword not in self.repeats:
            return first
        others = [Part(other).value(keyword) for other in self.repeats[keyword] if other != card]
        values = [value for value in (first, *others) if value is not None]
        if UNREADABLE in values:
            return UNREADABLE
        if not all(is_same(values[0], value) for value in values[1:]):
            return CONTRADICTORY
        return values[0] if values else None

    def is_plain(self, keyword: str) -> bool:
        """True if the value of a card surely can be read; it is not parsed."""
        card = self.raw.get(keyword)
        return card is None or (keyword not in self.repeats and PLAIN_CARD.match(card) is not None)

    def _first(self, keyword: str, card: str) -> object:
        """The value of the first card of that name, whose text is ``card``."""
        if "=" in card[:CARD] and card[8:10] != "= " and not card.startswith("HIERARCH "):
            return UNREADABLE  # astropy takes such a card for a comment, or for another keyword
        try:
            with quiet():
                value = fits.Header.fromstring(card).get(keyword)  # this card alone: a header has hundreds
        except Exception:  # a damaged card can fail in any of astropy's parsers
            value = _quoted(card)
        blank = isinstance(value, fits.card.Undefined) or (isinstance(value, str) and not value.strip(" \0"))
        return None if blank else value


def _quoted(card: str) -> object:
    """The string in a card that astropy refuses for characters that are not printable ASCII."""
    pieces = [card[start : start + CARD] for start in range(0, len(card), CARD)]
    matches = [QUOTED.match(pieces[0].partition("=")[2]), *(QUOTED.match(piece[8:]) for piece in pieces[1:])]
    words = [match[1].replace("''", "'") for match in matches if match]
    rest = pieces[0].partition("=")[2][matches[0].end() :].strip() if matches[0] else "?"
    if len(words) < len(matches) or (rest and not rest.startswith("/")):
        return UNREADABLE
    return "".join(word.rstrip().removesuffix("&") for word in words[:-1]) + words[-1]


class Cards:
    """Look-up in the image's header, then in the primary one."""

    def __init__(self, *texts: str) -> None:
        self.parts = [Part(text) for text in texts if text]

    def scopes(self) -> Iterator[Cards]:
        """The image's header alone, then all of them."""
        for count in sorted({1, len(self.parts)} - {0}):
            scope = Cards()
            scope.parts = self.parts[:count]
            yield scope

    def items(self, keywords: Iterable[str]) -> Iterator[tuple[str, object]]:
        """Keywords that are there with their values, keyword by keyword; see `UNREADABLE`."""
        for keyword in keywords:
            for part in self.parts:
                if (value := part.value(keyword)) is not None:
                    yield keyword, value

    def holds(self, keyword: str) -> bool:
        """True if there is a card of that name, whatever it says."""
        return any(keyword in part.raw for part in self.parts)

    def unreadable(self, keywords: Iterable[str]) -> dict[str, str]:
        """Cards of unknown value, with the reason, of those that come before the first readable one."""
        before = takewhile(lambda item: isinstance(item[1], Unreadable), self.items(keywords))
        found: dict[str, str] = {}
        for keyword, value in before:
            if isinstance(value, Unreadable):
                found.setdefault(keyword, value.reason)
        return found

    def text(self, keywords: Iterable[str]) -> str:
        """The first readable value as printable words; empty where there is none."""
        return next(
            (words(value) for _, value in self.items(keywords) if not isinstance(value, Unreadable)), ""
        )

    def number(self, keywords: Iterable[str]) -> float:
        """The first value that is a finite number, also as a string; NaN where there is none."""
        numbers = (as_number(value) for _, value in self.items(keywords))
        return next((number for number in numbers if math.isfinite(number)), math.nan)


def is_same(one: object, other: object) -> bool:
    """True if two cards say the same, be it 10, 10.0 or '10'."""
    return words(one) == words(other) or as_number(one) == as_number(other)


def words(value: object) -> str:
    """A value as printable text; bytes beyond ASCII, which arrive as Latin-1, are UTF-8 where they can be."""
    text = str(value).strip(" \0")
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return printable(re.sub(" +", " ", text))


def as_number(value: object) -> float:
    """A number, or a string that is one as FITS writes it; NaN for anything else."""
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
