"""Input masks: mask planes and their bits, and mask files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from astropy.io import fits
from fits_files import (
    planes,
    write,
)
from numpy.testing import assert_array_equal

from aqdask.errors import FrameError, SourceUnreachable, UsageError
from aqdask.io.input_masks import mask_path
from aqdask.io.mask_bits import MaskSelection, bit_names, defects
from aqdask.io.reader import probe, read_frame
from aqdask.products.dq import dq_hdus
from aqdask.specs import ReadSpec


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
