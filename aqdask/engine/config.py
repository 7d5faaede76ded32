"""Settings: Dask's own configuration under ``aqdask:``, with defaults from ``aqdask.yaml``."""

from __future__ import annotations

from importlib import resources
from typing import Any

import dask
import dask.config
import yaml

_defaults = yaml.safe_load(resources.files("aqdask").joinpath("aqdask.yaml").read_text())
dask.config.update_defaults(_defaults)


def get(name: str) -> Any:
    """The value of ``aqdask.<name>``."""
    return dask.config.get(f"aqdask.{name}")


def seconds(name: str) -> float:
    """A duration of the configuration (``30 s``, ``2 min``) in seconds."""
    return float(dask.utils.parse_timedelta(get(name)))
