"""Exports: DQ images, the table of frames in two formats, frames as FITS again, and formats of one row."""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from click.testing import CliRunner
from night import BLANK, SHAPE, night_frame, sky, write_frame
from night import WCS as CARDS
from pyarrow import csv

import aqdask as aq
from aqdask import flags
from aqdask.cli import aqdask
from aqdask.errors import ArchiveError, UsageError
from aqdask.io.writer import frame_to_fits
from aqdask.products.dq import FrameMask
from aqdask.products.export import FORMATS, MaskFormat, TableFormat
from aqdask.products.plots import PictureJob
from aqdask.products.sky_masks import masked_rectangles, write_moc, write_regions
from aqdask.specs import PatchGrid
from aqdask.stats.masking import dq_image
from aqdask.store import layout
from aqdask.store.frame_store import FrameStore
from aqdask.store.ledger import open_ledger
from aqdask.text import printable

NAMES = ["L__f00", "L__f02", "L__f04", "R__f01", "R__f03", "R__f05"]


def test_a_dq_image_is_named_after_each_frame(exported):
    assert sorted(path.name for path in (exported / "dq").iterdir()) == [f"{n}.dq.fits" for n in NAMES]


@pytest.mark.parametrize("row", range(6))
def test_astropy_opens_a_dq_image_with_sound_checksums_and_the_bits_of_the_mask(archive, exported, row):
    quality = aq.open_quality(archive)
    invalid = night_frame(int(NAMES[row][-2:])) == BLANK
    expected = dq_image(quality["pvalue"][row].values, invalid, 0.2, PatchGrid(*SHAPE, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a wrong CHECKSUM or DATASUM is a warning
        with fits.open(exported / "dq" / f"{NAMES[row]}.dq.fits", checksum=True) as file:
            file.verify("exception")
            dq = file["DQ"]
            assert {"CHECKSUM", "DATASUM"} <= set(file[0].header)
            assert isinstance(dq, fits.CompImageHDU)
            assert dq.data.dtype == np.dtype("uint8")
            np.testing.assert_array_equal(dq.data, expected)
            bits = {dq.header[f"DQBIT{n}"]: dq.header.comments[f"DQBIT{n}"] for n in range(len(flags.DQ))}
            header = file[0].header
    assert bits == {flag.value: flag.name for flag in flags.DQ}
    assert header["ALPHA"] == 0.2
    assert header["FRAMEID"] == NAMES[row].replace("__", "/") + ".fits"
    assert header["MODELSHA"] == quality.attrs["model_sha256"]


def test_the_wcs_of_the_frame_is_the_wcs_of_its_mask(exported):
    source = WCS(CARDS)
    mask = WCS(fits.getheader(exported / "dq" / "L__f00.dq.fits", "DQ"))
    x, y = np.meshgrid([0.0, 99.0, 199.0], [0.0, 64.0, 129.0])
    np.testing.assert_allclose(
        mask.pixel_to_world_values(x, y), source.pixel_to_world_values(x, y), rtol=0, atol=1e-10
    )


def test_parquet_and_ecsv_hold_the_same_table(exported, archive):
    parquet = pq.read_table(exported / "frames.parquet").to_pylist()
    ecsv = Table.read(exported / "frames.ecsv")
    assert [row["frame_id"] for row in parquet] == list(ecsv["frame_id"])
    assert len(parquet) == 7  # six frames and the source that is none
    needed = {"frame_id", "path", "time", "filter", "masked_fraction", "frame_score", "state", "reason"}
    assert needed <= set(parquet[0]) == set(ecsv.colnames)
    for row, other in zip(parquet, ecsv, strict=True):
        for name in ("path", "row", "filter", "camera", "state", "reason", "sha256", "dq_file"):
            found = "" if np.ma.is_masked(other[name]) else other[name]
            assert (row[name] or "") == found or row[name] == found, name
        for name in ("exptime", "masked_fraction", "frame_score"):
            np.testing.assert_equal(np.nan if row[name] is None else row[name], float(other[name]))
        if row["time"]:
            assert row["time"].isoformat(sep=" ")[:19] == str(other["time"])[:19].replace("T", " ")


def test_the_table_says_what_the_maps_say(exported, archive):
    table = pq.read_table(exported / "frames.parquet").to_pylist()
    masks, quality = aq.mask(aq.open_quality(archive), 0.2), aq.open_quality(archive)
    for number, row in enumerate(table[:6]):
        assert row["masked_fraction"] == pytest.approx(float(masks[number].mean()), abs=1e-12)
        assert row["frame_score"] == float(quality["frame_score"][number])
        assert row["state"] == "done"
        assert (exported / "dq" / row["dq_file"]).is_file()
    bad = table[6]
    assert (bad["frame_id"], bad["state"], bad["masked_fraction"]) == ("bad.fits", "quarantined", None)
    assert "FITS" in bad["reason"]


def test_a_mask_can_be_made_again_at_another_alpha_without_the_network(archive, tmp_path, monkeypatch):
    from aqdask.methods.paper.scorer import PaperScorer

    def never(*_):
        raise AssertionError("the network ran")

    monkeypatch.setattr(PaperScorer, "extract_features", never)
    monkeypatch.setattr(PaperScorer, "score_features", never)
    first = aq.export(archive, tmp_path, alpha=0.01, cluster="serial", dq=False)
    second = aq.export(archive, tmp_path, alpha=0.6, cluster="serial", dq=False)
    assert not (tmp_path / "dq").exists()
    pairs = zip(
        first["masked_fraction"].to_pylist()[:6], second["masked_fraction"].to_pylist()[:6], strict=True
    )
    assert all(low < high for low, high in pairs)


def test_an_archive_without_scores_and_an_unusable_folder_are_refused(archive, tmp_path):
    aq.ingest(FrameStore.open(archive).coordinate("path")[0], tmp_path / "new.zarr", cluster="serial")
    with pytest.raises(UsageError, match=r"holds no quality groups.*run `aqdask score` first"):
        aq.export(tmp_path / "new.zarr", tmp_path / "out", cluster="serial")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match="could not be written"):
        aq.export(archive, tmp_path / "file" / "out", cluster="serial")


def test_a_frame_written_back_equals_its_source(archive, tmp_path):
    back_and_compare(archive, tmp_path)


def back_and_compare(archive, folder):
    """Write every frame of an archive as FITS and compare pixels and cards with its source."""
    frames = FrameStore.open(archive)
    for row in range(len(frames)):
        header, primary, path = (
            str(frames.coordinate(name, slice(row, row + 1))[0])
            for name in ("header", "primary_header", "path")
        )
        frame_to_fits(frames.read(row)[0], header, primary).writeto(folder / f"{row}.fits")
        index = int(frames.coordinate("hdu", slice(row, row + 1))[0])
        with fits.open(path) as source, fits.open(folder / f"{row}.fits") as back:
            hdu = back[1 if primary else 0]
            assert hdu.data.dtype.newbyteorder("=") == source[index].data.dtype.newbyteorder("=")
            np.testing.assert_array_equal(hdu.data, source[index].data)
            made_anew = {"SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "BSCALE", "BZERO"}
            difference = fits.HeaderDiff(
                source[index].header, hdu.header, ignore_keywords=made_anew, ignore_comments=made_anew
            )
            same = (difference.diff_keyword_values, difference.diff_keyword_comments)
            assert same == ({}, {}), difference.report()
            assert difference.diff_keywords in ((), (["EXTEND"], []), (["BSCALE"], []))


@pytest.mark.real
def test_real_frames_written_back_equal_their_sources(data_dir, tmp_path):
    (summary,) = aq.ingest(data_dir / "bsu_2022yid", tmp_path / "real.zarr", cluster="serial")
    assert (summary.done, summary.quarantined) == (24, 0)
    back_and_compare(tmp_path / "real.zarr", tmp_path)


ODD = ("tab\there.fits", "esc\x1b[31m.fits", "new\nline.fits", "M31_\udce9.fits", "\u00e9\u2603.fits",
       "q'\".fits", "a$b$c.fits", "[red]x.fits", "long_" + 200 * "x" + ".fits")  # fmt: skip


def test_names_of_any_kind_are_exported_and_drawn(model, tmp_path):
    (tmp_path / "night").mkdir()
    for name in ODD:
        write_frame(tmp_path / "night" / "made" / "a.fits", sky(1)).rename(tmp_path / "night" / name)
    archive, out = tmp_path / "a.zarr", tmp_path / "N\udce9"
    aq.ingest(tmp_path / "night", archive, cluster="serial")
    aq.score(archive, model, cluster="serial")
    table = aq.export(archive, out, cluster="serial").to_pylist()
    assert [row["frame_id"] for row in table] == list(Table.read(out / "frames.ecsv")["frame_id"])
    for row in table:
        assert printable(row["frame_id"]) == row["frame_id"]
        cards = fits.getheader(out / "dq" / row["dq_file"])
        assert (
            cards["SRCFILE"] == cards["FRAMEID"] == row["frame_id"].replace("\u00e9\u2603", r"\u00e9\u2603")
        )
    job = PictureJob(
        str(archive), aq.open_quality(archive).attrs["model"] + f"-{model.digest[:8]}", str(out), 0.1
    )
    places = [entry.place for entry in open_ledger(layout.open_root(archive)).rows()]
    assert len(set(job(places))) == len(ODD) == len(list(out.glob("*.png")))


# --- formats -------------------------------------------------------------------------------------------


def write_counts(mask, folder):
    """Write the number of masked pixels of one frame as text."""
    name = f"{mask.frame_id.replace('/', '_')}.txt"
    (folder / name).write_text(f"{np.count_nonzero(mask.dq)}\n")
    return name


def test_a_new_format_is_one_row_of_the_table(archive, tmp_path, monkeypatch):
    def write_masked(table, folder):
        csv.write_csv(table.select(["frame_id", "masked_fraction"]), folder / "masked.csv")

    monkeypatch.setitem(FORMATS, "counts", MaskFormat("counts", write_counts))
    monkeypatch.setitem(FORMATS, "masked", TableFormat("masked.csv", write_masked))
    table = aq.export(archive, tmp_path, alpha=0.2, formats=["counts", "masked"], cluster="serial")
    assert {path.name for path in tmp_path.iterdir()} == {"counts", "masked.csv"}
    counts = {path.stem: int(path.read_text()) for path in (tmp_path / "counts").iterdir()}
    masked = table["masked_fraction"].to_pylist()[:6]
    assert [counts[name.replace("__", "_") + ".fits"] for name in NAMES] == [
        round(m * 130 * 200) for m in masked
    ]
    assert set(table["dq_file"].to_pylist()) == {""}
    assert csv.read_csv(tmp_path / "masked.csv").num_rows == 7
    arguments = ["export", str(archive), str(tmp_path), "--cluster", "serial", "--format"]
    told = CliRunner().invoke(aqdask, [*arguments, "counts", "--format", "masked"])
    assert f"{tmp_path}: 6 counts, masked.csv with 7 rows" in told.stdout
    assert "counts|masked" in CliRunner().invoke(aqdask, ["export", "--help"]).stdout


def test_an_unknown_format_is_refused_before_anything_is_written(archive, tmp_path):
    with pytest.raises(
        UsageError, match=r"the export format 'png'. Expected: one of dq, weight, flags, parquet"
    ):
        aq.export(archive, tmp_path / "out", formats=["dq", "png"], cluster="serial")
    assert not (tmp_path / "out").exists()


def test_the_table_alone_holds_everything_but_the_masks(archive, exported, tmp_path):
    done = CliRunner().invoke(
        aqdask, ["export", str(archive), str(tmp_path / "t"), "--table", "--cluster", "serial"]
    )
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["frames.parquet"]
    alone, whole = (pq.read_table(folder / "frames.parquet") for folder in (tmp_path / "t", exported))
    assert alone["masked_fraction"].null_count == len(alone)
    by_mask = [name for name in whole.column_names if name.startswith("share_")]
    by_mask += ["masked_patches", "main_reason", "flag_reason"]
    assert all(alone[name].null_count == len(alone) for name in by_mask)
    kept = [n for n in whole.column_names if n not in ("masked_fraction", "dq_file", *by_mask)]
    assert alone.select(kept) == whole.select(kept)
    with pytest.raises(UsageError, match="the export format 'dq' without masks"):
        aq.export(archive, tmp_path, formats=["dq"], masks=False, cluster="serial")


def a_mask(dq, patch=32, header=""):
    return FrameMask(dq, "L/a.fits", "a.fits", header, "", 0.1, "tiny-0", "0" * 64, patch)


def header_of(**cards):
    return fits.Header({**CARDS, **cards}).tostring(padding=False, endcard=False)


@pytest.mark.parametrize("seed", range(20))
def test_rectangles_cover_the_masked_patches_once_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    grid = PatchGrid(*SHAPE, 32)
    pvalue = rng.choice([0.001, 0.5, np.nan], grid.shape, p=[0.3, 0.6, 0.1])
    dq = dq_image(pvalue, None, 0.1, grid)
    dq[rng.random(SHAPE) < 0.01] |= 4  # invalid pixels are no part of it
    covered = np.zeros(SHAPE, int)
    boxes = masked_rectangles(dq, 32)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] += 1
    np.testing.assert_array_equal(covered, (dq & 3) != 0)
    assert len(boxes) <= np.count_nonzero(~(pvalue > 0.1))


def test_a_mask_of_few_areas_has_few_rectangles():
    dq = np.zeros(SHAPE, np.uint8)
    dq[:, 32:64] = 1  # a column of patches
    dq[64:128, 96:] = 2
    assert masked_rectangles(dq, 32) == [(32, 0, 64, 130), (96, 64, 200, 128)]
    assert masked_rectangles(np.ones(SHAPE, np.uint8), 32) == [(0, 0, 200, 130)]
    assert masked_rectangles(np.zeros(SHAPE, np.uint8), 32) == []


def test_regions_read_the_region_files_and_hold_the_mask(archive, tmp_path):
    regions = pytest.importorskip("regions")
    table = aq.export(archive, tmp_path, alpha=0.3, formats=["regions", "dq"], cluster="serial")
    names = [row["regions_file"] for row in table.to_pylist() if row["row"] >= 0]
    assert names == [f"{name}.reg" for name in NAMES]
    for name in NAMES:
        found = regions.Regions.read(tmp_path / "regions" / f"{name}.reg", format="ds9")
        dq = fits.getdata(tmp_path / "dq" / f"{name}.dq.fits", "DQ")
        covered = np.zeros(SHAPE, bool)
        for one in found:
            assert isinstance(one, regions.PolygonSkyRegion)
            covered |= one.to_pixel(WCS(CARDS)).to_mask("center").to_image(SHAPE) > 0
        np.testing.assert_array_equal(covered, (dq & 3) != 0)
        assert covered.any()


@pytest.mark.parametrize("header", ["", header_of(CPDIS1="LOOKUP")], ids=["none", "needs tables"])
def test_without_a_whole_wcs_regions_are_in_pixels_and_there_is_no_moc(header, tmp_path):
    regions = pytest.importorskip("regions")
    pytest.importorskip("mocpy")
    dq = np.zeros(SHAPE, np.uint8)
    dq[32:64, 0:64] = 1
    dq[128:, 192:] = 1
    assert write_regions(a_mask(dq, header=header), tmp_path) == "L__a.reg"
    text = (tmp_path / "L__a.reg").read_text()
    assert "image\n" in text
    covered = np.zeros(SHAPE, bool)
    for one in regions.Regions.read(tmp_path / "L__a.reg", format="ds9"):
        covered |= one.to_mask("center").to_image(SHAPE) > 0
    np.testing.assert_array_equal(covered, dq != 0)
    assert write_moc(a_mask(dq, header=header), tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["L__a.reg"]


def test_a_mask_of_nothing_is_an_empty_region_file_and_an_empty_moc(tmp_path):
    regions, mocpy = pytest.importorskip("regions"), pytest.importorskip("mocpy")
    mask = a_mask(np.zeros(SHAPE, np.uint8), header=header_of())
    assert len(regions.Regions.read(tmp_path / write_regions(mask, tmp_path), format="ds9")) == 0
    assert mocpy.MOC.from_fits(tmp_path / write_moc(mask, tmp_path)).empty()


def test_a_moc_holds_the_mask_and_little_more(tmp_path):
    mocpy = pytest.importorskip("mocpy")
    dq = np.zeros(SHAPE, np.uint8)
    dq[32:96, 64:128] = 1
    name = write_moc(a_mask(dq, header=header_of()), tmp_path)
    moc = mocpy.MOC.from_fits(tmp_path / name)
    y, x = np.mgrid[0 : SHAPE[0] : 3, 0 : SHAPE[1] : 3]
    sky = WCS(CARDS).pixel_to_world(x, y)
    inside = moc.contains_lonlat(sky.ra, sky.dec)
    assert inside[dq[y, x] != 0].all()
    wide = np.zeros(SHAPE, bool)
    wide[26:102, 58:134] = True  # one cell more, at most an eighth of a patch and its diagonal
    assert not inside[~wide[y, x]].any()
    square = (64 * 2e-4) ** 2  # degrees
    assert square < moc.sky_fraction * 41252.96 < 1.3 * square


def test_the_export_says_how_many_frames_have_no_moc(tmp_path, model):
    pytest.importorskip("mocpy")
    for number, cards in enumerate(({}, CARDS)):
        write_frame(tmp_path / "night" / f"{number}.fits", sky(number), **cards)
    archive = tmp_path / "a.zarr"
    aq.ingest(tmp_path / "night", archive, cluster="serial")
    aq.score(archive, model, cluster="serial")
    arguments = ["export", str(archive), str(tmp_path / "out"), "--cluster", "serial"]
    done = CliRunner().invoke(aqdask, [*arguments, "--format", "moc", "--format", "regions"])
    assert done.exit_code == 0, done.output
    assert "note: 1 of 2 frames has no MOCs: no WCS, or a part of one" in done.output
    assert f"{tmp_path / 'out'}: 1 MOC, 2 region files" in done.output


def test_a_format_without_its_package_is_refused_before_anything_is_written(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("aqdask.products.export.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'moc' without the package mocpy.*aqdask\[sky\]"):
        aq.export(archive, tmp_path / "out", formats=["dq", "moc"], cluster="serial")
    assert not (tmp_path / "out").exists()
