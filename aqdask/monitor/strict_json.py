"""JSON without NaN and infinity, which many parsers refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from aqdask.text import printable


def strict_json(value: object, indent: int | None = None) -> str:
    """Serialise a value as standard JSON (RFC 8259).

    Parameters
    ----------
    value : object
        NaN and infinities become null, unknown types their ``str``, and keys strings. Text is made printable,
        so that it can always be encoded.
    indent : int, optional
        Indentation; one line without it.
    """
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, default=_text, indent=indent)


def _plain(value: Any) -> Any:
    """Replace numbers that are not finite by None, numpy scalars included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_text(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if getattr(value, "shape", None) == ():  # a numpy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: object) -> str:
    return printable(str(value))
