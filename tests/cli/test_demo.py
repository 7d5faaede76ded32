"""Command `demo`: its files, its output, and its errors."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

import aqdask as aq
from aqdask.cli import aqdask

SMALL = ("--frames", "8", "--size", "512", "--cluster", "serial")


def call(*arguments: object):
    """Run a command in this process; its exit code, stdout and stderr."""
    return CliRunner().invoke(aqdask, [*map(str, arguments)])


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Small demonstration: its folder and the result of the command."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, call("demo", folder, *SMALL)


def test_a_small_demonstration_goes_the_whole_way(shown):
    folder, result = shown
    assert result.exit_code == 0, result.output
    assert "calibrating wide-field on 5 good frames: frame_000.fits" in result.stderr
    assert "comes from 2 good frames with 128 patches, too few for a rate of 0.01" in result.stderr
    assert "Compared with 5 references, a whole frame is masked" in result.stderr
    model = aq.load_model(folder / "model.safetensors")
    assert model.name == "demo-512-20240507"
    assert model.provenance["adapted_from"] == aq.load_model("wide-field").digest
    assert len(list((folder / "products" / "dq").iterdir())) == 8
    assert (folder / "products" / "frames.ecsv").is_file()


def test_it_prints_recall_false_masks_and_a_line_for_each_unseen_frame(shown):
    folder, result = shown
    lines = [line.split() for line in result.stdout.splitlines()]
    kinds = ("background", "trail", "cosmic_rays", "defocus")
    assert all([line[0] for line in lines if line].count(kind) == 1 for kind in kinds)
    assert [line[0] for line in lines if line and line[0].startswith("frame_")] == [
        "frame_006.fits", "frame_007.fits", "frame_005.fits",
    ]  # fmt: skip
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["alpha"] == 0.01
    assert set(found["recall"]) == set(kinds)
    assert found["good_frames"]["patches"] == 64
    quality = aq.open_quality(folder / "demo.zarr").set_xindex("frame_id")
    for line in found["frames"]:
        maps = quality.sel(frame_id=line["frame"])
        assert line["masked"] == pytest.approx(float((~(maps["pvalue"] > 0.01)).mean()))
        assert line["score"] == pytest.approx(float(maps["frame_score"]))
        assert line["flagged"] == bool(maps["frame_flag"])
        assert not line["masked"] or sum(line["reasons"].values()) == pytest.approx(1)
        assert list(line["reasons"].values()) == sorted(line["reasons"].values(), reverse=True)
    assert [line["defects"] for line in found["frames"]] == [
        ["background", "trail", "cosmic_rays"], ["defocus"], [],
    ]  # fmt: skip


def test_a_second_time_frames_and_model_are_used_again(shown):
    folder, _ = shown
    before = (folder / "evaluation.json").read_text()
    result = call("demo", folder, *SMALL)
    assert result.exit_code == 0
    assert f"using the 8 frames that are in {folder / 'frames'}" in result.stderr
    assert f"using the model that is there: {folder / 'model.safetensors'}" in result.stderr
    assert "calibrat" not in result.stderr
    assert (folder / "evaluation.json").read_text() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", 256), "5 reference frames of 256 x 256 px, 2 of which set the threshold with 32 patches"),
        (("--size", 512, "--alpha", 0.001), "at least 999 patches for alpha = 0.001"),
        (("--size", 512, "--alpha", 1.5), "strictly between 0 and 1"),
    ],
    ids=["few patches", "small alpha", "no alpha"],
)
def test_too_little_for_a_mask_is_refused_before_anything_is_drawn(options, words, tmp_path):
    result = call("demo", tmp_path / "out", "--frames", 8, *options, "--cluster", "serial", "--quiet")
    assert result.exit_code == 2
    (paragraph,) = result.stderr.splitlines()
    assert words in paragraph
    assert not (tmp_path / "out").exists()


def test_a_demonstration_that_was_moved_is_not_mixed_up(shown, tmp_path):
    """Frames of the same names in another folder are other frames."""
    folder, _ = shown
    shutil.copytree(folder / "demo.zarr", tmp_path / "demo.zarr")
    result = call("demo", tmp_path, *SMALL, "--quiet")
    assert result.exit_code == 2
    (paragraph,) = result.stderr.splitlines()
    assert f"{tmp_path / 'demo.zarr'} holds frames of another demonstration" in paragraph
    assert f"delete {tmp_path / 'demo.zarr'}" in paragraph
