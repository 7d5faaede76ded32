"""Page and change log of two models: the numbers of the comparison, in words, tables and pictures."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

from click.testing import CliRunner
from night import OPTIONS, tiny_bundle, write_night

import aqdask as aq
from aqdask.cli.main import aqdask
from aqdask.products.report.comparison import changes_by_group, sentences

ALPHA = 0.5


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Three frames in two filters, scored by two models."""
    folder = write_night(tmp_path_factory.mktemp("night"), 3)
    (folder / "L/f00.fits").rename(folder / "L/f<i>|.fits")
    place = tmp_path_factory.mktemp("archive") / "night.zarr"
    aq.ingest(folder, place, cluster="serial", **OPTIONS)
    for name, seed in (("tiny", 0), ("other", 5)):
        aq.score(place, tiny_bundle(name, seed=seed), cluster="serial")
    return place


@pytest.fixture(scope="module")
def found(archive):
    return aq.compare(aq.open_quality(archive, "tiny"), aq.open_quality(archive, "other"), ALPHA)


def written(archive, folder, *models) -> Path:
    words = ["compare", archive, "--alpha", ALPHA, "--report", folder]
    words += [word for model in models for word in ("--model", model)]
    done = CliRunner().invoke(aqdask, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return folder


def test_page_log_and_table_have_the_numbers_of_the_comparison(archive, found, tmp_path):
    folder = written(archive, tmp_path / "o", "tiny", "other")
    page, log = ((folder / name).read_text() for name in ("compare.html", "changes.md"))
    rows = list(csv.DictReader((folder / "changes.csv").read_text().splitlines()))
    changed = found.by_frame.isel(frame=(found.by_frame["gained"] + found.by_frame["lost"]).values > 0)
    assert found.changed > 0
    assert [row["frame_id"] for row in rows] == changed["frame_id"].values.tolist()
    for name in ("masked_a", "masked_b", "gained", "lost"):
        assert [int(row[name]) for row in rows] == changed[name].values.tolist()
    for sentence in sentences(found):
        assert f"<li>{sentence}</li>" in page
        assert f"- {sentence}\n" in log
    assert page.count('class="map"') == 2 * len(rows)
    assert "f<i>" not in page
    assert "L/f<i>\\|.fits" in log
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # needs no network


def test_groups_add_up_to_the_whole(found):
    groups = changes_by_group(found)
    assert {(group.camera, group.filter) for group in groups} == {("tinycam", "L"), ("tinycam", "R")}
    assert sum(group.gained for group in groups) == found.only_b
    assert sum(group.lost for group in groups) == found.only_a
    assert sum(group.compared for group in groups) == found.patches
    assert [group.changed for group in groups] == sorted((group.changed for group in groups), reverse=True)


def test_where_nothing_has_changed_it_says_so(archive, tmp_path):
    quality = aq.open_quality(archive, "tiny")
    same = aq.compare(quality, quality, ALPHA)
    assert "No mask has changed." in list(sentences(same))
