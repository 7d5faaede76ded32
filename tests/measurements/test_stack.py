"""Ranks and stacks of an archive: choice of frames, resumption, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import ccdproc
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import Table
from astropy.time import Time
from click.testing import CliRunner
from night import InterruptAfter, tiny_bundle, write_frame

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.errors import ArchiveError, UsageError
from aqdask.execution.executors import SerialExecutor
from aqdask.execution.reporter import Silent
from aqdask.measurements import rank
from aqdask.measurements.align import Aligned
from aqdask.measurements.stack_cards import effective_gain, set_exposure
from aqdask.methods.bundle import Bundle, Calibration
from aqdask.products.open import quality_name

sys.path.insert(0, str(Path(__file__).parents[1] / "photometry"))
from test_stacking import SHAPE, SIGMA, field

ALPHA = 0.3  # at which the tiny model masks some patches of the frames
WCS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX2": 65.0,
    "CDELT1": -2e-4, "CDELT2": 2e-4, "CUNIT1": "deg", "CUNIT2": "deg",
}  # fmt: skip
OTHER = "g4.fits"


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Frames g0 to g3 of one field with a WCS, g3 with half of the light, g4 of another field, r0 in R."""
    folder, place = tmp_path_factory.mktemp("field"), tmp_path_factory.mktemp("archive") / "field.zarr"
    shifts = [(0, 0), (2, 1), (-3, 0), (1, -2)]
    cards = {"INSTRUME": "tinycam", "EXPTIME": 60.0, "GAIN": 2.0}
    for number, (x, y) in enumerate(shifts):
        cards |= {"DATE-OBS": f"2024-05-07T01:0{number}:00"}
        image = field((x, y), scale=0.5 if number == 3 else 1, seed=number)
        place_in_sky = WCS | {"CRPIX1": 100.0 + x, "CRPIX2": 65.0 + y}
        write_frame(folder / f"g{number}.fits", image, FILTER="L", **cards, **place_in_sky)
    write_frame(folder / OTHER, field(seed=4)[::-1], FILTER="L", **cards, **WCS, CRPIX1=100.0)
    write_frame(folder / "r0.fits", field(seed=5), FILTER="R", **cards, **WCS, CRPIX1=100.0)
    aq.ingest(folder, place, cluster="serial", chunk=64)
    aq.score(place, tiny_bundle(), cluster="serial")
    return place


@pytest.fixture(scope="module")
def made(archive, tmp_path_factory):
    """A stack of the filter L with all comparisons."""
    out = tmp_path_factory.mktemp("out") / "stack.fits"
    return aq.stack(
        archive, out, filter="L", frames="g[0-3]*", reference="g0.fits", alpha=ALPHA, compare=True,
        cluster="serial",
    )  # fmt: skip


def test_a_stack_is_deeper_than_its_reference_and_says_what_is_in_it(made, archive):
    with fits.open(made.path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "WEIGHT", "COVERAGE", "CLIPPED", "FRAMES"]
        image, cards = hdus[0].data, hdus[0].header
        weight, coverage, table = hdus["WEIGHT"].data, hdus["COVERAGE"].data, hdus["FRAMES"].data
        assert all(hdu.verify_checksum() == 1 for hdu in hdus)
    assert (cards["REFFRAME"], cards["NCOMBINE"], cards["MASKED"], cards["CRPIX1"]) == (
        "g0.fits",
        4,
        True,
        100,
    )
    np.testing.assert_allclose(table["scale"], [1, 1, 1, 2], rtol=0.05)
    assert set(table["method"]) == {"wcs"}
    np.testing.assert_array_equal(coverage == 0, np.isnan(image))
    np.testing.assert_array_equal(coverage == 0, weight == 0)
    assert coverage.max() == 4
    whole = coverage == 4
    truth = field(noise=0) - 1000
    faint = whole & (truth < 1)
    assert np.std(image[faint]) < 0.75 * SIGMA
    assert abs(np.median((image - truth)[faint])) < 1
    # shifts by whole pixels copy counts: a pixel of the stack has the variance that its weight says
    assert np.std((image - truth)[faint] * np.sqrt(weight[faint])) == pytest.approx(1, abs=0.2)
    assert made.depths["mask, weights"].noise < made.depths["reference alone"].noise
    assert list(made.depths) == [
        "reference alone",
        "mask, weights",
        "no mask, weights",
        "no mask, no weights",
    ]
    assert not Path(made.path + ".parts").exists()


