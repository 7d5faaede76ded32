"""Fixtures of odd FITS files: those that ``trouble/make_trouble.py`` of the real frames writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def trouble(
    make_trouble: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict]]:
    """``trouble(kind)``: folder of that kind, written once, and the expected values."""
    root, made = tmp_path_factory.mktemp("trouble"), {}

    def make(kind: str) -> tuple[Path, dict]:
        if kind not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[kind] = make_trouble.KINDS[kind](root / kind)
        return root / kind, made[kind]

    return make
