"""Text of unknown origin (file names, header cards) made safe to store, to print and to compare."""

from __future__ import annotations

import os
import unicodedata


def printable(text: str | os.PathLike[str]) -> str:
    r"""Replace what no terminal, table or UTF-8 file should be given by visible escapes.

    Parameters
    ----------
    text : str or path
        Any text; file names that are not UTF-8 hold surrogates (``os.fsdecode``).

    Returns
    -------
    str
        The same where everything in it is printable. A byte that is not UTF-8 becomes ``\xe9``, control,
        format and unassigned characters (newline, tab, escape, bell, direction marks) ``\x1b`` or
        ``\u202e``. Encodes as UTF-8 in any case.
    """
    return "".join(c if _is_shown(c) else _escaped(c) for c in os.fspath(text))


def _is_shown(character: str) -> bool:
    return character == " " or character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    value = ord(character)
    if 0xDC80 <= value <= 0xDCFF:  # a byte that os.fsdecode could not decode
        value -= 0xDC00
    return f"\\x{value:02x}" if value < 0x100 else f"\\u{value:04x}" if value < 0x10000 else f"\\U{value:08x}"
