"""Plain weight maps and flag images, and what other packages make of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import ccdproc
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from photutils.aperture import CircularAperture, aperture_photometry

import aqdask as aq
from aqdask.io.frame_ids import safe_name


@pytest.fixture(scope="module")
def plain(archive, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    aq.export(archive, folder, alpha=0.2, formats=["weight", "flags", "csv"], cluster="serial")
    return folder


def test_flags_are_the_dq_image_without_compression(plain, exported):
    files = sorted((plain / "flags").iterdir())
    assert [file.name for file in files] == sorted(f"{'LR'[n % 2]}__f{n:02d}.flags.fits" for n in range(6))
    for file in files:
        with (
            fits.open(file) as hdus,
            fits.open(exported / "dq" / file.name.replace(".flags.", ".dq.")) as compressed,
        ):
            assert (len(hdus), hdus[0].header["BITPIX"]) == (1, 8)
            np.testing.assert_array_equal(hdus[0].data, compressed["DQ"].data)
            assert hdus[0].header["CRVAL1"] == 150
            assert hdus[0].header["ALPHA"] == 0.2


def test_weights_are_zero_where_masked_and_the_measured_noise_elsewhere(plain, archive):
    names = [str(name) for name in aq.open_frames(archive)["frame_id"].values]
    masks = aq.mask(aq.open_quality(archive), 0.2).values
    assert masks.any()
    for name, mask in zip(names, masks, strict=True):
        file = plain / "weight" / f"{safe_name(name)}.weight.fits"
        weight, cards = fits.getdata(file, header=True)
        np.testing.assert_array_equal(weight == 0, mask)
        assert cards["WEIGHTOF"] == "measured noise of each patch"
        assert np.median(1 / np.sqrt(weight[weight > 0])) == pytest.approx(30, rel=0.1)  # of `night.sky`


def test_ccdproc_and_photutils_take_the_weights(plain, archive):
    images = aq.open_frames(archive)["image"].values[:2].astype(float)
    names = aq.open_frames(archive)["frame_id"].values[:2]
    weights = np.stack([fits.getdata(plain / "weight" / f"{safe_name(str(n))}.weight.fits") for n in names])
    combiner = ccdproc.Combiner(
        [CCDData(i, unit="adu", mask=w == 0) for i, w in zip(images, weights, strict=True)]
    )
    combiner.weights = weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 0 / 0 where no frame is left
        stack = combiner.average_combine()
    expected = np.divide(
        (weights * images).sum(axis=0), weights.sum(axis=0), out=np.zeros(images.shape[1:]),
        where=weights.sum(axis=0) > 0,
    )  # fmt: skip
    np.testing.assert_allclose(stack.data[~stack.mask], expected[~stack.mask], rtol=1e-5)
    np.testing.assert_array_equal(stack.mask, ~weights.any(axis=0))
    good = weights[0] > 0
    error = np.where(good, 1 / np.sqrt(np.where(good, weights[0], 1)), 0) * u.adu
    y, x = np.argwhere(good)[len(np.argwhere(good)) // 2]
    table = aperture_photometry(images[0] * u.adu, CircularAperture((x, y), 3), error=error, mask=~good)
    assert 0 < table["aperture_sum_err"][0].value < 30 * 1.2 * np.sqrt(np.pi * 9)
