"""Cards and their values, from whatever a file has in its headers, without a warning or an exception."""

from __future__ import annotations

import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from astropy.io import fits

from aqdask.errors import FrameError
from aqdask.escape import printable

CARD = 80
# A keyword that is not where the standard wants it, in lower case, or of the HIERARCH convention.
LOOSE = re.compile(r" {0,7}(?:HIERARCH +)?([A-Z]+[0-9]*)(?=[ =:]|$)", re.IGNORECASE)
READABLE = re.compile(r" {0,7}(?:HIERARCH +)?[A-Z]+[0-9]* *= ", re.IGNORECASE)
# What nearly all cards are like, read without astropy, which takes twenty times longer.
SIMPLE_CARD = re.compile(r"[A-Z0-9 ]{8}= +(?:(-?[0-9]+)|([TF])|'([^']*)')(?: *| *\/.*)$")

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
        level = logger.level
        logger.setLevel(logging.ERROR)
        _already.quiet = True
        try:
            yield
        finally:
            _already.quiet = False
            logger.setLevel(level)


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


class Cards:
    """Look-up in the image's header, then in the primary one."""

    def __init__(self, header: str, primary_header: str) -> None:
        self.headers = [parse(text) for text in (header, primary_header) if text]

    def values(self, keywords: tuple[str, ...] | list[str]) -> Iterator[object]:
        """Values that are there, keyword by keyword."""
        for keyword in keywords:
            for header in self.headers:
                value = lookup(header, keyword)
                if value is not None and value != "":
                    yield value

    def text(self, keywords: tuple[str, ...] | list[str]) -> str:
        """The first value as printable words; empty where there is none."""
        for value in self.values(keywords):
            words = "".join(c if " " <= c <= "~" else " " for c in str(value)).split()
            if words:
                return " ".join(words)
        return ""

    def number(self, keywords: tuple[str, ...]) -> float:
        """The first value that is a finite number, also as a string; NaN where there is none."""
        for value in self.values(keywords):
            number = as_number(value)
            if math.isfinite(number):
                return number
        return math.nan


def as_number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
