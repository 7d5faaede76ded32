"""Models that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aqdask.errors import ModelError
from aqdask.methods.bundle import Bundle

SHIPPED = "wide-field"


def place(name: str) -> Path:
    """Return the path of the shipped model ``name``."""
    return Path(str(files("aqdask.methods") / "data" / f"{name}.safetensors"))


def load_shipped(name: str = SHIPPED) -> Bundle:
    """Load the shipped model ``name``.

    Raises
    ------
    ModelError
        If this installation does not have it.
    """
    if not place(name).exists():
        raise ModelError(
            f"this installation of aqdask has no model {name!r}",
            expected=f"the file {place(name)}",
            consequence="There is nothing to start from",
            remedy="install aqdask from its wheel, or run `python -m aqdask.simulate.pretrain`",
        )
    return Bundle.load(place(name))
