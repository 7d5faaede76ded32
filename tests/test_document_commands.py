"""Commands and Python on the pages: names are those of today, and blocks that the build does not run work."""

from __future__ import annotations

import pkgutil
import re
import shutil
from pathlib import Path

import click
import dask
import matplotlib
import pytest
from click.testing import CliRunner
from pages import PAGES, ROOT, commands, mentions, name_of, prose, python_of

import aqdask as aq
import aqdask.execution.config
from aqdask.cli import aqdask

# Decisions tell of options that are gone; the diffs of "extending" add commands, formats and methods.
FOLDERS = ("docs/guide/", "docs/tutorials/", "cluster/", "README.md")
LIVING = [page for page in PAGES if name_of(page).startswith(FOLDERS)]
GUIDE = ROOT / "docs/guide"
FILES = ("aqdask.sbatch", "aqdask.yaml")
OTHERS = {"--help", "--interface"}  # of every command, and of other programs


def parse(words: list[str], *, whole: bool) -> None:
    """Raise click's error for what is no command of today; a ``whole`` one has all that it needs."""
    group = click.Context(aqdask)
    command = aqdask.get_command(group, words[0])
    assert command is not None, f"no command {words[0]}"
    context = click.Context(command, parent=group)
    given, _, _ = command.make_parser(context).parse_args(words[1:])
    for parameter in command.params:
        value = given.get(parameter.name)
        if isinstance(parameter, click.Option) and value is not None:
            parameter.type_cast_value(context, value)
        if whole and parameter.required and not (isinstance(value, str | list | tuple) and value):
            raise click.MissingParameter(ctx=context, param=parameter)


def options() -> set[str]:
    group = click.Context(aqdask)
    found = [aqdask.get_command(group, name) for name in aqdask.list_commands(group)]
    return OTHERS | {option for command in found for one in command.params for option in one.opts}


def is_known(name: str) -> bool:
    """Return True for a setting, and for a module, function or class."""
    if dask.config.get(name, ...) is not ...:
        return True
    try:
        pkgutil.resolve_name(name)
    except (AttributeError, ImportError, ValueError):
        return False
    return True


@pytest.mark.parametrize("page", LIVING, ids=name_of)
def test_commands_and_names_are_those_of_today(page):
    for words in commands(page):
        parse(words, whole=True)
    for words in mentions(page):
        if not words[0].startswith("-"):
            parse(words, whole=False)
    text = prose(page)
    assert set(re.findall(r"`(--[a-z][a-z-]+)", text)) <= options()
    names = set(re.findall(r"`(aqdask(?:\.[a-z][\w-]*)+)", text)) - set(FILES)
    assert [name for name in names if not is_known(name)] == []
    assert set(re.findall(r"\baq\.(\w+)", page.read_text(encoding="utf-8"))) <= set(aq.__all__)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("ingest night/", "Missing parameter: sources"),
        ("score night.zarr", "Missing parameter: model"),
        ("info night.zarr --quarantine-list", "No such option"),
        ("train night.zarr --out m.safetensors --schedule linear", "linear"),
        ("export night.zarr masks --frames-per-shard 2", "No such option"),
    ],
)
def test_commands_of_another_day_are_found(command, problem):
    with pytest.raises(click.UsageError, match=problem):
        parse(command.split(), whole=True)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """Nine frames, the first six of them good."""
    folder = tmp_path_factory.mktemp("simulated")
    with dask.config.set({"aqdask.cluster": "serial"}):
        run(["simulate", str(folder / "night"), "--frames", "9", "--size", "512"])
    return folder / "night"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder as the current one, in which everything runs in this process."""
    monkeypatch.chdir(tmp_path)
    with dask.config.set({"aqdask.cluster": "serial"}):
        yield tmp_path


def run(words: list[str]) -> str:
    done = CliRunner().invoke(aqdask, words, catch_exceptions=False)
    assert done.exit_code == 0, f"{words}: {done.output}"
    return done.output


@pytest.mark.slow
def test_main_job(simulated, here):
    for name in ("night", "night2", "night3"):
        shutil.copytree(simulated, here / name)
    for words in commands(GUIDE / "main-job.md"):
        run(words)
    assert len([*here.glob("masks/dq/*.fits")]) == len([*here.glob("pictures/*.png")]) == 9
    assert (here / "night2-products/report.html").exists()
    assert (here / "night3-products/wide-field.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", GUIDE / "python.md"], ids=name_of)
def test_python(page, simulated, here):
    matplotlib.use("Agg")
    (here / "night/L").mkdir(parents=True)
    for number in range(6):
        shutil.copy(simulated / f"frame_{number:03d}.fits", here / "night/L")
    found: dict = {}
    exec(compile(python_of(page), page.name, "exec"), found)
    assert found["mask"].shape == (6, 512, 512)
    assert 0 <= found["mask"].values.mean() < 0.05