def test_the_header_tells_exposure_gain_and_time_and_ccdproc_takes_it(made):
    image, cards = CCDData.read(made.path), fits.getheader(made.path)
    told = [cards[name] for name in ("FILTER", "INSTRUME", "EXPTIME", "EXPTOTAL", "NCOMBINE")]
    assert told == ["L", "tinycam", 60, 240, 4]
    assert (cards["DATE-OBS"], cards["DATE-END"]) == ("2024-05-07T01:00:00.000", "2024-05-07T01:04:00.000")
    times = Time([cards["MJD-OBS"], cards["MJD-END"]], format="mjd").isot
    assert times.tolist() == [cards["DATE-OBS"], cards["DATE-END"]]
    assert (image.wcs.wcs.dateobs, image.wcs.wcs.dateend) == (cards["DATE-OBS"], cards["DATE-END"])
    assert (image.unit, image.header["GAIN"]) == (u.count, cards["GAIN"])
    # three frames of weight w and gain 2; the fourth, scaled by 2, has w / 4 and a gain of 1 in these counts
    assert cards["GAIN"] == pytest.approx(2 * 3.25**2 / (3 + 2 / 16), rel=0.05)
    electrons = ccdproc.gain_correct(image, cards["GAIN"] * u.electron / u.count)
    np.testing.assert_allclose(electrons.data, image.data * cards["GAIN"], rtol=1e-6)
    table = Table.read(made.path, hdu="FRAMES")
    assert table["exptime"].unit == u.s
    assert table["time"].tolist() == [f"2024-05-07T01:0{n}:00" for n in range(4)]


def test_what_frames_do_not_say_or_say_differently_is_a_comment():
    one = Aligned(0, 1.0, noise=5.0, time=1_000_000, exptime=60.0, gain=2.0)
    cards = fits.Header([("MJD-OBS", 1.0)])
    cameras = {"FILTER": ["", ""], "INSTRUME": ["a", "b"]}
    set_exposure(cards, [one, one._replace(gain=np.nan, exptime=30.0)], 60.0, cameras, weighted=True)
    assert set(cards) == {"EXPTIME", "EXPTOTAL", "DATE-OBS", "MJD-OBS", "DATE-END", "MJD-END", "COMMENT"}
    assert cards.comments["EXPTOTAL"].endswith("of 30 to 60")
    assert list(cards["COMMENT"]) == [
        "INSTRUME differs: a, b", "GAIN is not known: 1 of 2 frames do not state it."
    ]  # fmt: skip
    set_exposure(cards, [one, one._replace(time=None)], np.nan, cameras, weighted=True)
    assert "DATE-OBS" not in cards


def test_the_effective_gain_is_that_of_the_photon_noise_of_the_mean():
    rng = np.random.default_rng(0)
    scale, gain, noise = np.array([1.0, 2.0, 0.5]), np.array([2.0, 1.5, 4.0]), np.array([5.0, 3.0, 8.0])
    used = [Aligned(n, scale[n], noise=noise[n], gain=gain[n]) for n in range(3)]
    star = 1e4  # counts of the reference
    counts = rng.poisson(star / scale * gain, (20_000, 3)) / gain * scale
    for weighted in (True, False):
        weight = 1 / (scale * noise) ** 2 if weighted else np.ones(3)
        mean = counts @ weight / weight.sum()
        assert np.var(mean) == pytest.approx(star / effective_gain(used, weighted=weighted), rel=0.05)


