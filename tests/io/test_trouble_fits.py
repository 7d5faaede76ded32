"""Frames that go wrong elsewhere: structural cards, blank tiles, mask planes, compressions, false claims."""

from __future__ import annotations

import bz2
import errno
import gzip
import importlib.util
import io
import lzma
import os
import re
import resource
import stat
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from aqdask.errors import FrameError, SourceUnreachable, UsageError
from aqdask.io.input_masks import mask_path
from aqdask.io.mask_bits import MaskSelection, bit_names, defects
from aqdask.io.pixels import BLANK_BEYOND
from aqdask.io.reader import MORE_IMAGES, probe, read_frame
from aqdask.io.streams import load_file
from aqdask.products.dq import dq_hdus
from aqdask.specs import FrameInfo, ReadSpec

FIRST, ALL = ReadSpec(), ReadSpec(hdu="all")
RNG = np.random.default_rng(20260501)
IMAGE = RNG.integers(0, 2**16, (30, 41)).astype("uint16")


@pytest.fixture(scope="module")
def trouble(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict]]:
    """``trouble(kind)``: the folder of that kind, made once, and what is expected of it."""
    spec = importlib.util.spec_from_file_location("make_trouble", data_dir / "trouble" / "make_trouble.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root, made = tmp_path_factory.mktemp("trouble"), {}

    def make(kind: str) -> tuple[Path, dict]:
        if kind not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[kind] = module.KINDS[kind](root / kind)
        return root / kind, made[kind]

    return make


def write(path: Path, *hdus: fits.hdu.base.ExtensionHDU) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(path, output_verify="ignore", overwrite=True)
    return path


def content(*hdus: fits.hdu.base.ExtensionHDU) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def cards(*lines: str, data: bytes = b"", simple: str = "SIMPLE  =                    T") -> bytes:
    """A file with these cards, and the data padded to whole blocks."""
    header = "".join(line.ljust(80) for line in (simple, *lines, "END"))
    return header.ljust(-(-len(header) // 2880) * 2880).encode("latin-1") + data + bytes(-len(data) % 2880)


INTEGERS = tuple(f"{key:8}= {value:20}" for key, value in
                 {"BITPIX": 16, "NAXIS": 2, "NAXIS1": 3, "NAXIS2": 2}.items())  # fmt: skip
STORED = np.array([[-32768, 0, 5], [7, 8, 9]], ">i2").tobytes()


def both(path: Path, read: ReadSpec = FIRST) -> list[Callable[[], object]]:
    return [lambda: probe(path, read), lambda: read_frame(path, 0, read)]


def alone(call: str, limit: int = 600 << 20) -> str:
    """What a fresh process prints that may have ``limit`` bytes more than the imports took."""
    code = (
        "import resource, sys, time\n"
        "from aqdask.io.reader import probe, read_frame\n"
        "from aqdask.errors import FrameError\nfrom aqdask.specs import ReadSpec\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {limit}, used + {limit}))\n"
        f"try:\n    print({call})\nexcept FrameError as error:\n    print('refused:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


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


def planes(plane: np.ndarray, names: dict[str, int], **other: object) -> list:
    """An image with its mask plane, whose header names bits as LSST does."""
    mask = fits.ImageHDU(plane, name="MASK")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, bit in names.items():
            mask.header["MP_" + name] = bit
        for key, value in other.items():
            mask.header[key] = value
    return [fits.PrimaryHDU(), fits.ImageHDU(np.ones(plane.shape, "f4"), name="IMAGE"), mask]


class TestMasks:
    PLANE = np.array([[0, 1, 2, 4], [8, 32, 33, 40]], "i4")
    LSST: ClassVar = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "DETECTED": 5}

    @pytest.mark.real
    def test_bits_by_the_names_of_the_plane(self, trouble) -> None:
        folder, expected = trouble("mask_planes")
        read = ReadSpec(mask_hdu="MASK:BAD,SAT,CR")
        shares = []
        for path in sorted(folder.glob("*.fits")):
            frame = read_frame(path, probe(path, read)[0].hdu, read)
            shares.append(float(frame.invalid.mean()))
        assert np.mean(shares) == pytest.approx(expected["invalid share with bits BAD, SAT, CR"], rel=1e-12)
        with pytest.raises(FrameError, match=r"DETECTED.*--mask-hdu MASK:BAD,SAT,INTRP,CR,EDGE"):
            read_frame(path, 1, ReadSpec(mask_hdu="MASK"))

    @pytest.mark.parametrize(
        ("bits", "expected"),
        [
            ("BAD,CR", [[0, 1, 0, 0], [1, 0, 1, 1]]),
            ("bad", [[0, 1, 0, 0], [0, 0, 1, 0]]),
            ("0,3", [[0, 1, 0, 0], [1, 0, 1, 1]]),
            ("0x9", [[0, 1, 0, 0], [1, 0, 1, 1]]),
            ("SAT, 0x4", [[0, 0, 1, 1], [0, 0, 0, 0]]),
            ("31", [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ],
    )
    @pytest.mark.parametrize("kind", ["plain", "compressed", "uint16"])
    def test_syntax(self, tmp_path: Path, bits: str, expected: list, kind: str) -> None:
        hdus = planes(self.PLANE.astype("uint16" if kind == "uint16" else "i4"), self.LSST)
        if kind == "compressed":
            hdus[2] = fits.CompImageHDU(hdus[2].data, hdus[2].header, name="MASK")
        path = write(tmp_path / "a.fits", *hdus)
        read = ReadSpec(mask_hdu="MASK:" + bits)
        if (bits, kind) == ("31", "uint16"):
            with pytest.raises(FrameError, match="31 is not one of its bits 0 to 15"):
                read_frame(path, 1, read)
            return
        frame = read_frame(path, 1, read)
        found = np.zeros((2, 4), bool) if frame.invalid is None else frame.invalid
        assert_array_equal(found, np.array(expected, bool))

    @pytest.mark.parametrize(
        ("bits", "reason"),
        [
            ("BAD,HOT", "no bit named 'HOT': choose from BAD, SAT, INTRP, CR, DETECTED"),
            ("256", "256 is not one of its bits 0 to 31; the value 256 is written 0x100"),
            ("0x100000000", "not a bit of 32-bit pixels"),
            ("0x0", "not a bit of"),
            ("-1", "no bit named '-1'"),
        ],
    )
    def test_bits_that_are_none(self, tmp_path: Path, bits: str, reason: str) -> None:
        path = write(tmp_path / "a.fits", *planes(self.PLANE, self.LSST))
        with pytest.raises(FrameError, match=reason):
            read_frame(path, 1, ReadSpec(mask_hdu="MASK:" + bits))

    def test_without_names(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", *planes(self.PLANE, {}))
        assert_array_equal(read_frame(path, 1, ReadSpec(mask_hdu="MASK")).invalid, self.PLANE != 0)
        with pytest.raises(FrameError, match="its header names none, or give bit numbers"):
            read_frame(path, 1, ReadSpec(mask_hdu="MASK:BAD"))

    def test_names_without_a_harmless_one(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", *planes(self.PLANE, {"BAD": 0, "DETECTOR": 5}))
        assert_array_equal(read_frame(path, 1, ReadSpec(mask_hdu="MASK")).invalid, self.PLANE != 0)

    def test_floats_have_no_bits(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", *planes(self.PLANE.astype("f4"), {"BAD": 0}))
        with pytest.raises(FrameError, match="float32, which has no bits"):
            read_frame(path, 1, ReadSpec(mask_hdu="MASK:BAD"))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (["MP_BAD  = 0", "HIERARCH MP_DETECTED = 5"], {"BAD": 1, "DETECTED": 32}),
            (["DQBIT0  = 1 / low_quality", "DQBIT2  = 4 / invalid"], {"LOW_QUALITY": 1, "INVALID": 4}),
            (["BIT00   = 0 / SATELLITE/TRACK", "BIT11   = 11 / FULL"], {"SATELLITE_TRACK": 1, "FULL": 2048}),
            (["MSKNAM01= 'DETECTOR'", "MSKVAL01= 8"], {"DETECTOR": 8}),
        ],
    )
    def test_names_in_headers(self, text: list[str], expected: dict[str, int]) -> None:
        assert bit_names("".join(card.ljust(80) for card in text), "") == expected

    def test_names_of_jwst(self) -> None:
        assert bit_names("", "TELESCOP= 'JWST    '".ljust(80))["JUMP_DET"] == 4
        primary = "SIMPLE  =                    T".ljust(80)
        hst = bit_names("", primary + "INSTRUME= 'WFC3    '".ljust(80))
        assert (hst["HOTPIX"], hst["SATPIXEL"], hst["DATAREJECT"]) == (16, 256, 8192)
        assert bit_names("", primary + "INSTRUME= 'STIS    '".ljust(80)) == {}
        des = bit_names(primary + "DES_EXT = 'MASK    '".ljust(80), primary)
        assert (des["SATURATE"], des["CRAY"], des["TAPEBUMP"]) == (2, 16, 1 << 14)
        chosen = MaskSelection("MASK", ("BADPIX_CRAY", "BPM"), "")
        plane = np.array([[1, 2, 16, 32]], "int32")
        header = primary + "DES_EXT = 'MASK    '".ljust(80)
        assert defects(plane, chosen, header, primary).tolist() == [[True, False, True, False]]

    @pytest.mark.parametrize("card", ["MP_BAD  = 0,5", "MP_BAD  = 99", "MP_BAD  = 'no'"])
    def test_names_that_cannot_be_read(self, card: str) -> None:
        with pytest.raises(FrameError, match="cannot be read: 'MP_BAD"):
            bit_names(card.ljust(80), "")

    def test_names_with_two_values(self) -> None:
        with pytest.raises(FrameError, match="BAD is named twice"):
            bit_names("MP_BAD  = 1".ljust(80) + "MP_BAD  = 2".ljust(80), "")

    def test_our_own_mask_comes_back(self, tmp_path: Path) -> None:
        dq = np.array([[0, 1, 2, 4], [5, 6, 0, 0]], "u1")
        image = fits.ImageHDU(np.ones(dq.shape, "f4"), name="SCI")
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), image, dq_hdus(dq, "")[1])
        frame = read_frame(path, 1, ReadSpec(mask_hdu="DQ:low_quality,invalid"))
        assert_array_equal(frame.invalid, dq & 5 != 0)

    @pytest.mark.parametrize(
        "given",
        [
            {"mask_hdu": "MASK:"},
            {"mask_hdu": "MASK:A,,B"},
            {"mask_hdu": ":BAD"},
            {"mask_files": "mask.fits"},
            {"mask_files": "{name}_{night}.fits"},
        ],
    )
    def test_a_request_without_sense(self, given: dict) -> None:
        with pytest.raises(UsageError, match="--mask-"):
            ReadSpec(**given)

    @pytest.mark.parametrize(
        ("frame", "pattern", "expected"),
        [
            ("n1/a.fits", "masks/{name}_mask.fits", "n1/masks/a_mask.fits"),
            ("n1/a.b.fit.gz", "{name}.m.fits", "n1/a.b.m.fits"),
            ("n1/a.fits.fz", "../m/{name}.fits", "n1/../m/a.fits"),
            ("n1/a.new", "{name}.fits", "n1/a.new.fits"),
            ("/n1/a.FTZ", "{folder}/m_{name}.fits", "/n1/m_a.fits"),
            ("/n1/a.fits", "/elsewhere/{name}.fits", "/elsewhere/a.fits"),
        ],
    )
    def test_file_of_a_frame(self, frame: str, pattern: str, expected: str) -> None:
        assert str(mask_path(frame, ReadSpec(mask_files=pattern).mask_files)) == expected

    def test_mask_files(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits.gz", fits.PrimaryHDU(np.ones((2, 4), "i2")))
        (tmp_path / "masks").mkdir()
        read = ReadSpec(mask_files="masks/{name}_mask.fits")
        for pattern in (read.mask_files, "unmounted/{name}_mask.fits"):  # its folder may come back
            missing = r"mask file .*a_mask.fits: the file is not there"
            with pytest.raises(SourceUnreachable, match=missing) as caught:
                read_frame(path, 0, ReadSpec(mask_files=pattern))
            assert caught.value.number == errno.ENOENT
        place = write(tmp_path / "masks" / "a_mask.fits", fits.PrimaryHDU((self.PLANE > 4).astype("u1")))
        assert_array_equal(read_frame(path, 0, read).invalid, self.PLANE > 4)
        write(place, *planes(self.PLANE, self.LSST))
        read = ReadSpec(mask_files="masks/{name}_mask.fits", mask_hdu="MASK:CR")
        assert_array_equal(read_frame(path, 0, read).invalid, self.PLANE & 8 != 0)
        with pytest.raises(FrameError, match=r"a_mask.fits: no mask HDU 'DQ'"):
            read_frame(path, 0, ReadSpec(mask_files="masks/{name}_mask.fits", mask_hdu="DQ"))
        place.write_bytes(place.read_bytes()[:3000])
        with pytest.raises(FrameError, match=r"mask file .*truncated"):
            read_frame(path, 0, read)

    def test_mask_file_out_of_reach(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(np.ones((2, 4), "i2")))
        real = os.open

        def fail(name, *args, **kwargs):
            if str(name).endswith("a_mask.fits"):
                raise OSError(errno.EIO, "made to fail")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(os, "open", fail)
        with pytest.raises(SourceUnreachable, match=r"mask file .*: the file cannot be read") as caught:
            read_frame(path, 0, ReadSpec(mask_files="{name}_mask.fits"))
        assert caught.value.number == errno.EIO

    def test_mask_file_of_several_images(self, tmp_path: Path) -> None:
        """Each image takes the mask of its own name, never that of another."""
        chips = [fits.ImageHDU(np.ones((2, 4), "i2"), name=name) for name in ("N1", "N2")]
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), *chips)
        masks = [fits.ImageHDU(np.equal(self.PLANE, n).astype("u1"), name=f"N{n}") for n in (2, 1)]
        write(tmp_path / "a.dq.fits", fits.PrimaryHDU(), *masks)
        read = ReadSpec(hdu="all", mask_files="{name}.dq.fits")
        for hdu in (1, 2):
            assert_array_equal(read_frame(path, hdu, read).invalid, np.equal(self.PLANE, hdu))
        write(tmp_path / "a.dq.fits", fits.PrimaryHDU(), masks[0])
        with pytest.raises(FrameError, match="no HDU 'N1,1'"):
            read_frame(path, 1, read)


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


class TestOneReading:
    def test_header_and_pixels_are_of_the_same_bytes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(IMAGE, fits.Header([("EXPTIME", 5.0)])))
        frame = read_frame(path, 0, FIRST)
        assert (frame.info,) == probe(path, FIRST)
        assert (frame.size, frame.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)

    def test_suffix(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), *(fits.ImageHDU(IMAGE, name=n) for n in "AB"))
        assert [read_frame(path, hdu, ALL).info for hdu in (1, 2)] == list(probe(path, ALL))

    def test_an_image_that_is_no_longer_taken(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), fits.ImageHDU(IMAGE))
        (info,) = probe(path, FIRST)
        write(path, fits.PrimaryHDU(IMAGE))
        with pytest.raises(FrameError, match="HDU 1 is no longer one of the images"):
            read_frame(path, info.hdu, FIRST)

    @pytest.mark.parametrize("change", ["grown", "cut", "touched"])
    def test_a_file_that_changes_while_it_is_read(self, tmp_path: Path, monkeypatch, change: str) -> None:
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(IMAGE))
        from aqdask.io import streams

        real = streams.FileStream.read

        def read(self, *args):
            monkeypatch.undo()
            if change == "touched":
                found = real(self, *args)
                os.utime(path, ns=(1, 1))
                return found
            os.truncate(path, path.stat().st_size + (5 if change == "grown" else -5))
            return real(self, *args)

        for use in (lambda: load_file(path), lambda: read_frame(path, 0, FIRST), lambda: probe(path, FIRST)):
            monkeypatch.setattr(streams.FileStream, "read", read)
            with pytest.raises(SourceUnreachable, match="changed while it was read") as caught:
                use()
            assert caught.value.number == errno.EAGAIN
            write(path, fits.PrimaryHDU(IMAGE))

    def test_a_named_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.fits")
        os.mknod(tmp_path / "socket.fits", stat.S_IFSOCK | 0o600)
        for name in ("pipe.fits", "socket.fits"):
            for use in (lambda path: probe(path, FIRST), load_file):
                with pytest.raises(FrameError, match="not a regular file") as caught:
                    use(tmp_path / name)
                assert not isinstance(caught.value, SourceUnreachable)

    def test_nothing_stays_open(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for name in ("", "gone.fits", "a.fits"):
            with pytest.raises(FrameError):
                load_file(tmp_path / name) if name != "a.fits" else probe(write_text(tmp_path / name), FIRST)
        assert len(os.listdir("/proc/self/fd")) == before


def write_text(path: Path) -> Path:
    path.write_text("no FITS")
    return path


def claim(y: int, x: int, bitpix: int = 16, *more: str, data: bytes = b"") -> bytes:
    lines = [
        f"BITPIX  = {bitpix:20d}",
        "NAXIS   =                    2",
        f"NAXIS1  = {x:20d}",
        f"NAXIS2  = {y:20d}",
    ]
    return cards(*lines, *more, data=data)


def zipped(data: bytes, name: str = "a.fits") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return buffer.getvalue()


PACKS = [bytes, gzip.compress, bz2.compress, lzma.compress, zipped]


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


class TestCompressions:
    @pytest.mark.real
    def test_suffixes(self, trouble) -> None:
        folder, _ = trouble("suffixes")
        expected = read_frame(folder / "a.fits", 0, FIRST).image
        refused = {"q.fits.tmp": "truncated", "._a.fits": "not a FITS file"}
        noted = {"u_zeros_behind.fits.gz", "v_newline_behind.fits.gz"}
        for path in sorted(folder.iterdir()):
            if path.name in refused:
                with pytest.raises(FrameError, match=refused[path.name]):
                    probe(path, FIRST)
                continue
            frame = read_frame(path, probe(path, FIRST)[0].hdu, FIRST)
            assert_array_equal(frame.image, expected)
            found = tuple(note for note in frame.info.notes if "gzip" in note)
            assert found == (("bytes after the gzip stream were ignored",) if path.name in noted else ())

    WHOLE = content(fits.PrimaryHDU(), fits.ImageHDU(IMAGE), fits.ImageHDU(IMAGE + 1))

    @pytest.mark.parametrize("pack", PACKS[1:])
    @pytest.mark.parametrize("read", [FIRST, ALL])
    def test_as_uncompressed(self, tmp_path: Path, pack, read: ReadSpec) -> None:
        path = tmp_path / "a.fits"
        path.write_bytes(pack(self.WHOLE))
        infos = probe(path, read)
        assert [info.hdu for info in infos] == ([1] if read == FIRST else [1, 2])
        for info in infos:
            assert_array_equal(read_frame(path, info.hdu, read).image, IMAGE + (info.hdu - 1))

    @pytest.mark.parametrize("pack", PACKS[1:])
    def test_truncated_anywhere(self, tmp_path: Path, pack) -> None:
        packed = pack(self.WHOLE)
        path = tmp_path / "a.fits"
        for length in [
            *range(3, 60),
            *range(60, len(packed) - 40, 97),
            *range(len(packed) - 40, len(packed)),
        ]:
            path.write_bytes(packed[:length])
            with pytest.raises(FrameError):
                read_frame(path, 1, FIRST)

    @pytest.mark.parametrize(
        ("pack", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
    )
    @pytest.mark.parametrize("behind", [b"\0" * 512, b"\r\n", b"\0\0notes", b"x" * 100_000])
    def test_bytes_behind(self, tmp_path: Path, pack, name: str, behind: bytes) -> None:
        path = tmp_path / "a.fits"
        path.write_bytes(pack(self.WHOLE) + behind)
        frame = read_frame(path, 2, ALL)
        assert frame.info.notes == (f"bytes after the {name} stream were ignored",)
        assert_array_equal(frame.image, IMAGE + 1)

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    @pytest.mark.parametrize("cut", [5, 2880, 4000])
    def test_members_are_joined(self, tmp_path: Path, pack, cut: int) -> None:
        path = tmp_path / "a.fits"
        path.write_bytes(pack(self.WHOLE[:cut]) + pack(b"") + pack(self.WHOLE[cut:]))
        frame = read_frame(path, 2, ALL)
        assert frame.info.notes == ()
        assert_array_equal(frame.image, IMAGE + 1)

    def test_a_checksum_that_fails(self, tmp_path: Path) -> None:
        packed = bytearray(gzip.compress(content(fits.PrimaryHDU(IMAGE))))
        packed[-6] ^= 1
        (tmp_path / "a.fits").write_bytes(packed)
        with pytest.raises(FrameError, match="damaged gzip stream"):
            read_frame(tmp_path / "a.fits", 0, FIRST)

    def test_zip_members(self, tmp_path: Path) -> None:
        path, whole = tmp_path / "a.zip", content(fits.PrimaryHDU(IMAGE))

        def pack(**members: bytes) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for name, data in members.items():
                    file.writestr(name, data)

        pack(readme=b"notes", a=whole)
        assert_array_equal(read_frame(path, 0, FIRST).image, IMAGE)
        pack(first=whole, second=whole)
        with pytest.raises(FrameError, match="2 FITS members, not one: first, second"):
            probe(path, FIRST)
        pack(readme=b"notes")
        with pytest.raises(FrameError, match="no FITS members, not one: readme"):
            probe(path, FIRST)
        pack(a=whole)
        locked = bytearray(path.read_bytes())
        for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            locked[locked.index(signature) + at] |= 1
        path.write_bytes(locked)
        with pytest.raises(FrameError, match="encrypted members: a"):
            probe(path, FIRST)


class TestNotes:
    @pytest.mark.parametrize(
        ("hdus", "read", "expected"),
        [
            ([IMAGE, IMAGE], FIRST, True),
            ([IMAGE, IMAGE[:9], IMAGE], FIRST, True),
            ([IMAGE, IMAGE], ALL, False),
            ([IMAGE, IMAGE], ReadSpec(hdu="1"), False),
            ([IMAGE, IMAGE[:9]], FIRST, False),
            ([IMAGE, ("DQ", IMAGE % 2)], ReadSpec(mask_hdu="DQ"), False),
            ([IMAGE, ("FLAGS", IMAGE % 2)], ReadSpec(mask_hdu="FLAGS"), False),
            ([IMAGE, ("ERR", IMAGE), ("WHT", IMAGE)], FIRST, False),
            ([IMAGE, ("D2IMARR", IMAGE)], FIRST, False),
            ([IMAGE], FIRST, False),
        ],
    )
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_several_images(self, tmp_path: Path, hdus: list, read: ReadSpec, expected: bool, pack) -> None:
        images = [fits.ImageHDU(h[1], name=h[0]) if isinstance(h, tuple) else fits.ImageHDU(h) for h in hdus]
        (tmp_path / "a.fits").write_bytes(pack(content(fits.PrimaryHDU(), *images)))
        infos = probe(tmp_path / "a.fits", read)
        frame = read_frame(tmp_path / "a.fits", infos[0].hdu, read)
        assert (MORE_IMAGES in frame.info.notes) == expected
        assert (MORE_IMAGES in infos[0].notes) == (expected and pack is bytes)

    def test_damage_behind_the_frame_is_not_its_own(self, tmp_path: Path) -> None:
        whole = content(fits.PrimaryHDU(IMAGE), fits.ImageHDU(IMAGE))
        at = whole.rindex(b"BITPIX  =")
        (tmp_path / "a.fits").write_bytes(whole[:at] + b"BITPIX  = 17,5".ljust(80) + whole[at + 80 :])
        assert probe(tmp_path / "a.fits", FIRST)[0].notes == ()

    def test_notes_of_the_card_come_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from aqdask.specs import Card

        monkeypatch.setattr("aqdask.io.reader.read_metadata", lambda *_: Card(notes=("of the card",)))
        path = write(tmp_path / "a.fits", fits.PrimaryHDU(), fits.ImageHDU(IMAGE), fits.ImageHDU(IMAGE))
        assert (
            probe(path, FIRST)[0].notes
            == ("of the card", MORE_IMAGES)
            == read_frame(path, 1, FIRST).info.notes
        )


BASE = content(
    fits.PrimaryHDU(IMAGE, fits.Header([("BLANK", 3), ("EXPTIME", 5.0)])),
    fits.CompImageHDU(IMAGE.astype("i4"), name="C"),
    fits.ImageHDU(IMAGE.astype("u1"), name="DQ"),
)
HEADER_CARDS = [at for at in range(0, len(BASE), 80) if re.match(rb"[A-Z0-9_-]+ *=", BASE[at : at + 10])]


@settings(max_examples=250, deadline=2000)
@given(
    places=st.lists(
        st.tuples(st.sampled_from(HEADER_CARDS), st.integers(0, 79), st.integers(0, 255)), max_size=6
    ),
    digits=st.lists(
        st.tuples(st.sampled_from(HEADER_CARDS), st.text("0123456789-+.,' ED", min_size=1, max_size=20)),
        max_size=2,
    ),
    stop=st.one_of(st.none(), st.integers(0, len(BASE))),
    pack=st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress]),
    end=st.floats(0, 1),
)
def test_damage_gives_a_frame_or_a_reason(tmp_path_factory, places, digits, stop, pack, end) -> None:
    """Mutated headers and truncation raise nothing but `FrameError`, within a deadline."""
    damaged = bytearray(BASE)
    for card, at, value in places:
        damaged[card + at] = value
    for card, text in digits:
        damaged[card + 10 : card + 10 + len(text)] = text.encode()
    packed = pack(bytes(damaged[:stop]))
    path = tmp_path_factory.getbasetemp() / "damaged.fits"
    path.write_bytes(packed[: int(len(packed) * end) + 1])
    for read in (FIRST, ALL, ReadSpec(mask_hdu="DQ:0")):
        try:
            infos: tuple[FrameInfo, ...] = probe(path, read)
        except FrameError:
            continue
        for info in infos:
            try:
                read_frame(path, info.hdu, read)
            except FrameError as error:
                if not str(error).isprintable():
                    pytest.fail(f"a reason that cannot be shown: {error!r}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak < 4 << 20, "kilobytes"
