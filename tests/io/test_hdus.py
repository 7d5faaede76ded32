"""Headers that claim more than their file holds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fits_files import (
    ALL,
    FIRST,
    IMAGE,
    INTEGERS,
    PACKS,
    STORED,
    alone,
    both,
    cards,
    claim,
    content,
    write,
)
from numpy.testing import assert_array_equal

from aqdask.errors import FrameError
from aqdask.io.reader import probe, read_frame
from aqdask.specs import ReadSpec


def write_blank_tiles(path: Path, side: int) -> None:
    """A compressed image of zeros, of which every row is the same compressed bytes."""
    one = fits.CompImageHDU(np.zeros((1, side), "u1"), compression_type="GZIP_1", tile_shape=(1, side))
    with fits.open(io.BytesIO(content(fits.PrimaryHDU(), one)), disable_image_compression=True) as file:
        table = file[1]
        start, width = table.fileinfo()["datLoc"], table.header["NAXIS1"]
        size = width + table.header["PCOUNT"]
        header = table.header.copy()
    raw = content(fits.PrimaryHDU(), one)[start : start + size]
    header["NAXIS2"] = header["ZNAXIS2"] = side
    data = raw[:width] * side + raw[width:]
    text = header.tostring().encode()
    path.write_bytes(content(fits.PrimaryHDU()) + text + data + bytes(-len(data) % 2880))


class TestClaims:
    @pytest.mark.parametrize("pack", PACKS)
    @pytest.mark.parametrize("side", [10**6, 60_000])
    def test_a_header_that_lies_is_refused_at_first_sight(self, tmp_path: Path, pack, side: int) -> None:
        """Before anything is allocated, and so that it has no vote on an archive's shape."""
        path = tmp_path / "a.fits"
        path.write_bytes(pack(claim(side, side, data=bytes(5760))))
        for call in (f"probe({str(path)!r}, ReadSpec())", f"read_frame({str(path)!r}, 0, ReadSpec())"):
            assert alone(call, 100 << 20).startswith("refused: ")

    @pytest.mark.parametrize(
        "card", ["PCOUNT  = 999999999999", "GCOUNT  = 99999999", "NAXIS1  = 10000000000000000000000000000"]
    )
    def test_other_claims(self, tmp_path: Path, card: str) -> None:
        path = tmp_path / "a.fits"
        lines = [line for line in INTEGERS if line[:8] != card[:8]]
        path.write_bytes(cards(*lines[:2], card, *lines[2:], data=STORED))
        for use in both(path):
            with pytest.raises(FrameError, match="truncated"):
                use()

    @pytest.mark.parametrize(
        "lie",
        [
            {"ZNAXIS1": 10**6, "ZNAXIS2": 10**6},
            {"ZNAXIS1": 10**5, "ZNAXIS2": 10**5, "ZTILE1": 10**5, "ZTILE2": 10**5},
        ],
    )
    def test_a_compressed_image_that_lies(self, tmp_path: Path, lie: dict) -> None:
        whole = content(fits.PrimaryHDU(), fits.CompImageHDU(IMAGE, tile_shape=(30, 41)))
        for key, value in lie.items():
            at = whole.index(f"{key:8}=".encode())
            whole = whole[:at] + f"{key:8}= {value:20d}".encode().ljust(80) + whole[at + 80 :]
        path = tmp_path / "a.fits"
        path.write_bytes(whole)
        for call in (f"probe({str(path)!r}, ReadSpec())", f"read_frame({str(path)!r}, 1, ReadSpec())"):
            assert "refused: HDU 1 claims" in alone(call, 100 << 20)

    @pytest.mark.parametrize("scheme", ["RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1"])
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
    def test_a_blank_frame_is_no_lie(self, tmp_path: Path, scheme: str, dtype: str) -> None:
        """However tightly an image of one value packs."""
        hdu = fits.CompImageHDU(np.zeros((999, 1000), dtype), compression_type=scheme, tile_shape=(999, 1000))
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), hdu)
        assert probe(path, FIRST)[0].shape == read_frame(path, 1, FIRST).image.shape == (999, 1000)

    @pytest.mark.parametrize("pack", PACKS)
    def test_a_blank_frame_packed_is_no_lie(self, tmp_path: Path, pack) -> None:
        (tmp_path / "a.fits").write_bytes(pack(content(fits.PrimaryHDU(np.zeros((2000, 2000), "i4")))))
        for read in (FIRST, ALL):
            assert probe(tmp_path / "a.fits", read)[0].shape == (2000, 2000)
            assert not read_frame(tmp_path / "a.fits", 0, read).image.any()

    @pytest.mark.parametrize("tiles", [False, True])
    def test_an_honest_bomb(self, tmp_path: Path, tiles: bool) -> None:
        """Every byte that the header promises is there: 1.6 GB of zeros in a file of 2 MB or less."""
        side, path = 40_000, tmp_path / "a.fits"
        if tiles:
            write_blank_tiles(path, side)
        else:
            packer = zlib.compressobj(1, wbits=31)
            header = cards("BITPIX  = 8", "NAXIS   = 2", f"NAXIS1  = {side}", f"NAXIS2  = {side}")
            zeros = bytes(side * 100)
            pieces = [packer.compress(header), *(packer.compress(zeros) for _ in range(side // 100))]
            path.write_bytes(b"".join([*pieces, packer.flush()]))
        assert path.stat().st_size < 10e6
        for call in (
            f"probe({str(path)!r}, ReadSpec())",
            f"read_frame({str(path)!r}, {tiles:d}, ReadSpec())",
        ):
            assert f"claims {side} x {side} px, {side**2} bytes" in alone(call, 100 << 20)

    def test_a_short_image_beside_whole_ones_is_refused_alone(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), fits.ImageHDU(IMAGE), fits.ImageHDU(IMAGE))
        os.truncate(path, path.stat().st_size - 2880)
        assert [info.hdu for info in probe(path, ALL)] == [1, 2]
        assert_array_equal(read_frame(path, 1, ALL).image, IMAGE)
        with pytest.raises(FrameError, match="truncated: HDU 2"):
            read_frame(path, 2, ALL)

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_a_long_tail_is_not_inflated(self, tmp_path: Path, pack) -> None:
        """Four gigabytes of zeros behind the image, in members of 16 MiB."""
        path = tmp_path / "a.fits"
        path.write_bytes(pack(content(fits.PrimaryHDU(IMAGE))) + pack(bytes(1 << 24)) * 256)
        started = time.perf_counter()
        for read in ("ReadSpec()", "ReadSpec(hdu='all')"):
            assert alone(f"probe({str(path)!r}, {read})[0].shape", 200 << 20) == "(30, 41)"
            assert alone(f"read_frame({str(path)!r}, 0, {read}).image.shape", 200 << 20) == "(30, 41)"
        assert time.perf_counter() - started < 30

    @pytest.mark.parametrize("pack", PACKS)
    def test_a_header_without_end(self, tmp_path: Path, pack) -> None:
        path = tmp_path / "a.fits"
        path.write_bytes(pack(cards(*INTEGERS)[:400] + b"COMMENT x".ljust(80) * 160_000))
        for use in both(path):
            with pytest.raises(FrameError, match="truncated header: no END"):
                use()

    def test_very_many_headers(self, tmp_path: Path) -> None:
        path = tmp_path / "a.fits"
        extension = cards("BITPIX  = 8", "NAXIS   = 0", simple="XTENSION= 'IMAGE   '", data=b"")
        block = cards("BITPIX  = 8", "NAXIS   = 0") + (extension[:-80] + b"COMMENT".ljust(80)) * 3
        with gzip.open(path, "wb", 1) as file:
            file.write(block)
            padded = cards(
                "BITPIX  = 8", "NAXIS   = 0", *["COMMENT x"] * 70_000, simple="XTENSION= 'IMAGE   '"
            )
            for _ in range(40):
                file.write(padded)
        with pytest.raises(FrameError, match=r"the headers of the first \d+ HDUs are longer"):
            probe(path, ALL)

    def test_the_mask_behind_the_image_is_reached(self, tmp_path: Path) -> None:
        mask = np.equal(IMAGE % 5, 1).astype("u1")
        whole = content(fits.PrimaryHDU(), fits.ImageHDU(IMAGE), fits.ImageHDU(mask, name="DQ"))
        for pack in PACKS:
            (tmp_path / "a.fits").write_bytes(pack(whole))
            frame = read_frame(tmp_path / "a.fits", 1, ReadSpec(mask_hdu="DQ"))
            assert_array_equal(frame.invalid, mask != 0)
