"""Compression formats: as uncompressed, truncated, with members and bytes after the stream."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest
from astropy.io import fits
from fits_files import (
    ALL,
    FIRST,
    IMAGE,
    PACKS,
    content,
)
from numpy.testing import assert_array_equal

from aqdask.errors import FrameError
from aqdask.io.reader import probe, read_frame
from aqdask.specs import ReadSpec


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
