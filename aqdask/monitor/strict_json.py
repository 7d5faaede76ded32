"""JSON that any reader takes: what is written for programs has no NaN and no infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from aqdask.text import printable


def strict_json(value: object, indent: int | None = None) -> str:
    """``value`` as JSON, one line unless ``indent`` is given.

    NaN and infinities, which JSON does not have, are null; what is no plain value is its ``str``; keys are
    strings; text is made printable, so that every reader can decode it.
    """
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, default=_text, indent=indent)


def _plain(value: Any) -> Any:
    """The same with None for every number that is not finite, numpy's too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_text(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if getattr(value, "shape", None) == ():  # a number of numpy's
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: object) -> str:
    return printable(str(value))
