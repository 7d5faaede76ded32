"""The house stands: imports point downward only, and each layer knows what it may know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aqdask

PACKAGE = Path(aqdask.__file__).parent
VALUES = frozenset({"errors", "escape", "flags", "places", "specs", "version"})
# A layer, and the other layers that it may import (everything may import the values).
ALLOWED: dict[str, frozenset[str]] = {
    "values": frozenset(),
    "kernels": frozenset(),
    "models": frozenset({"kernels"}),
    "archive": frozenset(),  # neither kernels nor models: what is on disk knows nothing of scoring
    "engine": frozenset({"kernels", "models", "archive"}),
    "sky": frozenset({"kernels", "models", "archive", "engine"}),
    "products": frozenset({"kernels", "models", "archive", "engine", "sky"}),
    "monitor": frozenset({"kernels", "models", "archive", "engine", "sky", "products"}),
    "faces": frozenset({"kernels", "models", "archive", "engine", "sky", "products", "monitor"}),
}
# Packages that only some layers may import.
KEPT_TO: dict[str, frozenset[str]] = {
    "distributed": frozenset({"engine"}),
    "dask_jobqueue": frozenset({"engine"}),
    "dask": frozenset({"engine", "products", "monitor", "faces"}),
    "torch": frozenset({"kernels", "models", "engine"}),
    "zarr": frozenset({"archive", "engine", "products"}),
    "click": frozenset({"faces"}),
}
FILES = frozenset({"os", "io", "pathlib", "shutil", "tempfile", "zarr", "astropy", "safetensors", "xarray"})
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: str) -> str:
    """The layer of a dotted module name below ``aqdask``; '' is the package itself."""
    if module == "models.pretrain":  # a program that lies beside what it makes
        return "faces"
    first = module.partition(".")[0]
    if first in VALUES:
        return "values"
    return first if first in ALLOWED else "faces"


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also within functions; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix("__init__")


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_point_downward_only(path):
    layer = layer_of(named(path))
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top == "aqdask":
            found = layer_of(rest)
            assert found in {"values", layer} | ALLOWED[layer], (
                f"{named(path)} imports {module}, which is above it"
            )
        elif top in KEPT_TO:
            assert layer in KEPT_TO[top] or named(path) == "models.pretrain", (
                f"{named(path)} imports {module}: only {sorted(KEPT_TO[top])} may"
            )


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels").glob("*.py")), ids=named)
def test_kernels_open_no_file(path):
    assert not {module.partition(".")[0] for module in imports(path)} & FILES
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert "open" not in names


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_function_fits_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (
                (node.end_lineno or 0) - node.body[0].lineno + 1 - (ast.get_docstring(node) or "").count("\n")
            )
            assert lines <= 60, f"{named(path)}.{node.name} has {lines} lines"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("aqdask.archive", {"dask", "distributed", "torch", "xarray"}),
        ("aqdask.cli", {"torch", "distributed", "zarr", "astropy"}),  # `aqdask --help` is quick
    ],
)
def test_what_importing_a_layer_does_not_load(modules, absent):
    code = (
        "import importlib, pkgutil, sys, importlib.util as u\n"
        f"package = importlib.import_module({modules!r})\n"
        "for found in pkgutil.iter_modules(package.__path__):\n"
        f"    importlib.import_module(f'{modules}.{{found.name}}')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert not absent & set(done.stdout.split())


def test_who_only_ingests_does_not_load_torch():
    code = "import sys, aqdask.execution.ingest, aqdask.execution.tasks; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "torch" not in done.stdout.split()
