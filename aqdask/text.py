"""Text of unknown origin (file names, header cards) made safe to store, print and compare."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence


def printable(text: str | os.PathLike[str]) -> str:
    r"""Replace characters that a terminal, table or UTF-8 file cannot show by visible escapes.

    Parameters
    ----------
    text : str or path
        Any text; file names that are not UTF-8 hold surrogates (``os.fsdecode``).

    Returns
    -------
    str
        The same text where all of it is printable. A byte that is not UTF-8 becomes ``\xe9``; control,
        format and unassigned characters (newline, tab, escape, bell, direction marks) become ``\x1b`` or
        ``\u202e``. The result always encodes as UTF-8.
    """
    text = os.fspath(text)
    return text if text.isprintable() else "".join(c if _is_shown(c) else _escaped(c) for c in text)


def plural(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``1 frame``, ``2 frames``; ``many`` is a plural without s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def shortened(words: Sequence[str], limit: int = 8) -> str:
    """Join at most ``limit`` words with commas, and count the others: ``a, b and 3 more``."""
    rest = len(words) - limit
    return ", ".join(words[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _is_shown(character: str) -> bool:
    return character == " " or character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    value = ord(character)
    if 0xDC80 <= value <= 0xDCFF:  # a byte that os.fsdecode could not decode
        value -= 0xDC00
    return f"\\x{value:02x}" if value < 0x100 else f"\\u{value:04x}" if value < 0x10000 else f"\\U{value:08x}"
