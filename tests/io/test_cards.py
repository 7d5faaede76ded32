"""Structural cards: a damaged one is refused with its text, a legal one is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fits_files import (
    FIRST,
    IMAGE,
    INTEGERS,
    STORED,
    both,
    cards,
    content,
)
from numpy.testing import assert_array_equal

from aqdask.errors import FrameError
from aqdask.io.pixels import BLANK_BEYOND
from aqdask.io.reader import probe, read_frame


class TestStructuralCards:
    @pytest.mark.real
    def test_scaling(self, trouble) -> None:
        folder, expected = trouble("scaling")
        good = read_frame(folder / "good.fits", 0, FIRST).image
        for name, right in expected.items():
            path = folder / f"{name}.fits"
            if right != "quarantined":
                assert_array_equal(read_frame(path, 0, FIRST).image, good)
                continue
            for use in both(path):
                with pytest.raises(FrameError, match=r"B(ZERO|SCALE) .*= "):
                    use()

    @pytest.mark.parametrize(
        "card",
        [
            "BZERO   =              32768,0 / offset",
            "BZERO   = 32 768",
            "BZERO   =",  # no value
            "BZERO   = / offset",
            "BZERO   = '32768'",
            "BZERO   = (32768, 0)",
            "BZERO   = T",
            "BZERO   = 1E999",
            "BZERO     32768",  # no value indicator
            "BZERO: 32768",
            "BZERO   =32768",
            "bzero   = 32,768",
            "  BZERO = 32,768",
            "HIERARCH BZERO = 32,768",
            "BZERO   = 3276\x1b8",
            "BSCALE  =                  0,5",
            "BSCALE  =                    0",
            "BSCALE  = NaN",
            "BSCALE  = 1e999",
            "BLANK   =               -32768L",
            "BLANK   = 1.5",
            "BLANK   = 'none'",
            "PCOUNT  = 0x0",
            "GCOUNT  = 1,0",
            "GCOUNT  = -1",
            "PCOUNT  = -6",
            "PCOUNT  =  1.5",
            "GROUPS  = TRUE",
            "NAXIS1  =                    4",  # twice
            "BITPIX  =                    8",
            "NAXIS2  = 2 2",
            "SIMPLE  =                    F",
        ],
    )
    def test_refused_with_its_text(self, tmp_path: Path, card: str) -> None:
        path = tmp_path / "a.fits"
        path.write_bytes(cards(*INTEGERS, card, data=STORED))
        for use in both(path):
            with pytest.raises(
                FrameError, match=rf"(?i){card.split('=')[0].strip(' :0123456789')[:8].split()[-1]}"
            ) as e:
                use()
            assert str(e.value).isprintable()

    @pytest.mark.parametrize(
        ("lines", "dtype"),
        [
            (("BZERO   =           3.2768D+04",), "uint16"),
            (("BZERO   =                32768", "BZERO   =              32768.0"), "uint16"),
            (("bzero   =                32768",), "uint16"),
            (("BSCALE  =                    1", "BSCALE  =                  1.0"), "int16"),
            (("BZERO   =                32767",), "float32"),
            (("COMMENT BZERO = 32,768", "HISTORY BSCALE = 0,5", "        BLANK = none"), "int16"),
            (("BZEROX  = 32,768", "BLANK-X = 0,5", "HIERARCH ESO BZERO = 1,5"), "int16"),
        ],
    )
    def test_legal(self, tmp_path: Path, lines: tuple[str, ...], dtype: str) -> None:
        path = tmp_path / "a.fits"
        path.write_bytes(cards(*INTEGERS, *lines, data=STORED))
        assert probe(path, FIRST)[0].dtype == read_frame(path, 0, FIRST).image.dtype.name == dtype

    def test_blank_of_floats_is_ignored(self, tmp_path: Path) -> None:
        """The standard knows BLANK for integers only."""
        lines = ("BITPIX  =                  -32", *INTEGERS[1:], "BLANK   = none,0")
        (tmp_path / "a.fits").write_bytes(cards(*lines, data=np.ones(6, ">f4").tobytes()))
        assert read_frame(tmp_path / "a.fits", 0, FIRST).invalid is None

    def test_blank_beyond_the_stored_type_is_noted(self, tmp_path: Path) -> None:
        (tmp_path / "a.fits").write_bytes(cards(*INTEGERS, "BLANK   =                65535", data=STORED))
        assert read_frame(tmp_path / "a.fits", 0, FIRST).invalid is None
        assert probe(tmp_path / "a.fits", FIRST)[0].notes == (BLANK_BEYOND,)

    def test_blank_as_an_integral_float(self, tmp_path: Path) -> None:
        (tmp_path / "a.fits").write_bytes(cards(*INTEGERS, "BLANK   =             -32768.0", data=STORED))
        assert_array_equal(read_frame(tmp_path / "a.fits", 0, FIRST).invalid, [[1, 0, 0], [0, 0, 0]])

    @pytest.mark.parametrize(
        "card",
        ["ZBITPIX = 16,0", "ZNAXIS1 = 1 00", "ZIMAGE  = yes", "ZBLANK  = -,1", "ZBLANK  = 1.5",
         "ZSCALE  = 0,5", "ZTILE1  = -3", "ZNAXIS2 = 4000000"],
    )  # fmt: skip
    def test_of_a_compressed_image(self, tmp_path: Path, card: str) -> None:
        whole = content(fits.PrimaryHDU(), fits.CompImageHDU(IMAGE.astype("i4"), tile_shape=(10, 41)))
        key = card[:8].encode()
        at = whole.find(key + b"=")
        if at >= 0:
            whole = whole[:at] + card.encode().ljust(80) + whole[at + 80 :]
        else:
            end = whole.rindex(b"END     ")
            whole = whole[:end] + card.encode().ljust(80) + b"END".ljust(80) + whole[end + 160 :]
        (tmp_path / "a.fits").write_bytes(whole)
        with pytest.raises(FrameError, match=r"ZBITPIX|ZNAXIS1|ZIMAGE|ZBLANK|ZSCALE|tiles"):
            read_frame(tmp_path / "a.fits", 1, FIRST)
