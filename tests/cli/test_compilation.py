"""Compilation of kernels: told once a command, and cached where a folder can be written."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import click
import numba
import pytest
from click.testing import CliRunner
from numba.core import event

from aqdask import compilation
from aqdask.cli import aqdask, common
from aqdask.cli.main import COMMANDS
from aqdask.execution.executors import WorkQueue
from aqdask.stats import compiled

MODULE = "from aqdask.stats.compiled import exact\n@exact\ndef twice(x):\n    return 2 * x\n"


@pytest.fixture
def told(monkeypatch):
    """Messages of an announcement that has told nothing yet."""
    announcement, messages = compiled.Announcement(), []
    event.unregister("numba:compile", compiled._announcement)
    event.register("numba:compile", announcement)
    with monkeypatch.context() as patch, contextlib.closing(compilation.Listener(messages.append)):
        patch.setattr(compiled, "_announcement", announcement)
        yield messages
    event.unregister("numba:compile", announcement)
    event.register("numba:compile", compiled._announcement)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """``load(name)``: the function `twice` of a new module, with its cache beside the module."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "made.py").write_text(MODULE)

    def load(name: str = "aqdask.made"):
        spec = importlib.util.spec_from_file_location(name, tmp_path / "made.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.twice

    return load


def test_a_compilation_is_told_once_and_loading_from_the_cache_is_not(told, load):
    function = load()
    assert (function(1), function(1.5)) == (2, 3)
    assert told == [compilation.ONCE]
    told.clear()
    compiled._announcement._told = False
    assert load()(1) == 2
    assert told == []


def test_functions_of_others_are_not_told(told, load):
    assert load("others.made")(1) == 2
    assert told == []


def test_the_cache_of_the_user_serves_where_the_package_cannot_be_written(told, load, tmp_path):
    (tmp_path / "__pycache__").write_text("no folder")
    assert load()(1) == 2
    assert told == [compilation.ONCE]
    assert any((tmp_path / "user").rglob("*.nbc"))


def test_without_any_folder_functions_work_and_what_to_set_is_told(told, load, tmp_path):
    for name in ("__pycache__", "user"):
        (tmp_path / name).write_text("no folder")
    assert load()(1) == 2
    assert told == [compilation.EVERY_TIME]


@pytest.fixture
def compiling(monkeypatch):
    """Name of a command whose tasks tell of compilations."""

    @click.command()
    @common.command
    def compiling(session):
        with session.executor() as executor:
            list(executor.run(compilation.log.info, WorkQueue([compilation.ONCE] * 6), stage="score"))

    monkeypatch.setitem(sys.modules, "compilers", SimpleNamespace(compiling=compiling))
    monkeypatch.setitem(COMMANDS, "compiling", "compilers")
    return "compiling"


@pytest.mark.parametrize("cluster", ["serial", "local:2"])
def test_a_command_tells_it_once_whoever_compiles(compiling, cluster):
    done = CliRunner().invoke(aqdask, [compiling, "--cluster", cluster])
    assert done.exit_code == 0
    assert done.stderr.count(compilation.ONCE) == 1


def test_quiet_hides_it(compiling):
    assert CliRunner().invoke(aqdask, [compiling, "--cluster", "serial", "--quiet"]).stderr == ""


def test_the_first_command_of_an_installation_tells_it_and_the_next_one_does_not(night, model, tmp_path):
    def run(name: str) -> str:
        words = ["run", night, tmp_path / name, "--model", model, "--cluster", "serial"]
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "aqdask", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr

    assert compilation.ONCE in run("a.zarr")
    assert any((tmp_path / "cache").rglob("*.nbc"))
    assert compilation.ONCE not in run("b.zarr")
