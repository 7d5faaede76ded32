"""Imports point downward, without a circle, and each layer knows what it may know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import aqdask

PACKAGE = Path(aqdask.__file__).parent
# Layers from the bottom to the top. A module imports from its own layer and from those below.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"compilation", "errors", "flags", "paths", "specs", "text", "timing", "version"}),
    frozenset({"io"}),
    frozenset({"store"}),
    frozenset({"stats"}),
    frozenset({"references"}),
    frozenset({"methods"}),
    frozenset({"execution"}),
    frozenset({"monitor"}),
    frozenset({"plot"}),
    frozenset({"products"}),
    frozenset({"simulate"}),
    frozenset({"photometry"}),
    frozenset({"measurements"}),
    frozenset({"watching"}),
    frozenset({"api"}),
    frozenset({"cli", "__main__", ""}),  # "" is the package itself, which loads the API lazily
)
# Layers that know nothing of each other although one is above.
APART: dict[str, frozenset[str]] = {
    "stats": frozenset({"io", "store"}),
    "methods": frozenset({"io", "store"}),
    "photometry": frozenset({"io", "store", "methods", "execution", "monitor", "products"}),
}
SHARED = ("training", "data", "__pycache__")  # folders below methods/ that are no method
METHODS = tuple(
    f"methods.{folder.name}"
    for folder in sorted((PACKAGE / "methods").iterdir())
    if folder.is_dir() and folder.name not in SHARED
)
# Packages that only some layers may import.
KEPT_TO: dict[str, frozenset[str]] = {
    "distributed": frozenset({"execution", "monitor"}),
    "dask_jobqueue": frozenset({"execution"}),
    "dask": frozenset({"execution", "products", "monitor", "cli"}),
    "torch": frozenset({"methods", "execution", "simulate"}),
    "zarr": frozenset({"store", "execution", "products"}),
    "click": frozenset({"cli"}),
}
FILES = frozenset({"os", "io", "pathlib", "shutil", "tempfile", "zarr", "astropy", "safetensors", "xarray"})
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: str) -> int:
    """Return the layer of a dotted module name below ``aqdask``."""
    first = module.partition(".")[0]
    return next(level for level, names in enumerate(LAYERS) if first in names)


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Everything in a file, as parsed."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, also within functions; ``from a import b`` gives ``a.b``."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            yield from (f"{node.module}.{name.name}" for name in node.names)


@cache
def named(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix("__init__")


@cache
def edges(path: Path) -> frozenset[str]:
    """Return the modules of this package that a file imports."""
    names = {named(module).removesuffix(".") for module in MODULES}
    found: set[str] = set()
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top == "aqdask":
            parts = rest.split(".")
            whole = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            found.add(next((name for name in whole if name in names), ""))
    return frozenset(found - {named(path).removesuffix(".")})


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_point_downward_only(path):
    own = named(path)
    for module in edges(path):
        assert layer_of(module) <= layer_of(own), f"{own} imports {module}, which is above it"
        assert module.partition(".")[0] not in APART.get(own.partition(".")[0], ()), f"{own} imports {module}"
    for module in imports(path):
        top = module.partition(".")[0]
        if top in KEPT_TO:
            assert own.partition(".")[0] in KEPT_TO[top], f"{own}: only {sorted(KEPT_TO[top])} import {top}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_shared_code_imports_no_method(path):
    own = named(path)
    if own.startswith((*METHODS, "simulate.pretrain")):  # pretrain makes the model that the method ships
        return
    assert not [module for module in edges(path) if module.startswith(METHODS)], own


def test_methods_do_not_import_each_other():
    for path in MODULES:
        own = named(path)
        mine = [method for method in METHODS if own.startswith(method)]
        others = [method for method in METHODS if method not in mine] if mine else []
        assert not [module for module in edges(path) if module.startswith(tuple(others) or "?")], own


def test_no_import_circle():
    graph = {named(path).removesuffix("."): edges(path) for path in MODULES if named(path)}
    while leaves := [name for name, below in graph.items() if not below & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f"these import each other, or modules that do: {sorted(graph)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "stats").glob("*.py")), ids=named)
def test_statistics_open_no_file(path):
    assert not {module.partition(".")[0] for module in imports(path)} & FILES
    names = {node.id for node in nodes(path) if isinstance(node, ast.Name)}
    assert "open" not in names


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_function_fits_a_screen(path):
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (
                (node.end_lineno or 0) - node.body[0].lineno + 1 - (ast.get_docstring(node) or "").count("\n")
            )
            assert lines <= 60, f"{named(path)}.{node.name} has {lines} lines"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("aqdask.store", {"dask", "distributed", "torch", "xarray"}),
        ("aqdask.io", {"dask", "distributed", "torch", "xarray", "zarr"}),
        ("aqdask.cli", {"torch", "distributed", "zarr", "astropy", "numba"}),  # `aqdask --help` is quick
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


OPENINGS = ("what", "whether", "which", "how", "that", "why", "where", "when", "who")


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_docstrings_open_with_a_noun_or_an_imperative(path):
    for node in nodes(path):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "-").split()[0].lower().strip(",.:")
            assert first not in OPENINGS, (
                f"{named(path)}: {getattr(node, 'name', 'module')} opens with {first!r}"
            )