def test_masked_pixels_do_not_count(made, archive):
    masks = aq.mask(aq.open_quality(archive), ALPHA).values
    assert masks[0].any()
    coverage = fits.getdata(made.path, "COVERAGE")
    inner = np.zeros(SHAPE, bool)
    inner[8:-8, 8:-8] = True
    rolled = [
        np.roll(masks[k], (-y, -x), (0, 1)) for k, (x, y) in enumerate([(0, 0), (2, 1), (-3, 0), (1, -2)])
    ]
    most = 4 - np.sum(rolled, axis=0)
    assert (coverage[inner] <= most[inner]).all()


def test_an_interrupted_stack_goes_on_and_ends_with_the_same_bytes(made, archive, tmp_path):
    options = {
        "filter": "L",
        "frames": "g[0-3]*",
        "reference": "g0.fits",
        "alpha": ALPHA,
        "cluster": "serial",
    }
    out = tmp_path / "again.fits"
    with pytest.raises(KeyboardInterrupt):
        aq.stack(archive, out, reporter=InterruptAfter(2), **options)
    parts = sorted((tmp_path / "again.fits.parts").glob("*.npy"))
    assert [part.name for part in parts] == ["masked-00000000.npy", "masked-00000001.npy"]
    before = [part.stat().st_mtime_ns for part in parts]
    with pytest.raises(KeyboardInterrupt):
        aq.stack(archive, out, reporter=InterruptAfter(3), **options)
    assert [part.stat().st_mtime_ns for part in parts] == before
    aq.stack(archive, out, **options)
    assert out.read_bytes() == Path(made.path).read_bytes()


