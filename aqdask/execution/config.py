"""Settings, in Dask's configuration under ``aqdask:``, with defaults from ``aqdask.yaml``."""

from __future__ import annotations

import math
import re
from importlib import resources
from typing import Any

import dask
import dask.config
import yaml

from aqdask.errors import UsageError

_defaults = yaml.safe_load(resources.files("aqdask").joinpath("aqdask.yaml").read_text())
dask.config.update_defaults(_defaults)


def get(name: str) -> Any:
    """Return the value of ``aqdask.<name>``."""
    return dask.config.get(f"aqdask.{name}")


def seconds(name: str) -> float:
    """Return a duration of the configuration (``30 s``, ``2 min``) in seconds, above 0.

    Raises
    ------
    UsageError
        For a setting that is no duration.
    """
    value = get(name)
    found = duration(value)
    if not 0 < found < math.inf:
        raise UsageError(
            f"the setting aqdask.{name} is {value!r}",
            expected="a time above 0, such as 90s, '5 min' or '2 hours'",
            consequence="Nothing was done",
            remedy="set it in Dask's configuration, or leave it out",
        )
    return found


def duration(value: object) -> float:
    """Return a duration (``30 s``, ``2 min``) in seconds; NaN for anything else."""
    try:
        text = re.sub(r"\bmin(s|utes?)?\b|(?<=\d)min(s|utes?)?\b", "minutes", str(value))
        return float(dask.utils.parse_timedelta(text))
    except (ValueError, KeyError, TypeError):
        return math.nan


def fsync() -> bool:
    """Return True if files of an archive are to be on disk before the ledger tells of them.

    Raises
    ------
    UsageError
        For a setting other than 'auto' and 'off'.
    """
    value = get("fsync")
    if value not in ("auto", "off", False):  # YAML reads off as False
        raise UsageError(
            f"the setting aqdask.fsync is {value!r}",
            expected="auto or off",
            consequence="Nothing was done",
            remedy="set it in Dask's configuration, or leave it out",
        )
    return value == "auto"


def changed(settings: dict[str, Any]) -> Any:
    """Set values of the configuration, by their full names, within a context."""
    return dask.config.set(settings)
