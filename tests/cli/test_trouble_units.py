"""The same frames in counts, sky-subtracted, and in units of 1e-18, from FITS files to masks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits
from trails import LEAST, found, scored

import aqdask as aq
from aqdask.errors import UsageError


@pytest.fixture(scope="module")
def units(trouble):
    return trouble("units")[0]


@pytest.fixture(scope="module")
def in_counts(units, tmp_path_factory):
    return scored(units / "adu", tmp_path_factory.mktemp("adu"))


@pytest.fixture(scope="module")
def trail(make_trouble):
    """Pixels of the trail."""
    return make_trouble.TRAIL((512, 512), 1) > 0.3


@pytest.mark.real
def test_frames_in_units_of_1e_18_are_masked_as_in_counts(units, in_counts, trail, tmp_path):
    notes, quality, _ = scored(units / "erg", tmp_path)
    assert notes == in_counts[0]
    differ = (quality["pvalue"].values <= 0.01) != (in_counts[1]["pvalue"].values <= 0.01)
    assert differ.mean() < 0.01  # ties in the counts, which are rounded otherwise
    np.testing.assert_allclose(quality["sky"].values, in_counts[1]["sky"].values * 1e-18, rtol=1e-3)
    shares = found(quality, trail)
    assert min(shares[120], shares[500]) >= LEAST


@pytest.mark.real
def test_trails_in_frames_without_their_sky_are_found(units, in_counts, trail, tmp_path):
    notes, quality, _ = scored(units / "nmgy", tmp_path)
    assert any("the sky was subtracted" in note for note in notes)
    shares, with_sky = found(quality, trail), found(in_counts[1], trail)
    assert shares.pop(0) < 0.03
    for amplitude, share in shares.items():
        assert share >= max(with_sky[amplitude] - 0.1, LEAST)


@pytest.mark.parametrize("unit", ["mag/arcsec2", "log(Jy)", "dB"])
def test_magnitudes_are_refused_by_name(tmp_path, unit):
    rng = np.random.default_rng(1)
    for number in range(6):
        header = fits.Header([("BUNIT", unit), ("INSTRUME", "cam"), ("FILTER", "r")])
        image = rng.normal(20, 0.03, (128, 128)).astype("f4")
        fits.PrimaryHDU(image, header).writeto(tmp_path / f"{number}.fits")
    aq.ingest(tmp_path, tmp_path / "a.zarr", cluster="serial")
    with pytest.raises(UsageError, match=r"BUNIT\) is " + re.escape(unit)):
        aq.calibrate(tmp_path / "a.zarr", "wide-field", frames=["*"], out=tmp_path / "m", cluster="serial")


@pytest.mark.real
def test_integers_without_their_sky_are_as_floats(units, trail, tmp_path):
    for kind in ("refs", "test"):
        (tmp_path / kind).mkdir()
        for path in sorted((units / "adu" / kind).iterdir()):
            with fits.open(path) as hdus:
                image = np.round(hdus[0].data - np.median(hdus[0].data)).astype("i2")
                fits.PrimaryHDU(image, hdus[0].header).writeto(tmp_path / kind / path.name)
    notes, quality, _ = scored(tmp_path, tmp_path)
    assert any("the sky was subtracted" in note for note in notes)
    shares = found(quality, trail)
    assert shares.pop(0) < 0.03
    assert min(shares.values()) >= LEAST


def test_pixels_that_cannot_be_noise_are_refused_with_their_unit(tmp_path):
    for number in range(6):
        image = np.full((128, 128), 1e-17, "f4")  # constant: no noise
        header = fits.Header([("BUNIT", "erg/s/cm2"), ("INSTRUME", "cam"), ("FILTER", "r")])
        fits.PrimaryHDU(image, header).writeto(tmp_path / f"{number}.fits")
    aq.ingest(tmp_path, tmp_path / "a.zarr", cluster="serial", fill=False)
    with pytest.raises(UsageError, match="erg/s/cm2"):
        aq.calibrate(tmp_path / "a.zarr", "wide-field", frames=["*"], out=tmp_path / "m", cluster="serial")
