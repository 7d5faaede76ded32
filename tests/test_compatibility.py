"""An archive and a model of 0.2.0.dev0 read, scored and continued with the code of today.

The fixture and how it was made: ``tests/data/v0_2_0_dev0``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner, Result

sys.path.append(str(Path(__file__).parent / "execution"))

from night import executed

import aqdask as aq
from aqdask.cli import aqdask
from aqdask.errors import UsageError
from aqdask.execution.config import changed

RELEASE = Path(__file__).resolve().parent / "data" / "v0_2_0_dev0"
DECISIVE = ("score", "pvalue", "reason")
BAD_FRAME = 16  # row of the frame with a trail, which is no reference


@pytest.fixture(scope="module")
def expected() -> dict:
    """What the release gave."""
    return json.loads((RELEASE / "expected.json").read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    """``night.zarr``, ``unscored.zarr`` and ``camera.safetensors`` of the release, to be written to."""
    with tarfile.open(RELEASE / "archive.tar.xz") as packed:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
        packed.extractall(tmp_path, **safely)
    return tmp_path


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """The precision of the release, in this process and in commands."""
    monkeypatch.setenv("DASK_AQDASK__PRECISION", "fp32")
    with changed({"aqdask.precision": "fp32"}):
        yield


def assert_same(values: np.ndarray, stored: np.ndarray, name: str) -> None:
    """Maps are the same up to the rounding of their arithmetic, which differs between processors, too.

    p-values are ranks among 97 reference patches: a tie may fall to either side.
    """
    if name == "reason":
        np.testing.assert_array_equal(values, stored)
    else:
        np.testing.assert_allclose(
            values, stored, rtol=1e-4, atol=0.011 if name == "pvalue" else 0, err_msg=name
        )


def digest(array: np.ndarray) -> str:
    """sha256 of the type, the shape and the values of an array, as ``make.py`` took it."""
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(f"{native.dtype.str} {native.shape}".encode() + native.tobytes()).hexdigest()


def maps_of(quality, names=DECISIVE) -> dict[str, np.ndarray]:
    return {name: quality[name].values for name in names}


def command(*arguments: object) -> Result:
    """Run ``aqdask`` serially, in this process."""
    return CliRunner().invoke(aqdask, [*map(str, arguments), *executed(arguments[0])])


def layout_version(archive: Path) -> int:
    return json.loads((archive / "zarr.json").read_text())["attributes"]["layout_version"]


def write_frame(path: Path, image: np.ndarray) -> Path:
    """A FITS file of the fixture's camera and filter."""
    hdu = fits.PrimaryHDU(image)
    hdu.header["INSTRUME"], hdu.header["FILTER"] = "SIMCAM", "L"
    hdu.header["EXPTIME"], hdu.header["DATE-OBS"] = 60.0, "2024-05-07T22:00:00"
    path.parent.mkdir(exist_ok=True)
    hdu.writeto(path)
    return path


def test_the_archive_is_sound_and_stays_as_it_is(folder):
    before = layout_version(folder / "night.zarr")
    done = command("verify", folder / "night.zarr")
    assert done.exit_code == 0, done.stderr
    assert "sound; 18 frames read again; 18 done, 0 quarantined, 0 pending" in done.stdout
    assert layout_version(folder / "night.zarr") == before == 1  # who only reads raises nothing


def test_info_describes_archive_and_model(folder, expected):
    archive = command("info", folder / "night.zarr")
    assert archive.exit_code == 0, archive.stderr
    assert "(18 of 18 frames)" in archive.stdout
    model = command("info", folder / "camera.safetensors", "--json")
    assert model.exit_code == 0, model.stderr
    told = json.loads(model.stdout)
    assert told["digest"] == expected["model"]
    assert told["calibrations"]["SIMCAM|L"]["patches"] == 96


def test_stored_maps_open_unchanged(folder, expected):
    quality = aq.open_quality(folder / "night.zarr")
    for name in DECISIVE:
        stored = np.array(expected["maps"][name], quality[name].dtype)
        np.testing.assert_array_equal(quality[name].values, stored, err_msg=name)
    assert {name: digest(quality[name].values) for name in quality.data_vars} == expected["digests"]


