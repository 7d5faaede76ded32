"""Tile-compressed images: blank values of tiles, quantised floats, unsupported scales."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fits_files import (
    FIRST,
    RNG,
    content,
    write,
)
from numpy.testing import assert_array_equal

from aqdask.errors import FrameError
from aqdask.io.reader import read_frame


class TestBlankTiles:
    @pytest.mark.real
    def test_zblank_column(self, trouble) -> None:
        folder, expected = trouble("zblank_column")
        frame = read_frame(folder / "zblank_column.fits.fz", 1, FIRST)
        assert frame.invalid is not None
        assert frame.invalid.sum() == expected["zblank_column"]["invalid_pixels"]
        assert frame.invalid[3:6].all()

    @pytest.mark.parametrize("scheme", ["RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1"])
    @pytest.mark.parametrize("zero", [0, 32768])
    def test_a_value_of_its_own_for_every_tile(self, tmp_path: Path, scheme: str, zero: int) -> None:
        """The blank value of one tile is data in the next; tiles are cut at both edges."""
        if (scheme, zero) == ("PLIO_1", 32768):
            pytest.skip("PLIO cannot hold the negative numbers that BZERO makes")
        image = RNG.integers(1, 4, (36, 45)).astype("i4")
        tiles = [(slice(y, y + 8), slice(x, x + 16)) for y in range(0, 36, 8) for x in range(0, 45, 16)]
        blanks = [1 + k % 3 for k in range(len(tiles))]
        expected = np.zeros(image.shape, bool)
        for at, blank in zip(tiles, blanks, strict=True):
            expected[at] = image[at] == blank
        whole = content(
            fits.PrimaryHDU(), fits.CompImageHDU(image, compression_type=scheme, tile_shape=(8, 16))
        )
        with fits.open(io.BytesIO(whole), disable_image_compression=True) as file:
            table = file[1]
            rows = np.empty(len(table.data), object)
            for k in range(len(rows)):
                rows[k] = np.array(table.data["COMPRESSED_DATA"][k])
            made = fits.BinTableHDU.from_columns([
                fits.Column("COMPRESSED_DATA", table.columns[0].format, array=rows),
                fits.Column("ZBLANK", "J", array=np.array(blanks)),
            ])  # fmt: skip
            for key in table.header:
                if key.startswith("Z") and key != "ZBLANK":
                    made.header[key] = table.header[key]
            if zero:
                made.header["BZERO"] = zero
            path = write(tmp_path / "a.fits", fits.PrimaryHDU(), made)
        frame = read_frame(path, 1, FIRST)
        assert_array_equal(frame.invalid, expected)
        assert_array_equal(frame.image[~expected], image[~expected] + zero)

    @pytest.mark.parametrize("dither", [-1, 1, 2])
    def test_quantised_floats(self, tmp_path: Path, dither: int) -> None:
        image = RNG.normal(100, 5, (40, 50)).astype("f4")
        image[3, 4:9] = np.nan
        hdu = fits.CompImageHDU(image, compression_type="RICE_1", quantize_method=dither, quantize_level=16)
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), hdu)
        frame = read_frame(path, 1, FIRST)
        assert_array_equal(frame.invalid, np.isnan(image))
        with fits.open(path) as file:
            assert_array_equal(frame.image, file[1].data)

    @pytest.mark.parametrize("key", ["ZSCALE", "ZZERO"])
    def test_one_scale_for_all_tiles_is_refused(self, tmp_path: Path, key: str) -> None:
        """astropy reads such a file as if the key were absent."""
        hdu = fits.CompImageHDU(np.ones((9, 9), "f4"), compression_type="GZIP_1", quantize_level=0)
        whole = content(fits.PrimaryHDU(), hdu)
        end = whole.rindex(b"END     ")
        (tmp_path / "a.fits").write_bytes(
            whole[:end] + f"{key:8}= 0.5".encode().ljust(80) + b"END".ljust(80) + whole[end + 160 :]
        )
        with pytest.raises(FrameError, match=f"one {key} for all tiles"):
            read_frame(tmp_path / "a.fits", 1, FIRST)
