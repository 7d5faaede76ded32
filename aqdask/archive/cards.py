"""Cards and their values, from whatever a file has in its headers, without a warning or an exception."""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from astropy.io import fits

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
