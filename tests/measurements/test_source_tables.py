"""Catalogues of an archive: columns, segmentation maps, resumed runs, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import dask.dataframe
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner
from night import InterruptAfter

import aqdask as aq
from aqdask import flags
from aqdask.cli.main import aqdask
from aqdask.errors import ArchiveError, FrameError, UsageError
from aqdask.measurements import frame_tables
from aqdask.measurements.scored_frame import ScoredFrames, scored_places
from aqdask.measurements.source_tables import SourceDetection
from aqdask.photometry.sky_subtraction import subtract_sky
from aqdask.photometry.source_catalogue import DetectSpec, measure_sources
from aqdask.products.open import quality_name

ALPHA = 0.5  # of a model that means nothing
# of dask.dataframe 2026.8 with pandas 3.1
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(frame_tables, "FRAMES_PER_PART", 4)


@pytest.fixture(scope="module")
def detected(night, tmp_path_factory) -> Path:
    """Folder of ``sources`` and ``segmentation`` of the night."""
    folder = tmp_path_factory.mktemp("detected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_tables, "FRAMES_PER_PART", 4)
        found = detect(night, folder)
    assert (found.frames, found.problems) == (6, [])
    return folder


def detect(archive: Path, folder: Path, **options):
    place = {"segmentation": folder / "segmentation", "alpha": ALPHA, "cluster": "serial"}
    return aq.detect(archive, folder / "sources", **(place | options))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture(scope="module")
def frame(night):
    """The second frame of the night, which has invalid pixels."""
    quality = quality_name(night)
    return ScoredFrames(str(night), quality, ALPHA).read(scored_places(night, quality)[0][3])


def test_dask_opens_the_catalogue_and_its_columns_are_those_of_the_frame(night, detected, frame):
    lazy = dask.dataframe.read_parquet(detected / "sources")
    assert lazy.npartitions == 2
    table = lazy[lazy["row"] == frame.row].compute().reset_index(drop=True)
    assert frame.invalid.any()
    wanted = measure_sources(subtract_sky(frame.image, frame.invalid), DetectSpec()).columns
    for name in set(wanted) - {"xpeak", "ypeak"}:
        np.testing.assert_array_equal(table[name], wanted[name], err_msg=name)
    assert table["number"].tolist() == list(range(1, len(table) + 1))
    sky = frame.wcs.wcs.pixel_to_world(wanted["x"], wanted["y"])
    np.testing.assert_allclose(table["ra"], sky.ra.deg)
    patch = frame.patch_of(table["x"].to_numpy(), table["y"].to_numpy())
    np.testing.assert_array_equal(table["pvalue"], frame.maps["pvalue"][patch])
    names = [flag.name for flag in flags.REASONS]
    assert table["reason"].tolist() == [names[code] for code in frame.maps["reason"][patch]]
    centre = frame.masked[np.rint(table["y"]).astype(int), np.rint(table["x"]).astype(int)]
    assert centre.any()
    assert (table["masked_aper_3"][centre] > 0.3).all()
    for name in ("gain", "size_ratio", "noise_ratio"):  # not known of this night
        assert table[name].isna().all(), name
    assert not table["saturated"].any()
    assert set(table["frame_flagged"]) == {bool(np.mean(frame.maps["pvalue"] > ALPHA) < 0.8)}


def test_every_column_has_a_description(detected):
    schema = pq.read_schema(next((detected / "sources").iterdir()))
    assert all(field.metadata[b"description"] for field in schema)
    assert schema.field("x").metadata[b"unit"] == b"pixel"


def test_maps_header_and_flag_of_other_models_are_columns(frame):
    rng = np.random.default_rng(0)
    maps = dict(frame.maps) | {
        n: rng.random(frame.grid.shape, np.float32) for n in ("size_ratio", "noise_ratio")
    }
    header = "".join(f"{card:80}" for card in ("GAIN    = 1.5", "SATURATE= 3060.0"))
    other = dataclasses.replace(
        frame, maps=maps, values={"frame_flag": 1.0}, header=header, primary_header=""
    )
    table = SourceDetection(DetectSpec())(other).to_pandas()
    patch = frame.patch_of(table["x"].to_numpy(), table["y"].to_numpy())
    for name in ("size_ratio", "noise_ratio"):
        np.testing.assert_array_equal(table[name], maps[name][patch])
    assert table["frame_flagged"].all()
    assert (table["gain"] == 1.5).all()
    assert table["ra"].isna().all()
    found = measure_sources(subtract_sky(frame.image, frame.invalid), DetectSpec()).columns
    saturated = frame.image[found["ypeak"], found["xpeak"]] >= 3060
    assert table["saturated"].tolist() == saturated.tolist()
    assert 0 < saturated.sum() < len(saturated)


def test_a_frame_without_sky_has_no_catalogue(frame):
    with pytest.raises(FrameError, match="no measurable sky"):
        SourceDetection(DetectSpec())(dataclasses.replace(frame, image=np.zeros_like(frame.image)))


def test_a_killed_run_ends_with_the_same_bytes(night, detected, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        detect(night, tmp_path, reporter=InterruptAfter(1))
    assert len(contents(tmp_path / "sources")) == 1
    detect(night, tmp_path)
    assert contents(tmp_path) == contents(detected)


def test_segmentation_maps_have_sources_and_wcs_and_are_made_where_they_lack(
    night, detected, frame, tmp_path
):
    name = "R__f01.seg.fits"
    with fits.open(detected / "segmentation" / name) as hdus:
        labels, wcs = hdus[1].data, WCS(hdus[1].header)
    assert labels.shape == frame.image.shape
    table = dask.dataframe.read_parquet(detected / "sources").query(f"row == {frame.row}").compute()
    assert labels.max() == len(table)
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], table["npix"])
    assert wcs.pixel_to_world(3, 4).separation(frame.wcs.wcs.pixel_to_world(3, 4)).arcsec < 1e-6
    measured = detect(night, tmp_path, segmentation=None)
    assert not (tmp_path / "segmentation").exists()
    assert detect(night, tmp_path) == measured
    assert contents(tmp_path) == contents(detected)
    other = SourceDetection(DetectSpec(threshold=9), str(tmp_path / "segmentation"))
    assert not other.has_files("R/f01.fits")


def test_the_command(night, tmp_path):
    def run(*arguments: str):
        where = [str(night), "--out", str(tmp_path / "out"), "--cluster", "serial", "--quiet"]
        return CliRunner().invoke(aqdask, ["detect", *where, *arguments])

    done = run("--frames", "R/*", "--threshold", "5", "--apertures", "2.5", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    table = dask.dataframe.read_parquet(tmp_path / "out").compute()
    assert (found["event"], found["frames"], found["sources"]) == ("detect", 3, len(table))
    assert set(table["filter"]) == {"R"}
    assert "flux_aper_2.5" in table
    assert run("--apertures", "wide").exit_code == 2
    assert run("--frames", "nothing").exit_code == 2


def test_bad_requests(night, tmp_path):
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "letters.txt").write_text("dear")
    with pytest.raises(ArchiveError, match=r"letters\.txt"):
        detect(night, tmp_path)
    with pytest.raises(UsageError, match="alpha"):
        detect(night, tmp_path, alpha=2)
