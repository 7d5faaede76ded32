"""Fixtures for the whole suite: the real frames, and what to do where something needed is absent.

With ``AQDASK_REQUIRE=1`` (set in CI) a missing requirement is a failure, so that nothing is skipped unseen.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _require(condition: object, reason: str) -> None:
    if condition:
        return
    if os.environ.get("AQDASK_REQUIRE") == "1":
        pytest.fail(f"required by AQDASK_REQUIRE=1: {reason}")
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest file, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_science_benchmark.py")


@pytest.fixture(scope="session")
def require() -> Callable[[object, str], None]:
    """``require(condition, reason)``: skip where it is false, or fail under AQDASK_REQUIRE=1."""
    return _require


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real frames (``AQDASK_TEST_DATA``, else ``../shared/data``)."""
    folder = Path(os.environ.get("AQDASK_TEST_DATA", "../shared/data"))
    folder = folder if folder.is_absolute() else ROOT / folder
    _require((folder / "bad_inputs").is_dir(), f"no real frames in {folder}; set AQDASK_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def make_trouble(data_dir: Path) -> ModuleType:
    """Module that writes the odd files, with one function a kind."""
    spec = importlib.util.spec_from_file_location("make_trouble", data_dir / "trouble" / "make_trouble.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
