"""Odd file names through the whole pipeline: none lost, none printed raw, nothing written elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from click.testing import CliRunner
from night import executed, tiny_bundle

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.text import printable


def call(*arguments: object):
    return CliRunner().invoke(aqdask, [*map(str, arguments), *executed(arguments[0])])


def is_shown(result) -> bool:
    """True if a command ended without an error and wrote printable text only."""
    assert result.exit_code == 0, result.output
    return all(printable(line) == line for line in (result.stdout + result.stderr).split("\n"))


def below(folder: Path) -> set[bytes]:
    """Every file below a folder, as the operating system names it."""
    walked = os.walk(os.fsencode(folder))
    return {os.path.join(path, name) for path, _, names in walked for name in names}


@pytest.fixture(scope="module")
def names(trouble, tmp_path_factory):
    """Folder of odd names, and its archive, scored and exported."""
    folder, expected = trouble("names")
    place = tmp_path_factory.mktemp("place")
    archive, model, out = place / "a.zarr", place / "m.safetensors", place / "out"
    tiny_bundle().save(model)
    results = [
        call("ingest", folder, archive),
        call("score", archive, "--model", model),
        call("export", archive, out, "--alpha", 0.2),
        call("ingest", folder, archive, "--json"),
        call("info", archive, "--frames"),
        call("verify", archive),
    ]
    return folder, expected["done and exported"], archive, out, results


def test_every_name_is_done_exported_and_found_again(names):
    folder, number, _, out, results = names
    assert all(map(is_shown, results))
    again = json.loads(results[3].stdout.splitlines()[-1])
    assert (again["done"], again["worked"], again["quarantined"]) == (number, 0, 0)
    assert len(below(out / "dq")) == number == len(below(folder))
    assert all(path.endswith(b".dq.fits") for path in below(out / "dq"))
    beside = {os.path.relpath(path, os.fsencode(out.parent)).split(b"/")[0] for path in below(out.parent)}
    assert beside == {b"a.zarr", b"m.safetensors", b"out"}


def test_tables_hold_what_is_shown(names):
    _, number, archive, out, results = names
    parquet, ecsv = pq.read_table(out / "frames.parquet"), Table.read(out / "frames.ecsv")
    ids = parquet["frame_id"].to_pylist()
    assert [name.strip() for name in ids] == list(ecsv["frame_id"])  # astropy reads without spaces at ends
    assert len(set(ids)) == number
    assert {
        "M31_\\xe9t\\xe9.fits",
        "N\\xe9buleuse/x.fits",
        "new\\x0aline.fits",
        "esc\\x1b[31mred.fits",
    } <= set(ids)
    for column in ("frame_id", "path"):
        assert all(text == printable(text) for text in parquet[column].to_pylist())
    shown = results[4].stdout
    assert all(name in shown for name in ids)
    assert [str(name) for name in aq.open_frames(archive)["frame_id"].values] == ids


def test_frames_are_chosen_by_what_is_shown(names, tmp_path):
    archive = names[2]
    listing = tmp_path / "all.txt"
    chosen = ("[1].fits", "star*.fits", "  lead space.fits", "M31_\udce9t\udce9.fits")
    drop = [f"--drop={pattern}" for pattern in ("[!sM1 []*", "semi*")]
    keep = [f"--keep={name}" for name in chosen]
    assert is_shown(call("select", archive, *drop, *keep, "--out", listing))
    named = ["--method", "paper", "--patch", 32, "--steps", 1, "--frames", f"@{listing}"]
    assert is_shown(call("train", archive, *named, "--out", tmp_path / "m.safetensors"))
    frames = aq.load_model(tmp_path / "m.safetensors").provenance["frames"]
    used = {frame_id for members in frames.values() for frame_id in members}
    assert used == {"[1].fits", "star*.fits", "  lead space.fits", "M31_\\xe9t\\xe9.fits"}


def test_archive_and_folders_may_be_called_so_too(names, tmp_path):
    folder, number, *_ = names
    odd = tmp_path / "N\udce9\x1b[31m [b]"
    odd.mkdir()
    tiny_bundle().save(odd / "m.safetensors")
    result = call("run", folder, odd / "a.zarr", "--model", odd / "m.safetensors")
    assert is_shown(result)
    assert len(below(odd / "a-products" / "dq")) == number
    assert is_shown(call("mask", odd / "a.zarr", "--out", odd / "mask.zarr", "--json"))
    assert json.loads(call("info", odd / "a.zarr", "--json").stdout)["archive"].endswith(
        "N\\xe9\\x1b[31m [b]/a.zarr"
    )


def test_markup_in_names_is_text(tmp_path, names):
    folder = tmp_path / "n"
    for name in ("[/b].fits", "[red]x.fits", "a:smile:.fits", "[link=http://a]b.fits"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((names[0] / "a.fits").read_bytes())
    (folder / "[/b] bad.fits").write_text("no FITS")
    result = call("ingest", folder, tmp_path / "a.zarr")
    assert result.exit_code == 1, result.output
    assert "[/b] bad.fits" in result.stdout
    shown = call("info", tmp_path / "a.zarr", "--frames").stdout
    assert all(name in shown for name in ("[/b].fits", "[red]x.fits", "a:smile:.fits"))


def test_every_file_of_a_folder_is_accounted_for(trouble, tmp_path):
    folder, _ = trouble("suffixes")
    result = call("ingest", folder, tmp_path / "a.zarr", "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    summary = told[-1]
    assert summary["left_out"] == {"hidden": 2, ".new": 1, ".part": 1, ".tmp": 1}
    known = summary["done"] + summary["quarantined"] + summary["pending"]
    assert known + sum(summary["left_out"].values()) == len(below(folder))
    notes = [entry["text"] for entry in told if "left out" in entry.get("text", "")]
    assert notes == ["note: 5 files left out by suffix: hidden 2, .new 1, .part 1, .tmp 1"]
    assert "5 left out" in call("ingest", folder, tmp_path / "a.zarr", "--quiet").stdout
