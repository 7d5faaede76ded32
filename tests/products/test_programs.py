"""Exports as source-extractor, SWarp and DS9 take them: the programs themselves, on masks of the archive."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from night import SHAPE
from night import WCS as CARDS
from scipy.ndimage import binary_erosion

import aqdask as aq

pytestmark = pytest.mark.programs
NAME = "L__f00"
STARS = [(x, y) for y in range(10, SHAPE[0] - 9, 16) for x in range(12, SHAPE[1] - 11, 16)]


@pytest.fixture
def program(require, tmp_path):
    """``program(name, *words)``: run a program in the folder of the test."""

    def run(name, *words):
        require(
            shutil.which(name), f"{name} is not installed (Debian: source-extractor, swarp, saods9, xvfb)"
        )
        command = [name, *map(str, words)]
        if name == "ds9":
            require(shutil.which("xvfb-run"), "xvfb-run is not installed (Debian: xvfb, xauth)")
            command = ["xvfb-run", "-a", *command]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert not done.returncode, done.stderr[-2000:]

    return run


@pytest.fixture(scope="module")
def plain(archive, tmp_path_factory) -> Path:
    """Plain images, DQ images and regions of masks of three tenths of the patches."""
    folder = tmp_path_factory.mktemp("plain")
    formats = ["flags", "weight", "regions", "dq"]
    aq.export(archive, folder, alpha=0.3, formats=formats, cluster="serial")
    return folder


@pytest.fixture
def masked(plain) -> np.ndarray:
    """Pixels of one frame that are not to be used."""
    dq = fits.getdata(plain / "dq" / f"{NAME}.dq.fits", "DQ") != 0
    assert 0.1 < dq.mean() < 0.9
    return dq


def stars(path: Path, level: float = 100.0, noise: float = 2.0) -> np.ndarray:
    """Write a frame with a grid of stars."""
    y, x = np.indices(SHAPE)
    image = np.random.default_rng(1).normal(level, noise, SHAPE).astype("float32")
    for x0, y0 in STARS:
        image += 500 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.6**2))
    fits.writeto(path, image.astype("float32"), fits.Header(CARDS))
    return image


def detections(program, folder: Path, *words) -> Table:
    """Detect stars of a frame with source-extractor; positions count from 0."""
    (folder / "names.param").write_text("X_IMAGE\nY_IMAGE\nIMAFLAGS_ISO\n")
    (folder / "default.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    program(
        "source-extractor", "stars.fits", "-c", "/dev/null", "-PARAMETERS_NAME", "names.param",
        "-FILTER_NAME", "default.conv", "-CATALOG_TYPE", "FITS_1.0", "-CATALOG_NAME", "found.fits",
        "-DETECT_THRESH", 5, "-BACK_SIZE", 32, *words,
    )  # fmt: skip
    found = Table.read(folder / "found.fits")
    found["X_IMAGE"] -= 1
    found["Y_IMAGE"] -= 1
    return found


def is_masked(mask: np.ndarray, table: Table) -> np.ndarray:
    """Tell whether the pixels at some positions are masked."""
    return mask[np.rint(table["Y_IMAGE"]).astype(int), np.rint(table["X_IMAGE"]).astype(int)]


def test_source_extractor_flags_the_objects_on_masked_pixels(program, plain, masked, tmp_path):
    stars(tmp_path / "stars.fits")
    flags = plain / "flags" / f"{NAME}.flags.fits"
    found = detections(program, tmp_path, "-FLAG_IMAGE", flags, "-FLAG_TYPE", "OR")
    assert len(found) > 0.9 * len(STARS)
    inside = is_masked(masked, found)
    assert np.all(found["IMAFLAGS_ISO"][inside] > 0)
    y, x = np.nonzero(masked)
    away = [np.hypot(x - star["X_IMAGE"], y - star["Y_IMAGE"]).min() > 8 for star in found]
    assert np.all(found["IMAFLAGS_ISO"][away] == 0)
    assert 0 < np.sum(away) < len(found)


def test_source_extractor_detects_nothing_where_the_weight_is_zero(program, plain, masked, tmp_path):
    stars(tmp_path / "stars.fits")
    weight = plain / "weight" / f"{NAME}.weight.fits"
    flags = plain / "flags" / f"{NAME}.flags.fits"
    settings = ("-FLAG_IMAGE", flags, "-WEIGHT_TYPE", "MAP_WEIGHT", "-WEIGHT_IMAGE", weight)
    found = detections(program, tmp_path, *settings)
    free = [(x, y) for x, y in STARS if not masked[y - 8 : y + 9, x - 8 : x + 9].any()]
    deep = binary_erosion(masked, iterations=3, border_value=1)  # an object may lean over the edge
    assert any(deep[y, x] for x, y in STARS)
    assert not is_masked(deep, found).any()
    for x, y in free:
        assert np.hypot(found["X_IMAGE"] - x, found["Y_IMAGE"] - y).min() < 1
    assert free


def test_swarp_leaves_masked_pixels_out_of_a_coadd(program, plain, masked, tmp_path):
    weights = []
    for name, level in (("L__f00", 100.0), ("L__f02", 200.0)):
        fits.writeto(tmp_path / f"{name}.fits", np.full(SHAPE, level, "float32"), fits.Header(CARDS))
        weights.append(plain / "weight" / f"{name}.weight.fits")
    program(
        "SWarp", "L__f00.fits", "L__f02.fits", "-c", "/dev/null", "-WEIGHT_TYPE", "MAP_WEIGHT",
        "-WEIGHT_IMAGE", ",".join(map(str, weights)), "-RESAMPLE", "N", "-SUBTRACT_BACK", "N",
        "-COMBINE_TYPE", "WEIGHTED",
    )  # fmt: skip
    first, second = (fits.getdata(path) > 0 for path in weights)
    np.testing.assert_array_equal(~first, masked)
    coadd, total = fits.getdata(tmp_path / "coadd.fits"), fits.getdata(tmp_path / "coadd.weight.fits")
    np.testing.assert_allclose(coadd[first & ~second], 100, rtol=1e-5)
    np.testing.assert_allclose(coadd[second & ~first], 200, rtol=1e-5)
    np.testing.assert_array_equal(total > 0, first | second)


def test_ds9_reads_the_regions_where_the_mask_is(program, plain, masked, tmp_path):
    regions = pytest.importorskip("regions")
    stars(tmp_path / "stars.fits")
    file = plain / "regions" / f"{NAME}.reg"
    program(
        "ds9", "stars.fits", "-regions", "load", file, "-regions", "format", "ds9",
        "-regions", "system", "image", "-regions", "save", "back.reg", "-quit",
    )  # fmt: skip
    covered = np.zeros(SHAPE, bool)
    for one in regions.Regions.read(tmp_path / "back.reg", format="ds9"):
        pixels = one if isinstance(one, regions.PixelRegion) else one.to_pixel(WCS(CARDS))
        covered |= pixels.to_mask("center").to_image(SHAPE) > 0
    np.testing.assert_array_equal(covered, (fits.getdata(plain / "dq" / f"{NAME}.dq.fits", "DQ") & 3) != 0)
