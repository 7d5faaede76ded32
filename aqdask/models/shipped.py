"""Models that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SHIPPED = "wide-field"


def place(name: str) -> Path:
    """Where the shipped model ``name`` lies (or would lie)."""
    return Path(str(files("aqdask.models") / "data" / f"{name}.safetensors"))
