"""Celestial WCS: in the image header, in the primary header, or in both."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fits_files import (
    FIRST,
)

from aqdask.io.reader import probe
from aqdask.products.dq import dq_hdus

WCS_CARDS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2,
    "CRPIX1": 90.5, "CRPIX2": 60.5,
    "CD1_1": -1e-4, "CD1_2": 2e-6, "CD2_1": 2e-6, "CD2_2": 1e-4,
}  # fmt: skip


SIP = {
    "CTYPE1": "RA---TAN-SIP",
    "CTYPE2": "DEC--TAN-SIP",
    "A_ORDER": 2,
    "B_ORDER": 2,
    "A_2_0": 1e-4,
    "B_1_1": 2e-5,
}


TPV = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.01, "PV1_4": 1e-3, "PV2_1": 1.02, "PV2_4": 2e-3}


CUBE = {"WCSAXES": 3, "CTYPE3": "FREQ", "CRVAL3": 1e9, "CRPIX3": 1.0, "CD3_3": 1.0}


def header_of(values: dict[str, object]) -> str:
    return fits.Header(list(values.items())).tostring(endcard=False, padding=False)


class TestWcs:
    X, Y = np.array([0.0, 100, 191]), np.array([0.0, 60, 127])

    def check(self, exported: fits.HDUList, source: fits.Header) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = WCS(source).celestial.pixel_to_world(self.X, self.Y)
        buffer = io.BytesIO()
        exported.writeto(buffer)
        with fits.open(io.BytesIO(buffer.getvalue())) as file:
            found = WCS(file["DQ"].header).pixel_to_world(self.X, self.Y)
        assert found.separation(expected).arcsec.max() < 1e-6

    @pytest.mark.real
    def test_in_the_primary_header_only(self, trouble) -> None:
        folder, _ = trouble("wcs_in_primary")
        path = folder / "wcs_in_primary.fits"
        (info,) = probe(path, FIRST)
        self.check(
            dq_hdus(np.zeros(info.shape, "u1"), info.header, info.primary_header), fits.getheader(path, 0)
        )

    @pytest.mark.parametrize("extra", [{}, SIP, TPV, CUBE, {"PV1_1": 1.01, "PV2_1": 1.02}])
    @pytest.mark.parametrize(
        "spread", ["image", "primary", "ctype in primary", "matrix in primary", "crpix in image"]
    )
    def test_wherever_it_stands(self, extra: dict, spread: str) -> None:
        whole = WCS_CARDS | extra
        image = {
            "image": whole,
            "primary": {},
            "ctype in primary": {k: v for k, v in whole.items() if not k.startswith("CTYPE")},
            "matrix in primary": {k: v for k, v in whole.items() if not k.startswith("CD")},
            "crpix in image": {k: v for k, v in whole.items() if k.startswith("CRPIX")},
        }[spread]
        primary = {k: v for k, v in whole.items() if k not in image}
        dq = np.zeros((128, 192), "u1")
        self.check(dq_hdus(dq, header_of(image), header_of(primary)), fits.Header(list(whole.items())))

    def test_the_image_comes_first(self) -> None:
        """A complete WCS of the image takes nothing from another one in the primary header."""
        other = WCS_CARDS | SIP | {"CRVAL1": 10.0, "LONPOLE": 90.0}
        image = {k: v for k, v in WCS_CARDS.items() if not k.startswith("CD")} | {
            "CDELT1": -1e-4,
            "CDELT2": 1e-4,
        }
        self.check(
            dq_hdus(np.zeros((128, 192), "u1"), header_of(image), header_of(other)),
            fits.Header(list(image.items())),
        )

    def test_linear_axes_in_the_image(self) -> None:
        image = {k: "LINEAR" if k.startswith("CTYPE") else v for k, v in WCS_CARDS.items()}
        exported = dq_hdus(np.zeros((128, 192), "u1"), header_of(image), header_of(WCS_CARDS))
        self.check(exported, fits.Header(list(WCS_CARDS.items())))

    def test_distortion_tables_are_told(self) -> None:
        text = header_of(WCS_CARDS | {"CPDIS1": "LOOKUP", "CPDIS2": "LOOKUP"})
        exported = dq_hdus(np.zeros((128, 192), "u1"), text)
        self.check(exported, fits.Header(list(WCS_CARDS.items())))
        assert "look-up tables" in str(exported["DQ"].header["COMMENT"])
