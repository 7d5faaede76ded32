"""Command ``label``, and what `info` tells of labels."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from night import tiny_bundle

from aqdask.cli import aqdask

FRAME = "L/f00.fits"


def run(*words):
    done = CliRunner().invoke(aqdask, [*map(str, words)])
    return done.exit_code, done.output


def test_label_list_and_remove(archive):
    assert run("label", archive, FRAME, "bad", "--note", "[b]cloud[/b]") == (
        0,
        f"{archive}: 1 label 'bad' given\n",
    )
    assert (
        run("label", archive, "*", "good", "--box", "0,0,64,32")[1] == f"{archive}: 3 labels 'good' given\n"
    )
    code, text = run("label", archive, "--list")
    assert code == 0
    assert "[b]cloud[/b]" in text
    assert "0,0,64,32" in text
    assert "agreement with tiny-" in text
    assert run("label", archive, FRAME, "--remove")[1] == f"{archive}: 1 label taken back\n"
    assert "cloud" not in run("label", archive, "--list")[1]


def test_json(archive):
    assert json.loads(run("label", archive, FRAME, "bad", "--json")[1])["labels"] == 1
    rows = [json.loads(line) for line in run("label", archive, "--list", "--json")[1].splitlines()]
    assert rows[0]["frame"] == FRAME


def test_info_tells_the_labels_in_a_line(archive):
    assert "\nlabels" not in run("info", archive)[1]
    run("label", archive, FRAME, "bad")
    run("label", archive, FRAME, "bad", "--box", "0,0,64,64")
    line = next(line for line in run("info", archive)[1].splitlines() if line.startswith("labels"))
    assert "1 bad box, 1 bad frame; tiny-" in line
    assert "of 1 bad box masked" in line
    facts = json.loads(run("info", archive, "--json")[1].splitlines()[0])["labels"]
    assert (facts["bad_frame"], facts["bad_box"]) == (1, 1)
    (archive / "labels/records/c/0").write_bytes(b"x" * 40)
    code, text = run("info", archive)
    assert (code, "do not decode" in text) == (0, True)


def test_info_of_an_archive_with_damaged_maps_is_no_traceback(archive):
    run("label", archive, FRAME, "bad")
    for shard in archive.glob("quality/*/pvalue/c/*/0/0"):
        shard.write_bytes(b"damaged" * 50)
    code, text = run("info", archive)
    assert (code, "do not decode" in text) == (0, True)
    code, text = run("label", archive, "--list")
    assert (code, "do not decode" in text) == (3, True)


def test_labels_from_a_file_of_the_page(archive, tmp_path):
    path = tmp_path / "labels.json"
    entry = {"frame_id": FRAME, "verdict": "bad", "box": [0, 0, 9, 9], "note": ""}
    path.write_text(json.dumps({"aqdask_labels": 1, "archive": "night.zarr", "labels": [entry]}))
    code, text = run("label", archive, "--from", path)
    assert (code, text.splitlines()[-1]) == (0, f"{archive}: 1 label written from {path}")
    assert text.startswith("note: 1 of 1 label has no checksum")


def test_changed_verdicts_are_counted(archive):
    run("label", archive, FRAME, "bad")
    text = run("label", archive, "*", "good")[1]
    assert text == f"{archive}: 3 labels 'good' given; 1 label changed from 'bad' to 'good'\n"
    assert run("label", archive, "*", "good")[1] == f"{archive}: 3 labels 'good' given\n"
    changed = json.loads(run("label", archive, "*", "bad", "--json")[1])
    assert (changed["labels"], changed["changed"]) == (3, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no single request"),
        ([FRAME], "no single request"),
        ([FRAME, "bad", "--remove"], "no single request"),
        ([FRAME, "bad", "--list"], None),
        ([FRAME, "bad", "--alpha", "0.1"], "no single request"),
        ([FRAME, "bad", "--model", "tiny"], "no single request"),
        (["--list", "--box", "0,0,1,1"], "no single request"),
        (["--list", "--from", "x"], "no single request"),
        ([FRAME, "worse"], "'worse' is not one of"),
        ([FRAME, "bad", "--box", "1,2,3"], "is not X0,Y0,X1,Y1"),
        ([FRAME, "bad", "--box", "0,0,1e3,5"], "is not X0,Y0,X1,Y1"),
        ([FRAME, "bad", "--box", "0,0,1000,5"], "the box 0,0,1000,5"),
        (["none", "bad"], "no frame 'none'"),
        (["--from", "nothing-here.json"], "no file nothing-here.json"),
    ],
)
def test_wrong_requests_end_with_2_and_a_reason(archive, words, told):
    code, text = run("label", archive, *words)
    assert code == 2, text
    assert (told or "no single request") in text
    assert "Traceback" not in text


def test_info_tells_what_a_model_was_made_without(tmp_path):
    left_out = {"frames_left_out": ["a", "b"], "boxes_left_out": {"c": [[0, 0, 9, 9]]}}
    model = tiny_bundle()
    provenance = {"adapted": [{"calibrated": [], "labels": left_out}]}
    model.with_calibrations(model.calibrations, provenance=provenance).save(tmp_path / "m.safetensors")
    assert "2 frames and 1 box labelled bad, left out" in run("info", tmp_path / "m.safetensors")[1]
