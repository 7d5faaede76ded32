"""Archives opened by xarray and a second zarr implementation: CF attributes, lazy datasets and masks."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import sep
import tensorstore
import xarray as xr
import zarr
from astropy.nddata import CCDData
from astropy.wcs import WCS
from matplotlib.figure import Figure
from night import BLANK, SHAPE, night_frame, tiny_bundle
from night import WCS as CARDS

import aqdask as aq
from aqdask import flags
from aqdask.errors import ArchiveError, UsageError
from aqdask.products import open as products
from aqdask.products.open import quality_name, write_mask
from aqdask.specs import PatchGrid
from aqdask.store import layout

IDS = ["L/f00.fits", "L/f02.fits", "L/f04.fits", "R/f01.fits", "R/f03.fits", "R/f05.fits"]
GRID = PatchGrid(*SHAPE, 32)


def quality_group(archive):
    (name,) = (path.name for path in (archive / "quality").iterdir() if path.is_dir())
    return f"quality/{name}"


def test_xarray_opens_every_part_without_a_warning(archive):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_datatree(archive, engine="zarr") as tree:
            assert {"frames", "quality", "ledger"} <= set(tree.children)
            assert tree["frames"].ds["image"].shape == (6, *SHAPE)
            tree.load()
        with xr.open_datatree(archive) as tree:  # the engine is found by the suffix
            assert tree[quality_group(archive)].ds["pvalue"].dims == ("frame", "patch_y", "patch_x")
        for group in ("frames", quality_group(archive)):
            with xr.open_zarr(archive, group=group) as dataset:
                assert dataset.sizes["frame"] == 6
                dataset.load()


def test_a_labelled_archive_opens_as_a_whole(archive, tmp_path):
    own = shutil.copytree(archive, tmp_path / "night.zarr")
    aq.label(own, "*", "bad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for consolidated in (True, False):
            with xr.open_datatree(own, engine="zarr", consolidated=consolidated) as tree:
                assert tree[quality_group(archive)].ds.sizes["frame"] == 6
        assert '"verdict":"bad"' in str(tree["labels"].ds["records"].values[0])


def test_boxes_labelled_bad_and_the_words_of_today_are_in_what_is_opened(archive, tmp_path):
    own = shutil.copytree(archive, tmp_path / "night.zarr")
    aq.label(own, IDS[1], "bad", box=(0, 0, 64, 32))
    earlier, now = next(iter(layout.REWORDED.items()))
    layout.open_root(own, writable=True)[quality_group(own)]["score"].attrs["long_name"] = earlier
    quality = aq.open_quality(own)
    assert json.loads(quality.attrs["boxes_labelled_bad"]) == {IDS[1]: [[0, 0, 64, 32]]}
    assert quality["score"].attrs["long_name"] == now
    assert "boxes_labelled_bad" not in aq.open_quality(archive).attrs


def test_maps_are_plotted_over_pixels_by_xarray_itself(archive):
    lazy = aq.quality_of(aq.open_frames(archive)["image"], tiny_bundle())
    for quality in (aq.open_quality(archive), lazy):
        np.testing.assert_array_equal(quality["patch_x"], [15.5, 47.5, 79.5, 111.5, 143.5, 175.5, 183.5])
        np.testing.assert_array_equal(quality["patch_y"], [15.5, 47.5, 79.5, 111.5, 113.5])
        for name in ("score", "reason"):
            axes = Figure().add_subplot()
            quality[name][0].plot(ax=axes)
            assert axes.get_xlabel() == "x of the patch centre [pixel]"
            assert axes.get_ylabel() == "y of the patch centre [pixel]"
            assert axes.get_xlim() == (-0.5, 187.5)
            assert axes.get_title().startswith(f"frame_id = {IDS[0]}, filter = ")
        axes = Figure().add_subplot()
        quality["frame_score"].plot(ax=axes)
        assert axes.get_ylabel().startswith(quality["frame_score"].attrs["long_name"][:20])


def test_a_second_zarr_implementation_reads_the_same_pixels_and_maps(archive):
    def read(name):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(archive / name)}}
        return tensorstore.open(spec, open=True).result().read().result()

    np.testing.assert_array_equal(read("frames/image"), np.stack([night_frame(int(n[3:5])) for n in IDS]))
    np.testing.assert_array_equal(read("frames/invalid"), aq.open_frames(archive)["invalid"].values)
    quality = aq.open_quality(archive)
    for name in ("score", "reason"):
        np.testing.assert_array_equal(read(f"{quality_group(archive)}/{name}"), quality[name].values)


def test_frames_come_lazily_with_their_coordinates(archive):
    frames = aq.open_frames(archive)
    assert frames["image"].chunks == ((1,) * 6, (130,), (200,))
    assert frames["image"].dtype == np.dtype("int16")
    assert [str(name) for name in frames["frame_id"].values] == IDS
    assert frames["time"].values[3] == np.datetime64("2024-05-07T01:01:00")
    assert [str(state) for state in frames["state"].values] == ["done"] * 6
    assert float(frames["exptime"][0]) == 60
    assert frames["exptime"].attrs["units"] == "s"


def test_quality_has_coordinates_that_place_every_patch(archive):
    quality = aq.open_quality(archive)
    np.testing.assert_array_equal(quality["y0"], GRID.starts(0))
    np.testing.assert_array_equal(quality["x1"], GRID.stops(1))
    assert [str(name) for name in quality["frame_id"].values] == IDS
    y = (quality["y0"].values + quality["y1"].values - 1) / 2
    x = (quality["x0"].values + quality["x1"].values - 1) / 2
    ra, dec = WCS(CARDS).pixel_to_world_values(*np.meshgrid(x, y))
    np.testing.assert_allclose(quality["ra"][0], ra, rtol=0, atol=1e-9)
    np.testing.assert_allclose(quality["dec"][0], dec, rtol=0, atol=1e-9)


def test_cf_attributes_say_what_codes_units_and_times_mean(archive):
    raw = xr.open_zarr(archive, group="frames", decode_cf=False)
    assert raw["time"].attrs["units"] == "microseconds since 1970-01-01"
    assert raw["time"].attrs["standard_name"] == "time"
    quality = aq.open_quality(archive)
    assert quality["reason"].attrs["flag_values"] == [flag.value for flag in flags.REASONS]
    assert quality["reason"].attrs["flag_meanings"].split() == [flag.name for flag in flags.REASONS]
    assert quality["ra"].attrs["standard_name"] == "right_ascension"
    assert quality["ra"].attrs["units"] == "degree"
    assert all(quality[name].attrs["long_name"] for name in ("score", "pvalue", "mae", "frame_score"))
    with xr.open_datatree(archive, engine="zarr") as tree:
        assert tree.attrs["Conventions"].startswith("CF-")


def test_a_mask_is_lazy_bool_and_follows_alpha_and_no_data(archive):
    quality = aq.open_quality(archive)
    masks = {alpha: aq.mask(quality, alpha) for alpha in (0.01, 0.5)}
    assert masks[0.5].dtype == bool
    assert masks[0.5].shape == (6, *SHAPE)
    assert masks[0.5].chunks == ((1,) * 6, (130,), (200,))
    small, large = masks[0.01].values, masks[0.5].values
    assert small.sum() < large.sum()
    assert not (small & ~large).any()
    pvalue = quality["pvalue"].values
    for row, name in enumerate(IDS):
        image = night_frame(int(name[3:5]))
        expected = image == BLANK
        for (i, j), p in np.ndenumerate(pvalue[row]):
            if not p > 0.5:
                y, x = GRID.owner_bounds(0), GRID.owner_bounds(1)
                expected[y[i] : y[i + 1], x[j] : x[j + 1]] = True
        np.testing.assert_array_equal(large[row], expected)


def test_where_there_is_no_data_the_mask_is_true_at_any_alpha(archive):
    quality = aq.open_quality(archive)
    row = IDS.index("R/f01.fits")
    assert np.isnan(quality["score"][row, 0, 2])  # the patch that is BLANK as a whole
    mask = aq.mask(quality, 1e-9).values
    assert mask[row, 0:32, 64:96].all()
    assert mask[row, 100, 5:9].all()
    assert not mask[row, 101:130, 0:32].any()


def test_ccddata_and_sep_take_the_mask(archive):
    mask = aq.mask(aq.open_quality(archive), 0.3)[3].values
    image = aq.open_frames(archive)["image"][3].values.astype("float32")
    data = CCDData(image, unit="adu", mask=mask)
    assert np.ma.array(data.data, mask=data.mask).mean() > 900  # BLANK is -32768
    background = sep.Background(image, mask=mask, bw=32, bh=32)
    assert 900 < background.globalback < 1100
    assert background.globalrms < 100


def test_a_written_mask_is_read_again(archive, tmp_path):
    mask = aq.mask(aq.open_quality(archive), 0.3)
    write_mask(mask, tmp_path / "mask.zarr")
    with xr.open_zarr(tmp_path / "mask.zarr", consolidated=False) as found:
        np.testing.assert_array_equal(found["mask"].values, mask.values)
        assert [str(name) for name in found["frame_id"].values] == IDS
    write_mask(mask, tmp_path / "mask.zarr")  # an earlier mask is replaced
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    zarr.create_group(str(tmp_path / "other.zarr"))
    for place in (tmp_path / "folder", tmp_path / "other.zarr", archive):
        with pytest.raises(ArchiveError, match="exists and is not a mask that aqdask wrote"):
            write_mask(mask, place)
    assert aq.verify(archive, cluster="serial").sound


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2, float("nan")])
def test_an_alpha_outside_0_and_1_is_refused(archive, tmp_path, alpha):
    with pytest.raises(UsageError, match=r"alpha = .*strictly between 0 and 1"):
        aq.mask(aq.open_quality(archive), alpha)
    with pytest.raises(UsageError, match=r"alpha = .*strictly between 0 and 1"):
        aq.export(archive, tmp_path / "out", alpha=alpha, cluster="serial")
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_pvalues_is_refused(archive):
    with pytest.raises(UsageError, match="one with `pvalue`"):
        aq.mask(aq.open_frames(archive), 0.1)


def test_a_model_is_chosen_by_name_or_digest(archive, model):
    assert aq.open_quality(archive, model.digest).attrs["model_sha256"] == model.digest
    assert aq.open_quality(archive, "tiny").attrs["model"] == "tiny"
    with pytest.raises(UsageError, match="no quality groups for 'huge'"):
        aq.open_quality(archive, "huge")


def test_a_whole_name_comes_before_the_start_of_another(archive, monkeypatch):
    held = ["c17-00000001", "c17c-00000002", "d-00000003", "d-00000004"]
    monkeypatch.setattr(products.quality_store, "names", lambda root: held)
    assert quality_name(archive, "c17") == quality_name(archive, "c17-00000001") == "c17-00000001"
    assert quality_name(archive, "c17c") == "c17c-00000002"
    assert quality_name(archive, "d-00000003") == quality_name(archive, "00000003" + "f" * 56) == "d-00000003"
    for several in ("c", "d"):
        with pytest.raises(UsageError, match="several quality groups"):
            quality_name(archive, several)


def test_an_archive_of_very_many_frames_opens_without_a_chunk_a_frame(archive, monkeypatch):
    few = aq.open_quality(archive)
    monkeypatch.setattr(products, "MOST_CHUNKS", 1)
    many = aq.open_quality(archive)
    assert few["pvalue"].chunks is not None
    assert many["pvalue"].chunks is None
    assert aq.open_frames(archive)["image"].chunks is None
    xr.testing.assert_identical(few.load(), many.load())
    bad = aq.mask(aq.open_quality(archive), 0.2)
    assert bad.chunks[0] == (1,) * 6
    xr.testing.assert_identical(bad.load(), aq.mask(few, 0.2).load())