def test_masks_and_products_are_the_same(folder, expected):
    archive, products = folder / "night.zarr", folder / "products"
    mask = aq.mask(aq.open_quality(archive), alpha=expected["alpha"])
    assert digest(mask.values) == expected["mask"]
    table = aq.export(archive, products, alpha=expected["alpha"], cluster="serial")
    assert {name: table[name].to_pylist() for name in expected["table"]} == expected["table"]
    images = {path.name: digest(fits.getdata(path, "DQ")) for path in (products / "dq").iterdir()}
    assert images == expected["dq"]


def test_the_old_model_scores_the_same(folder, expected):
    archive = folder / "unscored.zarr"
    aq.score(archive, folder / "camera.safetensors", cluster="serial")
    scored, stored = aq.open_quality(archive), aq.open_quality(folder / "night.zarr")
    for name, values in maps_of(scored).items():
        assert_same(values[BAD_FRAME], stored[name].values[BAD_FRAME], name)
    masks = [aq.mask(quality, alpha=expected["alpha"]) for quality in (scored, stored)]
    assert (masks[0] != masks[1]).mean() < 0.02  # reference patches tie with their own ranks
    assert aq.load_model(folder / "camera.safetensors").digest == expected["model"]
    assert aq.verify(archive, cluster="serial").sound


def test_the_old_model_measures_the_same(folder, expected):
    archive = folder / "unscored.zarr"
    aq.score(archive, folder / "camera.safetensors", cluster="serial")
    scored = aq.open_quality(archive)
    for name in ("mae", "sky"):
        np.testing.assert_allclose(scored[name].values, expected["maps"][name], rtol=1e-5, err_msg=name)


def test_maps_of_an_array_are_those_that_were_stored(folder):
    stored = aq.open_quality(folder / "night.zarr").isel(frame=BAD_FRAME)
    image = aq.open_frames(folder / "night.zarr")["image"][BAD_FRAME]
    for name, values in maps_of(aq.quality_of(image, folder / "camera.safetensors")).items():
        assert_same(np.squeeze(values), stored[name].values, name)


def test_a_frame_is_added_and_the_first_write_raises_the_layout(folder, expected):
    archive, model = folder / "night.zarr", folder / "camera.safetensors"
    image = aq.open_frames(archive)["image"][BAD_FRAME].values
    (summary,) = aq.ingest(write_frame(folder / "more" / "new.fits", image), archive, cluster="serial")
    assert (summary.done, summary.quarantined) == (19, 0)
    assert layout_version(archive) > 1
    aq.score(archive, model, cluster="serial")
    for name, values in maps_of(aq.open_quality(archive)).items():
        stored = np.array(expected["maps"][name], values.dtype)
        np.testing.assert_array_equal(values[:-1], stored, err_msg=name)
        assert_same(values[-1], stored[BAD_FRAME], name)
    assert aq.verify(archive, cluster="serial").sound
    table = aq.export(archive, folder / "products", alpha=expected["alpha"], cluster="serial")
    fractions = expected["table"]["masked_fraction"]
    assert table["masked_fraction"].to_pylist() == [*fractions, fractions[BAD_FRAME]]


def test_sources_are_read_as_before_by_the_archive_and_with_sections_by_a_new_one(folder, tmp_path):
    image = aq.open_frames(folder / "night.zarr")["image"][BAD_FRAME].values
    image[:, :20] = 0
    path = write_frame(folder / "more" / "new.fits", image)
    fits.setval(path, "DATASEC", value=f"[11:{image.shape[1]},1:{image.shape[0]}]")
    aq.ingest(path, folder / "night.zarr", cluster="serial")
    assert not aq.open_frames(folder / "night.zarr")["invalid"][-1].any()
    aq.ingest(path, tmp_path / "new.zarr", cluster="serial")
    assert aq.open_frames(tmp_path / "new.zarr")["invalid"][0].sum() == 20 * image.shape[0]
    with pytest.raises(UsageError, match=r"--no-sections asks for False, but .* was made with True"):
        aq.ingest(path, tmp_path / "new.zarr", cluster="serial", sections=False)