def test_a_frame_of_another_field_is_named_and_the_exit_code_is_1(archive, tmp_path):
    command = ["stack", str(archive), "--out", str(tmp_path / "s.fits"), "--filter", "L", "--no-mask",
               "--frames", "g[034]*", "--reference", "g0.fits", "--json", "--cluster", "serial"]  # fmt: skip
    done = CliRunner().invoke(aqdask, command)
    assert done.exit_code == 1, done.output
    lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    named = [line for line in lines if line.get("table", "").startswith("frames that are not")]
    assert [line["frame"] for line in named] == [OTHER]
    assert "reference" in named[0]["reason"]
    assert next(line for line in lines if line.get("event") == "stack")["used"] == 2


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, UsageError, "frames of 2 filters: 'L', 'R'"),
        ({"filter": "R"}, UsageError, "a stack of 1 scored frame"),
        ({"filter": "B"}, UsageError, "no frame with the filter 'B'"),
        ({"frames": ["g0.fits", OTHER]}, UsageError, "fewer than two of 2 frames can be aligned"),
        ({"filter": "L", "reference": "r0.fits"}, UsageError, "no frame 'r0.fits'"),
        ({"filter": "L", "reference": "g*"}, UsageError, r"--reference g\* matches 5 frames"),
        ({"filter": "L", "best": 1}, UsageError, "a stack of the best 1"),
        ({"filter": "L", "clip": -1}, UsageError, "clip = -1"),
        ({"filter": "L", "clip": np.inf}, UsageError, "clip = inf"),
        ({"filter": "L", "mesh": 10**9}, UsageError, "at most 200 px"),
    ],
)
def test_frames_that_are_no_stack_are_refused(archive, tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        aq.stack(archive, tmp_path / "s.fits", cluster="serial", **options)


def test_another_file_is_not_replaced(archive, tmp_path):
    (tmp_path / "s.fits").write_text("dear")
    with pytest.raises(ArchiveError, match="is no stack that aqdask made"):
        aq.stack(archive, tmp_path / "s.fits", filter="L", cluster="serial")


def test_a_rank_measured_on_the_pixels_sees_transparency(archive, tmp_path):
    command = ["rank", str(archive), "--filter", "L", "--frames", "g[0-3]*", "--out",
               str(tmp_path / "r.parquet"),
               "--cluster", "serial"]  # fmt: skip
    done = CliRunner().invoke(aqdask, command)
    assert done.exit_code == 0, done.output
    assert "noise [count]" in done.output
    table = pq.read_table(tmp_path / "r.parquet").to_pandas().set_index("frame_id")
    assert table["transparency"]["g3.fits"] == pytest.approx(0.5, rel=0.05)
    assert (table["rank"]["g3.fits"], list(table["rank"])) == (4, [1, 2, 3, 4])
    for suffix in ("csv", "ecsv"):
        path = tmp_path / f"r.{suffix}"
        again = CliRunner().invoke(aqdask, [str(path) if w.endswith(".parquet") else w for w in command])
        assert again.exit_code == 0, again.output
        read = Table.read(path) if suffix == "ecsv" else pandas.read_csv(path)
        assert list(read["frame_id"]) == list(table.index)
        np.testing.assert_allclose(read["noise"], table["noise"])
    assert read["noise"].unit == u.count
    share = table["transparency"] ** 2 / (table["noise"] * table["size"]) ** 2 * (1 - table["masked"])
    np.testing.assert_allclose(table["weight"], share / share.max(), rtol=1e-6)
    np.testing.assert_allclose(table["depth"], 1.25 * np.log10(np.cumsum(table["weight"])), atol=1e-9)


@pytest.mark.parametrize(("purpose", "order"), [("stack", [2, 0, 1, 3]), ("reference", [0, 1, 2, 3])])
def test_a_rank_of_stored_values_follows_the_noise_model(monkeypatch, purpose, order):
    """Frame 1 has twice the noise, 2 is sharp and partly masked, 3 is perfect but flagged."""
    calibration = Calibration({}, {"noise": {"a": -40.0, "b": 0.5, "source": "frames"}})
    bundle = Bundle("m", "aqdask", 64, "none", {}, {}, {"": calibration, "cam|L": calibration})
    columns = {
        "frame_id": list("abcd"), "row": [0, 1, 2, 3], "camera": ["cam"] * 4, "filter": ["L"] * 4,
        "flag_reason": ["", "", "", "size"], "state": ["done"] * 4, "masked_patches": [0.0, 0.0, 0.1, 0.0],
        "frame_sky": [1000.0] * 3 + [500.0], "frame_noise_ratio": [1.0, 2.0, 1.0, 1.0],
        "frame_size_ratio": [1.0, 1.0, 0.8, 0.5],
    }  # fmt: skip
    monkeypatch.setattr(rank, "summarise_masks", lambda *_: None)
    monkeypatch.setattr(rank, "frame_table", lambda *_, **__: pa.table(columns))
    store = SimpleNamespace(bundle=lambda: bundle.contents)
    monkeypatch.setattr(rank.QualityStore, "open", lambda *_: store)
    found = rank.rank_frames("night.zarr", "q", 0.01, SerialExecutor(), Silent(), purpose=purpose)
    assert found["row"].to_pylist() == order
    noise = np.sqrt(460 + 0.375 * 0.25)
    by_row = dict(
        zip(order, zip(*(found[n].to_pylist() for n in ("noise", "weight")), strict=True), strict=True)
    )
    assert by_row[0][0] == pytest.approx(noise)
    assert by_row[1][0] == pytest.approx(2 * noise)
    assert by_row[1][1] == pytest.approx(by_row[0][1] / 4)
    power = 2 if purpose == "stack" else 4
    assert by_row[2][1] == pytest.approx(by_row[0][1] * 0.9 / 0.8**power)


def test_another_purpose_is_refused(archive):
    with pytest.raises(UsageError, match="a rank for 'fun'"):
        aq.rank_frames(archive, purpose="fun", cluster="serial")


def test_damaged_maps_are_a_problem_of_their_frame(archive, tmp_path):
    copy = Path(shutil.copytree(archive, tmp_path / "field.zarr"))
    for shard in (copy / "quality" / quality_name(copy) / "mae").rglob("*"):
        if shard.is_file() and shard.name != "zarr.json":
            shard.write_bytes(b"damaged")
    with pytest.raises((UsageError, ArchiveError), match="maps are missing or damaged"):
        aq.stack(copy, tmp_path / "s.fits", frames="g[01]*", cluster="serial")
