"""Transients: found in shifted frames, judged by the masks, resumed; other frames are named."""

from __future__ import annotations

import json
from pathlib import Path

import dask.dataframe
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from night import OPTIONS, WCS, tiny_bundle, write_frame
from PIL import Image

import aqdask as aq
from aqdask.cli.main import aqdask
from aqdask.errors import ArchiveError, UsageError
from aqdask.measurements import frame_tables
from aqdask.measurements.transients import COLUMNS, SCHEMA, TransientSearch
from aqdask.products.open import quality_name

# of dask.dataframe 2026.8 with pandas 3.1
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")
SHAPE, NEW = (160, 192), (101.3, 60.7)  # y, x; x, y on the pixels of the template
SHIFTS = {"b": (0, 0), "c": (3.5, -2.25), "d": (-5.25, 4.5)}
NO_WCS = ("d", "g")


def exposure(seed: int, shift=(0.0, 0.0), *, new: float = 0.0, stars: bool = True) -> np.ndarray:
    """The field, moved by ``shift`` (x, y), with a new star of that many counts."""
    rng, sky = np.random.default_rng(7), np.random.default_rng(seed)
    x, y = rng.uniform(12, SHAPE[1] - 12, 40), rng.uniform(12, SHAPE[0] - 12, 40)
    flux = np.exp(rng.uniform(7.5, 11, 40)) * stars
    far = np.hypot(x - NEW[0], y - NEW[1]) > 15
    x, y, flux = (np.append(v[far], n) for v, n in ((x, NEW[0]), (y, NEW[1]), (flux, new)))
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.full(SHAPE, 500.0)
    for xs, ys, f in zip(x + shift[0], y + shift[1], flux, strict=True):
        image += f / (2 * np.pi * 1.4**2) * np.exp(-((columns - xs) ** 2 + (rows - ys) ** 2) / (2 * 1.4**2))
    return sky.normal(image, np.sqrt(image / 2)).astype("float32")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Template a; b, c, d with a new star, d without a WCS; e of another filter, f without gain, g empty."""
    folder = tmp_path_factory.mktemp("frames")
    for number, name in enumerate("abcdefg"):
        shift = SHIFTS.get(name, (0, 0))
        image = exposure(number, shift, new=4000.0 * (name in SHIFTS), stars=name != "g")
        where = WCS | {"CRPIX1": WCS["CRPIX1"] + shift[0], "CRPIX2": WCS["CRPIX2"] + shift[1]}
        cards = {"INSTRUME": "tinycam", "FILTER": "R" if name == "e" else "L"}
        cards |= {} if name in NO_WCS else where
        cards |= {} if name == "f" else {"GAIN": 2.0}
        write_frame(folder / f"{name}.fits", image, **cards)
    place = tmp_path_factory.mktemp("archive") / "night.zarr"
    aq.ingest(folder, place, cluster="serial", **OPTIONS)
    aq.score(place, tiny_bundle(), cluster="serial")
    return place


@pytest.fixture(scope="module")
def found(archive, tmp_path_factory):
    return aq.transients(
        archive,
        tmp_path_factory.mktemp("out") / "o",
        template="a.fits",
        alpha=0.3,
        cutouts="fits",
        cluster="serial",
    )


def table(found):
    return dask.dataframe.read_parquet(found.folder).compute()


def test_a_new_star_is_found_at_its_place_with_its_flux(found):
    rows = table(found)
    assert [*rows.columns[4:]] == [*COLUMNS]
    for name, alignment in {"b": "none", "c": "wcs", "d": "stars"}.items():
        (row,) = rows[rows["frame_id"] == f"{name}.fits"].to_dict("records")
        assert row["id"] == f"{name}.fits#1"
        assert (row["template"], row["alignment"], row["sign"]) == ("a.fits", alignment, 1)
        np.testing.assert_allclose((row["x"], row["y"]), np.add(NEW, SHIFTS[name]), atol=0.3)
        assert abs(row["flux"] - 4000) < 4 * row["flux_err"] < 1200
        assert row["significance"] > 10
        assert np.isnan(row["ra"]) == (name == "d")
        assert row["star_distance"] == pytest.approx(
            np.hypot(row["x"] - row["star_x"], row["y"] - row["star_y"]), abs=0.1
        )
    sky = rows.set_index("frame_id")[["ra", "dec"]]
    np.testing.assert_allclose(sky.loc["b.fits"], sky.loc["c.fits"], atol=1e-4)


def test_frames_that_cannot_be_searched_are_named_and_the_others_go_on(found):
    reasons = dict(found.problems)
    assert reasons.keys() == {"e.fits", "f.fits", "g.fits"}
    assert reasons["e.fits"] == "no template of camera 'tinycam' and filter 'R'"
    assert "states no gain" in reasons["f.fits"]
    assert "could not be aligned with its template: too few stars to match: 0 and" in reasons["g.fits"]
    assert [one.rows for one in found.searched[:3]] == [1, 1, 1]


def test_verdicts_are_those_of_the_masks(archive, found):
    quality = aq.open_quality(archive)
    masks = aq.mask(quality, 0.3).values
    ids = quality["frame_id"].values.tolist()
    for row in table(found).to_dict("records"):
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        inside = np.hypot(x - row["x"], y - row["y"]) < row["radius"]
        assert row["masked_fraction"] == pytest.approx(
            masks[ids.index(row["frame_id"])][inside].mean(), abs=0.05
        )
        shift = SHIFTS[row["frame_id"][0]]
        inside = np.hypot(x + shift[0] - row["x"], y + shift[1] - row["y"]) < row["radius"]
        assert row["template_masked_fraction"] == pytest.approx(masks[0][inside].mean(), abs=0.1)
        masked = "masked" if row["masked_fraction"] else "masked in the template"
        clean = not (row["masked_fraction"] or row["template_masked_fraction"])
        assert row["verdict"] == ("good" if clean else masked)
        pvalue = quality["pvalue"].sel(frame=ids.index(row["frame_id"]))
        assert row["pvalue"] == float(pvalue.sel(patch_y=row["y"], patch_x=row["x"], method="nearest"))


def test_cutouts_show_the_candidate_in_the_middle(found):
    with fits.open(found.cutouts / "c.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["FRAME", "TEMPLATE", "DIFFERENCE", "CANDIDATES"]
        assert hdus["DIFFERENCE"].data.shape == (1, 63, 63)
        assert hdus["DIFFERENCE"].data[0, 31, 31] > 5 * np.std(hdus["DIFFERENCE"].data[0, :20])
        assert hdus["CANDIDATES"].data["id"].tolist() == ["c.fits#1"]


def test_interrupted_and_run_again_it_ends_with_the_same_bytes(archive, found, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_tables, "FRAMES_PER_PART", 2)
    options = {"template": "a.fits", "frames": ["a.fits", "b.fits", "c.fits"], "cluster": "serial"}
    aq.transients(archive, tmp_path / "whole", **options)
    call, calls = TransientSearch.__call__, []

    def interrupted(self, frame):
        calls.append(frame.frame_id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(self, frame)

    monkeypatch.setattr(TransientSearch, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        aq.transients(archive, tmp_path / "cut", **options)
    aq.transients(archive, tmp_path / "cut", **options)
    assert calls == ["a.fits", "b.fits", "c.fits", "c.fits"]
    names = sorted(path.name for path in (tmp_path / "whole/candidates").iterdir())
    assert len(names) == 2
    for name in names:
        one, other = (tmp_path / folder / "candidates" / name for folder in ("whole", "cut"))
        assert one.read_bytes() == other.read_bytes()


def test_the_command_prints_a_line_for_each_candidate_and_draws_them(archive, tmp_path):
    words = ["transients", archive, "--out", tmp_path / "o", "--template", "a.fits", "--frames", "c.fits"]
    words += ["--cutouts", "png", "--cluster", "serial", "--json"]
    done = CliRunner().invoke(aqdask, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in done.stdout.splitlines()]
    (candidate,) = (one for one in told if one["event"] == "candidate")
    assert candidate["id"] == "c.fits#1"
    assert candidate.keys() >= set(SCHEMA.names)
    assert [one["good"] + one["masked"] for one in told if one["event"] == "transients"] == [1]
    with Image.open(tmp_path / "o/cutouts/c.png") as picture:
        assert picture.size == (4 * 192, 66)


def test_a_template_alone_is_told_to_be_no_search(archive, tmp_path):
    words = ["transients", archive, "--out", tmp_path / "o", "--template", "a.fits", "--frames", "a.fits"]
    done = CliRunner().invoke(aqdask, [*map(str, words), "--cluster", "serial", "--quiet"])
    assert done.exit_code == 0, done.output
    assert "nothing was searched: every frame chosen is a template itself" in done.stdout


def test_the_only_frame_of_a_field_has_no_template(archive, tmp_path):
    found = aq.transients(archive, tmp_path / "o", frames="e.fits", cluster="serial")
    assert found.problems == (
        ("e.fits", "no template: it is the only scored frame of its field, camera 'tinycam' and filter 'R'"),
    )


def test_what_cannot_be_meant_is_refused(archive, tmp_path):
    with pytest.raises(UsageError, match="threshold = 0"):
        aq.transients(archive, tmp_path / "o", threshold=0, cluster="serial")
    with pytest.raises(UsageError, match="no frame 'x'"):
        aq.transients(archive, tmp_path / "o", template="x", cluster="serial")
    (tmp_path / "o/candidates").mkdir(parents=True)
    (tmp_path / "o/candidates/letters.txt").write_text("dear")
    with pytest.raises(ArchiveError, match="no part of a table"):
        aq.transients(archive, tmp_path / "o", cluster="serial")
    assert quality_name(archive)
