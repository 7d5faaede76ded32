"""Reports, tables and measurements that cannot be made: one error, exit code 2 or 3, and no output."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from night import executed, sky, tiny_bundle, write_frame

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.methods.shipped import load_shipped

OUT = {"report": "--out", "compare": "--report", "rank": "--out", "export": "", "stack": "--out",
       "detect": "--out", "photometry": "--out", "transients": "--out", "drift": "--out"}  # fmt: skip
SUFFIX = {"report": ".html", "rank": ".csv", "stack": ".fits", "drift": ".csv"}
MEASURED = ("rank", "stack", "detect", "photometry", "transients", "drift")
LABEL = ("label", "--list")


def call(name: str, archive: Path, *words: object):
    """Run a command; `compare` of two models."""
    models = ["--model", "tiny", "--model", "other"] if name == "compare" else []
    line = [name, archive, *models, *words, "--quiet"]
    return CliRunner().invoke(aqdask, [*map(str, line), *executed(name)])


def error_of(result, code: int) -> str:
    """The paragraph of a command that fails and prints nothing else."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (paragraph,) = result.stderr.splitlines()
    assert "Expected: " in paragraph
    return paragraph


def where(name: str, place: Path) -> list[object]:
    return [*([OUT[name]] if OUT[name] else []), place]


@pytest.fixture(scope="module")
def unscored(tmp_path_factory) -> Path:
    """Archive of two frames without a score."""
    place = tmp_path_factory.mktemp("unscored")
    for number in range(2):
        write_frame(place / "n" / f"{number}.fits", sky(number), FILTER="L", INSTRUME="cam")
    aq.ingest(place / "n", place / "a.zarr", cluster="serial")
    return place / "a.zarr"


@pytest.fixture(scope="module")
def darks(tmp_path_factory) -> Path:
    """Archive of darks, of which two models have scored none."""
    place = tmp_path_factory.mktemp("darks")
    for number in range(2):
        write_frame(place / "n" / f"{number}.fits", sky(number), IMAGETYP="dark")
    aq.ingest(place / "n", place / "a.zarr", cluster="serial")
    for model in (tiny_bundle(), load_shipped()):
        aq.score(place / "a.zarr", model, cluster="serial")
    return place / "a.zarr"


@pytest.fixture(scope="module")
def quarantined(tmp_path_factory) -> Path:
    """Archive of two frames that were scored, and given up when their sources were cut short."""
    place = tmp_path_factory.mktemp("quarantined")
    for number in range(2):
        write_frame(place / "n" / f"{number}.fits", sky(number), FILTER="L", INSTRUME="cam")
    aq.ingest(place / "n", place / "a.zarr", cluster="serial")
    aq.score(place / "a.zarr", tiny_bundle(), cluster="serial")
    for source in (place / "n").iterdir():
        source.write_bytes(source.read_bytes()[:20000])
    aq.ingest(place / "n", place / "a.zarr", cluster="serial", rehash=True, forget=True)
    return place / "a.zarr"


@pytest.fixture
def two_models(archive) -> Path:
    aq.score(archive, replace(tiny_bundle(), name="other"), cluster="serial")
    return archive


@pytest.mark.parametrize("name", [*OUT, "label"])
def test_what_is_no_archive(name, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("all of it")
    words = where(name, tmp_path / f"out{SUFFIX.get(name, '')}") if name in OUT else ["f", "bad"]
    for place, code, told in (("folder", 3, "is not an aqdask archive"), ("none.zarr", 2, "no archive at")):
        assert told in error_of(call(name, tmp_path / place, *words), code)


@pytest.mark.parametrize("name", [name for name in OUT if name != "report"])
def test_an_archive_that_no_model_has_scored(name, unscored, tmp_path):
    told = error_of(call(name, unscored, *where(name, tmp_path / f"out{SUFFIX.get(name, '')}")), 2)
    assert "holds no quality groups" in told
    assert "run `aqdask score` first" in told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", MEASURED)
def test_an_archive_without_a_scored_light(name, darks, tmp_path):
    words = where(name, tmp_path / f"out{SUFFIX.get(name, '')}")
    told = error_of(call(name, darks, *words, "--model", "wide-field"), 2)
    assert "no light in" in told or "no scored" in told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in OUT if name != "compare"])
def test_an_archive_whose_frames_are_all_quarantined(name, quarantined, tmp_path):
    """Tables and pages name the frames with their reasons; what needs frames is refused."""
    result = call(name, quarantined, *where(name, tmp_path / f"out{SUFFIX.get(name, '')}"))
    if name in ("rank", "stack", "photometry", "drift"):
        assert "scored" in error_of(result, 2)
    elif name in ("detect", "transients"):
        assert result.exit_code == 1
        assert result.stdout.count("quarantined: given up (--forget): truncated") == 2
    else:
        assert result.exit_code == 0
        page = (tmp_path / "out.html" if name == "report" else tmp_path / "out" / "frames.ecsv").read_text()
        assert "truncated" in page


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize(
    ("words", "told"), [(("--filter", "nope"), "filter 'nope'"), (("--frames", "nope"), "no frame 'nope'")]
)
def test_frames_and_filters_that_are_not_there(name, words, told, archive, tmp_path):
    place = where(name, tmp_path / f"out{SUFFIX.get(name, '')}")
    assert told in error_of(call(name, archive, *place, *words), 2)


@pytest.mark.parametrize("name", SUFFIX)
def test_a_file_whose_name_is_that_of_a_folder(name, archive, tmp_path):
    place = tmp_path / f"out{SUFFIX[name]}"
    place.mkdir()
    error_of(call(name, archive, *where(name, place)), 3 if name == "stack" else 2)


@pytest.mark.parametrize("name", OUT)
def test_an_output_that_cannot_be_written(name, two_models, tmp_path):
    (tmp_path / "file").write_text("no folder")
    words = where(name, tmp_path / "file" / f"out{SUFFIX.get(name, '')}")
    words += [] if name == "compare" else ["--model", "tiny"]
    words += ["--filter", "L"] if name == "stack" else []
    assert "could not be written" in error_of(call(name, two_models, *words), 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--alpha", "7"), "alpha = 7.0"), (("--model", "nope"), "no quality groups for 'nope'")],
)
def test_labels_are_not_listed_with_an_option_that_cannot_be_used(words, told, archive):
    aq.label(archive, "L/f00.fits", "bad")
    assert told in error_of(call("label", archive, "--list", *words), 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("detect", "--apertures", "3px"), "--apertures 3px. Expected: radii in pixels"),
        (("photometry", "--stars", "1.5"), "--stars 1.5"),
        (("photometry", "--targets", "."), "the targets . cannot be read: Is a directory."),
        (("photometry", "--targets", "none.csv"), "cannot be read: No such file or directory."),
        (
            ("photometry", "--targets", "hours.csv"),
            "has ra = '10:00:00' in line 2. Expected: a decimal number",
        ),
        (("photometry", "--targets", "twice.csv"), "has the name a twice"),
    ],
)
def test_values_that_no_measurement_can_use(words, told, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hours.csv").write_text("ra,dec\n10:00:00,2\n")
    Path("twice.csv").write_text("name,ra,dec\na,1,2\na,1,2\n")
    name, *options = words
    paragraph = error_of(call(name, archive, *where(name, tmp_path / "out"), *options), 2)
    assert told in paragraph
    assert "Nothing was" in paragraph
    assert not os.path.exists("out")
