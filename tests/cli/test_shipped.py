"""Shipped model on the command line: `calibrate`, `run`, `train` and `info`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from astropy.io import fits
from click.testing import CliRunner
from night import executed, ledger_of

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.simulate.demo import demo_plan, write_demo_frame

GOOD, SIZE = 8, 768
PLAN = demo_plan(12, SIZE, seed=5)[:GOOD]


def call(*arguments: object):
    """Run a command in this process; its exit code, stdout and stderr."""
    return CliRunner().invoke(aqdask, [*map(str, arguments), *executed(arguments[0])])


def paragraph(result) -> str:
    """Only line on stderr of a refused command with ``--quiet``."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("aqdask: ")
    return line


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Folder of good frames of the simulated camera, filter L; read only."""
    folder = tmp_path_factory.mktemp("drawn")
    for frame in PLAN:
        write_demo_frame(folder, frame)
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory, drawn) -> Path:
    """Their archive, without any scores; not to be changed."""
    archive = tmp_path_factory.mktemp("stored") / "a.zarr"
    aq.ingest(drawn, archive, cluster="serial")
    return archive


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, stored):
    """Shipped model calibrated on the archive: result of the command, and file."""
    path = tmp_path_factory.mktemp("calibrated") / "simcam.safetensors"
    named = ("--frames", "frame_00[0-6]*", "--name", "simcam")
    return call("calibrate", stored, "--model", "wide-field", *named, "--out", path), path


def in_filter(source: Path, target: Path, band: str) -> Path:
    """Copy of a frame with another filter in its header."""
    shutil.copy(source, target)
    fits.setval(target, "FILTER", value=band)
    return target


# --- calibrate -----------------------------------------------------------------------------------------


def test_calibrate_writes_a_model_that_info_describes(calibrated):
    result, path = calibrated
    assert result.exit_code == 0, result.output
    assert f"{path}: model simcam, " in result.stdout
    shown = call("info", path)
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["model", "simcam"] in lines
    assert ["sha256", aq.load_model(path).digest] in lines
    (row,) = (line for line in lines if line[0] == "SIMCAM")
    assert row[1] == "L"
    assert row[2] == "any"  # sky
    assert row[5] == "7"  # frames
    assert "note: The p-values come from 2 of the" in shown.stdout
    told = json.loads(call("info", path, "--json").stdout)
    known = told["calibrations"]["SIMCAM|L"]
    assert known["patches"] == 2 * (SIZE // 64) ** 2
    assert known["smallest_pvalue"] == pytest.approx(1 / (known["patches"] + 1) / 4)
    assert sorted(known["frames"]) == [frame.name for frame in PLAN[:7]]
    assert known["gain"] == pytest.approx(1.5, rel=0.2)
    assert known["notes"]
    assert told["provenance"]["adapted_from"] == aq.load_model("wide-field").digest


def test_calibrate_counts_the_frames_that_are_too_few(stored, tmp_path):
    out = tmp_path / "m.safetensors"
    result = call(
        "calibrate", stored, "--model", "wide-field", "--frames", "frame_00[01]*", "--out", out, "--quiet"
    )
    assert result.exit_code == 2
    assert "the number of reference frames is 2. Expected: at least 3" in paragraph(result)
    assert not out.exists()


def test_calibrate_refuses_the_published_method(stored, model, tmp_path):
    result = call("calibrate", stored, "--model", model, "--out", tmp_path / "m", "--quiet")
    assert result.exit_code == 2
    assert "the model tiny is of the method 'paper'" in paragraph(result)
    assert not (tmp_path / "m").exists()


# --- run -----------------------------------------------------------------------------------------------


def test_run_calibrates_once_and_goes_on_with_the_same_model(drawn, tmp_path):
    night, archive, products = tmp_path / "night", tmp_path / "night.zarr", tmp_path / "night-products"
    night.mkdir()
    for frame in PLAN[:-1]:
        shutil.copy(drawn / frame.name, night)
    arguments = ("run", night, archive, "--model", "wide-field")
    first = call(*arguments)
    assert first.exit_code == 0, first.output
    assert "calibrating wide-field on the frames that `select` proposes" in first.stderr
    assert f"{archive}: 7 done, 0 quarantined, 0 pending (7 done now)" in first.stdout
    path = products / "wide-field.safetensors"
    made = (path.stat().st_mtime_ns, aq.load_model(path).digest)
    assert len(list((products / "dq").iterdir())) == 7

    again = call(*arguments)
    assert again.exit_code == 0
    assert "calibrating" not in again.stderr
    assert "(0 done now)" in again.stdout

    shutil.copy(drawn / PLAN[-1].name, night)
    more = call(*arguments)
    assert more.exit_code == 0
    assert "calibrating" not in more.stderr
    assert "8 done, 0 quarantined, 0 pending (1 done now)" in more.stdout
    assert (path.stat().st_mtime_ns, aq.load_model(path).digest) == made
    (group,) = (archive / "quality").glob("wide-field-*")
    assert group.name == f"wide-field-{made[1][:8]}"
    assert {entry.standing(group.name)[0] for entry in ledger_of(archive).rows()} == {"done"}
    assert len(list((products / "dq").iterdir())) == 8


def test_run_without_frames_enough_says_how_many(drawn, tmp_path):
    night = tmp_path / "night"
    night.mkdir()
    for frame in PLAN[:2]:
        shutil.copy(drawn / frame.name, night)
    result = call("run", night, tmp_path / "a.zarr", "--model", "wide-field", "--quiet")
    assert result.exit_code == 2
    assert "the number of reference frames is 2. Expected: at least 3" in paragraph(result)


# --- strict --------------------------------------------------------------------------------------------


def test_strict_refuses_a_filter_that_the_model_is_not_calibrated_for(drawn, calibrated, tmp_path):
    night, archive = tmp_path / "night", tmp_path / "a.zarr"
    night.mkdir()
    in_filter(drawn / PLAN[0].name, night / "red.fits", "R")
    arguments = ("run", night, archive, "--model", calibrated[1])
    refused = call(*arguments, "--strict", "--quiet")
    assert refused.exit_code == 2
    assert "the model simcam is not calibrated for SIMCAM R (1 frame)" in paragraph(refused)
    scored = call(*arguments)
    assert scored.exit_code == 0
    assert "warning: the model simcam is not calibrated for SIMCAM R (1 frame)" in scored.stderr


def test_a_filter_of_too_few_frames_is_not_calibrated(drawn, tmp_path):
    night, archive = tmp_path / "night", tmp_path / "a.zarr"
    shutil.copytree(drawn, night)
    in_filter(drawn / PLAN[0].name, night / "red.fits", "R")
    refused = call("run", night, archive, "--model", "wide-field", "--strict", "--quiet")
    assert refused.exit_code == 2
    assert "not calibrated for SIMCAM R (1 frame)" in paragraph(refused)
    assert list((archive / "quality").glob("*/")) == []
    assert "SIMCAM|L" in aq.load_model(tmp_path / "a-products" / "wide-field.safetensors").calibrations


# --- train ---------------------------------------------------------------------------------------------


def test_train_starts_from_the_shipped_model(stored, tmp_path):
    out = tmp_path / "m.safetensors"
    result = call("train", stored, "--frames", "*", "--steps", 5, "--out", out)
    assert result.exit_code == 0, result.output
    bundle = aq.load_model(out)
    assert (bundle.name, bundle.method) == ("m", "aqdask")
    assert bundle.provenance["start"].startswith("wide-field ")
    assert bundle.calibrated_for("SIMCAM", "L")
    shipped, head = aq.load_model("wide-field"), [name for name in bundle.weights if name.startswith("head")]
    assert head
    assert all((bundle.weights[name] == shipped.weights[name]).all() for name in head)
    (line,) = (line for line in call("info", out).stdout.splitlines() if line.startswith("held-out loss "))
    for phase, losses in bundle.provenance["held_out"].items():
        assert f"{phase} {losses['trained']:.4g} (as shipped {losses['shipped']:.4g})" in line


def test_training_options_are_recorded_and_told(stored, tmp_path):
    out = tmp_path / "m.safetensors"
    options = ("--architecture", "skip", "--norm", "batch", "--loss", "mae:0.5+mse", "--augment", "flips")
    named = ("--method", "paper", "--frames", "*", "--steps", 2, "--out", out)
    result = call("train", stored, *named, *options, "--schedule", "step", "--dropout", 0.1)
    assert result.exit_code == 0, result.output
    (line,) = (line for line in call("info", out).stdout.splitlines() if line.startswith("training options"))
    told = "loss mae:0.5+mse, architecture skip, norm batch, dropout 0.1, augment flips, schedule step"
    assert line.split(maxsplit=2)[2] == told
    refused = call("train", stored, *named, "--loss", "l2")
    assert refused.exit_code == 2
    assert "setting loss is 'l2'. Expected: mse, mae, huber" in paragraph(refused)
    shown = call("train", "--help").output
    assert all(word in shown for word in ("attention", "one-cycle", "perceptual", "aqdask 1, paper 4"))


# --- info ----------------------------------------------------------------------------------------------


def test_info_knows_the_shipped_model_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = call("info", "wide-field")
    assert shown.exit_code == 0
    words = [line.split() for line in shown.stdout.splitlines()]
    assert ["model", "wide-field"] in words
    assert ["method", "aqdask"] in words
    told = json.loads(call("info", "wide-field", "--json").stdout)
    assert (told["event"], told["digest"]) == ("model", aq.load_model("wide-field").digest)


def test_info_of_the_published_method_has_no_gain(model):
    shown = call("info", model)
    assert shown.exit_code == 0
    words = [line.split() for line in shown.stdout.splitlines()]
    assert [row[:2] for row in words if row[0] == "tinycam"] == [["tinycam", "L"], ["tinycam", "R"]]
    assert all(row[-2:] == ["-", "-"] for row in words if row[0] == "tinycam")
    known = json.loads(call("info", model, "--json").stdout)["calibrations"]
    assert {entry["gain"] for entry in known.values()} == {None}
