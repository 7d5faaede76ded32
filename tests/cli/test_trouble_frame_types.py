"""Darks among lights, and colour mosaics, through the commands."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from night import executed, sky, write_frame

import aqdask as aq
from aqdask.cli import aqdask

LIGHTS, DARKS = 18, 40
COUNTED = f"{DARKS} frames are not lights (dark {DARKS})"


def call(*arguments: object):
    return CliRunner().invoke(aqdask, [*map(str, arguments), *executed(arguments[0])])


def told(result) -> dict:
    """Last JSON object of a command."""
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def darks(trouble):
    folder, expected = trouble("darks")
    assert expected["proposed darks"] == 0
    return folder


@pytest.fixture(scope="module")
def lights_only(darks, tmp_path_factory):
    """The lights alone, calibrated, scored and exported."""
    place = tmp_path_factory.mktemp("lights")
    (place / "night").mkdir()
    for path in darks.glob("light*.fits"):
        shutil.copy(path, place / "night")
    assert call("run", place / "night", place / "a.zarr", "--model", "wide-field").exit_code == 0
    return place / "a.zarr"


@pytest.fixture(scope="module")
def whole_night(darks, tmp_path_factory):
    """Darks and lights in one run with the shipped model: archive and result."""
    archive = tmp_path_factory.mktemp("whole") / "a.zarr"
    return archive, call("run", darks, archive, "--model", "wide-field")


@pytest.mark.slow
def test_lights_are_judged_as_without_the_darks(whole_night, lights_only):
    archive, result = whole_night
    assert result.exit_code == 0, result.output
    assert f"{COUNTED}: ingested, not scored; --all-types scores them" in result.stdout
    assert f"{LIGHTS} done, 0 quarantined, 0 pending, {DARKS} not lights" in result.stdout
    mixed, alone = (aq.open_quality(path) for path in (archive, lights_only))
    chosen = np.array([str(name).startswith("light") for name in mixed["frame_id"].values])
    for name in ("pvalue", "reason", "frame_flag"):
        np.testing.assert_array_equal(mixed[name].values[chosen], alone[name].values)
    assert np.isnan(mixed["pvalue"].values[~chosen]).all()
    assert len(list(archive.with_name("a-products").glob("dq/*.fits"))) == LIGHTS


@pytest.mark.slow
def test_the_archive_says_what_it_left_out(whole_night):
    archive, _ = whole_night
    assert call("verify", archive).exit_code == 0
    shown = call("info", archive).stdout
    assert f"{COUNTED}: no references, not scored unless asked (--all-types)" in shown
    assert f"({LIGHTS} of {LIGHTS} frames)" in shown
    facts = [json.loads(line) for line in call("info", archive, "--frames", "--json").stdout.splitlines()]
    assert facts[0]["not_lights"] == {"dark": DARKS}
    assert sorted({row["type"] for row in facts[1:]}) == ["dark", "light"]
    model = archive.with_name("a-products") / "wide-field.safetensors"
    again = call("score", archive, "--model", model, "--json")
    assert again.exit_code == 0
    assert (told(again)["done"], told(again)["not_lights"]) == (LIGHTS, {"dark": DARKS})


def test_ingest_and_select_count_them(darks, tmp_path):
    archive = tmp_path / "a.zarr"
    result = call("ingest", darks, archive)
    assert result.exit_code == 0
    assert f"{COUNTED}: ingested, `score` leaves them out; --all-types scores them" in result.stdout
    selected = call("select", archive, "--json")
    assert f"{COUNTED}: no references" in selected.output
    assert "CamA L: 18 reference frames proposed; 6 more would bring the false-mask rate" in selected.output
    proposed = told(selected)["proposed"]
    assert len(proposed) == LIGHTS
    assert all(name.startswith("light") for name in proposed)


def test_darks_that_are_labelled_as_lights_are_not_proposed(darks, tmp_path):
    folder = shutil.copytree(darks, tmp_path / "night")
    for path in folder.glob("dark*.fits"):
        fits.setval(path, "IMAGETYP", value="Light Frame")
    assert call("ingest", folder, tmp_path / "a.zarr").exit_code == 0
    proposed = told(call("select", tmp_path / "a.zarr", "--json"))["proposed"]
    assert len(proposed) == LIGHTS
    assert all(name.startswith("light") for name in proposed)


@pytest.fixture(scope="module")
def bayer(trouble):
    folder, expected = trouble("bayer")
    return folder, expected["message names"]


def test_a_mosaic_is_refused_by_its_name(bayer, model, tmp_path):
    folder, word = bayer
    archive = tmp_path / "a.zarr"
    taken = call("ingest", folder, archive)
    assert taken.exit_code == 0
    assert f"note: {word} = 'RGGB': a colour mosaic" in taken.output
    selected = call("select", archive, "--json")
    assert told(selected)["proposed"] == []
    assert f"{word} = 'RGGB': a colour mosaic" in selected.output
    listed = call("select", archive, "--out", tmp_path / "none.txt")
    assert (listed.exit_code, (tmp_path / "none.txt").read_text()) == (1, "")
    assert "frames proposed: the list " in listed.output
    assert "none.txt is empty" in listed.output
    for command in (("calibrate", archive, "--model", "wide-field"), ("train", archive)):
        for frames in ((), ("--frames", "refs/*")):
            refused = call(*command, *frames, "--out", tmp_path / "m.safetensors")
            assert refused.exit_code == 2
            assert f"{word} = 'RGGB'" in refused.stderr
            assert "split the colour planes into four half-size frames first" in refused.stderr
    scored = call("score", archive, "--model", model)
    assert scored.exit_code == 1
    assert "0 done, 26 quarantined" in scored.stdout
    assert f"{word} = 'RGGB': a colour mosaic; split the colour planes" in scored.stdout
    assert call("verify", archive).exit_code == 1


def test_a_run_with_the_shipped_model_names_it_too(bayer, tmp_path):
    folder, word = bayer
    result = call("run", folder, tmp_path / "a.zarr", "--model", "wide-field")
    assert result.exit_code == 2
    assert f"{word} = 'RGGB'" in result.stderr


def test_split_planes_that_keep_the_card_are_taken(bayer, tmp_path):
    folder, _ = bayer
    for number in range(4):
        with fits.open(folder / "refs" / f"g{number:02}.fits") as file:
            file[0].data = np.ascontiguousarray(file[0].data[::2, ::2])
            (tmp_path / "split").mkdir(exist_ok=True)
            file.writeto(tmp_path / "split" / f"{number}.fits")
    assert call("ingest", tmp_path / "split", tmp_path / "a.zarr").exit_code == 0
    selected = call("select", tmp_path / "a.zarr", "--json")
    assert len(told(selected)["proposed"]) == 4


@pytest.fixture
def two_types(tmp_path):
    """A light and a bias in a folder."""
    for name in ("light", "bias"):
        write_frame(
            tmp_path / "two" / f"{name}.fits", sky(1), IMAGETYP=name, TYPE2="object", INSTRUME="tinycam"
        )
    return tmp_path / "two"


def test_all_types_are_scored_where_asked(two_types, model, tmp_path):
    archive = tmp_path / "a.zarr"
    first = call("run", two_types, archive, "--model", model)
    assert first.exit_code == 0, first.output
    assert "1 frame is not a light (bias 1): ingested, not scored; --all-types scores them" in first.stdout
    assert "1 done, 0 quarantined, 0 pending, 1 not lights (2 done now)" in first.stdout
    asked = call("score", archive, "--model", model, "--all-types")
    assert "2 done, 0 quarantined, 0 pending (1 scored now)" in asked.stdout
    assert "not a light" not in asked.output
    fused = call("run", two_types, tmp_path / "b.zarr", "--model", model, "--all-types", "--json")
    assert [json.loads(line) for line in fused.stdout.splitlines()][-2]["not_lights"] == {}


def test_a_named_card_says_the_type(two_types, tmp_path):
    result = call("ingest", two_types, tmp_path / "a.zarr", "--keyword", "type=TYPE2")
    assert result.exit_code == 0
    assert "not a light" not in result.output
    shown = call("info", tmp_path / "a.zarr", "--frames", "--json").stdout.splitlines()
    assert [json.loads(line)["type"] for line in shown[1:]] == ["light", "light"]
