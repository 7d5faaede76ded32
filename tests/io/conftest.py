"""Fixtures of odd FITS files: those that ``trouble/make_trouble.py`` of the real frames writes."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def make_trouble(data_dir: Path) -> ModuleType:
    """Module that writes the odd files, with one function a kind."""
    spec = importlib.util.spec_from_file_location("make_trouble", data_dir / "trouble" / "make_trouble.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
