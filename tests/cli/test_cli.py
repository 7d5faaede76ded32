"""Command line: exit codes, one paragraph per error, valid JSON, the same group under `dask`."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import dask
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from night import InterruptAfter, executed, sky, tiny_bundle, write_frame, write_night
from safetensors.numpy import save

import aqdask as aq
from aqdask.cli import aqdask, common
from aqdask.cli.main import COMMANDS
from aqdask.version import __version__

SCRIPTS = Path(sys.executable).parent


def call(*arguments: object, cluster: str = "serial"):
    """Run a command in this process; its exit code, stdout and stderr."""
    return CliRunner().invoke(aqdask, [*map(str, arguments), *executed(arguments[0], cluster)])


def refused(constant):
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise AssertionError(f"{constant} is no JSON")


def objects(result) -> list[dict]:
    """stdout of a command with ``--json``: every line an object."""
    found = [json.loads(line, parse_constant=refused) for line in result.stdout.splitlines()]
    assert found
    assert all(isinstance(entry, dict) for entry in found)
    return found


# --- help ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=["aqdask", *COMMANDS])
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(aqdask, [*command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    options = ("--quiet", "--json", "--debug") if command else COMMANDS
    assert all(word in result.stdout for word in options)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_a_cluster_belong_to_commands_that_use_one(name):
    found = aqdask.get_command(click.Context(aqdask), name)
    used = "session.executor()" in inspect.getsource(inspect.unwrap(found.callback))
    offered = {parameter.name for parameter in found.params} & {"cluster", "frame_timeout", "tls"}
    assert len(offered) == (3 if used else 0)


def test_the_help_lists_the_exit_codes():
    text = " ".join(CliRunner().invoke(aqdask, ["--help"]).stdout.split())
    assert "0 every frame done; 1 finished, some frames quarantined, or kept as stored; 2 usage; 3" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("command", [["aqdask"], ["dask", "aqdask"]], ids=" ".join)
def test_the_installed_command_and_the_one_below_dask_are_the_same(command):
    def run(option):
        told = {"capture_output": True, "text": True, "timeout": 120, "check": True}
        return subprocess.run([SCRIPTS / command[0], *command[1:], option], **told).stdout

    text = run("--help")
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert __version__ in run("--version")


def test_a_new_command_is_one_row_of_the_table(monkeypatch):
    @click.command()
    @common.command
    def greet(session):
        """Greet."""
        session.emit("hello", event="greeting")

    monkeypatch.setitem(sys.modules, "greetings", SimpleNamespace(greet=greet))
    monkeypatch.setitem(COMMANDS, "greet", "greetings")
    assert call("greet").stdout == "hello\n"
    assert objects(call("greet", "--json")) == [{"event": "greeting"}]
    listed = CliRunner().invoke(aqdask, ["--help"]).stdout.splitlines()
    assert listed[-1].split() == ["greet", "Greet."]


# --- exit codes ----------------------------------------------------------------------------------------


def test_0_where_every_frame_is_done_and_the_whole_way_leads_to_masks(night, model, tmp_path):
    archive, out = tmp_path / "a.zarr", tmp_path / "out"
    taken = call("ingest", night, archive)
    assert taken.exit_code == 0
    assert f"{archive}: 3 done, 0 quarantined, 0 pending (3 taken in now)" in taken.stdout
    assert call("score", archive, "--model", model).exit_code == 0
    exported = call("export", archive, out, "--alpha", 0.2)
    assert exported.exit_code == 0
    assert "3 DQ images" in exported.stdout
    assert len(list((out / "dq").iterdir())) == 3
    assert call("verify", archive).exit_code == 0
    assert call("info", archive).exit_code == 0


def test_run_does_it_all_in_one_go(night, model, tmp_path):
    result = call("run", night, tmp_path / "a.zarr", "--model", model)
    assert result.exit_code == 0
    assert f"masks, table and report: {tmp_path / 'a-products'}" in result.stdout
    assert len(list((tmp_path / "a-products" / "dq").iterdir())) == 3


def test_1_where_some_are_quarantined_and_they_are_listed(night, model, tmp_path):
    folder, archive = write_night(tmp_path / "n", 2), tmp_path / "a.zarr"
    (folder / "bad.fits").write_text("no FITS file")
    result = call("ingest", folder, archive)
    assert result.exit_code == 1
    assert "bad.fits" in result.stdout
    assert call("score", archive, "--model", model).exit_code == 1
    assert call("verify", archive).exit_code == 1
    listed = call("info", archive, "--quarantined")
    assert listed.exit_code == 0
    assert "bad.fits" in listed.stdout


def test_3_where_verify_finds_damage_and_0_once_it_is_repaired(archive):
    (archive / "frames" / "image" / "c" / "1" / "0" / "0").write_bytes(b"")
    damaged = call("verify", archive)
    assert damaged.exit_code == 3
    assert "L/f02.fits" in damaged.stdout
    assert "NOT sound" in damaged.stdout
    assert "run again with --repair" in damaged.stdout
    repaired = call("verify", archive, "--repair")
    assert repaired.exit_code == 0
    assert "repaired" in repaired.stdout


def test_3_where_frames_are_pending(tmp_path):
    folder, new = write_night(tmp_path / "n", 9), tmp_path / "new.zarr"
    with pytest.raises(KeyboardInterrupt, match="stopped by the test"):
        aq.ingest(folder, new, cluster="serial", reporter=InterruptAfter(1))
    result = call("verify", new)
    assert result.exit_code == 3
    assert "not ingested yet" in result.stdout


# --- JSON ----------------------------------------------------------------------------------------------


def test_json_is_one_object_a_line_for_every_command(night, model, tmp_path):
    archive, out = tmp_path / "a.zarr", tmp_path / "out"
    taken = objects(call("ingest", night, archive, "--json"))
    assert taken[-1]["event"] == "summary"
    assert (taken[-1]["done"], taken[-1]["worked"]) == (3, 3)
    assert {entry["event"] for entry in taken} >= {"start", "progress", "summary"}
    scored = objects(call("score", archive, "--model", model, "--json"))
    assert scored[-1]["worked"] == 3
    selected = objects(call("select", archive, "--json"))
    assert selected[-1]["event"] == "select"
    masked = objects(call("mask", archive, "--json", "--out", tmp_path / "mask.zarr"))
    ids = [entry["frame"] for entry in masked if "masked_fraction" in entry]
    assert ids == ["L/f00.fits", "L/f02.fits", "R/f01.fits"]
    assert objects(call("export", archive, out, "--json"))[-1]["dq_images"] == 3
    assert objects(call("verify", archive, "--json"))[-1]["sound"] is True
    assert objects(call("info", archive, "--json"))[0]["done"] == 3
    assert objects(call("info", model, "--json"))[0]["patch"] == 32
    assert call("export", archive, out, "--json").stderr == ""
    with xr.open_zarr(tmp_path / "mask.zarr", consolidated=False) as mask:
        assert mask["mask"].dtype == bool


def test_an_error_is_an_object_too(tmp_path):
    result = call("ingest", tmp_path / "none", tmp_path / "a.zarr", "--json")
    (error,) = objects(result)
    assert (error["event"], error["exit_code"]) == ("error", 2)
    assert result.exit_code == 2


def test_quiet_says_nothing_but_the_result(night, tmp_path):
    result = call("ingest", night, tmp_path / "a.zarr", "--quiet")
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1


# --- bad input -----------------------------------------------------------------------------------------


def read_only_place(tmp_path: Path) -> Path:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    return Path("/sys") if os.access(folder, os.W_OK) else folder  # root may write anywhere but there


def foreign_folder(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("all of it")
    return tmp_path / "home"


def foreign_zarr(tmp_path: Path) -> Path:
    zarr.create_group(tmp_path / "other.zarr")
    return tmp_path / "other.zarr"


def newer(archive: Path) -> Path:
    zarr.open_group(archive, mode="r+").attrs["layout_version"] = 99
    return archive


def damaged_model(model: Path, tmp_path: Path) -> Path:
    (tmp_path / "damaged.safetensors").write_bytes(model.read_bytes()[:-1] + b"\x01")
    return tmp_path / "damaged.safetensors"


def foreign_model(tmp_path: Path) -> Path:
    (tmp_path / "foreign.safetensors").write_bytes(save({"x": sky(0)}))
    return tmp_path / "foreign.safetensors"


def large_model(tmp_path: Path) -> Path:
    small = tiny_bundle()
    large = type(small)(**{name: getattr(small, name) for name in (
        "name", "method", "normalisation", "architecture", "weights", "calibrations"
    )}, patch=1024)  # fmt: skip
    large.save(tmp_path / "large.safetensors")
    return tmp_path / "large.safetensors"


def empty_folder(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def unusable(tmp_path: Path) -> Path:
    write_frame(tmp_path / "cube" / "a.fits", sky(0)).write_text("no FITS")
    return tmp_path / "cube"


# what is wrong: (arguments, exit code, words of the message)
BAD = {
    "no such source": (lambda t, n, a, m: ("ingest", t / "none", a), 2, "there is no"),
    "no such archive": (lambda t, n, a, m: ("score", t / "none.zarr", "--model", m), 2, "no archive at"),
    "empty folder": (lambda t, n, a, m: ("ingest", empty_folder(t), a), 2, "no FITS file in"),
    "no image at all": (lambda t, n, a, m: ("ingest", unusable(t), t / "b.zarr"), 2, "none of 1 source"),
    "unwritable place": (
        lambda t, n, a, m: ("ingest", n, read_only_place(t) / "b.zarr"), 3, "could not be written"),
    "unwritable products": (
        lambda t, n, a, m: ("export", a, read_only_place(t) / "out"), 3, "could not be written"),
    "unwritable model": (
        lambda t, n, a, m: ("train", a, "--out", read_only_place(t) / "m"), 3, "could not be written"),
    "model over something else": (
        lambda t, n, a, m: ("train", a, "--out", foreign_model(t)), 2, "is no model bundle"),
    "unwritable simulation": (
        lambda t, n, a, m: ("simulate", read_only_place(t) / "s", "--size", 128), 3, "could not be written"),
    "mask over the archive": (
        lambda t, n, a, m: ("mask", a, "--out", a), 3, "is not a mask that aqdask wrote"),
    "model name that is none": (
        lambda t, n, a, m: ("train", a, "--frames", "*", "--out", t / "m", "--name", "a b"), 2, "letters"),
    "a folder of something else": (
        lambda t, n, a, m: ("ingest", n, foreign_folder(t)), 3, "is not an aqdask archive"),
    "a zarr of something else": (
        lambda t, n, a, m: ("score", foreign_zarr(t), "--model", m), 3, "is not an aqdask archive"),
    "a file as archive": (lambda t, n, a, m: ("verify", m), 3, "is not an aqdask archive"),
    "newer layout, read": (lambda t, n, a, m: ("info", newer(a)), 3, "layout version 99"),
    "newer layout, written": (lambda t, n, a, m: ("ingest", n, newer(a)), 3, "install a newer aqdask"),
    "no model": (lambda t, n, a, m: ("score", a, "--model", t / "none"), 2, "no model file"),
    "damaged model": (lambda t, n, a, m: ("score", a, "--model", damaged_model(m, t)), 3, "checksum"),
    "foreign model": (
        lambda t, n, a, m: ("run", n, a, "--model", foreign_model(t)), 3, "no aqdask metadata"),
    "model for far larger patches": (
        lambda t, n, a, m: ("score", a, "--model", large_model(t)), 3, "patch"),
    "alpha 0": (lambda t, n, a, m: ("mask", a, "--alpha", 0), 2, "strictly between 0 and 1"),
    "alpha 1": (lambda t, n, a, m: ("export", a, t / "o", "--alpha", 1), 2, "strictly between 0 and 1"),
    "alpha 2 in run": (
        lambda t, n, a, m: ("run", n, a, "--model", m, "--alpha", 2), 2, "strictly between 0 and 1"),
    "sharp stars of a method without sizes": (
        lambda t, n, a, m: ("train", a, "--method", "paper", "--two-sided", "--out", t / "m"),
        2, "with the method 'paper'"),
    "no such frame": (lambda t, n, a, m: ("select", a, "--keep", "X/*"), 2, "no frame 'X/\\*'"),
    "keyword of nothing": (
        lambda t, n, a, m: ("ingest", n, a, "--keyword", "seeing=FWHM"), 2, "--keyword seeing=FWHM"),
    "frames of a model": (lambda t, n, a, m: ("info", m, "--frames"), 2, "is a model: --frames"),
    "forgetting without a repair": (lambda t, n, a, m: ("verify", a, "--forget"), 2, "without --repair"),
    "DQ images and none": (
        lambda t, n, a, m: ("export", a, t / "o", "--no-dq", "--format", "dq"), 2, "beside --no-dq"),
    "contradicting option": (lambda t, n, a, m: ("ingest", n, a, "--chunk", 512), 2, "--chunk asks for 512"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=list(BAD))
def test_bad_input_gets_one_paragraph_with_a_remedy_and_its_exit_code(case, tmp_path, night, archive, model):
    make, code, words = case
    result = call(*make(tmp_path, night, archive, model), "--quiet")
    assert result.exit_code == code, result.output
    (paragraph,) = result.stderr.splitlines()
    assert paragraph.startswith("aqdask: ")
    assert words.replace("\\", "") in paragraph
    assert "Expected: " in paragraph or "What to do: " in paragraph
    assert "Traceback" not in result.output


@pytest.mark.parametrize("cluster", ["tcp://127.0.0.1:1", "tcp://no.such.host.invalid:8786"])
def test_a_cluster_that_does_not_answer_is_an_error(cluster, night, tmp_path):
    with dask.config.set({"aqdask.connect-timeout": "1 s"}):
        result = call("ingest", night, tmp_path / "a.zarr", "--quiet", cluster=cluster)
    assert result.exit_code == 3
    (paragraph,) = result.stderr.splitlines()
    assert f"the scheduler at {cluster} does not answer" in paragraph
    assert "What to do: " in paragraph
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("cluster", ["moon", "local:many"])
def test_a_word_that_names_no_cluster_is_a_usage_error(cluster, night, tmp_path):
    result = call("ingest", night, tmp_path / "a.zarr", cluster=cluster)
    assert result.exit_code == 2
    assert f"--cluster {cluster}" in result.stderr


def test_debug_gives_the_traceback_and_the_paragraph(tmp_path):
    result = call("ingest", tmp_path / "none", tmp_path / "a.zarr", "--debug")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("aqdask: there is no")


def test_an_option_that_is_none_is_a_usage_error():
    assert call("ingest", "--frobnicate").exit_code == 2
    assert CliRunner().invoke(aqdask, ["frobnicate"]).exit_code == 2


def test_frames_whose_scoring_failed_are_listed_and_counted(tmp_path, model):
    folder, archive = write_night(tmp_path / "n", 3), tmp_path / "np.zarr"
    assert call("ingest", folder, archive, "--no-pixels").exit_code == 0
    (folder / "L" / "f02.fits").unlink()
    scored = call("score", archive, "--model", model)
    assert scored.exit_code == 3  # it is tried again: the source may be on a disk that is not mounted
    assert "2 done, 0 quarantined, 1 pending, 1 of them kept as stored" in scored.stdout
    assert "source unreachable: the file is not there" in scored.stdout
    assert call("verify", archive).exit_code == 3
